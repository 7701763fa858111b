"""Files that were damaged at random give records or a DataError: never another exception, and never for long.

A longer run: `python -m tests.data.test_damaged_files NUMBER [SEED]`.
"""

import csv
import gzip
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from cosent.data.formats import FORMATS
from cosent.data.layouts import Columns
from cosent.data.readers import ExampleReader
from cosent.errors import DataError

SECONDS = 2.0  # in which a file of a few kilobytes is read, on a busy machine
MESSAGE = 2_500  # characters; 2,000 and the path

ROWS = [
    (f"how do I pay {i}?", f'paying "{i}", 你好', i % 2) if i % 3 else (f"été {i}", "a\u2028b ☃ 😀", 0.5)
    for i in range(40)
]


def tsv(rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


def table(rows, **options):
    first, second, label = zip(*rows, strict=True)
    columns = {"text1": first, "text2": second, "label": pa.array(label, pa.float64()), "when": range(len(rows))}
    columns["when"] = pa.array(columns["when"], pa.timestamp("us"))
    columns["tags"] = [[text] for text in first]
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def comma_separated(rows):
    text = io.StringIO()
    csv.writer(text).writerows([("text1", "text2", "label"), *rows])
    return text.getvalue().encode()


def json_lines(rows):
    names = ("anchor", "positive", "negatives")
    return "".join(json.dumps(dict(zip(names, (a, b, [str(c)]), strict=True))) + "\n" for a, b, c in rows).encode()


WHOLE: dict[str, bytes] = {
    "pairs.tsv": tsv(ROWS),
    "named.tsv": tsv([("query", "title", "score"), *ROWS]),
    "sentences.txt": tsv((first,) for first, *_ in ROWS),
    "classes.data": tsv((first, label) for first, _, label in ROWS),
    "a.csv": comma_separated(ROWS),
    "semicolons.csv": comma_separated(ROWS).replace(b",", b";"),
    "a.jsonl": json_lines(ROWS),
    "a.json": json_lines(ROWS),
    "a.parquet": table(ROWS, row_group_size=16),
    "plain.parquet": table(ROWS, compression="none", use_dictionary=False),
}
WHOLE |= {f"{name}.gz": gzip.compress(content, 1, mtime=0) for name, content in WHOLE.items()}

PIECES = (
    *(b"\0", b'"', b"'", b"\t", b",", b";", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\\", b"{"),
    *(b'""', b"\xed\xa0\x80", b"NaN", b"1e999", b"\\ud800", b"[" * 2000, b"9" * 5000, b"\n" * 50, b"x" * 9000, b"["),
)
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "gb18030", "cp1252", "utf-8-sig", "cp037")


def flip(data: bytearray, generator: random.Random) -> None:
    for _ in range(generator.choice((1, 1, 3, 30))):
        data[generator.randrange(len(data))] = generator.randrange(256)


def cut(data: bytearray, generator: random.Random) -> None:
    start = generator.randrange(len(data))
    del data[start : start + generator.choice((1, 7, 300, len(data)))]


def double(data: bytearray, generator: random.Random) -> None:
    start = generator.randrange(len(data))
    data[start:start] = data[start : start + generator.choice((1, 60, len(data)))]


def insert(data: bytearray, generator: random.Random) -> None:
    for _ in range(generator.choice((1, 1, 4))):
        at = generator.choice((0, len(data), generator.randrange(len(data) + 1)))
        data[at:at] = generator.choice(PIECES)


def replace(data: bytearray, generator: random.Random) -> None:
    data[:] = data.replace(generator.choice((b"\t", b",", b"\n", b'"', b": ", b"1")), generator.choice(PIECES[:16]))


def overwrite(data: bytearray, generator: random.Random) -> None:
    start, size = generator.randrange(len(data)), generator.choice((4, 8, 64))
    value = generator.choice((bytes(size), b"\xff" * size, generator.randbytes(size)))
    data[start : start + size] = value


def encode(data: bytearray, generator: random.Random) -> None:
    data[:] = data.decode("utf-8", errors="replace").encode(generator.choice(ENCODINGS), errors="replace")


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    cut,
    double,
    insert,
    replace,
    overwrite,
    encode,
)


def damaged(name: str, generator: random.Random) -> bytes:
    """A file's bytes after a change or a few; of a gzipped one, its content's or its own."""
    inside = name.endswith(".gz") and generator.random() < 0.5
    data = bytearray(WHOLE[name.removesuffix(".gz") if inside else name])
    for _ in range(generator.choice((1, 1, 2, 4))):
        if data:
            generator.choice(CHANGES)(data, generator)
    return gzip.compress(bytes(data), 1, mtime=0) if inside else bytes(data)


def options(generator: random.Random) -> tuple[Columns, dict]:
    """How the file is read: as suits it, or in any way."""
    if generator.random() < 0.5:
        return Columns(likely="classes"), {"on_bad_rows": "skip"}
    texts, label = generator.choice(((None, None), (None, None), (("text1", "text2"), None), (("0", "1"), "2")))
    columns = Columns(
        generator.choice(("auto", "auto", *FORMATS)),
        texts,
        label,
        likely=generator.choice((None, *FORMATS)),
        needs_label=generator.random() < 0.8,
    )
    limit = generator.choice((2**20, 2**20, 2_000, 40))
    return columns, {"on_bad_rows": generator.choice(("error", "skip")), "max_text_bytes": limit}


def read(path: Path, columns: Columns, **reading) -> str:
    """What came of reading a file; an exception that is no DataError passes, which is what is looked for."""
    started = time.process_time()
    try:
        examples = list(ExampleReader(path, columns, **reading))
    except DataError as error:
        outcome, message = "refused", str(error)
        assert len(message) <= MESSAGE, message
        message.encode("utf-8")  # as it will be printed
    else:
        outcome = "read"
        for example in examples:
            assert example.texts and all(text.strip() and text.encode("utf-8") for text in example.texts)
    assert time.process_time() - started < SECONDS
    return outcome


def read_damaged(folder: Path, name: str, seed: int) -> str:
    """Damage a file, read it, and name the seed if that goes wrong."""
    generator = random.Random(f"{name} {seed}")
    path = folder / name
    path.write_bytes(damaged(name, generator))
    columns, reading = options(generator)
    try:
        return read(path, columns, **reading)
    except Exception as error:
        error.add_note(f"{name}, seed {seed}, {columns}, {reading}")
        raise


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(WHOLE[name])
    assert read(tmp_path / name, Columns(likely="classes")) == "read"


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_file_gives_records_or_a_data_error(tmp_path, name):
    outcomes = Counter(read_damaged(tmp_path, name, seed) for seed in range(40))
    assert outcomes["refused"] >= 5  # or the damage is none


def main(number: int, first: int = 0) -> None:
    """Read many damaged files, and print those that went wrong."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for count in range(number):
            name = list(WHOLE)[count % len(WHOLE)]
            try:
                outcomes[read_damaged(Path(folder), name, first + count)] += 1
            except Exception as error:
                outcomes["wrong"] += 1
                where = f"{type(error).__name__}: {str(error)[:200]}"
                sys.stdout.write(f"{where} {getattr(error, '__notes__', '')}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{number} damaged files: {dict(outcomes)}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
