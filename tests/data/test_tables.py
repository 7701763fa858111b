import datetime
import decimal
import gzip

import pyarrow as pa
import pytest
from pyarrow import parquet

from cosent.data.layouts import Columns, Example
from cosent.data.readers import ExampleReader
from cosent.errors import DataError

PLAIN = {"text1": pa.array(["a", "c"]), "text2": pa.array(["b", "d"]), "label": pa.array([1, 0])}
PAIRS = [Example(("a", "b"), 1.0), Example(("c", "d"), 0.0)]
NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffb")]
)


def read(folder, columns, **options):
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    parquet.write_table(table, folder / "a.parquet")
    limit = options.pop("max_text_bytes", 2**20)
    return list(ExampleReader(folder / "a.parquet", Columns(**options), max_text_bytes=limit))


def refusal(folder, columns, **options):
    with pytest.raises(DataError) as caught:
        read(folder, columns, **options)
    return str(caught.value)


UNREADABLE = {
    "not UTF-8": NOT_UTF8,
    "out of range": pa.array([2**62, 0], pa.timestamp("us")),
    "no such zone": pa.array([2**62, 0], pa.timestamp("ns", "Mars/Base")),
    "durations": pa.array([1, 2], pa.duration("ns")),
    "nested": pa.array([{"a": [1]}, {"a": []}]),
    "a map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "lists": pa.array([["a"], []]),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_column_that_nobody_asked_for_cannot_fail(tmp_path, name):
    assert read(tmp_path, {"first": UNREADABLE[name], **PLAIN, "a.b": UNREADABLE[name]}) == PAIRS


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("column", ["text1", "label"])
def test_a_column_that_holds_no_texts_or_numbers_is_a_data_error(tmp_path, name, column):
    message = refusal(tmp_path, PLAIN | {column: UNREADABLE[name]})
    assert "row 1: " in message
    assert "is no number" in message or "is no text" in message or "is not UTF-8" in message


def test_only_the_needed_columns_are_read(tmp_path, monkeypatch):
    asked = []
    iter_batches = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile,
        "iter_batches",
        lambda self, *args, columns, **kwargs: asked.append(columns) or iter_batches(self, *args, columns=columns),
    )
    negatives = pa.array([["n"], ["m", "k"]])
    table = {"id": pa.array([1, 2]), "anchor": PLAIN["text1"], "positive": PLAIN["text2"], "negatives": negatives}
    assert read(tmp_path, table) == [Example(("a", "b", "n")), Example(("c", "d", "m", "k"))]
    assert asked == [["anchor", "positive", "negatives"]]


@pytest.mark.parametrize(
    "columns",
    [
        {"text1": PLAIN["text1"].dictionary_encode()},
        {"text1": PLAIN["text1"].cast(pa.large_string())},
        {"text1": PLAIN["text1"].cast(pa.string_view())},
        {"text1": PLAIN["text1"].cast(pa.binary())},
        {"text1": PLAIN["text1"].cast(pa.large_binary())},
        {"label": pa.array([decimal.Decimal("1.0"), decimal.Decimal("0.0")])},
        {"label": pa.array([1, 0], pa.float16())},
        {"label": pa.array([True, False])},
        {"label": pa.array(["1", "0"])},
    ],
)
def test_texts_and_labels_of_many_types(tmp_path, columns):
    assert read(tmp_path, PLAIN | columns) == PAIRS


def test_bytes_that_are_not_utf8_are_a_bad_row_of_their_own(tmp_path):
    for column in (NOT_UTF8, NOT_UTF8.cast(pa.binary()), NOT_UTF8.dictionary_encode()):
        message = refusal(tmp_path, PLAIN | {"text1": column})
        assert "1 of 2 rows" in message
        assert "row 1: the first text is not UTF-8" in message


def test_dates_are_no_classes(tmp_path):
    days = pa.array([datetime.date(2020, 1, 1), None])
    message = refusal(tmp_path, {"text": PLAIN["text1"], "label": days})
    assert "the class is of type date32[day]" in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["text1", "text1", "text2", "label"], "has several columns 'text1', 'text1'"),
        (["text1", "Text1", "text2", "label"], "has several columns 'text1', 'Text1'"),
        (["p", "q", "r", "s"], "has the columns 'p', 'q', 'r', 's', which do not say where"),
        (["p", "anchor", "positive", "s"], "could be triplets, were it not for 'p', 's'"),
    ],
)
def test_names_that_leave_a_doubt_are_told_once(tmp_path, names, message):
    columns = [PLAIN["text1"], PLAIN["text1"], PLAIN["text2"], PLAIN["label"]]
    said = refusal(tmp_path, pa.Table.from_arrays(columns, names))
    assert message in said
    assert len(said.splitlines()) == 1


def test_columns_of_one_name_that_nobody_asked_for_do_no_harm(tmp_path):
    columns = [PLAIN["label"], PLAIN["label"], *PLAIN.values()]
    assert read(tmp_path, pa.Table.from_arrays(columns, ["id", "id", *PLAIN])) == PAIRS


def test_thousands_of_columns_make_a_short_message(tmp_path):
    message = refusal(tmp_path, {f"column_{i}": PLAIN["text1"] for i in range(3000)})
    assert "and 2,994 more" in message
    assert len(message) < 2000


def test_a_text_beyond_the_limit_is_a_bad_row(tmp_path):
    long = pa.array(["你" * 400, "c"])
    assert "row 1: is longer than max_text_bytes=1199" in refusal(
        tmp_path, PLAIN | {"text1": long}, max_text_bytes=1199
    )
    assert read(tmp_path, PLAIN | {"text1": long}, max_text_bytes=1200)[1] == PAIRS[1]


def whole(folder, **options):
    parquet.write_table(pa.table(PLAIN), folder / "whole.parquet", **options)
    return (folder / "whole.parquet").read_bytes()


@pytest.mark.parametrize("size", [4, 60, -1, -20])
def test_a_table_that_is_cut_is_damaged(tmp_path, size):
    content = whole(tmp_path)[:size]
    for name, data in (("a.parquet", content), ("a.parquet.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="is damaged"):
            list(ExampleReader(tmp_path / name))


def test_a_gzipped_table_that_is_cut_is_damaged(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(whole(tmp_path))[:-30])
    with pytest.raises(DataError, match="is damaged"):
        list(ExampleReader(tmp_path / "a.parquet.gz"))


def test_a_table_without_rows_is_empty(tmp_path):
    assert "is empty: it holds no rows" in refusal(tmp_path, pa.table(PLAIN).slice(0, 0))
