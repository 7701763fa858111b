"""Where the time of a training step goes, without a trainer around it: forward, CoSENT, backward, clipping, AdamW.

    python benchmarks/profile_step.py --data data/train.txt --precision bf16 [--packing off]

Shares are of what torch's profiler sees on the CPU; it costs time of its own, the more the smaller the operations are.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import in_turns, machine, table
from shapes import SHAPES, make_backbone
from torch.profiler import ProfilerActivity, profile
from train_throughput import DTYPES, read_pairs

from cosent import CoSENTLoss, SentenceBert
from cosent.model.tokens import tokenize

STEPS = 6

# What an operation counts as, by the beginning of its own name, unless one of GROUPS called it.
GROUPS = {
    "cosent::attention": "attention",
    "_Mask": "dropout",
    "aten::native_dropout": "dropout",
    "aten::scaled_dot_product": "attention",
    "ScaledDotProduct": "attention",
    "Optimizer.": "optimizer",
    "aten::embedding": "embeddings",
}
KINDS = {
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::gelu": "GELU and layer norm",
    "aten::native_layer_norm": "GELU and layer norm",
    "aten::copy_": "copies and casts",
    "aten::linalg_vector_norm": "clipping",
    "aten::_foreach": "clipping",
    "aten::fill_": "zero-filling",
}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/train.txt", help="tab-separated: text, text, label")
    parser.add_argument("--shape", default="minilm-l6", help=f"{', '.join(SHAPES)}, or a model's path")
    parser.add_argument("--precision", default="fp32", choices=DTYPES)
    parser.add_argument("--packing", default="auto", choices=["auto", "off"])
    parser.add_argument("--batch", type=int, default=64, help="pairs in a batch")
    args = parser.parse_args()
    pairs = read_pairs(args.data, (STEPS + 1) * args.batch)
    texts = [text for pair in pairs for text in pair[:2]]
    with tempfile.TemporaryDirectory() as folder:
        path = make_backbone(args.shape, texts, Path(folder))
        model = SentenceBert(path, packing=args.packing, device="cpu").train()
    step = make_step(model, DTYPES[args.precision])
    batches = [pairs[start : start + args.batch] for start in range(0, len(pairs), args.batch)]
    step(batches[0])
    [seconds] = in_turns([lambda: [step(batch) for batch in batches[1:]]], 1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for batch in batches[1:]:
            step(batch)
    shares: Counter[str] = Counter()
    for event in profiler.events():
        shares[kind_of(event)] += event.self_cpu_time_total
    print(machine("cpu"))
    speed = (len(batches) - 1) * args.batch / seconds[0]
    print(f"{args.shape}, {args.precision}, packing {args.packing}: {speed:.1f} pairs/s without the profiler\n")
    rows = [[kind, f"{share / shares.total():.1%}"] for kind, share in shares.most_common()]
    print(table(["kind", "share"], rows))


def make_step(model: SentenceBert, dtype: torch.dtype) -> Callable[[list[tuple[str, str, float]]], None]:
    """A function that trains on a batch of pairs."""
    loss = CoSENTLoss()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, 2e-5, fused=True)

    def step(batch: list[tuple[str, str, float]]) -> None:
        tokens = tokenize(model.tokenizer, [pair[column] for column in (0, 1) for pair in batch], 128)
        labels = torch.tensor([label for _, _, label in batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            embeddings = model(torch.from_numpy(tokens.input_ids).long(), torch.from_numpy(tokens.lengths))
            value = loss(embeddings.view(2, len(batch), -1), labels)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def kind_of(event: Any) -> str:
    """What an operation counts as."""
    caller = event
    while caller is not None:
        for name, kind in GROUPS.items():
            if caller.name.startswith(name):
                return kind
        caller = caller.cpu_parent
    return next((kind for name, kind in KINDS.items() if event.name.startswith(name)), "other")


if __name__ == "__main__":
    main()
