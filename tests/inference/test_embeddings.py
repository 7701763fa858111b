import gzip
import json
import os
import tracemalloc
from collections import namedtuple

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from pyarrow import parquet
from torch.testing import assert_close

from cosent import DataError, SentenceBert, UserError
from cosent.data.rows import open_rows
from cosent.inference import embeddings as encoding
from cosent.inference.embeddings import EncodingOptions, encode_file

# chunks of four rows: [refund x2 ...], [... refund], [only repeats], [a repeat and a new one]
TEXTS = ["refund", "refund", "你好，世界", "How do I reset my password?"]
TEXTS += ["退款多久到账", "refund", "I forgot my password, what now?", "card"]
TEXTS += ["你好，世界", "card", "refund", "退款多久到账"]
TEXTS += ["card", "Where is my parcel?"]
NEW_IN_CHUNK = [3, 3, 0, 1]
CHUNKS = EncodingOptions(chunk_size=4)


def tsv(*columns):
    return "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True))


@pytest.fixture
def input_path(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text(tsv(TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def watch(monkeypatch):
    """Notes how many texts each call of encode_tokens embeds; one of the calls may crash."""

    def start(model, crash_at=None):
        embedded, original = [], SentenceBert.encode_tokens.__get__(model)

        def encode_tokens(tokens, **options):
            if len(embedded) == crash_at:
                raise RuntimeError("power cut")
            embedded.append(len(tokens))
            return original(tokens, **options)

        monkeypatch.setattr(model, "encode_tokens", encode_tokens)
        return embedded

    return start


def check(path, expected):
    actual = np.load(path, mmap_mode="r")
    assert actual.dtype == np.float32
    assert_close(torch.from_numpy(np.array(actual)), torch.from_numpy(expected))


def beside(path):
    return sorted(found.name for found in path.parent.glob(path.name + "*"))


NAMED = [{"id": i, "text": text, "title": "card"} for i, text in enumerate(TEXTS)]
LONE = pd.DataFrame({"id": range(len(TEXTS)), "question": TEXTS})


@pytest.mark.parametrize(
    ("name", "write", "column"),
    [
        ("a.tsv", lambda path: path.write_text(tsv(TEXTS)), None),
        ("a.txt", lambda path: path.write_text(tsv(["x"] * len(TEXTS), TEXTS)), "2"),
        ("a.tsv", lambda path: path.write_text(tsv(["id", *"x" * len(TEXTS)], ["body", *TEXTS])), "body"),
        ("a.txt.gz", lambda path: path.write_bytes(gzip.compress(tsv(TEXTS).encode())), "1"),
        ("a.csv", lambda path: pd.DataFrame(NAMED).to_csv(path, index=False), "text"),
        ("a.jsonl", lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in NAMED)), None),
        ("a.jsonl", lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in NAMED)), "2"),
        ("a.parquet", lambda path: LONE.to_parquet(path), None),
        ("a.parquet", lambda path: pd.DataFrame(NAMED).to_parquet(path), "text"),
    ],
)
def test_rows_are_the_models_embeddings_in_order_for_every_kind_of_file(model, tmp_path, name, write, column):
    write(tmp_path / name)
    options = EncodingOptions(chunk_size=4, batch_size=3, column=column)
    result = encode_file(model, tmp_path / name, tmp_path / "out" / "x.npy", options)
    check(tmp_path / "out" / "x.npy", model.encode(TEXTS))
    assert result.shape == (14, 32)
    assert result.num_embedded == 7
    assert not result.was_complete
    assert beside(tmp_path / "out" / "x.npy") == ["x.npy", "x.npy.json"]


def test_each_distinct_text_is_embedded_once(model, input_path, tmp_path, watch):
    embedded = watch(model)
    encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    assert embedded == NEW_IN_CHUNK


@pytest.mark.parametrize(("max_known", "embedded"), [(0, 14), (1, 13), (3, 12), (7, 7)])  # counted by hand
def test_texts_that_were_forgotten_are_embedded_again(model, input_path, tmp_path, max_known, embedded):
    options = EncodingOptions(chunk_size=4, max_known_texts=max_known)
    assert encode_file(model, input_path, tmp_path / "x.npy", options).num_embedded == embedded
    check(tmp_path / "x.npy", model.encode(TEXTS))


@pytest.mark.parametrize("num_done", [0, 1, 2, 3])
def test_a_crashed_run_goes_on_with_the_chunks_that_are_missing(model, input_path, tmp_path, watch, num_done):
    expected = model.encode(TEXTS)
    watch(model, crash_at=num_done)
    with pytest.raises(RuntimeError, match="power cut"):
        encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    assert beside(tmp_path / "x.npy") == ["x.npy.json", "x.npy.progress", "x.npy.work"]
    assert list((tmp_path / "x.npy.progress").read_bytes()) == [1] * num_done + [0] * (4 - num_done)
    embedded = watch(model)
    result = encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    assert embedded == NEW_IN_CHUNK[num_done:]  # the last chunks' repeats are known from the first
    assert result.num_embedded == sum(embedded)
    check(tmp_path / "x.npy", expected)
    assert beside(tmp_path / "x.npy") == ["x.npy", "x.npy.json"]


def test_chunks_may_be_missing_anywhere(model, input_path, tmp_path, watch):
    watch(model, crash_at=3)
    with pytest.raises(RuntimeError, match="power cut"):
        encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    (tmp_path / "x.npy.progress").write_bytes(bytes([0, 1, 0, 1]))
    work = np.load(tmp_path / "x.npy.work", mmap_mode="r+")
    work[8:12] = np.nan  # what is not marked must not be used
    work[12:] = 7.0  # what is marked must not be written
    work.flush()
    embedded = watch(model)
    encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    assert embedded == [3, 0]
    actual = np.load(tmp_path / "x.npy")
    assert_close(actual[:12], model.encode(TEXTS)[:12], rtol=1.3e-6, atol=1e-5)
    assert (actual[12:] == 7.0).all()


def test_a_chunk_is_on_disk_before_it_is_marked(model, input_path, tmp_path, monkeypatch):
    events, original, fsync = [], encoding._write, os.fsync

    def write(path, offset, content):
        events.append(path.suffix)
        original(path, offset, content)

    def sync(descriptor):
        events.append("synced")
        fsync(descriptor)

    monkeypatch.setattr(encoding, "_write", write)
    monkeypatch.setattr(os, "fsync", sync)
    encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    assert events[:4] == [".progress", "synced", ".part", "synced"]  # the settings come last
    assert events[4:] == [".work", "synced", ".progress", "synced"] * 4


def test_a_finished_output_is_left_alone(model, input_path, tmp_path, watch):
    encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    before = (tmp_path / "x.npy").stat().st_mtime_ns
    embedded = watch(model)
    result = encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    assert result.was_complete
    assert result.shape == (14, 32)
    assert embedded == []
    assert (tmp_path / "x.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunk_size": 5}, "chunk_size was 4, is 5"),
        ({"column": "1"}, "column was None, is '1'"),
        ({"prompt": "query: "}, "prompt was '', is 'query: '"),
        ({"truncate_dim": 8}, "truncate_dim was None, is 8"),
        ({"output_dtype": "float16"}, "output_dtype was 'float32', is 'float16'"),
    ],
)
@pytest.mark.parametrize("crash_at", [1, None])
def test_other_settings_are_refused(model, input_path, tmp_path, watch, changed, message, crash_at):
    watch(model, crash_at)
    if crash_at is None:
        encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    else:
        with pytest.raises(RuntimeError, match="power cut"):
            encode_file(model, input_path, tmp_path / "x.npy", CHUNKS)
    watch(model)
    with pytest.raises(UserError, match=message) as error:
        encode_file(model, input_path, tmp_path / "x.npy", EncodingOptions(**{"chunk_size": 4, **changed}))
    assert "overwrite_output=True" in str(error.value)
    options = EncodingOptions(**{"chunk_size": 4, **changed}, overwrite_output=True)
    assert encode_file(model, input_path, tmp_path / "x.npy", options).num_embedded == 7
    expected = model.encode(TEXTS, prompt=options.prompt, truncate_dim=options.truncate_dim)
    assert_close(np.load(tmp_path / "x.npy"), expected.astype(options.output_dtype), rtol=1e-3, atol=1e-3)  # a half's


def test_another_model_or_input_is_refused(model, input_path, tmp_path):
    encode_file(model, input_path, tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"normalize_embeddings was \[False, False\], is \[False, True\]"):
        encode_file(model, input_path, tmp_path / "x.npy", normalize_embeddings=True)
    with torch.no_grad():
        next(model.backbone.parameters())[5, 3] += 1e-3
    with pytest.raises(UserError, match="weights was"):
        encode_file(model, input_path, tmp_path / "x.npy")
    input_path.write_text("something else\n")
    with pytest.raises(UserError, match="input was"):
        encode_file(model, input_path, tmp_path / "x.npy")


def test_a_file_of_unknown_origin_is_not_overwritten(model, input_path, tmp_path):
    (tmp_path / "x.npy").write_text("somebody's")
    with pytest.raises(UserError, match="does not; start anew with overwrite_output=True"):
        encode_file(model, input_path, tmp_path / "x.npy")
    (tmp_path / "x.npy.json").write_text("{}")
    with pytest.raises(UserError, match="input was None"):
        encode_file(model, input_path, tmp_path / "x.npy")
    assert (tmp_path / "x.npy").read_text() == "somebody's"
    encode_file(model, input_path, tmp_path / "x.npy", EncodingOptions(overwrite_output=True))
    check(tmp_path / "x.npy", model.encode(TEXTS))


@pytest.mark.parametrize("normalize", [True, False])
def test_truncation_goes_before_normalisation(model, input_path, tmp_path, normalize):
    options = EncodingOptions(truncate_dim=8)
    encode_file(model, input_path, tmp_path / "x.npy", options, normalize_embeddings=normalize)
    check(tmp_path / "x.npy", model.encode(TEXTS, truncate_dim=8, normalize_embeddings=normalize))
    lengths = np.linalg.norm(np.load(tmp_path / "x.npy"), axis=1)
    assert np.allclose(lengths, 1) == normalize


def test_a_wide_table_is_read_a_little_at_a_time(tmp_path):
    LONE.assign(vector=[list(range(300))] * len(TEXTS)).to_parquet(tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.concat_tables([table] * 600), tmp_path / "a.parquet")  # 8,400 rows
    tracemalloc.start()
    rows = open_rows(tmp_path / "a.parquet")[1]
    assert sum(row["question"] == "card" for _, row in rows) == 3 * 600
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500 * 300 * 32  # bytes; an int and its place in a list take 32, and not all rows are there at once


def test_a_prompt_is_put_in_front(model, input_path, tmp_path):
    encode_file(model, input_path, tmp_path / "x.npy", EncodingOptions(prompt="query: "))
    check(tmp_path / "x.npy", model.encode(TEXTS, prompt="query: "))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_table_holds_texts_and_embeddings(model, input_path, tmp_path, dtype):
    encode_file(model, input_path, tmp_path / "x.parquet", EncodingOptions(chunk_size=4, output_dtype=dtype))
    assert beside(tmp_path / "x.parquet") == ["x.parquet", "x.parquet.json"]
    file = parquet.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups == 4
    table = file.read()
    assert table.column("text").to_pylist() == TEXTS
    kind = {"float32": "float", "float16": "halffloat"}[dtype]
    assert str(table.schema.field("embedding").type).startswith(f"fixed_size_list<element: {kind}")
    embeddings = np.stack(table.column("embedding").to_pylist()).astype(dtype)
    encode_file(model, input_path, tmp_path / "x.npy", EncodingOptions(chunk_size=4, output_dtype=dtype))
    array = np.load(tmp_path / "x.npy")
    assert array.dtype == dtype
    assert (embeddings == array).all()
    assert_close(array, model.encode(TEXTS).astype(dtype), rtol=1e-3, atol=1e-3)  # a half's precision


def test_a_crash_while_the_table_is_written_costs_no_embedding(model, input_path, tmp_path, watch, monkeypatch):
    def crash(*arguments):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(encoding, "_write_table", crash)
        encode_file(model, input_path, tmp_path / "x.parquet", CHUNKS)
    embedded = watch(model)
    encode_file(model, input_path, tmp_path / "x.parquet", CHUNKS)
    assert embedded == []
    assert parquet.read_table(tmp_path / "x.parquet").column("text").to_pylist() == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.tsv", b"a\tb\nonly\n", "2", "line 2: 1 columns, expected 2 or more"),
        ("a.tsv", b"a\n\nb\n", None, "line 2: the text is empty"),
        ("a.tsv", b"a\nb\n\xff\n", None, "line 3: is not UTF-8"),
        ("a.tsv", b"\xff\n", None, "line 1 is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": null}\n', None, "line 2: the text is None, which is no text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', None, "line 2: the text is 3, which is no text"),
        ("a.jsonl", b'{"text": "a"}\n{"texts": "b"}\n', None, "line 2: lacks 'text'"),
        ("a.tsv", b"", None, "is empty: it holds no rows"),
        ("a.tsv", b"body\n", "body", "is empty: it holds no rows"),
        ("a.tsv", b"text\tlabel\na\t1\n", None, "Give column='text' if line 1 is a header, column=1"),
        ("a.tsv", b"a\tb\n", "body", "line 1 has no column 'body' but 'a', 'b'"),
        ("a.tsv", b"a\tb\n", "3", "has no column '3' but 'a', 'b'.*column=NUMBER, counted from 1"),
        ("a.tsv", b"a\tb\n", "0", "has no column '0'"),
        ("a.tsv", b"0\tb\n", "0", "has no column '0'"),
        ("a.tsv", b"2024\tb\n", "2024", "has no column '2024'"),
        ("a.tsv", b"7\tb\n", None, "which of the columns '7', 'b' holds the texts"),
        ("a.jsonl", b'{"q": "a", "a": "b"}\n', None, "which of the columns 'q', 'a' holds the texts"),
        ("a.jsonl", b'{"id": 1}\n', None, "which of the columns 'id' holds the texts"),
        ("a.txt.gz", b"no gzip", None, "is damaged"),
        ("a.npz", b"", None, "unknown kind"),
    ],
)
def test_what_cannot_be_embedded_is_named_before_anything_is_made(model, tmp_path, name, content, column, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        encode_file(model, tmp_path / name, tmp_path / "out" / "x.npy", EncodingOptions(column=column))
    assert name in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_input_that_changes_meanwhile_is_noticed(model, input_path, tmp_path, watch):
    watch(model)
    embed = model.encode_tokens

    def encode_tokens(tokens, **options):
        input_path.write_text(tsv([*TEXTS, "one more"]), encoding="utf-8")
        return embed(tokens, **options)

    model.encode_tokens = encode_tokens
    with pytest.raises(DataError, match="was changed while it was read"):
        encode_file(model, input_path, tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()


def test_an_error_of_the_background_thread_is_raised(model, input_path, tmp_path, monkeypatch):
    def tokenize(*arguments):
        raise RuntimeError("in the background")

    monkeypatch.setattr(encoding, "tokenize", tokenize)
    with pytest.raises(RuntimeError, match="in the background"):
        encode_file(model, input_path, tmp_path / "x.npy")


def test_a_disk_that_is_too_small_is_told_at_once(model, input_path, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(14 * 32 * 4)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    encode_file(model, input_path, tmp_path / "x.npy")
    with pytest.raises(UserError, match="needs 3,584 bytes, but its disk has only 1,792 free"):
        encode_file(model, input_path, tmp_path / "x.parquet")


def test_the_input_is_never_overwritten(model, tmp_path):
    LONE.to_parquet(tmp_path / "a.parquet")
    before = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(UserError, match="would be overwritten by the output"):
        encode_file(model, tmp_path / "a.parquet", tmp_path / "a.parquet", EncodingOptions(overwrite_output=True))
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_options_out_of_range(model, input_path, tmp_path):
    for name, value in (("batch_size", 0), ("chunk_size", 0), ("max_known_texts", -1)):
        with pytest.raises(UserError, match=f"{name} must be at least {value + 1}, got {value}"):
            EncodingOptions(**{name: value})
    for value in (0, 33):
        with pytest.raises(UserError, match=f"truncate_dim must be between 1 and 32, got {value}"):
            encode_file(model, input_path, tmp_path / "x.npy", EncodingOptions(truncate_dim=value))
    with pytest.raises(UserError, match=r"must be a .npy or a .parquet file, got .*x\.bin"):
        encode_file(model, input_path, tmp_path / "x.bin")


@pytest.mark.parametrize("end", [".progress", ".work"])
def test_files_that_a_power_cut_left_short_are_begun_anew(model, input_path, tmp_path, watch, end):
    embedded = watch(model, crash_at=2)
    with pytest.raises(RuntimeError, match="power cut"):
        encode_file(model, input_path, tmp_path / "out.npy", CHUNKS)
    path = tmp_path / f"out.npy{end}"
    assert path.stat().st_size
    path.write_bytes(b"")
    embedded.extend([0] * 10)  # past the crash
    encode_file(model, input_path, tmp_path / "out.npy", CHUNKS)
    check(tmp_path / "out.npy", model.encode(TEXTS))


def test_settings_that_say_nothing_are_told(model, input_path, tmp_path):
    (tmp_path / "out.npy.json").write_text("{")
    with pytest.raises(UserError, match="does not say what .*out.npy is of.*overwrite_output=True"):
        encode_file(model, input_path, tmp_path / "out.npy", CHUNKS)


def test_what_a_run_stopped_on_its_last_lines_left_over_is_removed(model, input_path, tmp_path):
    encode_file(model, input_path, tmp_path / "out.npy", CHUNKS)
    (tmp_path / "out.npy.progress").write_bytes(b"\1" * 4)
    (tmp_path / "out.npy.work").write_bytes(b"x")
    assert encode_file(model, input_path, tmp_path / "out.npy", CHUNKS).was_complete
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.npy", "out.npy.json"]


def test_an_embedding_that_is_not_finite_names_the_row(model, tmp_path):
    texts = ["one text", "another text", "one text", "password", "one text"]
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf-8")
    token = model.tokenizer.convert_tokens_to_ids(model.tokenizer.tokenize("password")[0])
    model.get_input_embeddings().weight.data[token] = np.nan
    for size in (2, 3, 9):
        with pytest.raises(UserError, match=r"a\.txt: row 4 of the texts: the embedding of text \d is not finite"):
            encode_file(model, tmp_path / "a.txt", tmp_path / f"{size}.npy", EncodingOptions(chunk_size=size))
