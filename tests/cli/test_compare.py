import csv

import pytest

from cosent import SentenceBert
from cosent.model.decision import Decision
from tests.cli.conftest import cosent, read_json
from tests.conftest import DATA

TEST = DATA / "zh" / "test.txt"


def test_two_models_are_compared_on_the_same_pairs(classic_run, tiny_bert, tmp_path):
    done = cosent("compare", tiny_bert, classic_run[1], "--test_data_path", TEST, "--device=cpu",
                      "--output_dir", tmp_path)  # fmt: skip
    assert done.status == 0, done.stderr
    found = read_json(tmp_path / "comparison.json")
    trained = read_json(classic_run[1] / "test_results.json")
    spearman = found["differences"]["spearman"]
    assert spearman["second"] == pytest.approx(trained["test_spearman"], abs=1e-6)
    assert spearman["difference"] == pytest.approx(spearman["second"] - spearman["first"])
    assert spearman["low"] < spearman["difference"] < spearman["high"]
    assert found["mcnemar"] is None  # the untrained one decides nothing
    assert "accuracy" not in found["differences"]
    with (tmp_path / "disagreements.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == 160
    assert {row["decision_a"] for row in rows} == {""}
    assert {row["decision_b"] for row in rows} == {"0", "1"}
    assert rows[0]["text1"] in done.stdout


def test_a_model_beside_itself_differs_in_nothing(classic_run, tmp_path):
    folder = classic_run[1]
    flags = ("--test_data_path", TEST, "--device=cpu", "--output_dir", tmp_path, "--num_resamples=50")
    done = cosent("compare", folder, folder, *flags)
    assert done.status == 0, done.stderr
    found = read_json(tmp_path / "comparison.json")
    assert {item["p_value"] for item in found["differences"].values()} == {1.0}
    assert found["mcnemar"] == {"only_first": 0, "only_second": 0, "p_value": 1.0}
    assert {"accuracy", "spearman", "mcc", "ece", "brier"} < found["differences"].keys()


def test_mistakes_end_in_one_clear_line(error_of, tiny_bert, tmp_path):
    assert "two models are compared, not 1" in error_of("compare", tiny_bert, "--test_data_path", TEST)
    flags = ("--test_data_path", TEST, "--num_resamples=0")
    assert "must be at least 1 here" in error_of("compare", tiny_bert, tiny_bert, *flags)
    model = SentenceBert(tiny_bert, device="cpu")
    for minimum in (3.0, 4.0):
        model.settings.decision = Decision(0.5, "accuracy", 0.9, "dev.tsv", 9, positive_label_min=minimum)
        model.save_pretrained(tmp_path / f"{minimum:g}")
    models = (tmp_path / "3", tmp_path / "4")
    asked = error_of("compare", *models, "--test_data_path", DATA / "test.txt")
    assert "differ in what a match is" in asked and "--positive_label_min" in asked


def test_pairs_that_all_share_a_text_are_said_to_prove_nothing(tiny_bert, tmp_path):
    rows = "".join(f"怎么还款\t如何还款 {number}\t{number % 2}\n" for number in range(20))
    (tmp_path / "one.tsv").write_text(rows, encoding="utf-8")
    flags = ("--test_data_path", tmp_path / "one.tsv", "--device=cpu", "--output_dir", tmp_path)
    done = cosent("compare", tiny_bert, tiny_bert, *flags)
    assert done.status == 0, done.stderr
    assert "there are no intervals: 20 pairs hang together by shared texts in only 1 groups" in done.stdout
    assert read_json(tmp_path / "comparison.json")["differences"]["spearman"]["p_value"] is None
