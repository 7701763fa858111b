import csv

import pytest

from cosent import SentenceBert
from cosent.model.decision import Decision
from tests.cli.conftest import cosent, read_json
from tests.conftest import DATA

KEYS = (
    "n accuracy threshold precision recall f1 best_accuracy best_threshold best_f1 best_f1_threshold "
    "average_precision roc_auc mcc ece brier spearman pearson alignment uniformity effective_rank intervals "
    "seconds texts_per_second"
).split()


@pytest.fixture(scope="module")
def tested(classic_run, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("cwd")
    folder = classic_run[1]
    done = cosent("test", f"--model_name_or_path={folder}", f"--test_data_path={DATA / 'zh' / 'test.txt'}", cwd=cwd)
    assert done.status == 0, done.stderr
    return done, cwd / "output" / f"test-{folder.name}-zh-test", folder


def test_metrics_have_the_documented_keys_and_the_stored_threshold(tested):
    _, results, folder = tested
    metrics = read_json(results / "metrics.json")
    assert sorted(metrics) == sorted(KEYS)
    assert metrics["threshold"] == read_json(folder / "cosent_config.json")["decision"]["threshold"]
    assert metrics["accuracy"] <= metrics["best_accuracy"]


def test_training_reports_what_testing_reports(tested):
    _, results, folder = tested
    trained = read_json(folder / "test_results.json")
    tested_metrics = read_json(results / "metrics.json")
    found = tested_metrics.pop("intervals")
    assert found.keys() == trained["test_intervals"].keys()
    for key, ends in found.items():
        assert trained["test_intervals"][key] == pytest.approx(ends, abs=1e-6), key
        assert ends[0] <= tested_metrics[key] <= ends[1]
    for key, value in tested_metrics.items():
        if key not in ("seconds", "texts_per_second"):
            assert trained[f"test_{key}"] == pytest.approx(value, abs=1e-6), key


def test_predictions_stand_in_the_datas_order_and_agree_with_the_metrics(tested):
    _, results, folder = tested
    with (results / "predictions.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    source = [line.split("\t") for line in (DATA / "zh" / "test.txt").read_text(encoding="utf-8").splitlines()]
    assert [[row["text1"], row["text2"], row["label"]] for row in rows] == source
    right = [row["decision"] == row["label"] for row in rows]
    assert sum(right) / len(right) == read_json(results / "metrics.json")["accuracy"]
    scores = SentenceBert(folder, device="cpu").predict([(a, b) for a, b, _ in source]).scores
    assert [float(row["score"]) for row in rows] == pytest.approx(list(scores), abs=1e-5)


def test_it_prints_what_matters_and_tells_the_oracle_from_the_forecast(tested):
    output = tested[0].stdout
    for word in (
        "spearman",
        "pearson",
        "95% interval",
        "ece",
        "brier",
        "precision",
        "recall",
        "f1",
        "best accuracy",
        "Took",
    ):
        assert word in output
    assert output.index("At the stored threshold") < output.index("Chosen on this very test data")


def test_an_untrained_model_has_no_threshold_and_graded_data_no_decisions(tiny_bert, tmp_path):
    flags = [f"--model_name_or_path={tiny_bert}", f"--output_dir={tmp_path}", "--device=cpu"]
    done = cosent("test", *flags, f"--test_data_path={DATA / 'test.txt'}")
    assert done.status == 0, done.stderr
    assert set(read_json(tmp_path / "metrics.json")) == set(
        "n spearman pearson uniformity effective_rank intervals seconds texts_per_second".split()
    )
    assert "--positive_label_min" in done.stdout
    done = cosent("test", *flags, f"--test_data_path={DATA / 'test.txt'}", "--positive_label_min=4")
    metrics = read_json(tmp_path / "metrics.json")
    assert "best_accuracy" in metrics
    assert "accuracy" not in metrics


def test_mistakes_end_in_one_clear_line(error_of, classic_run, tmp_path):
    (tmp_path / "one.tsv").write_text("a\tb\t1\n")
    for flags, message in (
        ([f"--model_name_or_path={tmp_path}"], "no model folder"),
        ([f"--model_name_or_path={classic_run[1]}", "--test_data_path=missing.tsv"], "missing.tsv does not exist"),
        ([f"--model_name_or_path={classic_run[1]}", f"--test_data_path={tmp_path / 'one.tsv'}"], "every label is 1"),
    ):
        assert message in error_of("test", *flags)


def test_an_index_goes_with_classes_alone(error_of, tiny_bert):
    flags = ("--model_name_or_path", tiny_bert, "--device", "cpu", "--index_data_path", DATA / "classes.train.tsv")
    assert "is for classes" in error_of("test", *flags, "--test_data_path", DATA / "test.txt")


def test_two_columns_are_what_the_model_was_trained_on(error_of, tiny_bert, tmp_path):
    (tmp_path / "a.tsv").write_text("pay\tpay now\nlogin\tsign in\n")
    flags = ("--device", "cpu", "--test_data_path", tmp_path / "a.tsv", "--output_dir", tmp_path / "results")
    asked = error_of("test", "--model_name_or_path", tiny_bert, *flags)
    assert "a text and its class, or an anchor and its positive?" in asked
    model = SentenceBert(tiny_bert, device="cpu")
    model.settings.loss = {"name": "InfoNCELoss"}
    model.save_pretrained(tmp_path / "model")
    done = cosent("test", "--model_name_or_path", tmp_path / "model", *flags)
    assert done.status == 0, done.stderr
    assert "on 2 triplets" in done.stdout
    assert "mrr" in done.stdout


def test_pairs_without_labels_are_not_scored_as_retrieval(tiny_bert, tmp_path, error_of):
    model = SentenceBert(tiny_bert, device="cpu")
    model.settings.decision = Decision(0.5, "accuracy", 0.9, "dev.tsv", 100)
    model.settings.loss = {"name": "InfoNCELoss"}  # from which two columns would be guessed to be triplets
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "a.tsv").write_text("".join(f"text number {i}\tanother one {i}\n" for i in range(9)))
    asked = ("--model_name_or_path", tmp_path / "model", "--test_data_path", tmp_path / "a.tsv", "--device=cpu")
    message = error_of("test", *asked)
    assert "holds no labels, and this model decides about pairs" in message
    done = cosent("test", *asked, "--data_format=triplets", "--output_dir", tmp_path / "out")
    assert done.status == 0, done.stderr


@pytest.mark.parametrize("command", ["test", "predict", "check"])
def test_every_command_bounds_the_bytes_of_a_text(tiny_bert, tmp_path, error_of, command):
    (tmp_path / "a.tsv").write_text("one text\tanother text\t1\n" * 3 + "x" * 200 + "\tsecond\t0\n")
    arguments = {
        "test": ["--model_name_or_path", tiny_bert, "--test_data_path", tmp_path / "a.tsv", "--device=cpu"],
        "predict": [
            *("--model_name_or_path", tiny_bert, "--input_path", tmp_path / "a.tsv"),
            *("--output_path", tmp_path / "b.tsv", "--threshold=0.5", "--device=cpu"),
        ],
        "check": [tmp_path / "a.tsv"],
    }[command]
    assert "line 4: is longer than --max_text_bytes 100" in error_of(command, *arguments, "--max_text_bytes=100")
