"""Decides whether training can be recorded as CUDA graphs, and how the recorded layers are compiled."""

from typing import Any

from cosent.distributed import num_ranks
from cosent.errors import UserError
from cosent.kernels.graphs import EncoderGraphs, can_record
from cosent.training.arguments import CosentTrainingArguments


def training_graphs(graphs: EncoderGraphs, args: CosentTrainingArguments) -> EncoderGraphs | None:
    """Tell whether training can be recorded as CUDA graphs.

    Args:
        graphs: the model's graphs.
        args: the training arguments.

    Returns:
        The graphs; None if training runs without recording.

    Raises:
        UserError: if graphs are "on" but training cannot be recorded.
    """
    obstacles = {
        f"{args.device} is no CUDA device": not can_record(args.device),
        "gradient_checkpointing asks for random states while it runs": args.gradient_checkpointing,
        "several processes share gradients while the backward pass runs": num_ranks() > 1,
        "FSDP and DeepSpeed replace the weights": bool(args.fsdp) or bool(args.deepspeed),
    }
    obstacle = next((reason for reason, is_there in obstacles.items() if is_there), None)
    if obstacle and graphs.mode == "on":
        raise UserError(f"cuda_graphs='on': training cannot be recorded, as {obstacle}; use cuda_graphs='auto'")
    return None if obstacle or graphs.mode == "off" else graphs


def compile_options(args: CosentTrainingArguments) -> dict[str, Any]:
    """Return torch.compile's options for the layers of a recorded encoder.

    Args:
        args: the training arguments.

    Raises:
        UserError: if the compile mode would record CUDA graphs itself.
    """
    mode = args.torch_compile_mode
    if mode in ("reduce-overhead", "max-autotune"):
        raise UserError(f"torch_compile_mode='{mode}' makes CUDA graphs of its own: add cuda_graphs='off'")
    return {"backend": args.torch_compile_backend or "inductor", "mode": mode}
