"""Time and peak memory of the losses, forward and backward, beside sentence-transformers' losses.

    python benchmarks/loss_scaling.py [--losses cosent infonce] [--dim 8] [--max_exponent 16] [--device cpu]

CoSENT ranks B scored pairs; InfoNCE compares B anchors with B positives; batch-hard mines triplets among B texts, in
classes of 8. Embeddings are random, in float32. Times are the best of several runs of each side, taken in turns.
Memory is what a run adds, at its peak, to the embeddings that it is given; their gradient is part of it.

A size that is likely to need more memory or time than is allowed, going by the sizes before it, is not run on that
side, nor is a larger one: its cells say "not run", and why.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import psutil
import torch
from measuring import PeakMemory, default_device, give_back_memory, in_turns, machine, table
from sentence_transformers.sentence_transformer import losses as peer_losses
from torch import Tensor, nn

from cosent import BatchHardTripletLoss, CoSENTLoss, InfoNCELoss

SMALLEST, STEP = 6, 2  # exponents of 2
CLASS_SIZE = 8
REPEATS, REPEATS_SECONDS = 5, 5.0  # a slow loss runs fewer times than that, once at least
SAFE_SHARE = 0.7  # of the memory that is free
STEADY_BYTES, STEADY_SECONDS = 64 * 2**20, 0.05  # what is less grows unevenly
HEADER = ["loss", "B", "ours, ms", "theirs, ms", "ratio", "ours, MiB", "theirs, MiB", "ratio"]


@dataclass
class Side:
    """One side's loss, and what its runs took so far, the smallest size first.

    Attributes:
        loss: embeddings (K, B, D) and labels (B,), or None, to a scalar.
        peaks: bytes of each size.
        seconds: of each size.
        stopped: what stands in place of larger sizes; empty while they are run.
    """

    loss: Callable[[Tensor, Tensor | None], Tensor]
    peaks: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: str = ""

    def may_run(self, inputs: int, args: argparse.Namespace) -> bool:
        """Whether the next size, with so many bytes of embeddings, is likely to keep to the limits."""
        if inputs + likely_next(self.peaks, STEADY_BYTES) > args.max_gib * 2**30:
            self.stopped = self.stopped or "not run: memory"
        if likely_next(self.seconds, STEADY_SECONDS) > args.max_seconds:
            self.stopped = self.stopped or "not run: time"
        return not self.stopped

    def cell(self, values: list[float], unit: float) -> str:
        """The last size's figure."""
        return self.stopped or f"{values[-1] / unit:,.2f}"


def main() -> None:
    """Print one table."""
    args = parse_arguments()
    print(f"{machine(args.device)}\n\nForward and backward, D={args.dim}, on {args.device}; ", end="")
    print(f"at most {args.max_gib:.1f} GiB and {args.max_seconds:g} s a run\n")
    rows, differences = [], []
    for name in args.losses:
        columns, labels, ours, theirs = LOSSES[name]
        sides = Side(ours), Side(partial(peer, theirs))
        difference = relative_difference(sides, *inputs(columns, labels, 1 << SMALLEST, args))
        differences.append(f"{name} {difference:.0e}")
        for exponent in range(SMALLEST, args.max_exponent + 1, STEP):
            running = [side for side in sides if side.may_run(4 * columns * args.dim << exponent, args)]
            if running:
                measure(running, *inputs(columns, labels, 1 << exponent, args))
            rows.append([name, f"{1 << exponent:,}", *cells(*sides)])
    print(table(HEADER, rows))
    print(f"\nDifference of values and gradients at B={1 << SMALLEST}, relative: {', '.join(differences)}")


def parse_arguments() -> argparse.Namespace:
    """The flags, with the device and its memory filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--dim", type=int, default=384, help="width of the embeddings")
    parser.add_argument("--max_exponent", type=int, default=20, help="largest batch, as a power of 2")
    parser.add_argument("--max_gib", type=float, help=f"memory of a run; {SAFE_SHARE:.0%} of what is free if not given")
    parser.add_argument("--max_seconds", type=float, default=60.0, help="time of a run")
    parser.add_argument("--device", type=torch.device, default=default_device())
    args = parser.parse_args()
    if args.max_gib is None:
        on_cuda = args.device.type == "cuda"
        free = torch.cuda.mem_get_info(args.device)[0] if on_cuda else psutil.virtual_memory().available
        args.max_gib = SAFE_SHARE * free / 2**30
    return args


def peer(loss: nn.Module, embeddings: Tensor, labels: Tensor | None) -> Tensor:
    """Call a loss of sentence-transformers, which takes a list of (B, D) columns."""
    return loss.compute_loss_from_embeddings(list(embeddings.unbind(0)), labels)


# K, what makes B labels, our loss, and theirs with the same options
LOSSES: dict[str, tuple[int, Callable[[int], Tensor | None], nn.Module, nn.Module]] = {
    "cosent": (2, lambda size: torch.randint(0, 6, (size,)).float(), CoSENTLoss(), peer_losses.CoSENTLoss(model=None)),
    "infonce": (2, lambda size: None, InfoNCELoss(), peer_losses.MultipleNegativesRankingLoss(model=None)),
    "batch_hard_triplet": (
        1,
        lambda size: torch.arange(size) // CLASS_SIZE,
        BatchHardTripletLoss(margin=1.0),
        peer_losses.BatchHardTripletLoss(model=None, margin=1.0),
    ),
}


def inputs(
    columns: int, labels: Callable[[int], Tensor | None], size: int, args: argparse.Namespace
) -> tuple[Tensor, Tensor | None]:
    """Random embeddings (K, B, D) with K columns, and labels (B,), on the device."""
    made = labels(size)
    embeddings = torch.randn(columns, size, args.dim, device=args.device, requires_grad=True)
    return embeddings, made if made is None else made.to(args.device)


def measure(sides: list[Side], embeddings: Tensor, labels: Tensor | None) -> None:
    """Run each side at one size, and add to its figures."""

    def forward_backward(loss: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        embeddings.grad = None
        loss(embeddings, labels).backward()

    runs = [partial(forward_backward, side.loss) for side in sides]
    slowest = 0.0
    for side, run in zip(sides, runs, strict=True):
        embeddings.grad = None
        give_back_memory()
        with PeakMemory() as peak:
            [[seconds]] = in_turns([run], 1, embeddings.device)
        side.peaks.append(peak.bytes)
        slowest = max(slowest, seconds)
    repeats = max(1, min(REPEATS, int(REPEATS_SECONDS / slowest)))
    for side, seconds in zip(sides, in_turns(runs, repeats, embeddings.device), strict=True):
        side.seconds.append(min(seconds))


def cells(ours: Side, theirs: Side) -> list[str]:
    """The last size's figures and their ratios."""
    stopped = ours.stopped or theirs.stopped
    return [
        ours.stopped or f"{ours.seconds[-1] * 1e3:,.2f}",
        theirs.stopped or f"{theirs.seconds[-1] * 1e3:,.2f}",
        "-" if stopped else f"{theirs.seconds[-1] / ours.seconds[-1]:.2f}",
        ours.stopped or f"{ours.peaks[-1] / 2**20:,.1f}",
        theirs.stopped or f"{theirs.peaks[-1] / 2**20:,.1f}",
        "-" if stopped else f"{theirs.peaks[-1] / max(ours.peaks[-1], 1):.2f}",
    ]


def likely_next(values: list[float], steady: float) -> float:
    """What the next size is likely to take: as much more as the last one took than the one before it.

    Args:
        values: of the sizes so far.
        steady: a last value below it tells nothing about growth, which is quadratic then.
    """
    if not values:
        return 0.0
    linear = 1 << STEP
    growth = values[-1] / max(values[-2], 1e-9) if len(values) > 1 and values[-1] >= steady else linear**2
    return values[-1] * min(max(growth, linear), linear**2)


def relative_difference(sides: tuple[Side, Side], embeddings: Tensor, labels: Tensor | None) -> float:
    """How far the sides' values and gradients are apart at most, relative to the largest of each."""
    values = [side.loss(embeddings, labels) for side in sides]
    gradients = [torch.autograd.grad(value, embeddings)[0] for value in values]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in (values, gradients))


if __name__ == "__main__":
    main()
