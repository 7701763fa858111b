"""The program itself: its commands, their help, their answers to mistakes, and what none of these imports."""

import json
import subprocess
import sys
import tomllib

import pytest

from cosent.cli.main import COMMANDS
from cosent.cli.parsing import each_flag_once
from cosent.version import __version__
from tests.cli.conftest import SHIMS, cosent, run_script
from tests.conftest import DATA, ROOT

HEAVY = ("torch", "transformers", "datasets", "pandas", "scipy.stats")


def test_these_are_all_commands_and_scripts():
    assert list(SHIMS) == list(COMMANDS)
    assert {path.name for path in (ROOT / "scripts").glob("*.py")} == set(SHIMS.values())


def test_the_program_is_installed_by_its_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"cosent": "cosent.cli.main:main"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_the_commands_are_listed(arguments):
    done = cosent(*arguments)
    assert done.status == 0
    assert len(done.stdout.splitlines()) < 15
    for name, command in COMMANDS.items():
        assert f"  {name:16}{command.summary}\n" in done.stdout


def test_the_version_is_said():
    assert cosent("--version").stdout == f"cosent {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_shown(name):
    done = cosent(name, "--help")
    assert done.status == 0
    assert f"usage: cosent {name} " in done.stdout
    assert "--" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIMS.values())
def test_a_script_is_the_command_of_its_name(name):
    shown = run_script(name, "--help")
    assert shown.status == 0
    command = next(command for command, script in SHIMS.items() if script == name)
    assert shown.stdout == cosent(command, "--help").stdout
    refused = run_script(name, "--no-such-flag")
    assert refused.status == 2
    assert refused.stderr == cosent(command, "--no-such-flag").stderr


def test_flags_that_negate_others_are_not_explained_as_these():
    shown = cosent("train", "--help").stdout
    assert "--load_best_model_at_end" in shown and "--no_load_best_model_at_end" not in shown
    assert "--no_duplicate_texts" in shown  # a flag of its own
    assert "infonce (sentences, triplets, labelled pairs)" in " ".join(shown.split())


def test_training_shows_its_own_flags_in_groups_and_all_when_asked():
    own, every = cosent("train", "--help").stdout, cosent("train", "--help-all").stdout
    places = [own.index(f"\n{title}:\n") for title in ("model", "data", "loss", "decision", "training")]
    assert places == sorted(places)
    assert "--help-all" in own
    for name in ("--pooling_mode", "--micro_batch_tokens", "--learning_rate", "--loss", "--calibration"):
        assert name in own
    assert "--lr_scheduler_type" not in own
    assert "transformers' TrainingArguments:" not in own
    assert every.index("--micro_batch_tokens") < every.index("transformers' TrainingArguments:")
    assert every.index("transformers' TrainingArguments:") < every.index("--lr_scheduler_type")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "did you mean train?"),
        (["check_data"], "cosent has no command 'check_data'; did you mean check?"),
        (["build_backbone"], "did you mean build-backbone?"),
        (["xyz"], "its commands are train, test"),
        (["train", "--learningrate", "1"], "no flag --learningrate; did you mean --learning_rate?"),
        (["train", "--train_data", "my.tsv"], "did you mean --train_data_path?"),
        (["train", "--max-lenght=3"], "did you mean --max_length?"),
        (["train", "--qqq"], "cosent train has no flag --qqq\n"),
        (
            ["train", "--loss", "cosnet"],
            "one of cosent, angle, infonce, batch_hard_triplet, not 'cosnet'; did you mean",
        ),
        (["train", "--optim", "adam"], "--optim: must be one of adamw_torch, "),
        (["train", "--eval_strategy", "sometimes"], "--eval_strategy: must be one of no, steps, epoch"),
        (["train", "--learning_rate", "fast"], "--learning_rate: invalid float value: 'fast'"),
        (["train", "--bf16", "maybe"], "--bf16: Truthy value expected: got maybe"),
        (["train", "--learning_rate"], "--learning_rate: expected one argument"),
        (["train", "my.tsv"], "does not know what to do with 'my.tsv'"),
        (["test"], "cosent test needs --model_name_or_path\n"),
        (["encode"], "cosent encode needs --model_name_or_path, --input_path, --output_path\n"),
        (["predict", "--model_name_or_path", "M"], "cosent predict needs --input_path, --output_path\n"),
        (["predict", "M", "one text"], "takes a model and two texts, or flags; got 2"),
        (["search", "M", "text"], "cosent search needs --corpus\n"),
        (["search", "--corpus", "C"], "cosent search needs --model_name_or_path, --queries\n"),
        (["search", "M", "--corpus", "C"], "either as arguments after the model, or as a file, --queries"),
        (["search", "M", "text", "--queries", "Q", "--corpus", "C"], "either as arguments after the model, or"),
        (["compare", "--test_data_path", "T"], "cosent compare needs models\n"),
        (["check"], "cosent check needs paths\n"),
        (["calibrate", "--model_name_or_path", "M", "--data_pth", "D"], "did you mean --data_path?"),
    ],
)
def test_a_wrong_command_or_flag_is_answered_in_a_line_or_two(arguments, said):
    done = cosent(*arguments)
    assert done.status == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert said in done.stderr


NEEDS = ["--model_name_or_path", "M"]
TEXTS = DATA / "sentences.txt"
SEARCHED = ["--queries", TEXTS, "--corpus", TEXTS]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", *NEEDS, "--train_data_path", "none.tsv"], "none.tsv does not exist"),
        (["train", *NEEDS, "--train_data_path", DATA], "is a folder with files of several types"),
        (["train", *NEEDS, "--eval_data_path", "none.tsv"], "none.tsv does not exist"),
        (["train", *NEEDS, "--micro_batch_size", "0"], "--micro_batch_size must be at least 1, got 0"),
        (["train", *NEEDS, "--scale", "0"], "--scale must be above 0"),
        (["train", *NEEDS, "--threshold_metric", "best"], "a threshold is chosen by accuracy"),
        (["train", "none.yaml"], "none.yaml cannot be read as settings"),
        (["test", *NEEDS, "--test_data_path", "none.tsv"], "none.tsv does not exist"),
        (["test", *NEEDS, "--index_data_path", "none.tsv"], "none.tsv does not exist"),
        (["encode", *NEEDS, "--input_path", "none.tsv", "--output_path", "x.npy"], "none.tsv does not exist"),
        (["predict", *NEEDS, "--input_path", "none.tsv", "--output_path", "x.tsv"], "none.tsv does not exist"),
        (["test", *NEEDS, "--queries", "none.tsv"], "--queries, --corpus and --qrels test a search together"),
        (["test", *NEEDS, *SEARCHED, "--qrels", "none.tsv"], "none.tsv does not exist"),
        (["test", *NEEDS, *SEARCHED, "--qrels", "none.tsv", "--report", "True"], "--report has no page for a search"),
        (["search", "M", "text", "--corpus", "none.tsv"], "none.tsv does not exist"),
        (["search", "M", "--queries", "none.tsv", "--corpus", TEXTS], "none.tsv does not exist"),
        (["search", "M", "text", "--corpus", TEXTS, "--corpus_embeddings", "none.npy"], "none.npy does not exist"),
        (
            ["search", "M", "text", "--corpus", TEXTS, "--output_path", "x.npy"],
            "written to a .tsv, .csv or .jsonl file",
        ),
        (["search", "M", "text", "--corpus", TEXTS, "--top_k", "0"], "--top_k must be at least 1, got 0"),
        (
            ["search", "M", "--queries", DATA / "dev.txt", "--corpus", TEXTS],
            "holds the texts; give --query_column NAME",
        ),
        (["search", "M", "text", "--corpus", DATA / "dev.txt"], "holds the texts; give --column NAME"),
        (["calibrate", "--model_name_or_path", DATA, "--data_path", "none.tsv"], "none.tsv does not exist"),
        (["compare", "A", "B", "--test_data_path", "none.tsv"], "none.tsv does not exist"),
        (["check", "none.tsv"], "none.tsv does not exist"),
        (["build-backbone", "--corpus", "none.txt", "--output_dir", "x"], "none.txt does not exist"),
    ],
)
def test_what_can_be_told_at_once_is_an_error_of_the_data_or_the_values(error_of, arguments, said):
    assert said in error_of(*arguments)
    assert cosent(*arguments).status == 1


def imports_of(*calls: list[object]) -> list[list[str]]:
    """Which of the heavy packages a new process has imported after each call."""
    code = (
        "import contextlib, io, json, sys\n"
        "from cosent.cli.main import main\n"
        "found = []\n"
        f"for arguments in {[list(map(str, call)) for call in calls]!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            main(arguments)\n"
        f"    found.append([name for name in {HEAVY!r} if name in sys.modules])\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_help_mistakes_and_checks_import_nothing_heavy():
    missing = ["--train_data_path", "none.tsv"]
    calls = [
        *([name, "--help"] for name in COMMANDS),
        [],
        ["--version"],
        ["trian"],
        ["train", "--help-all"],
        *([name, "--learningrate"] for name in COMMANDS),
        *([name] for name in COMMANDS if name != "train"),  # which runs the sample job
        ["train", *NEEDS, *missing],
        ["train", *NEEDS, "--optim", "adam"],
        ["train", *NEEDS, "--warmup_ratio", "2"],
        ["test", *NEEDS, "--test_data_path", "none.tsv"],
        ["encode", *NEEDS, "--input_path", "none.tsv", "--output_path", "x.npy"],
        ["predict", *NEEDS, "--input_path", "none.tsv", "--output_path", "x.tsv"],
        ["test", *NEEDS, *SEARCHED, "--qrels", "none.tsv"],
        ["search", "M", "text", "--corpus", "none.tsv"],
        ["search", "M", "text", "--corpus", DATA / "dev.txt"],
        ["calibrate", "--model_name_or_path", DATA, "--data_path", "none.tsv"],
        ["compare", "A", "B", "--test_data_path", "none.tsv"],
        ["build-backbone", "--corpus", "none.txt", "--output_dir", "x"],
        ["check", DATA / "train.txt", DATA / "dev.txt"],
    ]
    assert dict(zip(map(str, calls), imports_of(*calls), strict=True)) == {str(call): [] for call in calls}


def test_what_is_heavy_would_be_noticed(tmp_path):
    flags = ["--corpus", DATA / "train.txt", "--output_dir", tmp_path, "--hidden_size", "4", "--vocab_size", "50"]
    assert imports_of(["build-backbone", *flags])[0][:2] == ["torch", "transformers"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--a 1 --b 2 --a 3", "--b 2 --a 3"),
        ("--a=1 --a 2", "--a 2"),
        ("--max-length 1 --max_length 2", "--max_length 2"),
        ("x.yaml --a 1 2 --a 3", "x.yaml --a 3"),
        ("--a -1 --flag --b", "--a -1 --flag --b"),
    ],
)
def test_a_noted_command_holds_each_flag_once(given, kept):
    assert each_flag_once(given.split()) == kept.split()
