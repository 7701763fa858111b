from cosent import SentenceBert
from tests.cli.conftest import cosent
from tests.conftest import DATA

SMALL = ["--hidden_size=16", "--num_hidden_layers=1", "--num_attention_heads=2", "--intermediate_size=32"]


def build(folder, *more):
    corpus = DATA / "zh" / "train.txt"
    return cosent("build-backbone", f"--corpus={corpus}", f"--output_dir={folder}", *SMALL, *more)


def test_it_builds_an_encoder_that_knows_every_character_of_its_corpus(tmp_path):
    done = build(tmp_path / "one")
    assert done.status == 0, done.stderr
    assert "untrained" in done.stdout
    model = SentenceBert(tmp_path / "one", device="cpu")
    texts = [
        text
        for line in (DATA / "zh" / "train.txt").read_text(encoding="utf-8").splitlines()
        for text in line.split("\t")[:2]
    ]
    assert all(model.tokenizer.unk_token_id not in row for row in model.tokenizer(texts)["input_ids"])
    assert model.encode(texts[:2]).shape == (2, 16)


def test_the_seed_decides_the_weights(tmp_path):
    build(tmp_path / "one")
    build(tmp_path / "two")
    build(tmp_path / "three", "--seed=1")
    one, two, three = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_mistakes_end_in_one_clear_line(error_of, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"\x1f\x8b")
    for flags, message in (
        (["--corpus=missing.txt"], "missing.txt does not exist"),
        ([f"--corpus={tmp_path / 'empty.txt'}"], "holds no text"),
        ([f"--corpus={tmp_path / 'binary.txt'}"], "is no UTF-8 text"),
        (["--corpus=missing.txt", "--hidden_size=65"], "no multiple"),
    ):
        assert message in error_of("build-backbone", *flags, f"--output_dir={tmp_path}")
