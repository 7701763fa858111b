"""Runs that end anywhere, and folders that several want: nothing is lost, and nothing else is trained."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from transformers import Trainer

from cosent.cli import run_folder, training_run
from cosent.files import locked
from cosent.training.checkpoints import checkpoints_below, flaw_of, refuse_flawed
from cosent.training.resuming import ResumableTrainer
from tests.cli.conftest import cosent, read_json
from tests.conftest import DATA


def flags(model, folder, **more):
    settings = {
        "model_name_or_path": model,
        "output_dir": folder,
        "train_data_path": DATA / "zh" / "train.txt",
        "eval_data_path": DATA / "zh" / "dev.txt",
        "timestamp_output_dir": False,
        "max_train_samples": 24,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "max_steps": 5,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 3,
        "num_resamples": 20,
        "max_length": 16,
        **more,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def results(folder):
    """What a run leaves behind, without times, its own name and its command, which says whether it was resumed."""
    found = {name: (folder / name).read_bytes() for name in ("model.safetensors", "cosent_config.json")}
    for path in folder.glob("*_results.json"):
        measured = read_json(path)
        found[path.name] = {name: value for name, value in measured.items() if not re.search("second|runtime", name)}
    page = (folder / "training.html").read_text(encoding="utf-8")
    page = re.sub(r'<td class="name">(time|command)</td>.*?</tr>', "", page)
    return found | {"page": page.replace(str(folder), "")}


@pytest.fixture(scope="module")
def whole(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    done = cosent("train", *flags(tiny_bert, folder))
    assert done.status == 0, done.stderr
    assert not (folder / ".unfinished").exists() and not (folder / ".lock").exists()
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    """A finished run, which a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def kill_in(monkeypatch, owner, name):
    def killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(owner, name, killed)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Trainer, "_finalize_training"),
        (Trainer, "save_state"),
        (training_run, "store"),
        (training_run, "end_folder"),
    ],
)
def test_a_run_that_ended_after_its_last_step_is_completed(whole, tiny_bert, tmp_path, monkeypatch, owner, name):
    with monkeypatch.context() as broken:
        kill_in(broken, owner, name)
        with pytest.raises(Killed):
            cosent("train", *flags(tiny_bert, tmp_path / "out"))
    kill_in(monkeypatch, Trainer, "training_step")  # no step is left
    done = cosent("train", *flags(tiny_bert, tmp_path / "out", resume_from_checkpoint="last"))
    assert done.status == 0, done.stderr
    assert results(tmp_path / "out") == results(whole)


def test_a_run_that_is_killed_between_logs_has_the_same_logs_and_mean_loss(whole, tiny_bert, tmp_path, monkeypatch):
    step = Trainer.training_step

    def killed(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "training_step", killed)
        with pytest.raises(Killed):
            cosent("train", *flags(tiny_bert, tmp_path / "out"))
    done = cosent("train", *flags(tiny_bert, tmp_path / "out", resume_from_checkpoint="last"))
    assert done.status == 0, done.stderr
    assert results(tmp_path / "out") == results(whole)


def test_a_finished_run_is_refused_and_a_longer_one_goes_on(copied, tiny_bert, error_of):
    again = flags(tiny_bert, copied, resume_from_checkpoint="last")
    assert f"the run in {copied} is finished; nothing left to do" in error_of("train", *again)
    done = cosent("train", *flags(tiny_bert, copied, resume_from_checkpoint="last", max_steps=6))
    assert done.status == 0, done.stderr
    assert read_json(copied / "trainer_state.json")["global_step"] == 6


def zero_half(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))


def take_from_another(path):
    shutil.copy(path.parents[1] / "checkpoint-4" / path.name, path)


DAMAGES = [
    ("trainer_state.json", lambda path: path.write_text("")),
    ("trainer_state.json", lambda path: path.write_text("[]")),
    ("trainer_state.json", lambda path: path.write_text('{"global_step": "5"}')),
    ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:100])),
    ("model.safetensors", Path.unlink),
    ("config.json", lambda path: path.write_text('{"a"')),
    ("tokenizer.json", lambda path: path.write_bytes(path.read_bytes()[:1000])),
    ("1_Pooling/config.json", lambda path: path.write_text("")),
    ("optimizer.pt", lambda path: path.write_bytes(path.read_bytes()[:1000])),
    ("optimizer.pt", Path.unlink),
    ("scheduler.pt", Path.unlink),
    ("scheduler.pt", lambda path: path.write_bytes(b"")),
    ("rng_state.pth", lambda path: path.write_bytes(path.read_bytes()[:-1])),
    ("rng_state.pth", Path.unlink),
    ("model.safetensors", zero_half),
    *((name, take_from_another) for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")),
    ("config.json", lambda path: path.write_text(path.read_text().replace('"gelu"', '"relu"'))),
    ("checksums.json", lambda path: path.write_text("[]")),
]


def args_of(folder, **more):
    class Args:
        output_dir, world_size, load_best_model_at_end, max_steps = str(folder), 1, True, 5
        early_stopping_patience, timestamp_output_dir, overwrite_output_dir, num_train_epochs = None, False, False, 3

    for name, value in more.items():
        setattr(Args, name, value)
    return Args


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_the_last_whole_checkpoint_is_gone_on_from_and_a_damaged_one_refused(copied, caplog, number):
    name, damage = DAMAGES[number]
    damage(copied / "checkpoint-5" / name)
    place = run_folder.run_folder(args_of(copied, resume_from_checkpoint="last"), "hub/model", "")
    assert place == (str(copied), str(copied / "checkpoint-4"))
    assert f"{copied / 'checkpoint-5'} is not whole" in caplog.text
    assert Path(name).name in caplog.text
    with pytest.raises(ValueError, match=name):
        run_folder.run_folder(args_of(copied, resume_from_checkpoint=str(copied / "checkpoint-5")), "hub/model", "")


def test_a_best_checkpoint_with_destroyed_weights_is_noticed(copied):
    last = copied / "checkpoint-5"
    state = read_json(last / "trainer_state.json") | {"best_model_checkpoint": "checkpoint-4", "best_global_step": 4}
    (last / "trainer_state.json").write_text(json.dumps(state))
    (last / "checksums.json").unlink()
    refuse_flawed(last)
    zero_half(copied / "checkpoint-4" / "model.safetensors")
    with pytest.raises(ValueError, match="the best checkpoint so far: model.safetensors is damaged"):
        refuse_flawed(last)


def test_checkpoints_of_earlier_versions_and_calibrated_ones_are_whole(copied):
    (copied / "checkpoint-4" / "checksums.json").unlink()
    assert flaw_of(copied / "checkpoint-4", needs_best=False) is None
    config = copied / "checkpoint-5" / "cosent_config.json"
    config.write_text(json.dumps(read_json(config) | {"decision": None}))
    (copied / "checkpoint-5" / "README.md").write_text("My model")
    assert flaw_of(copied / "checkpoint-5") is None


def test_where_no_checkpoint_is_whole_that_is_said(copied, tiny_bert, error_of):
    for checkpoint in copied.glob("checkpoint-*"):
        (checkpoint / "trainer_state.json").write_text("{")
    error = error_of("train", *flags(tiny_bert, copied, resume_from_checkpoint="last"))
    assert "there is no whole checkpoint under" in error


def test_the_best_checkpoint_is_found_where_the_run_was_moved_and_missed_where_it_is_gone(
    copied, whole, tiny_bert, tmp_path, monkeypatch
):
    state = json.loads((copied / "checkpoint-5" / "trainer_state.json").read_text())
    state["best_model_checkpoint"], state["best_global_step"] = "/gone/out/checkpoint-4", 4
    (copied / "checkpoint-5" / "trainer_state.json").write_text(json.dumps(state))
    (copied / "checkpoint-5" / "checksums.json").unlink()
    (copied / "training.html").unlink()
    checkpoint = str(copied / "checkpoint-5")
    assert run_folder.run_folder(args_of(copied, resume_from_checkpoint=checkpoint), "m", "") == (
        str(copied),
        checkpoint,
    )
    loaded = []
    monkeypatch.setattr(ResumableTrainer, "_load_best_model", lambda self: None, raising=False)
    monkeypatch.setattr(
        "cosent.training.trainer.CosentTrainer._load_best_model",
        lambda self: loaded.append(self.state.best_model_checkpoint),
    )
    done = cosent("train", *flags(tiny_bert, copied, resume_from_checkpoint=checkpoint))
    assert done.status == 0, done.stderr
    assert loaded == [str(copied / "checkpoint-4")]
    (copied / "training.html").unlink()
    shutil.rmtree(copied / "checkpoint-4")
    with pytest.raises(ValueError, match="the best checkpoint so far"):
        run_folder.run_folder(args_of(copied, resume_from_checkpoint=checkpoint), "m", "")


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tiny_bert, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    seen = []
    save = Trainer._save_rng_state

    def watched(self, output_dir):
        seen.append((Path(output_dir).relative_to(folder), sorted(path.name for path in folder.glob("checkpoint-*"))))
        save(self, output_dir)
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Trainer, "_save_rng_state", watched)
    done = cosent("train", *flags(tiny_bert, folder))
    assert seen == [
        (Path(".unfinished/checkpoint-2"), []),
        (Path(".unfinished/checkpoint-4"), ["checkpoint-2"]),
    ]
    assert done.status == 1
    assert done.stderr.count("error: ") == 1 and "disk full" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in folder.iterdir()] and not (folder / ".unfinished").exists()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 3456 vs 3350"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("basic_ios::clear: iostream error"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    ],
    ids=str,
)
def test_a_full_disk_within_a_checkpoint_is_called_that(tiny_bert, tmp_path, monkeypatch, error):
    def full(self, output_dir):
        raise error

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    done = cosent("train", *flags(tiny_bert, tmp_path / "out"))
    assert done.status == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path / 'out'}: disk full" in line
    assert "--resume_from_checkpoint last" in line
    assert "Traceback" not in done.stderr


def test_patience_goes_on_where_it_was(tiny_bert, tmp_path, monkeypatch):
    stopping = {"early_stopping_patience": 2, "eval_steps": 1, "max_steps": 9, "learning_rate": 0, "weight_decay": 0}
    done = cosent("train", *flags(tiny_bert, tmp_path / "whole", **stopping))
    assert done.status == 0, done.stderr
    assert read_json(tmp_path / "whole" / "trainer_state.json")["global_step"] == 3  # nothing became better
    step = Trainer.training_step

    def killed(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "training_step", killed)
        with pytest.raises(Killed):
            cosent("train", *flags(tiny_bert, tmp_path / "out", **stopping))
    again = {**stopping, "resume_from_checkpoint": "last"}
    done = cosent("train", *flags(tiny_bert, tmp_path / "out", **again))
    assert done.status == 0, done.stderr
    assert read_json(tmp_path / "out" / "trainer_state.json")["global_step"] == 3
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    done = cosent("train", *flags(tiny_bert, tmp_path / "out", **again))
    assert "finished; nothing left to do" in done.stderr
    (tmp_path / "out" / "training.html").unlink()  # as if it had been killed before
    with monkeypatch.context() as broken:
        kill_in(broken, Trainer, "training_step")
        done = cosent("train", *flags(tiny_bert, tmp_path / "out", **again))
    assert done.status == 0, done.stderr
    done = cosent("train", *flags(tiny_bert, tmp_path / "out", **again | {"early_stopping_patience": 4}))
    assert done.status == 0, done.stderr
    assert read_json(tmp_path / "out" / "trainer_state.json")["global_step"] == 5


def test_early_stopping_may_be_asked_for_when_a_run_goes_on(copied, tiny_bert):
    more = {"resume_from_checkpoint": copied / "checkpoint-4", "early_stopping_patience": 3}
    done = cosent("train", *flags(tiny_bert, copied, **more))
    assert done.status == 0, done.stderr


def test_runs_that_begin_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "20260102-030405")
    args = args_of(tmp_path, timestamp_output_dir=True, resume_from_checkpoint=None)
    folders = [run_folder.run_folder(args, "hub/model", "")[0] for _ in range(3)]
    assert [Path(folder).name for folder in folders] == [f"model-20260102-030405{end}" for end in ("", "-2", "-3")]
    assert all(Path(folder).is_dir() for folder in folders)


def test_a_mistake_leaves_no_folder(tiny_bert, tmp_path, error_of):
    (tmp_path / "empty.tsv").write_text("")
    wrong = {"train_data_path": tmp_path / "empty.tsv"}
    assert "is empty" in error_of("train", *flags(tiny_bert, tmp_path / "out", **wrong))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()  # the user's own
    for how in (False, True):
        more = {**wrong, "timestamp_output_dir": how}
        assert "is empty" in error_of("train", *flags(tiny_bert, tmp_path / "out", **more))
        assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_holds_a_run_is_overwritten_only_when_asked(copied, tiny_bert, error_of):
    error = error_of("train", *flags(tiny_bert, copied))
    assert f"--output_dir {copied} holds checkpoints of a run" in error
    assert "--overwrite_output_dir True" in error
    for checkpoint in copied.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert "holds a finished run" in error_of("train", *flags(tiny_bert, copied))
    other = copied / "another-run" / "checkpoint-1"
    other.mkdir(parents=True)
    (copied / "checkpoint-77").mkdir()
    done = cosent("train", *flags(tiny_bert, copied, overwrite_output_dir=True))
    assert done.status == 0, done.stderr
    assert other.is_dir() and not (copied / "checkpoint-77").exists()


def test_what_is_fine_tuned_is_not_overwritten(tiny_bert, tmp_path, error_of):
    base = Path(shutil.copytree(tiny_bert, tmp_path / "models" / "base"))
    before = {path: path.read_bytes() for path in base.iterdir()}
    (tmp_path / "link").symlink_to(base)
    for folder, more in (
        (base, {}),
        (base, {"overwrite_output_dir": True}),
        (base / "out", {}),
        (base, {"timestamp_output_dir": True}),
        (base.parent, {}),
        (tmp_path / "link", {}),
    ):
        error = error_of("train", *flags(base, folder, **more))
        assert f"--output_dir {folder} would overwrite the model that is fine-tuned" in error
    assert {path: path.read_bytes() for path in base.iterdir()} == before


def test_a_second_run_keeps_out_of_a_folder_that_is_being_written(tiny_bert, tmp_path, error_of):
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / ".lock", ""):
        error = error_of("train", *flags(tiny_bert, tmp_path / "out"))
    assert f"another run is writing to {tmp_path / 'out'} at this moment" in error


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "modules.json"])
def test_a_folder_with_a_model_of_other_origin_is_left_alone(tiny_bert, tmp_path, error_of, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("mine")
    assert f"--output_dir {folder} holds a model" in error_of("train", *flags(tiny_bert, folder))
    assert (folder / name).read_text() == "mine"


def test_an_earlier_model_does_not_pass_for_that_of_a_new_run(tmp_path):
    names = ("modules.json", "cosent_config.json", "config.json", "model.safetensors", "notes.txt")
    for resumes in (True, False):
        for name in names:
            (tmp_path / name).write_text("an earlier run's")
        run_folder.begin_folder(tmp_path, "cosent train", resumes=resumes)
        assert [(tmp_path / name).exists() for name in names] == [resumes] * 4 + [True]


def test_within_a_run_the_step_decides_which_checkpoint_is_the_latest(tmp_path):
    for number, (run, step) in enumerate([("a", 30), ("a", 4), ("b", 9), ("a", 20)]):
        checkpoint = tmp_path / run / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text("{}")
        os.utime(checkpoint / "trainer_state.json", (number, number))  # copied in any order
    found = [f"{path.parent.name}-{path.name.rpartition('-')[2]}" for path in checkpoints_below(tmp_path)]
    assert found == ["a-30", "a-20", "a-4", "b-9"]
