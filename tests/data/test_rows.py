import gzip
import os
import subprocess
import sys

import pytest

from cosent.data.layouts import Columns, Example
from cosent.data.readers import ExampleReader
from cosent.errors import DataError
from tests.conftest import ROOT


def read(path, *, on_bad_rows="error", max_text_bytes=2**20, **columns):
    return list(ExampleReader(path, Columns(**columns), on_bad_rows=on_bad_rows, max_text_bytes=max_text_bytes))


def refusal(path, **options):
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return str(caught.value)


PAIRS = [Example(("a", "b"), 1.0), Example(("c", "d"), 0.0)]
AROUND_A_LONG_LINE = {
    "a.tsv": ("a\tb\t1\n", "{}\tx\t1\n", "c\td\t0\n"),
    "a.csv": ("a,b,1\n", "{},x,1\n", "c,d,0\n"),
    "a.jsonl": tuple(
        f'{{"text1": "{first}", "text2": "{second}", "label": {label}}}\n'
        for first, second, label in (("a", "b", 1), ("{}", "x", 1), ("c", "d", 0))
    ),
}


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("name", AROUND_A_LONG_LINE)
def test_a_line_beyond_the_limit_is_a_bad_row(tmp_path, name, gz):
    before, long, after = AROUND_A_LONG_LINE[name]
    content = (before + long.replace("{}", "x" * 5000) + after).encode()
    path = tmp_path / (name + ".gz" if gz else name)
    path.write_bytes(gzip.compress(content) if gz else content)
    assert "line 2: is longer than max_text_bytes=1000" in refusal(path, max_text_bytes=1000)
    assert read(path, max_text_bytes=1000, on_bad_rows="skip") == PAIRS
    assert len(read(path, max_text_bytes=6000)) == 3


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_a_line_as_long_as_the_limit_is_read(tmp_path, name, mark, end):
    (tmp_path / name).write_bytes(f"{'x' * 16}{mark}b{mark}1{end}".encode())
    assert read(tmp_path / name, max_text_bytes=20) == [Example(("x" * 16, "b"), 1.0)]
    if name == "a.tsv":
        assert "line 1: is longer" in refusal(tmp_path / name, max_text_bytes=19)


def test_the_limit_counts_bytes(tmp_path):
    (tmp_path / "a.csv").write_text("你好你好,b,1\na,b,1\n", encoding="utf-8")  # 16 bytes
    assert read(tmp_path / "a.csv", max_text_bytes=16) == [Example(("你好你好", "b"), 1.0), PAIRS[0]]
    assert "line 1: is longer" in refusal(tmp_path / "a.csv", max_text_bytes=13)


def test_a_quotation_mark_that_is_never_closed_ends_at_the_limit(tmp_path):
    (tmp_path / "a.csv").write_text('text1,text2,label\n"open,b,1\n' + "c,d,0\n" * 1000)
    message = refusal(tmp_path / "a.csv", max_text_bytes=1000)
    assert "line 2: the quoting is broken" in message
    assert "not closed" in message


@pytest.mark.parametrize("name", ["bomb.tsv.gz", "bomb.csv.gz", "bomb.jsonl.gz"])
def test_memory_is_bounded_whatever_a_line_unpacks_to(tmp_path, name):
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(b"x" * 2**22)  # 400 MiB
    code = (
        "import resource, sys\n"
        "from cosent.data.readers import ExampleReader\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    list(ExampleReader(sys.argv[1]))\n"
        "except ValueError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    *message, kilobytes = done.stdout.splitlines()
    assert "line 1: is longer than max_text_bytes=1048576" in "\n".join(message)
    assert int(kilobytes) < 32 * 1024


def test_blank_lines_take_no_memory_and_keep_their_numbers(tmp_path):
    (tmp_path / "a.tsv").write_text("a\tb\t1\n\n\n\nc\td\t0\n" + "\n" * 9)
    message = refusal(tmp_path / "a.tsv")
    assert "3 of 5 rows" in message
    assert all(f"line {number}: 1 columns" in message for number in (2, 3, 4))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_1_is_refused(tmp_path, limit):
    (tmp_path / "a.tsv").write_text("a\tb\t1\n")
    with pytest.raises(ValueError, match=f"max_text_bytes must be at least 1, got {limit}"):
        read(tmp_path / "a.tsv", max_text_bytes=limit)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", "is empty: it holds no rows"),
        ("a.tsv", "\n\r\n\n", "is empty: it holds no rows"),
        ("a.csv", "\n\n", "is empty: it holds no rows"),
        ("a.jsonl", "\n\n", "is empty: it holds no rows"),
        ("a.tsv", "  \n  \n", "2 of 2 rows cannot be used"),
        ("a.tsv.gz", "", "is empty: it holds no rows"),
        ("a.parquet", "", "is empty: it holds no table"),
        ("a.xlsx", "x", "save the sheet as .csv"),
    ],
)
def test_files_without_rows(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    assert message in refusal(tmp_path / name)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.tsv")
    assert "is a pipe or a device" in refusal(tmp_path / "a.tsv")


def test_a_file_that_may_not_be_read_is_a_data_error(tmp_path, monkeypatch):
    (tmp_path / "a.tsv").write_text("a\tb\t1\n")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    message = refusal(tmp_path / "a.tsv")
    assert message == f"{tmp_path / 'a.tsv'} cannot be read: Permission denied"
    monkeypatch.undo()
    monkeypatch.setattr("os.stat", refuse)
    assert "cannot be read: Permission denied" in refusal(tmp_path / "a.tsv")


def test_a_file_that_vanishes_is_a_data_error(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\t1\n")
    reader = ExampleReader(path)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        list(reader)
    for name in ("a\0.tsv", "x" * 300 + ".tsv"):
        assert "cannot be read" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"a\tb\t1\n" * 99, mtime=0)[:-9], "is damaged"),
        (gzip.compress(b"a\tb\t1\n" * 99, mtime=0) + b"garbage", "is damaged"),
        (b"a\tb\t1\n", "is damaged or not gzipped"),
    ],
)
def test_gzip_that_is_cut_goes_on_or_is_none(tmp_path, content, message):
    (tmp_path / "a.tsv.gz").write_bytes(content)
    assert message in refusal(tmp_path / "a.tsv.gz")


def test_several_gzip_members_and_padding_are_one_file(tmp_path):
    path = tmp_path / "A.TSV.GZ"
    path.write_bytes(gzip.compress(b"a\tb\t1\n") + gzip.compress(b"c\td\t0\n") + bytes(64))
    assert read(path) == PAIRS


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text1": "a", "text1": "b", "text2": "c", "label": 1}', "the key 'text1' stands there twice"),
        ('{"text1": "a", "text2": "b", "label": NaN}', "label nan is not finite"),
        ('{"text1": NaN, "text2": "b", "label": 1}', "the first text is nan, which is no text"),
        ('{"text1": ' + "[" * 500 + "]" * 500 + ', "text2": "b", "label": 1}', "the first text is [[[...]]]"),
        ('{"text1": {"a": "' + "x" * 90_000 + '"}, "text2": "b", "label": 1}', "the first text is {'a': 'xxx"),
    ],
)
def test_json_rows_that_cannot_be_used(tmp_path, row, message):
    (tmp_path / "a.jsonl").write_text('{"text1": "x", "text2": "y", "label": 1}\n' + row + "\n")
    said = refusal(tmp_path / "a.jsonl")
    assert message in said
    assert len(said) < 1000


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_a_million_columns_make_a_short_message(tmp_path, name):
    names = [f"column_{i}" for i in range(50_000)]
    content = {
        "a.tsv": "\t".join(names),
        "a.csv": ",".join(names),
        "a.jsonl": "{" + ", ".join(f'"{name}": 1' for name in names) + "}",
    }[name]
    (tmp_path / name).write_text(content + "\n")
    message = refusal(tmp_path / name)
    assert "'column_0', 'column_1'" in message
    assert "and 49,994 more" in message
    assert len(message) < 2000


def test_what_reads_rows_needs_no_heavy_package():
    code = (
        "import sys, cosent.data.rows, cosent.data.formats, cosent.data.readers\n"
        "print([name for name in ('torch', 'pandas', 'datasets', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
