"""Optional packages that some arguments need, checked before anything slow is imported."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, NamedTuple

from cosent.errors import UserError


class Need(NamedTuple):
    """Modules of which one must be installed, and the package that provides it."""

    modules: tuple[str, ...]
    package: str


# Trackers by their names in report_to; kubeflow is a service that needs no package.
TRACKERS = {
    "azure_ml": Need(("azureml",), "azureml-core"),
    "clearml": Need(("clearml",), "clearml"),
    "codecarbon": Need(("codecarbon",), "codecarbon"),
    "comet_ml": Need(("comet_ml",), "comet-ml"),
    "dagshub": Need(("dagshub",), "dagshub mlflow"),
    "dvclive": Need(("dvclive",), "dvclive"),
    "flyte": Need(("flytekit",), "flytekit"),
    "kubeflow": Need((), ""),
    "mlflow": Need(("mlflow",), "mlflow"),
    "neptune": Need(("neptune",), "neptune"),
    "swanlab": Need(("swanlab",), "swanlab"),
    "tensorboard": Need(("tensorboard", "tensorboardX"), "tensorboard"),
    "trackio": Need(("trackio",), "trackio"),
    "wandb": Need(("wandb",), "wandb"),
}
_NO_TRACKER = ("none", "all")

_BITSANDBYTES = Need(("bitsandbytes",), "bitsandbytes")

# Optimizers by the beginning of their names; the first match counts. All others come with torch or transformers.
OPTIMIZERS = {
    "adamw_anyprecision": Need(("torchdistx",), "torchdistx"),
    "adamw_apex": Need(("apex",), "apex"),
    "adamw_bnb": _BITSANDBYTES,
    "adamw_8bit": _BITSANDBYTES,
    "adamw_torch_4bit": Need(("torchao",), "torchao"),
    "adamw_torch_8bit": Need(("torchao",), "torchao"),
    "adamw_torch_xla": Need(("torch_xla",), "torch_xla"),
    "adamw_torch_npu": Need(("torch_npu",), "torch_npu"),
    "ademamix": _BITSANDBYTES,
    "lion": _BITSANDBYTES,
    "paged": _BITSANDBYTES,
    "rmsprop_bnb": _BITSANDBYTES,
    "galore": Need(("galore_torch",), "galore-torch"),
    "lomo": Need(("lomo_optim",), "lomo-optim"),
    "adalomo": Need(("lomo_optim",), "lomo-optim"),
    "grokadamw": Need(("grokadamw",), "grokadamw"),
    "schedule_free": Need(("schedulefree",), "schedulefree"),
    "apollo": Need(("apollo_torch",), "apollo-torch"),
    "stable_adamw": Need(("optimi",), "torch-optimi"),
}

# Other arguments that need a package when they are given.
_OTHERS = {
    "deepspeed": Need(("deepspeed",), "deepspeed"),
    "use_liger_kernel": Need(("liger_kernel",), "liger-kernel"),
}


def check_packages(args: Any) -> None:
    """Refuse arguments whose packages are not installed.

    Args:
        args: the Trainer's arguments, in whichever class.

    Raises:
        UserError: if so; the message says how to install the package.
    """
    for tracker in _trackers(args.report_to):
        if tracker not in (*TRACKERS, *_NO_TRACKER):
            raise UserError(f"report_to={tracker!r} is no tracker; there are {', '.join((*_NO_TRACKER, *TRACKERS))}")
        if tracker in TRACKERS:
            _require(TRACKERS[tracker], f"report_to={tracker!r}", "report_to='none'")
    optimizer = str(getattr(args.optim, "value", args.optim))
    for beginning, need in OPTIMIZERS.items():
        if optimizer.startswith(beginning):
            _require(need, f"optim={optimizer!r}", "optim='adamw_torch'")
            break
    for name, need in _OTHERS.items():
        if value := getattr(args, name, None):
            _require(need, f"{name}={str(value)!r}", f"train without {name}", verb="")


def _trackers(given: str | Iterable[str] | None) -> list[str]:
    return [] if given is None else [given] if isinstance(given, str) else list(given)


def _require(need: Need, argument: str, instead: str, verb: str = "give ") -> None:
    if need.modules and not any(find_spec(module) for module in need.modules):
        raise UserError(
            f"{argument} needs the package {need.modules[0]}, which is not installed: pip install {need.package}, or "
            f"{verb}{instead}"
        )
