"""Time and peak memory of a training step, from small batches to such as no memory holds at once.

    python benchmarks/large_batch.py --data data/train.txt --dtype bf16
    python benchmarks/large_batch.py --data stsb_en/train.tsv --dtype fp32 --sizes 64 256 1024 4096

"pieces" is gradient caching, in pieces of as many tokens as --piece pairs have on average; "at once" is the same
step without it. sentence-transformers has a cached loss for InfoNCE, and none for CoSENT or triplets; its mini-batches
hold as many texts as that many pairs have. The triplet loss takes the texts of the pairs, in classes of four. A step
is forward, loss, backward and AdamW, which has its moments from the start, as it has from the second step on; dropout
is on, and texts are tokenised before. Pairs are drawn from the data, again and again where it has fewer. Each cell is
a process of its own; time is the best of the steps of --seconds, or of the only step where one takes more than 10.
Memory is what training adds to the process at its peak, the model included. What is likely to need more than --max_gib
or --max_seconds, going by the size before, is not run.
"""

import argparse
import csv
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from measuring import default_device, in_own_process, machine, table, wait_for
from shapes import BUNDLED

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LOSSES = ("cosent", "infonce", "batch_hard_triplet")
LONG = 10.0  # seconds: such a step is taken once


@dataclass(frozen=True)
class Job:
    """One cell of the table."""

    side: str  # "at once", "pieces" or "theirs"
    loss: str
    size: int
    piece: int
    model: str
    data: str
    dtype: str
    device: str
    seconds: float  # of steps


def main() -> None:
    """Measure loss by loss and size by size; print the table."""
    args = parse()
    print(machine(args.device))
    print(f"{args.model}, {args.data}, {args.dtype}{' autocast' if args.dtype == 'bf16' else ''}\n")
    rows = []
    for loss in args.losses:
        sides = ("at once", "pieces", *(["theirs"] if loss == "infonce" else []))
        taken: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}
        for size in args.sizes:
            cells = {}
            for side in sides:
                cells[side] = likely(taken[side], args)
                if not cells[side]:
                    job = Job(
                        side, loss, size, args.piece, args.model, args.data, args.dtype, args.device, args.seconds
                    )
                    taken[side].append(in_own_process(seconds_of_a_step, job, private=True))
                    cells[side] = f"{taken[side][-1][0]:.2f} s, {taken[side][-1][1] / 2**30:.2f} GiB"
                    print(loss, size, side, cells[side], flush=True)
                else:
                    taken[side].append((float("inf"), 2**60))
            rows.append([f"{loss}, {size:,}", *cells.values(), *([] if "theirs" in cells else ["has none"])])
            rows[-1] += ratios(taken)
    header = ["loss, pairs", "at once", "pieces", "theirs, cached"]
    print(
        "\n"
        + table([*header, "time, pieces / at once", "memory, pieces / smallest at once", "time, theirs / pieces"], rows)
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="data/train.txt", help="tab-separated pairs and labels, without a header")
    parser.add_argument("--model", default=str(BUNDLED))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--piece", type=int, default=64, help="pairs whose tokens are embedded at a time")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--device", default=str(default_device()))
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="steps are taken for that long, the best one counts"
    )
    parser.add_argument("--max_gib", type=float, default=18.0)
    parser.add_argument("--max_seconds", type=float, default=400.0)
    return parser.parse_args()


def likely(taken: list[tuple[float, int]], args: argparse.Namespace) -> str:
    """Why the next size is not run; nothing where it is."""
    if not taken:
        return ""
    growth = args.sizes[len(taken)] / args.sizes[len(taken) - 1]
    seconds, memory = taken[-1]
    more = memory - taken[-2][1] if len(taken) > 1 else 0  # what the step before this one added
    if memory + more * growth > args.max_gib * 2**30:
        return "not run: memory"
    return "not run: time" if seconds * growth > args.max_seconds else ""


def ratios(taken: dict[str, list[tuple[float, int]]]) -> list[str]:
    """What the last size costs in pieces, beside the whole, the smallest and the peer."""
    (whole, _), (pieces, memory) = taken["at once"][-1], taken["pieces"][-1]
    theirs = taken["theirs"][-1][0] if "theirs" in taken else float("inf")
    known = pieces < float("inf")
    return [
        f"{pieces / whole:.2f}" if known and whole < float("inf") else "-",
        f"{memory / taken['at once'][0][1]:.2f}" if known else "-",
        f"{theirs / pieces:.2f}" if known and theirs < float("inf") else "-",
    ]


def seconds_of_a_step(job: Job) -> float:
    """Take a few steps of this size; the seconds of the fastest."""
    torch.manual_seed(0)
    with open(job.data, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) == 3]
    pairs = random.Random(0).choices(rows, k=job.size)
    step = their_step(job, pairs) if job.side == "theirs" else our_step(job, pairs)
    taken: list[float] = []
    while sum(taken) < job.seconds and max(taken, default=0.0) < LONG:
        wait_for(job.device)
        start = time.perf_counter()
        step()
        wait_for(job.device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def our_step(job: Job, pairs: list[list[str]]) -> Callable[[], None]:
    """A step of cosent, whole or in pieces."""
    from cosent import BatchHardTripletLoss, CoSENTLoss, InfoNCELoss, SentenceBert
    from cosent.model.tokens import tokenize
    from cosent.training.gradient_cache import cut, embed_pieces

    model = SentenceBert(job.model, device=job.device, dtype="float32").train()
    tokens = tokenize(model.tokenizer, [row[column] for column in (0, 1) for row in pairs], model.max_length)
    input_ids = torch.from_numpy(tokens.input_ids).long().to(job.device)
    lengths = torch.from_numpy(tokens.lengths).to(job.device)
    is_triplet = job.loss == "batch_hard_triplet"
    scores = torch.tensor([float(row[2]) for row in pairs], device=job.device)
    labels = torch.arange(2 * job.size, device=job.device) // 4 if is_triplet else scores
    loss = {"cosent": CoSENTLoss, "infonce": InfoNCELoss, "batch_hard_triplet": BatchHardTripletLoss}[job.loss]()
    optimizer = adamw(model)

    def step() -> None:
        with autocast(job):
            if job.side == "pieces":
                max_tokens = len(input_ids) * job.piece // job.size
                embeddings = embed_pieces(model, cut(input_ids, lengths, max_tokens, pad=True))
            else:
                embeddings = model(input_ids, lengths, int(lengths.max()))
            value = loss(embeddings.view(1 if is_triplet else 2, len(labels), -1), labels)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(job: Job, pairs: list[list[str]]) -> Callable[[], None]:
    """A step of sentence-transformers with its cached loss."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = SentenceTransformer(job.model, device=job.device).train()
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=2 * job.piece)
    features = [model.preprocess([row[column] for row in pairs]) for column in (0, 1)]
    features = [{key: x.to(job.device) if torch.is_tensor(x) else x for key, x in part.items()} for part in features]
    optimizer = adamw(model)
    model.forward = autocast(job)(model.forward)  # as its trainer does, in both passes

    def step() -> None:
        value = loss(features, None)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def adamw(model: torch.nn.Module) -> torch.optim.AdamW:
    """An optimizer that has its moments already: a single step then needs the memory of a later one."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-5)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def autocast(job: Job) -> torch.autocast:
    """Mixed precision, where it is asked for."""
    dtype = DTYPES[job.dtype]
    return partial(torch.autocast, torch.device(job.device).type, enabled=dtype != torch.float32)(dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
