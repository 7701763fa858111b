import gzip
import io
import json

import pandas as pd
import pytest

from cosent.data.layouts import Columns, Example
from cosent.data.readers import ExampleReader
from cosent.errors import DataError


def pair(text1, text2, label):
    return Example((text1, text2), label)


PAIRS = [pair("你好，世界", "hello", 1.0), pair('a "quote', "x, y", 0.0), pair("tab", "line\u2028separator", 2.5)]


def read(path, data_format="pairs", *, on_bad_rows="error", **columns):
    return list(ExampleReader(path, Columns(data_format, **columns), on_bad_rows=on_bad_rows))


def tsv(rows, header=None):
    return "".join("\t".join(map(str, row)) + "\n" for row in ([header] if header else []) + rows)


ROWS = [[*example.texts, example.label] for example in PAIRS]


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", tsv(ROWS)),
        ("a.txt", tsv(ROWS)),
        ("a.txt", tsv(ROWS).replace("\n", "\r\n")),
        ("a.txt", tsv(ROWS).removesuffix("\n")),
        ("a.txt", tsv(ROWS) + "\n\n"),
        ("a.tsv", tsv([row[::-1] for row in ROWS], ["Label", "sentence2", "sentence1"])),
        ("a.tsv", tsv([["id", *row] for row in ROWS], ["id", "Query1", "Query2", "score"])),
        ("a.csv", pd.DataFrame(ROWS, columns=["text_1", "text_2", "similarity"]).to_csv(index=False)),
        ("a.csv", pd.DataFrame(ROWS).to_csv(index=False, header=False)),
        ("a.jsonl", "\n".join(json.dumps({"source": a, "target": b, "label": c}) for a, b, c in ROWS)),
    ],
)
def test_formats(tmp_path, name, content, bom, gz):
    data = (b"\xef\xbb\xbf" if bom else b"") + content.encode()
    path = tmp_path / (name + ".gz" if gz else name)
    path.write_bytes(gzip.compress(data) if gz else data)
    assert read(path) == PAIRS


@pytest.mark.parametrize("gz", [False, True])
def test_parquet(tmp_path, gz):
    path = tmp_path / "a.parquet"
    pd.DataFrame(ROWS, columns=["question1", "question2", "is_duplicate"]).to_parquet(path)
    if gz:
        path = tmp_path / "a.parquet.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert read(path) == PAIRS


def test_quotes_in_tsv_are_text(tmp_path):
    (tmp_path / "a.tsv").write_text('"one\ttwo\t1\nthree"\tfour\t0\n')
    assert read(tmp_path / "a.tsv") == [pair('"one', "two", 1.0), pair('three"', "four", 0.0)]


def test_csv_fields_may_hold_line_breaks_and_lines_are_still_counted(tmp_path):
    (tmp_path / "a.csv").write_text('text1,text2,label\n"one\nand a half",two,1\nthree,,0\n')
    with pytest.raises(DataError, match="line 4: the second text is empty"):
        read(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv", on_bad_rows="skip") == [pair("one\nand a half", "two", 1.0)]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("mine\tyours\tgrade\nx\ty\t1\n", {"texts": ("mine", "yours"), "label": "grade"}),
        ("id\ty\tx\t1\n", {"texts": ("2", "1"), "label": "3"}),
        ("x\ty\t1\n", {"texts": ("0", "1")}),
        ("text1\ttext2\tlabel\tgrade\nx\ty\t0\t1\n", {"label": "grade"}),
    ],
)
def test_declared_columns(tmp_path, content, options):
    (tmp_path / "a.tsv").write_text(content)
    assert read(tmp_path / "a.tsv", **options) == [pair("x", "y", 1.0)]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a\tb\tc\n1\t2\t3\n", {"texts": ("a", "z")}, "no column 'z' but 'a', 'b', 'c'.*text_columns"),
        ("a\tb\t1\n", {"texts": ("0", "7")}, "line 1: 3 columns, expected 8 or more"),
    ],
)
def test_columns_that_are_not_there(tmp_path, content, options, message):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.tsv", **options)


def test_json_without_known_names(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"left": "x", "right": "y", "label": 1}\n')
    with pytest.raises(DataError, match="columns 'left', 'right', 'label'"):
        read(tmp_path / "a.jsonl")


BAD_LINES = [
    (b"only\ttwo\n", "line 2: 2 columns, expected 3"),
    (b"a\tb\tc\td\n", "line 2: 4 columns, expected 3"),
    (b"\n", "line 2: 1 columns, expected 3"),
    (b"\tb\t1\n", "line 2: the first text is empty"),
    (b"a\t  \t1\n", "line 2: the second text is empty"),
    (b"a\tb\tyes\n", "line 2: label 'yes' is no number"),
    (b"a\tb\tnan\n", "line 2: label 'nan' is not finite"),
    (b"a\tb\tinf\n", "line 2: label 'inf' is not finite"),
    (b"\xff\xfe\tb\t1\n", "line 2: is not UTF-8"),
    (b"\t\t\n", "line 2: the first text is empty"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_LINES)
def test_bad_rows_are_named_and_skipped_only_when_asked(tmp_path, bad, message):
    (tmp_path / "a.tsv").write_bytes(b"x\ty\t1\n" + bad + b"p\tq\t0\n")
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "a.tsv")
    assert "1 of 3 rows" in str(caught.value)
    assert "on_bad_rows='skip'" in str(caught.value)
    reader = ExampleReader(tmp_path / "a.tsv", Columns("pairs"), on_bad_rows="skip")
    assert list(reader) == [pair("x", "y", 1.0), pair("p", "q", 0.0)]
    assert (reader.report.num_rows, reader.report.num_bad) == (3, 1)


def test_rows_of_nothing_but_separators_are_bad_rows_at_the_end_too(tmp_path):
    (tmp_path / "a.tsv").write_text("x\ty\t1\n\t\t\n")
    with pytest.raises(DataError, match="1 of 2 rows"):
        read(tmp_path / "a.tsv")


def test_blank_lines_in_csv_count_within_the_file_and_not_at_its_end(tmp_path):
    (tmp_path / "a.csv").write_text("text1,text2,label\nx,y,1\n\np,q,0\n\n\n")
    with pytest.raises(DataError, match="1 of 3 rows"):
        read(tmp_path / "a.csv")


def test_csv_rows_that_are_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text1,text2,label\nx,y,1\n\xff,q,0\n")
    with pytest.raises(DataError, match="line 3: the first text is not UTF-8"):
        read(tmp_path / "a.csv")


def test_a_first_json_row_that_lacks_a_column_is_a_bad_row_like_others(tmp_path):
    (tmp_path / "a.jsonl").write_text('{}\n{"text1": "x", "text2": "y", "label": 1}\n')
    with pytest.raises(DataError, match="line 1: lacks 'text1', 'text2', 'label'"):
        read(tmp_path / "a.jsonl")
    assert read(tmp_path / "a.jsonl", on_bad_rows="skip") == [pair("x", "y", 1.0)]


def test_positions_do_not_care_about_columns_behind_them(tmp_path):
    (tmp_path / "a.tsv").write_text("x\ty\t1\tmore\nonly\np\tq\t0\n")
    pairs = read(tmp_path / "a.tsv", texts=("0", "1"), on_bad_rows="skip")
    assert pairs == [pair("x", "y", 1.0), pair("p", "q", 0.0)]


@pytest.mark.parametrize("first", [b"\xff\xfe\n", b"only one\n"])
def test_a_bad_first_row_is_a_bad_row_like_others(tmp_path, first):
    (tmp_path / "a.tsv").write_bytes(first + b"x\ty\t1\n")
    with pytest.raises(DataError, match="1 of 2 rows"):
        read(tmp_path / "a.tsv")
    assert read(tmp_path / "a.tsv", on_bad_rows="skip") == [pair("x", "y", 1.0)]


@pytest.mark.parametrize("header", ["left,right,grade\nx,y,1\n", "id,left,right,grade\n1,x,y,1\n"])
def test_a_header_of_unknown_names_is_suspected(tmp_path, header):
    (tmp_path / "a.csv").write_text(header)
    with pytest.raises(DataError, match="(If line 1 is a header, name its columns|the label are) with text_columns"):
        read(tmp_path / "a.csv")


def test_only_the_first_bad_rows_are_shown_and_all_are_counted(tmp_path):
    (tmp_path / "a.tsv").write_text("a\tb\t1\n" + "bad\n" * 1000)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.tsv")
    assert "1,000 of 1,001 rows" in str(caught.value)
    assert "line 6" in str(caught.value)
    assert "line 7" not in str(caught.value)
    assert "995 more" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("not json", "is not JSON"),
        ("[1, 2]", "is not a JSON object"),
        ('{"text1": "a", "label": 1}', "lacks 'text2'"),
        ('{"text1": null, "text2": "b", "label": 1}', "the first text is None"),
        ('{"text1": "a", "text2": "b", "label": null}', "label None is no number"),
        ('{"text1": "a", "text2": "b", "label": 1' + "0" * 400 + "}", "is no number"),
        ('{"text1": "a", "text2": "b", "label": 1' + "0" * 5000 + "}", "is not JSON"),
        ('{"text1": "a\\ud83d", "text2": "b", "label": 1}', "the first text is not UTF-8"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_bad_json_rows(tmp_path, row, message):
    (tmp_path / "a.jsonl").write_text('{"text1": "x", "text2": "y", "label": 1}\n' + row + "\n")
    with pytest.raises(DataError, match=f"line 2: .*{message}"):
        read(tmp_path / "a.jsonl")


def test_missing_values_in_parquet(tmp_path):
    frame = pd.DataFrame({"text1": ["a", None], "text2": ["b", "c"], "label": [1.0, float("nan")]})
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 2: the first text is None"):
        read(tmp_path / "a.parquet")


def damaged_parquet():
    """A table whose footer is whole and whose first data page is not."""
    buffer = io.BytesIO()
    pd.DataFrame({"text1": ["a" * 99], "text2": ["b" * 99], "label": [1.0]}).to_parquet(buffer)
    content = bytearray(buffer.getvalue())
    content[4:60] = b"\xff" * 56
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.tsv", None, "does not exist"),
        ("a.tsv", b"", "is empty"),
        ("a.csv", b"text1,text2,label\n", "is empty: it holds no rows"),
        ("a.docx", b"x", "unknown kind"),
        ("a", b"x", "unknown kind"),
        ("a.tsv.gz", b"no gzip", "is damaged"),
        ("a.tsv.gz", gzip.compress(b"a\tb\t1\n" * 9999, mtime=0)[:-20], "is damaged"),
        ("a.parquet", b"no parquet", "is damaged"),
        ("a.parquet", damaged_parquet(), "is damaged"),
        ("a.csv", b'text1,text2,label\n"open,b,1\n', "line 2: the quoting is broken"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


def test_skipping_everything_is_an_error(tmp_path):
    (tmp_path / "a.tsv").write_text("bad\nworse\n")
    with pytest.raises(DataError, match="no row is left"):
        read(tmp_path / "a.tsv", on_bad_rows="skip")


@pytest.mark.parametrize(
    ("name", "rows"),
    [("lcqmc/dev.tsv", 8802), ("afqmc/train.tsv", 34334), ("stsb_zh/test.tsv", 1361), ("stsb_en/train.tsv", 5749)],
)
def test_public_datasets_keep_every_row(shared_data, name, rows):
    assert len(read(shared_data / name)) == rows
