"""What the system refuses ends in a line that says what to do, and signals leave nothing behind."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from cosent import UserError
from cosent.cli import running
from cosent.cli.failures import describe_failure
from cosent.cli.parsing import decoded, flags_of
from tests.cli.conftest import cosent
from tests.conftest import DATA, ROOT

DEV = DATA / "zh" / "dev.txt"


def failure(number, path=None):
    return OSError(number, os.strerror(number), *([str(path)] if path else []))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (failure(errno.ENOSPC, "/x/y"), "/x/y: disk full; free some space"),
        (failure(errno.ENOSPC), "disk full; free some space"),
        (failure(errno.EDQUOT, "/x"), "quota"),
        (failure(errno.EROFS, "/x"), "/x: the file system is read-only; give a folder that can be written"),
        (failure(errno.EACCES, "/x"), "permission denied"),
        (failure(errno.EPERM, "/x"), "not permitted"),
        (failure(errno.ENOTDIR, "/x"), "it is a file, where a folder is needed"),
        (failure(errno.EEXIST, "/x"), "it is there already"),
        (failure(errno.EISDIR, "/x"), "it is a folder, where a file is needed"),
        (failure(errno.ENAMETOOLONG, "/x"), "the name is too long"),
        (failure(errno.EMFILE), "too many open files; raise the limit with ulimit -n"),
        (failure(errno.ENOENT, "/x"), "it does not exist, or not any more"),
        (failure(errno.ELOOP, "/x"), os.strerror(errno.ELOOP)),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk full"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 3456 vs 3350"), "disk full"),
    ],
    ids=str,
)
def test_an_error_of_the_system_ends_in_one_line(monkeypatch, capsys, error, said):
    def fails():
        raise error

    with pytest.raises(SystemExit) as ended:
        running.run(fails)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_an_error_that_a_library_hides_is_found_and_others_keep_their_traceback():
    hidden = ValueError("could not generate")
    hidden.__cause__ = failure(errno.EROFS, "/x")
    assert describe_failure(hidden).startswith("/x: the file system is read-only")
    for other in (ValueError("a bug"), RuntimeError("PytorchStreamReader failed reading zip archive"), OSError("?")):
        assert describe_failure(other) is None
        with pytest.raises(type(other)):
            running.run(lambda error=other: (_ for _ in ()).throw(error))


@pytest.mark.parametrize("path", ["/nohome", "/nohome/.cache/huggingface/datasets/x.lock"])
def test_a_cache_that_cannot_be_written_is_named_with_what_moves_it(monkeypatch, path):
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nohome")
    said = describe_failure(failure(errno.EACCES, path))
    assert "the cache folder /nohome/.cache/huggingface cannot be used" in said
    assert "HF_HOME" in said and "HF_DATASETS_CACHE" in said


def test_a_reader_that_goes_away_ends_a_command_quietly(monkeypatch, capsys):
    def fails():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(SystemExit) as ended:
        running.run(fails)
    assert ended.value.code == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


def test_sigterm_cleans_up_as_sigint_does(capsys):
    cleaned = []

    def interrupted():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as ended:
        running.run(interrupted)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "terminated\n"
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["train", "--train_data_path", DEV], "output_dir"),
        (["test", "--test_data_path", DEV], "output_dir"),
        (["encode", "--input_path", DEV], "output_path"),
        (["predict", "--input_path", DEV], "output_path"),
        (["compare", "A", "B", "--test_data_path", DEV], "output_dir"),
        (["check", DEV], "write_split"),
        (["build-backbone", "--corpus", DEV], "output_dir"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_outputs_are_looked_at_before_anything_is_computed(error_of, tmp_path, monkeypatch, command, flag):
    (tmp_path / "file").write_text("")
    monkeypatch.setitem(sys.modules, "transformers", None)  # nothing slow may be imported
    name = "x.npy" if command[0] == "encode" else "x.tsv"
    for path, said in (
        (tmp_path / "file" / name, f"{tmp_path / 'file'}: it is a file, where a folder is needed"),
        (tmp_path / ("a" * 300) / name, "the name is too long"),
    ):
        error = error_of(*command, f"--{flag}={path}")
        assert f"--{flag} {path} cannot be written to: " in error
        assert said in error
    if flag == "output_path":
        assert "it is a folder, where a file is needed" in error_of(*command, f"--{flag}={tmp_path}")

    def refuses(*args, **kwargs):
        raise failure(errno.EROFS, "tmp")

    monkeypatch.setattr("tempfile.TemporaryFile", refuses)
    error = error_of(*command, f"--{flag}={tmp_path / name}")
    assert f"{tmp_path}: the file system is read-only; give a folder that can be written" in error


def test_a_model_that_cannot_be_written_is_not_calibrated(error_of, tmp_path, monkeypatch):
    def refuses(*args, **kwargs):
        raise failure(errno.EACCES, "tmp")

    monkeypatch.setattr("tempfile.TemporaryFile", refuses)
    assert "permission denied" in error_of("calibrate", "--model_name_or_path", tmp_path, "--data_path", DEV)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--report_to=tensorboard", "--report_to tensorboard needs the package tensorboard"),
        ("--report_to=wandb", "pip install wandb"),
        ("--report_to=nothing", "is no tracker"),
        ("--use_liger_kernel=True", "pip install liger-kernel"),
        ("--optim=adamw_bnb_8bit", "needs the package bitsandbytes"),
        ("--optim=galore_adamw_8bit_layerwise", "needs the package galore_torch"),
        ("--deepspeed=x.json", "needs the package deepspeed"),
        ("--seed=-1", "--seed -1 is out of range: it must be at least 0 and at most 4294967295"),
        ("--data_seed=4294967296", "--data_seed 4294967296 is out of range"),
        ("--learning_rate=nan", "--learning_rate nan is out of range"),
        ("--num_train_epochs=0", "it must be above 0"),
        ("--per_device_train_batch_size=0", "it must be at least 1"),
        ("--gradient_accumulation_steps=0", "it must be at least 1"),
        ("--adam_beta2=1", "--adam_beta2 1.0 is out of range"),
        ("--logging_steps=-1", "it must be above 0"),
        ("--early_stopping_patience=0", "it must be at least 1"),
    ],
)
def test_what_a_flag_needs_and_may_be_is_checked_at_once(error_of, monkeypatch, tmp_path, flag, said):
    monkeypatch.setattr("cosent.training.packages.find_spec", lambda name: None)
    assert said in error_of(
        "train", "--model_name_or_path=M", f"--train_data_path={DEV}", f"--output_dir={tmp_path}", flag
    )


@pytest.mark.parametrize("content", ["eval_strategy: no\nbf16: on\npacking: off\n", "eval_strategy: No\nbf16: Yes\n"])
def test_the_words_of_yaml_are_words(tmp_path, content):
    from cosent.cli import train

    (tmp_path / "config.yaml").write_text(content + "timestamp_output_dir: off\nmodel_name_or_path: M\n")
    given = [str(tmp_path / "config.yaml"), "--train_data_path", str(DEV)]
    model, *_, ours, theirs = train.flag_parser().fill_from(given)
    assert (ours.eval_strategy, theirs.bf16, ours.timestamp_output_dir) == ("no", True, False)
    assert model.packing == ("off" if "packing" in content else "auto")


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("seed: 010", ["--seed=010"]),
        ("warmup_steps: 1:30", ["--warmup_steps=1:30"]),
        ("output_dir: 0123", ["--output_dir=0123"]),
        ("output_dir: 2024-01-01 10:00", ["--output_dir=2024-01-01 10:00"]),
        ("learning_rate: 1e-5", ["--learning_rate=1e-5"]),
        ("fractions: [0.10, 1_0]", ["--fractions", "0.10", "1_0"]),
        (
            "lr_scheduler_kwargs: {num_cycles: 010, eps: 1e-5, name: '3'}",
            ['--lr_scheduler_kwargs={"num_cycles": 10, "eps": 1e-05, "name": "3"}'],
        ),
    ],
)
def test_numbers_of_a_config_file_are_read_as_they_are_written(tmp_path, content, flags):
    (tmp_path / "config.yaml").write_text(content)
    assert flags_of(str(tmp_path / "config.yaml")) == flags


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.yaml", "seed: 1\nmax_steps: 2\nseed: 3\n"), ("c.json", '{"seed": 1,\n"max_steps": 2, "seed": 3}')],
)
def test_a_name_stands_in_a_config_file_once(error_of, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert "'seed' stands there twice, first in line 1" in error_of("train", tmp_path / name)


def test_a_terminal_without_unicode_gets_the_numbers_of_characters(tmp_path):
    (tmp_path / "a.tsv").write_text("我要退款\t我要退款\t1\n退款\t付款\t0\n", encoding="utf-8")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cosent", "check", "a.tsv"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u6211" in done.stdout


def test_texts_on_the_command_line_are_decoded():
    assert decoded("你好\tß") == "你好\tß"
    assert decoded("你好".encode().decode("ascii", "surrogateescape")) == "你好"
    with pytest.raises(UserError, match="is not UTF-8"):
        decoded("a\udcff")


def test_a_second_encode_to_the_same_output_is_told(tiny_bert, tmp_path, monkeypatch):
    from cosent.model.encoder import SentenceBert

    command = ["encode", "--model_name_or_path", tiny_bert, "--input_path", DEV, "--column", 1]
    command += ["--output_path", tmp_path / "x.npy"]
    encode_tokens, second = SentenceBert.encode_tokens, []

    def meanwhile(self, *args, **kwargs):
        if not second:
            second.append(None)
            second[0] = cosent(*command)
        return encode_tokens(self, *args, **kwargs)

    monkeypatch.setattr(SentenceBert, "encode_tokens", meanwhile)
    done = cosent(*command)
    assert done.status == 0, done.stderr
    assert second[0].status == 1
    assert "is being written by another process at this moment" in second[0].stderr
    assert "Traceback" not in second[0].stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.npy.json"]
