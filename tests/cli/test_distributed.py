"""Several processes, gloo, CPU: started as a user would, by torchrun and accelerate, where it matters who does it."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.cli.conftest import cosent, launch, launch_forked, ranks, read_json
from tests.conftest import DATA, ROOT
from tests.processes import run_ranks

PLAIN = ["--optim=sgd", "--learning_rate=0.005", "--max_grad_norm=0", "--lr_scheduler_type=constant", "--dropout=0"]

# Data, the size of a batch, and what makes a batch smaller in pieces; 61 rows leave a last batch of 1.
TASKS = {
    "cosent": (["--train_data_path={zh}/train.txt", "--eval_data_path={zh}/dev.txt"], "--max_train_samples=61"),
    "infonce": (
        ["--loss=infonce", "--train_data_path={zh}/triplets.train.jsonl", "--eval_data_path={zh}/triplets.dev.jsonl"],
        "--max_train_samples=61",
    ),
    "batch_hard_triplet": (
        ["--loss=batch_hard_triplet", "--train_data_path={zh}/classes.train.tsv", "--samples_per_class=3"],
        "--eval_data_path={zh}/classes.dev.tsv",
    ),
}


@pytest.fixture(scope="module")
def flags(tiny_bert):
    def make(task: str, folder, *more: str) -> list[str]:
        data, limit = TASKS[task]
        return [
            f"--model_name_or_path={tiny_bert}",
            f"--output_dir={folder}",
            "--timestamp_output_dir=False",
            *(flag.format(zh=DATA / "zh") for flag in (*data, limit)),
            "--num_train_epochs=2",
            "--logging_steps=1",
            *more,
        ]

    return make


def losses(folder) -> list[float]:
    return [log["loss"] for log in read_json(folder / "trainer_state.json")["log_history"] if "loss" in log]


def metrics(path) -> dict[str, float]:
    """What is measured, but for how long it took; an interval by its two ends."""
    found = {name: value for name, value in read_json(path).items() if "second" not in name}
    intervals = found.pop("intervals", None) or found.pop("eval_intervals", {})
    return found | {f"{name} {end}": ends[end] for name, ends in intervals.items() for end in (0, 1)}


def assert_same_run(one, two):
    """Losses step by step, metrics and weights of two runs."""
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    # scores equal up to rounding may change places
    assert metrics(two / "eval_results.json") == pytest.approx(metrics(one / "eval_results.json"), rel=1e-3, abs=5e-3)
    expected, actual = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert expected.keys() == actual.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], atol=2e-5, err_msg=name)


def assert_resumed(folder, step, done):
    """That the last part of a run began at a step; the mean loss that it reports is the whole run's."""
    assert f"Going on from {folder / f'checkpoint-{step}'}" in done.stdout
    steps = [log for log in read_json(folder / "trainer_state.json")["log_history"] if "learning_rate" in log]
    # the loss of a single pair, the last batch, is 0 and not logged
    mean = sum(losses(folder)) / len(steps)
    assert read_json(folder / "train_results.json")["train_loss"] == pytest.approx(mean, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "num_ranks", "whole", "share", "how"),
    [
        (
            "cosent",
            2,
            ["--per_device_train_batch_size=12"],
            ["--per_device_train_batch_size=6"],
            ["--gradient_accumulation_steps=2"],
        ),
        ("infonce", 3, ["--per_device_train_batch_size=12"], ["--per_device_train_batch_size=4"], []),
        ("batch_hard_triplet", 2, ["--classes_per_batch=6"], ["--classes_per_batch=3"], []),
    ],
)
def test_ranks_train_as_one_process_with_their_batches_together(flags, tmp_path, task, num_ranks, whole, share, how):
    one, many = tmp_path / "one", tmp_path / "many"
    done = cosent("train", *flags(task, one, *PLAIN, *whole, *how))
    assert done.status == 0, done.stderr
    # in pieces, and yet the same
    done = ranks(num_ranks, "train", *flags(task, many, *PLAIN, *share, *how, "--micro_batch_tokens=40"))
    assert done.status == 0, done.stderr
    assert_same_run(one, many)
    assert done.stdout.count("The model is in") == 1  # one rank speaks
    assert f"on each of {num_ranks} ranks" in done.stdout
    logs = read_json(many / "trainer_state.json")["log_history"]
    assert [log["effective_batch"] for log in logs if "loss" in log] == [
        log["effective_batch"] for log in read_json(one / "trainer_state.json")["log_history"] if "loss" in log
    ]


@pytest.mark.slow
def test_ranks_share_the_batches_of_a_stream(flags, tmp_path):
    streamed = [
        "--streaming=True",
        "--buffer_size=30",
        "--max_steps=4",
        "--eval_strategy=steps",
        "--eval_steps=2",
        *PLAIN,
    ]
    given = [flag for flag in flags("cosent", tmp_path / "one", *streamed) if "max_train_samples" not in flag]
    one = cosent("train", *given, "--per_device_train_batch_size=16")
    assert one.status == 0, one.stderr
    two = ranks(2, "train", *given, f"--output_dir={tmp_path / 'two'}", "--per_device_train_batch_size=8")
    assert two.status == 0, two.stderr
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_default_flags_pass_on_rows_that_do_not_divide_and_testing_equals_one_process(tiny_bert, tmp_path):
    # the backbone has a pooler that nothing uses, and the last batch of 500 sentences is 8 * 62 + 4, of 2 * 31
    flags = [f"--model_name_or_path={tiny_bert}", f"--output_dir={tmp_path / 'run'}", "--timestamp_output_dir=False"]
    data = [f"--train_data_path={DATA / 'zh' / 'sentences.txt'}", f"--test_data_path={DATA / 'zh' / 'test.txt'}"]
    sizes = ["--loss=infonce", "--data_format=sentences", "--per_device_train_batch_size=31", "--num_train_epochs=1"]
    done = ranks(2, "train", *flags, *data, *sizes)
    assert done.status == 0, done.stderr
    for name in ("run", "zh"):  # a model, and data of every kind of metric
        test = [f"--model_name_or_path={tmp_path / 'run'}", "--device=cpu", "--batch_size=2"]
        paths = {"run": DATA / "zh" / "test.txt", "zh": DATA / "zh" / "sentences.txt"}
        for run, out in ((cosent, "one"), (partial(ranks, 2), "two")):
            folder = tmp_path / f"{name}-{out}"
            done = run("test", *test, f"--test_data_path={paths[name]}", f"--output_dir={folder}")
            assert done.status == 0, done.stderr
            assert done.stdout.count("Written to") == 1
        # to the last bit: the same batches are embedded, only elsewhere
        assert metrics(tmp_path / f"{name}-one" / "metrics.json") == metrics(tmp_path / f"{name}-two" / "metrics.json")


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_and_a_restart_goes_on_to_the_same_end(flags, tmp_path):
    saving = ["--eval_strategy=steps", "--eval_steps=5", "--per_device_train_batch_size=6", "--max_steps=12"]
    arguments = flags("cosent", tmp_path / "whole", *saving)
    assert ranks(2, "train", *arguments).status == 0
    dying = [str(ROOT / "tests" / "cli" / "dying_rank.py"), str(ROOT / "scripts" / "train.py")]
    ended = launch("torchrun", "--nproc_per_node=2", *dying, *flags("cosent", tmp_path / "ended", *saving))
    assert ended.status == 1
    assert "Signal 9 (SIGKILL)" in ended.stderr
    assert "error on rank 0: another rank has ended" in ended.stderr
    assert "gloo" not in ended.stderr  # nothing of what a connection says when it breaks
    runs = ["--timestamp_output_dir=True", f"--output_dir={tmp_path / 'runs'}"]
    restarted = launch_forked(
        "--nproc_per_node=2",
        "--max-restarts=1",
        *dying,
        *flags("cosent", tmp_path / "runs", *saving, *runs),
        # torch shares a store between attempts otherwise, and may connect to the first: pytorch issue 135712
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )
    assert restarted.status == 0, restarted.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert_same_run(tmp_path / "whole", folder)
    assert_resumed(folder, 5, restarted)
    assert read_json(folder / "trainer_state.json")["global_step"] == 12
    assert not (folder / "launch.txt").exists()
    states = [torch.load(folder / "checkpoint-12" / f"rng_state_{rank}.pth", weights_only=False) for rank in (0, 1)]
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])  # each rank draws dropout of its own


def test_an_error_of_one_rank_alone_is_said_by_it(tiny_bert, tmp_path):
    code = (
        "import os; from cosent.cli import running as c; from cosent import UserError\n"
        "def main():\n"
        "    if os.environ['RANK'] == '1': raise UserError('this one is full')\n"
        "    import time; time.sleep(60)\n"
        "c.run(main)\n"
    )
    (tmp_path / "one_fails.py").write_text(code)
    done = launch_forked("--nproc_per_node=2", tmp_path / "one_fails.py")
    assert done.status == 1
    assert "error on rank 1: this one is full" in done.stderr


@pytest.mark.slow
def test_sharded_weights_train_evaluate_save_and_resume_as_whole_ones(flags, tmp_path):
    saving = ["--eval_strategy=steps", "--eval_steps=5", "--max_steps=12", "--save_total_limit=9", *PLAIN]
    # an optimizer that has a state, and whose steps do not depend on the signs of gradients next to 0
    saving += ["--optim=adamw_torch", "--adam_epsilon=0.01"]
    assert cosent("train", *flags("cosent", tmp_path / "one", *saving, "--per_device_train_batch_size=12")).status == 0
    fsdp = [ROOT / "tests" / "cli" / "fsdp_on_cpu.py", ROOT / "scripts" / "train.py"]
    more = ["--per_device_train_batch_size=6", "--micro_batch_tokens=40", "--fsdp=True"]
    done = run_ranks(2, *fsdp, *flags("cosent", tmp_path / "sharded", *saving, *more))
    assert done.status == 0, done.stderr
    assert_same_run(tmp_path / "one", tmp_path / "sharded")
    checkpoint = f"--resume_from_checkpoint={tmp_path / 'sharded' / 'checkpoint-5'}"
    again = flags("cosent", tmp_path / "sharded", *saving, *more, checkpoint)
    done = run_ranks(2, *fsdp, *again)
    assert done.status == 0, done.stderr
    assert_same_run(tmp_path / "one", tmp_path / "sharded")
    assert_resumed(tmp_path / "sharded", 5, done)
    alone = cosent("train", *flags("cosent", tmp_path / "sharded", *saving, checkpoint))
    assert "was trained by 2 processes, not by 1" in alone.stderr


@pytest.mark.slow
def test_accelerate_launches_it_too_and_each_rank_may_keep_its_batch_to_itself(flags, tmp_path):
    arguments = flags("cosent", tmp_path / "run", "--per_device_train_batch_size=8", "--gather_across_devices=False")
    # --multi_gpu makes it start processes as torchrun does, here on CPUs; --cpu would want MPI
    how = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    done = launch("accelerate launch", *how, ROOT / "scripts" / "train.py", *arguments, "--use_cpu=True")
    assert done.status == 0, done.stderr
    logs = read_json(tmp_path / "run" / "trainer_state.json")["log_history"]
    assert {log["effective_batch"] for log in logs if "loss" in log} == {8.0}
    assert "8 pairs are compared with each other on each of 2 ranks" in done.stdout


def test_ranks_that_keep_their_batches_to_themselves_share_all_rows(tiny_bert, tmp_path):
    script = ROOT / "tests" / "cli" / "rows_of_a_rank.py"
    data = DATA / "zh" / "dev.txt"
    done = run_ranks(2, script, tiny_bert, data, tmp_path)
    assert done.status == 0, done.stderr
    rows = [tuple(row) for rank in (0, 1) for row in read_json(tmp_path / f"{rank}.json")]
    assert len(rows) == len(set(rows)) == len(data.read_text(encoding="utf-8").splitlines())


def test_what_is_wrong_on_all_ranks_is_said_once(tiny_bert, tmp_path):
    flags = [f"--model_name_or_path={tiny_bert}", f"--train_data_path={tmp_path / 'none.tsv'}"]
    done = launch("torchrun", "--nproc_per_node=2", "-m", "cosent", "train", *flags)
    assert done.status == 1
    assert done.stderr.count("none.tsv") == 1


def test_commands_need_no_launcher_to_be_imported():
    code = "import torch.distributed as d, cosent.distributed as c; print(c.rank(), c.num_ranks(), d.is_initialized())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "False"]
