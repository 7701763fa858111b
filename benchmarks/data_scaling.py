"""Speed and memory of reading, checking and tokenising a file of pairs, beside pandas and datasets.

    python benchmarks/data_scaling.py [--max_exponent 6] [--max_tokenised_exponent 5] [--model_name_or_path tokenizer]

The file is tab-separated, text, text, label, in English and Chinese words, made from a seed; some texts come twice. We
read it into an Arrow file and check every row; `pandas.read_csv` and `datasets.load_dataset("csv")` parse it, with the
options that keep quotes and words like "NA" as they are, and check no text. Tokenising begins with the read file and
ends with the tokens in another Arrow file; beside it stands the bare tokenizer, which is given the texts in batches and
drops the tokens. Everything starts from empty caches.

Every figure comes from a process of its own. Memory is the growth of the process's private resident memory at its peak,
sampled a hundred times a second. Resident pages of files are left out: `datasets` and we map Arrow files into memory,
and such pages stay resident only while the system has no better use for them. Where the system cannot tell them apart
(other than Linux), they are in.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import PeakMemory, in_own_process, machine, table

SMALLEST = 4  # 10**4 rows
SEED = 0
WORDS = 20_000  # of each language
PHRASES = 50_000
BLOCK = 100_000  # rows made at once
DUPLICATES = 0.1  # of first texts
BATCH = 1000  # texts that the bare tokenizer is given at once
NAMES = ["text1", "text2", "label"]
BACKBONE = Path(__file__).parent.parent / "models" / "all-MiniLM-L6-v2"
HEADER = ["step", "rows", "ours, rows/s", "ours, MiB", "peer", "theirs, rows/s", "theirs, MiB", "ratio"]

Figures = tuple[float, float]  # rows a second, MiB


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default=str(BACKBONE), help="whose tokenizer is used")
    parser.add_argument("--max_exponent", type=int, default=7, help="most rows read, as a power of 10")
    parser.add_argument("--max_tokenised_exponent", type=int, default=6, help="most rows tokenised")
    args = parser.parse_args()
    print(f"{machine('cpu')}\n")
    rows = []
    for exponent in range(SMALLEST, args.max_exponent + 1):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pairs.tsv"
            write_pairs(path, 10**exponent)
            ours = figures(read_ours, 10**exponent, path)
            for name, read in {"pandas": read_pandas, "datasets": read_datasets}.items():
                rows.append(cells("read", 10**exponent, ours, name, figures(read, 10**exponent, path)))
            if exponent <= args.max_tokenised_exponent:
                ours = figures(tokenize, 10**exponent, path, args.model_name_or_path)
                alone = figures(tokenizer_alone, 10**exponent, path, args.model_name_or_path)
                rows.append(cells("tokenise", 10**exponent, ours, "tokenizer alone", alone))
    print(table(HEADER, sorted(rows, key=lambda row: (row[0], row[4]))))


def write_pairs(path: Path, num_rows: int) -> None:
    """Write a file of pairs; the same for the same number of rows."""
    random = np.random.default_rng(SEED)
    starts, ends = phrases(random), phrases(random)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for at in range(0, num_rows, BLOCK):
            size = min(BLOCK, num_rows - at)
            places = random.integers(PHRASES, size=(4, size))
            again = np.flatnonzero(random.random(size) < DUPLICATES)
            places[:2, again] = places[:2, again - 1]
            labels = random.integers(2, size=size)
            rows = zip(*places.tolist(), labels.tolist(), strict=True)
            file.writelines(f"{starts[a]} {ends[b]}\t{starts[c]} {ends[d]}\t{label}\n" for a, b, c, d, label in rows)


def phrases(random: np.random.Generator) -> list[str]:
    """Halves of texts, log-normal in length: two make 3 to 40 English words mostly, or as many Chinese characters."""
    letters = random.integers(ord("a"), ord("z") + 1, size=(WORDS, 10), dtype=np.uint32)
    lengths = random.integers(2, 11, size=WORDS)
    english = ["".join(map(chr, word[:length])) for word, length in zip(letters, lengths, strict=True)]
    chinese = [chr(character) for character in random.integers(0x4E00, 0x9FA5, size=WORDS)]
    made = []
    for length in np.ceil(random.lognormal(1.5, 0.6, size=PHRASES)).astype(int):
        words, space = (english, " ") if random.random() < 0.7 else (chinese, "")
        # small numbers come most often, as common words do
        made.append(space.join(words[place] for place in (WORDS * random.random(length) ** 3).astype(int)))
    return made


def figures(step: Callable[..., tuple[float, int]], num_rows: int, *args: object) -> Figures:
    """Rows a second and peak memory of a step, from empty caches."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache  # for the process that the step runs in
        (seconds, peak), _ = in_own_process(step, *args)
    return num_rows / seconds, peak / 2**20


def cells(step: str, num_rows: int, ours: Figures, name: str, theirs: Figures) -> list[str]:
    """One row of the table; a ratio above 1 means that we are faster."""
    return [
        step,
        f"{num_rows:,}",
        *(f"{figure:,.0f}" for figure in ours),
        name,
        *(f"{figure:,.0f}" for figure in theirs),
        f"{ours[0] / theirs[0]:.2f}",
    ]


# Steps import what they use before they are measured, and nothing else: each runs in a process of its own.


def measured(function: Callable[[], object]) -> tuple[float, int]:
    """Seconds and peak private memory of a call."""
    with PeakMemory(private=True) as peak:
        start = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - start
    del result  # not before, as its memory counts
    return seconds, peak.bytes


def read_ours(path: Path) -> tuple[float, int]:
    """Read and check."""
    from cosent import read_records

    return measured(lambda: read_records(path))


def read_pandas(path: Path) -> tuple[float, int]:
    """Parse into a frame."""
    import pandas

    return measured(
        lambda: pandas.read_csv(
            path, sep="\t", header=None, names=NAMES, quoting=csv.QUOTE_NONE, keep_default_na=False, encoding="utf-8"
        )
    )


def read_datasets(path: Path) -> tuple[float, int]:
    """Parse into an Arrow file in the cache."""
    import datasets

    datasets.disable_progress_bars()
    options = {"sep": "\t", "column_names": NAMES, "quoting": csv.QUOTE_NONE, "keep_default_na": False}
    return measured(lambda: datasets.load_dataset("csv", data_files=str(path), split="train", **options))


def tokenize(path: Path, model_name_or_path: str) -> tuple[float, int]:
    """Tokenise what has been read."""
    import datasets

    from cosent import SentenceBert, read_records

    datasets.disable_progress_bars()
    model, records = SentenceBert(model_name_or_path, device="cpu"), read_records(path)
    return measured(lambda: records.tokenize(model))


def tokenizer_alone(path: Path, model_name_or_path: str) -> tuple[float, int]:
    """Give the tokenizer all texts, and drop what it makes of them."""
    from cosent import SentenceBert

    model = SentenceBert(model_name_or_path, device="cpu")

    def run() -> None:
        texts: list[str] = []
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                texts += line.split("\t")[:2]
                if len(texts) >= BATCH:
                    model.tokenizer(texts, truncation=True, max_length=model.max_length)
                    texts.clear()
        if texts:
            model.tokenizer(texts, truncation=True, max_length=model.max_length)

    return measured(run)


if __name__ == "__main__":
    main()
