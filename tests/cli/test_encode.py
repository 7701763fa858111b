import numpy as np
import pytest

from cosent import SentenceBert
from cosent.cli.running import choose_device
from cosent.inference.embeddings import EncodingOptions, encode_file
from tests.cli.conftest import cosent, ranks
from tests.conftest import DATA

TEXTS = [line.split("\t")[0] for line in (DATA / "zh" / "train.txt").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def flags(tiny_bert):
    return [
        f"--model_name_or_path={tiny_bert}",
        f"--input_path={DATA / 'zh' / 'train.txt'}",
        "--column=1",
        "--device=cpu",
    ]


def test_it_writes_what_the_model_encodes_says_so_and_does_it_once(flags, tiny_bert, tmp_path):
    flags = [*flags, f"--output_path={tmp_path / 'x.npy'}", "--normalize_embeddings=True", "--truncate_dim=8"]
    done = cosent("encode", *flags)
    assert done.status == 0, done.stderr
    assert f"Embedded {len(set(TEXTS)):,} distinct texts in" in done.stdout
    assert f"Written to {tmp_path / 'x.npy'}: {len(TEXTS):,} rows of 8 dimensions" in done.stdout
    expected = SentenceBert(tiny_bert, device="cpu").encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)
    assert "is complete" in cosent("encode", *flags).stdout


def test_weights_may_be_bfloat16(flags, tiny_bert, tmp_path):
    done = cosent("encode", *flags, f"--output_path={tmp_path / 'x.npy'}", "--dtype=bfloat16")
    assert done.status == 0, done.stderr
    actual = np.load(tmp_path / "x.npy")
    assert actual.dtype == np.float32
    expected = SentenceBert(tiny_bert, device="cpu").encode(TEXTS)
    cosines = (actual * expected).sum(1) / np.linalg.norm(actual, axis=1) / np.linalg.norm(expected, axis=1)
    assert 0.99 < cosines.min() < cosines.max() < 1 - 1e-8  # close, and yet not float32


def test_mistakes_end_in_one_clear_line(error_of, flags, tmp_path):
    (tmp_path / "bad.tsv").write_text("fine\n\nfine\n")
    output = f"--output_path={tmp_path / 'x.npy'}"
    for more, message in (
        ([output, f"--input_path={tmp_path / 'bad.tsv'}"], "line 2: the text is empty"),
        ([output, "--column=text"], "has no column 'text'"),
        ([output, "--chunk_size=0"], "chunk_size must be at least 1, got 0"),
        ([f"--output_path={tmp_path / 'x.txt'}"], "must be a .npy or a .parquet file"),
    ):
        assert message in error_of("encode", *flags, *more)


@pytest.mark.parametrize(
    ("name", "local_rank", "has_gpu", "device"),
    [
        ("auto", None, True, None),
        ("cuda", None, True, "cuda"),
        ("auto", "3", True, "cuda:3"),
        ("cuda", "3", True, "cuda:3"),
        ("cpu", "3", True, "cpu"),
        ("auto", "3", False, None),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(monkeypatch, name, local_rank, has_gpu, device):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    assert choose_device(name) == device


def test_two_ranks_finish_what_one_has_begun(flags, tiny_bert, tmp_path, monkeypatch):
    model = SentenceBert(tiny_bert, device="cpu")
    expected = model.encode(TEXTS)
    encode_tokens, calls = model.encode_tokens, []

    def crash_at_third(tokens, **options):
        calls.append(len(tokens))
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return encode_tokens(tokens, **options)

    monkeypatch.setattr(model, "encode_tokens", crash_at_third)
    with pytest.raises(RuntimeError, match="power cut"):
        encode_file(model, DATA / "zh" / "train.txt", tmp_path / "x.npy", EncodingOptions(chunk_size=50, column="1"))
    done = ranks(2, "encode", *flags, f"--output_path={tmp_path / 'x.npy'}", "--chunk_size=50")
    assert done.status == 0, done.stderr
    assert done.stdout.count("Written to") == 1
    assert f"Embedded {sum(new_texts(rank) for rank in (0, 1)):,} distinct texts" in done.stdout
    assert "going on, with 2 of" in done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.npy.json"]


def new_texts(rank):
    """How many texts a rank has to embed where two chunks of 50 are done and the others are dealt out to two."""
    chunks = [TEXTS[start : start + 50] for start in range(0, len(TEXTS), 50)]
    mine = [text for chunk in chunks[2:][rank::2] for text in chunk]
    return len(set(mine) - set(chunks[0] + chunks[1]))


def test_a_mistake_in_a_column_is_said_before_the_model_is_loaded(error_of, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"the customer\'s words": "a", "answer": "b"}\n')
    flags = ["--model_name_or_path", "missing/model", "--output_path", tmp_path / "x.npy"]
    error = error_of("encode", *flags, "--input_path", tmp_path / "a.jsonl")
    assert "--column 'the customer'\"'\"'s words', or another of these names" in error
    assert "has no column 'x'" in error_of("encode", *flags, "--input_path", tmp_path / "a.jsonl", "--column", "x")


def test_a_great_chunk_is_the_whole_file(tiny_bert, tmp_path):
    flags = ["--model_name_or_path", tiny_bert, "--device=cpu", "--output_path", tmp_path / "x.npy"]
    (tmp_path / "a.txt").write_text("one text\nanother text\n")
    done = cosent("encode", *flags, "--input_path", tmp_path / "a.txt", f"--chunk_size={10**20}")
    assert done.status == 0, done.stderr
    assert np.load(tmp_path / "x.npy").shape == (2, 32)


def test_standard_input_is_called_that_in_the_log(tiny_bert, tmp_path):
    flags = ["--model_name_or_path", tiny_bert, "--device=cpu", "--output_path", tmp_path / "x.npy"]
    done = cosent("encode", *flags, "--input_path=-", stdin=b"one text\nanother text\n")
    assert "standard input: the texts are column 1" in done.stderr
    assert "cosent-" not in done.stderr
