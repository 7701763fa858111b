"""Measure cosent beside sentence-transformers on a GPU: training, encoding, large batches, profiles.

    DATA=folder bash benchmarks/gpu.sh [OUT]
    python benchmarks/gpu.py --data folder --out output/gpu

The folder holds `lcqmc/dev.tsv` and `stsb_en/train.tsv` (text, text, label; tab-separated, no header); bundled samples
replace missing files. Encoders get random weights and a vocabulary learnt from the texts, so nothing is downloaded.
One process measures all rows, the most important ones first, and writes `gpu.md` and `gpu.json` after each row: a
killed run keeps what it has measured. A row that fails shows its error, and the next row follows. A row that --seconds
leaves no time for reads "not measured: time". All other files go to a temporary folder.
"""

import argparse
import os
import tempfile
from pathlib import Path

from measuring import default_device
from shapes import SHAPES
from train_throughput import DTYPES, quiet


def main() -> None:
    """Measure the rows and write the page."""
    args = parse()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        # datasets reads this when it is first imported, which the imports below do
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "datasets")
        from gpu_bench import Bench
        from gpu_page import Page, seconds_so_far
        from gpu_rows import all_rows, measure

        bench = Bench(args, Path(folder))
        rows = [row for row in all_rows(bench) if any(part in row.title for part in args.only)]
        page = Page(Path(args.out), bench.device, bench.facts(), rows)
        measure(page, lambda seconds: seconds_so_far() + seconds <= args.seconds)
    failed = sum(row.status.startswith("FAILED") for row in rows)
    measured = sum(row.status == "measured" for row in rows)
    print(f"{measured} of {len(rows)} rows measured, {failed} FAILED: {page.folder / 'gpu.md'}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="", help="folder with lcqmc/dev.tsv and stsb_en/train.tsv")
    add("--out", default="output/gpu", help="folder for gpu.md and gpu.json")
    add("--tests", default="not run", help="result of pytest -m cuda, to be shown on the page")
    add("--seconds", type=float, default=280.0, help="time limit, from the start of the process")
    add("--device", default=default_device().type)
    add("--precision", default="bf16", choices=DTYPES, help="bf16: autocast in training, bf16 weights in encoding")
    add("--shape", help=f"encoder to use in every row: {', '.join(SHAPES)}, or a model's path")
    add("--graphs", nargs="+", default=["auto", "off"], help="values of cuda_graphs; every row runs with the first")
    add("--only", nargs="+", default=[""], help="measure only rows whose table or first two cells contain one of these")
    add("--batch", type=int, default=64, help="pairs in a batch")
    add("--untimed", type=int, default=400, help="maximum number of steps before timing starts")
    add("--steps", type=int, default=30, help="minimum number of timed steps")
    add("--step_seconds", type=float, default=3.0, help="minimum duration of the timed steps")
    add("--texts", type=int, default=10**9, help="maximum number of distinct texts to encode")
    add("--large_batch", type=int, default=4096, help="pairs in a large batch")
    add("--micro_batch_tokens", type=int, default=16_384, help="tokens in each piece of a large batch")
    add("--compile_backend", default="inductor", help="backend of torch.compile")
    return parser.parse_args()


if __name__ == "__main__":
    main()
