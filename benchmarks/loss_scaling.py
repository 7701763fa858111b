"""Time and memory of the ranking loss, forward and backward, beside sentence-transformers' loss.

    python benchmarks/loss_scaling.py [--dim 8] [--max_exponent 20]

Times are the best of several runs of each side, taken in turns.
"""

import argparse
import platform
import time
from collections.abc import Callable

import sentence_transformers
import torch
from sentence_transformers.sentence_transformer import losses as peer_losses
from torch import Tensor

from cosent import CoSENTLoss

REPEATS = 5


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=8, help="width of the embeddings")
    parser.add_argument("--max_exponent", type=int, default=20, help="largest batch, as a power of 2")
    args = parser.parse_args()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    print(f"CoSENT loss, forward and backward, D={args.dim}, on {device}, {torch.get_num_threads()} threads")
    print(f"{platform.processor() or platform.machine()}; torch {torch.__version__}, ", end="")
    print(f"sentence-transformers {sentence_transformers.__version__}\n")
    print(f"{'pairs':>10}{'ours, ms':>12}{'theirs, ms':>12}{'ratio':>8}")
    ours = CoSENTLoss()
    theirs = peer_losses.CoSENTLoss(model=None)

    def peer(embeddings: Tensor, labels: Tensor) -> Tensor:
        return theirs.compute_loss_from_embeddings(list(embeddings.unbind(0)), labels)

    for exponent in range(6, args.max_exponent + 1, 2):
        size = 1 << exponent
        embeddings = torch.randn(2, size, args.dim, device=device, requires_grad=True)
        labels = torch.randint(0, 6, (size,), device=device).float()
        times = [(seconds(ours, embeddings, labels), seconds(peer, embeddings, labels)) for _ in range(REPEATS)]
        mine, other = (min(column) * 1e3 for column in zip(*times, strict=True))
        print(f"{size:>10,}{mine:>12.2f}{other:>12.2f}{other / mine:>8.2f}")


def seconds(loss: Callable[[Tensor, Tensor], Tensor], embeddings: Tensor, labels: Tensor) -> float:
    """Wall-clock time of one forward and backward."""
    embeddings.grad = None
    start = time.perf_counter()
    value = loss(embeddings, labels)
    value.backward()
    value.item()  # waits for an accelerator
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
