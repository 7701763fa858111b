import json
import re
from html import unescape
from types import SimpleNamespace

import pytest

from cosent import CosentTrainingArguments, EvaluationOptions, SentenceBert, evaluate, load_data
from cosent.cli.training_remarks import compare
from cosent.evaluation.evaluators import Evaluation
from tests.cli.conftest import cosent, read_json, run_script
from tests.conftest import DATA

TRAIN = DATA / "zh" / "train.txt"


def test_the_classic_command_says_what_it_understood(classic_run):
    output = classic_run[0].stdout
    first = TRAIN.read_text(encoding="utf-8").splitlines()[0].split("\t")
    assert f"{first[0]!r}  |  {first[1]!r}  ->  {first[2]}" in output
    assert "train: 384 pairs" in output
    assert "0.00% of texts cut at 64 tokens; labels 0: 192, 1: 192" in output
    assert "mean pooling, 32 dimensions" in output
    assert "float32 weights, bf16 autocast" in output
    assert "'loss'" in output
    assert "'learning_rate'" in output
    assert output.count("eval_spearman") == 3
    assert "%|" not in classic_run[0].stderr  # no progress bars where nobody looks


def test_the_run_folder_is_complete(classic_run):
    folder = classic_run[1]
    assert re.fullmatch(r"tiny-bert-\d{8}-\d{6}", folder.name)
    names = {path.name for path in folder.iterdir()}
    results = {"train_results.json", "eval_results.json", "test_results.json", "trainer_state.json"}
    assert results | {"model.safetensors", "modules.json", "cosent_config.json", "README.md"} <= names
    assert {name for name in names if name.startswith("checkpoint-")} == {
        "checkpoint-6",
        "checkpoint-12",
        "checkpoint-18",
    }
    assert read_json(folder / "train_results.json")["epoch"] == 3


def test_the_threshold_is_the_eval_datas_and_reproduces_its_accuracy(classic_run):
    folder = classic_run[1]
    decision = read_json(folder / "cosent_config.json")["decision"]
    evaluated = read_json(folder / "eval_results.json")
    assert decision["threshold"] == evaluated["eval_best_threshold"]
    assert decision["value"] == evaluated["eval_best_accuracy"]
    assert decision["calibrated_on"].endswith("zh/dev.txt")
    assert decision["num_pairs"] == 96
    model = SentenceBert(folder, device="cpu")
    rows = [line.split("\t") for line in (DATA / "zh" / "dev.txt").read_text(encoding="utf-8").splitlines()]
    matches = model.predict([(first, second) for first, second, _ in rows]).matches
    right = [match == (label == "1") for match, (_, _, label) in zip(matches, rows, strict=True)]
    assert sum(right) / len(right) == pytest.approx(decision["value"])


def table(done):
    """The scores before and after training, by name."""
    rows = re.findall(
        r"^((?:eval|test) [a-z\d ]+?) +(-?[\d.]+) +(-?[\d.]+)\*?(?:  .* to .*)?$", done.stdout, re.MULTILINE
    )
    return {name: (float(before), float(after)) for name, before, after in rows}


def test_it_compares_with_the_untouched_model(classic_run):
    after = read_json(classic_run[1] / "test_results.json")
    for name, key in (("test spearman", "test_spearman"), ("test accuracy by eval threshold", "test_accuracy")):
        assert table(classic_run[0])[name][1] == pytest.approx(after[key], abs=5e-5)
        low, high = after["test_intervals"][key.removeprefix("test_")]
        assert f"   {low:.4f} to {high:.4f}\n" in classic_run[0].stdout


@pytest.mark.parametrize("after", [0.3, 0.4, 0.5])
def test_a_model_that_got_worse_is_called_that(capsys, after):
    compare(
        {"eval": Evaluation({"spearman": 0.4})},
        {"eval": Evaluation({"spearman": after}, intervals={"spearman": (after - 0.125, after + 0.125)})},
        SimpleNamespace(
            args=CosentTrainingArguments(metric_for_best_model="eval_spearman"),
            selecting="",
            state=SimpleNamespace(best_global_step=None, log_history=[]),
        ),
    )
    output = capsys.readouterr().out
    assert f"0.4000    {after:.4f}   {after - 0.125:.4f} to {after + 0.125:.4f}\n" in output
    assert ("no better than the untouched one" in output) == (after <= 0.4)


def test_what_the_eval_data_chose_is_marked(classic_run):
    output = classic_run[0].stdout
    rows = re.findall(r"^((?:eval|test) [a-z ]+?) +-?[\d.]+ +-?[\d.]+(\*?)", output, re.MULTILINE)
    assert len([name for name, _ in rows if name.startswith("eval ")]) == 8
    assert {mark for name, mark in rows if name.startswith("eval ")} == {"*"}
    assert [name for name, mark in rows if name.startswith("test ") and mark] == ["test best accuracy"]
    assert "* chosen on the very data it is reported on" in output
    assert "On the eval data, which chose it: accuracy" in output


def test_the_page_of_a_run_tells_what_the_console_tells(classic_run):
    output, folder = classic_run[0].stdout, classic_run[1]
    page = unescape((folder / "training.html").read_text(encoding="utf-8"))
    for said in re.findall("(?m)^(?:train|eval|test): (.* of .*)$|^(At the threshold of .*)$", output):
        assert "".join(said) in page
    for name in ("Before and after", "Data", "Settings", "Evaluations", "Loss"):
        assert f"<h2>{name}</h2>" in page
    step = re.search(r"Kept the best of 18 steps: step (\d+)", output)[1]
    assert f"Kept step {step} of 18, the best by the eval data's spearman" in page
    assert (folder / "command.txt").read_text(encoding="utf-8").strip() in page
    assert TRAIN.read_text(encoding="utf-8").split("\t")[0] in page


def test_the_last_lines_use_the_model(classic_run):
    done, folder = classic_run
    assert "怎么重置密码？" in done.stdout  # as the data is Chinese
    lines = done.stdout.strip().splitlines()[-3:]
    scope: dict = {}
    exec("\n".join(line.strip() for line in lines), scope)
    assert isinstance(scope["model"], SentenceBert)
    assert str(folder) in lines[1]


def options(tiny_bert, tmp_path, **more):
    settings = {
        "model_name_or_path": tiny_bert,
        "output_dir": tmp_path / "out",
        "train_data_path": TRAIN,
        "eval_data_path": DATA / "zh" / "dev.txt",
        "timestamp_output_dir": False,
        "max_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        **more,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def test_training_without_network_terminal_or_eval_file(tiny_bert, tmp_path):
    # no sockets at all: neither the hub nor a tracker is asked for anything
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\ndef refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\nsocket.getaddrinfo = refuse\nsocket.create_connection = refuse\n"
    )
    script = tmp_path / "offline.py"
    script.write_text(
        "import os, runpy, sys, sitecustomize\n"
        f"sys.path.insert(0, {str(DATA.parent / 'scripts')!r})\n"
        "os.environ.pop('HF_HUB_OFFLINE')\n"
        f"runpy.run_path({str(DATA.parent / 'scripts' / 'train.py')!r}, run_name='__main__')\n"
    )
    flags = [flag for flag in options(tiny_bert, tmp_path) if not flag.startswith("--eval_data_path")]
    done = run_script(str(script), *flags, cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert "of 384 pairs, which share no text with the others" in done.stdout
    decision = read_json(tmp_path / "out" / "cosent_config.json")["decision"]
    assert decision["calibrated_on"] == f"0.1 of {TRAIN}"
    assert SentenceBert(tmp_path / "out", device="cpu").encode("a").shape == (32,)


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_config_file_stands_for_the_flags(tiny_bert, tmp_path, kind):
    settings = dict(flag.removeprefix("--").split("=", 1) for flag in options(tiny_bert, tmp_path))
    settings.update(timestamp_output_dir=False, max_steps=2, eval_steps=2, loss="angle", pooling_mode="cls")
    config = tmp_path / f"config.{kind}"
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in settings.items())
    config.write_text(json.dumps(settings) if kind == "json" else lines)
    done = cosent("train", config)
    assert done.status == 0, done.stderr
    assert read_json(tmp_path / "out" / "cosent_config.json")["loss"] == {"name": "AnglELoss", "scale": 20.0}
    assert SentenceBert(tmp_path / "out", device="cpu").pooling_mode == "cls"


def test_a_misspelt_setting_in_a_config_file_is_named(error_of, tmp_path):
    (tmp_path / "config.yaml").write_text("model_name_or_path: M\ntrain_data_path: T\nlearningrate: 1\n")
    assert "learningrate" in error_of("train", tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("model_name_or_path: [")
    assert "cannot be read as settings" in error_of("train", tmp_path / "config.yaml")


def test_flags_behind_a_config_file_win(tiny_bert, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"model_name_or_path: {tiny_bert}\nlearning_rate: 2e-5\nmax_steps: 1\neval_strategy: 'no'\n")
    flags = ["--train_data_path", TRAIN, "--output_dir", tmp_path, "--timestamp_output_dir", "False", "--scale", "7"]
    done = cosent("train", config, *flags)
    assert done.status == 0, done.stderr
    assert "'learning_rate': '2e-05'" in done.stdout
    assert read_json(tmp_path / "cosent_config.json")["loss"]["scale"] == 7


def test_resuming_goes_on_in_its_folder_and_ends_at_the_same_model(tiny_bert, tmp_path):
    whole = cosent("train", *options(tiny_bert, tmp_path / "whole", max_steps=4))
    assert whole.status == 0, whole.stderr
    stopped = cosent("train", *options(tiny_bert, tmp_path / "resumed", max_steps=4))
    assert stopped.status == 0, stopped.stderr
    # as after a kill in the middle of saving checkpoint-4
    (tmp_path / "resumed" / "out" / "checkpoint-4" / "trainer_state.json").unlink()
    resumed = cosent("train", *options(tiny_bert, tmp_path / "resumed", resume_from_checkpoint="last"))
    assert resumed.status == 0, resumed.stderr
    assert f"The model is in {tmp_path / 'resumed' / 'out'}" in resumed.stdout
    assert "--resume_from_checkpoint=last" in (tmp_path / "resumed" / "out" / "command.txt").read_text()
    one, two = (tmp_path / name / "out" / "model.safetensors" for name in ("whole", "resumed"))
    assert one.read_bytes() == two.read_bytes()


def test_graded_labels_store_a_threshold_only_when_told_what_matches(tiny_bert, tmp_path):
    graded = {"train_data_path": DATA / "train.txt", "eval_data_path": DATA / "dev.txt", "max_steps": 2}
    for name, more, said in (
        ("without", {}, "No threshold is stored: --positive_label_min says"),
        ("with", {"positive_label_min": 4, "threshold_metric": "f1"}, "the eval data's best by f1, and stored."),
    ):
        done = cosent("train", *options(tiny_bert, tmp_path / name, **graded, **more))
        assert done.status == 0, done.stderr
        assert said in done.stdout
    assert read_json(tmp_path / "without" / "out" / "cosent_config.json")["decision"] is None
    assert read_json(tmp_path / "with" / "out" / "cosent_config.json")["decision"]["positive_label_min"] == 4


def test_a_threshold_metric_wants_pairs_to_choose_by(error_of, tiny_bert, tmp_path):
    triplets = {"train_data_path": DATA / "zh" / "triplets.train.jsonl", "loss": "infonce", "threshold_metric": "f1"}
    held_out = {"eval_data_path": DATA / "zh" / "triplets.dev.jsonl"}
    asked = error_of("train", *options(tiny_bert, tmp_path, **triplets, **held_out))
    assert "eval data of pairs, which there is none of" in asked


def test_what_cannot_be_resumed_says_so(error_of, tiny_bert, classic_run, tmp_path):
    folder = classic_run[1]
    for name, more, message in (
        (folder, {}, "checkpoint-18"),  # the run's folder: the checkpoints below it are named
        (folder / "checkpoint-18", {"max_steps": -1}, "finished; nothing left to do"),
        (folder / "checkpoint-18", {"max_steps": 18}, "finished; nothing left to do"),
        (
            folder / "checkpoint-12",
            {"max_steps": 18, "scale": 7},
            "was trained with {'name': 'CoSENTLoss', 'scale': 20.0}",
        ),
    ):
        flags = options(tiny_bert, tmp_path, resume_from_checkpoint=name, **more)
        assert message in error_of("train", *flags)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("", "is empty"),
        ("a\tb\t1\nc\td\t1\n", "every label is 1"),
        ("a\tb\t1\nc\td\n", "line 2: 2 columns, expected 3"),
        ("a\tb\t1\n\td\t0\n", "line 2: the first text is empty"),
    ],
)
def test_bad_data_ends_in_one_clear_line(error_of, tiny_bert, tmp_path, content, message):
    path = tmp_path / "train.tsv"
    if content is not None:
        path.write_text(content)
    error = error_of("train", *options(tiny_bert, tmp_path, train_data_path=path))
    assert message in error
    assert "train.tsv" in error


def test_bad_rows_are_skipped_and_counted_when_asked(tiny_bert, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(TRAIN.read_text(encoding="utf-8") + "bad\n", encoding="utf-8")
    done = cosent("train", *options(tiny_bert, tmp_path, train_data_path=path, on_bad_rows="skip", max_steps=1))
    assert done.status == 0, done.stderr
    assert "384 pairs" in done.stdout
    assert "1 bad rows left out" in done.stdout


def test_other_mistakes_end_in_one_clear_line(error_of, tiny_bert, tmp_path):
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged"
    SentenceBert(tiny_bert, device="cpu").save_pretrained(damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    for more, message in (
        ({"model_name_or_path": tmp_path / "empty"}, "no model folder"),
        ({"model_name_or_path": damaged}, "damaged"),
        ({"metric_for_best_model": "eval_accuracy"}, "eval_best_accuracy"),
        ({"pooling_mode": "pooler", "max_length": 65}, "at most 64"),
        ({"save_steps": 3}, "round multiple"),
        ({"learningrate": 1}, "learningrate"),
        ({"resume_from_checkpoint": tmp_path / "empty"}, "no checkpoint to resume from"),
        ({"resume_from_checkpoint": "last"}, "no checkpoint under"),
        ({"eval_data_path": "", "eval_fraction": 0}, "there is no eval data"),
        ({"eval_data_path": "", "eval_fraction": 0.003}, "choose nothing"),
        ({"loss": "infonce", "negatives": "all", "symmetric": True}, "both ways already"),
        ({"loss": "batch_hard_triplet"}, "3 columns, expected 2"),
        ({"loss": "infonce", "train_data_path": DATA / "train.txt"}, "--positive_label_min says"),
        ({"margin": 0.5}, "--margin means nothing to --loss cosent"),
        ({"use_negatives": True}, "--use_negatives is for a loss of triplets on pairs"),
        ({"dropout": 1}, "dropout must be at least 0 and below 1"),
    ):
        assert message in error_of("train", *options(tiny_bert, tmp_path, **more))


def test_simcse_trains_on_sentences_and_is_evaluated_on_scored_pairs(tiny_bert, tmp_path):
    flags = {"loss": "infonce", "data_format": "sentences", "max_train_samples": 40, "max_steps": 2, "dropout": 0.2}
    done = cosent("train", *options(tiny_bert, tmp_path, **flags))
    assert done.status == 0, done.stderr
    assert "train: 40 sentences" in done.stdout
    assert "eval: 96 pairs" in done.stdout
    assert "'negatives'" in done.stdout
    assert read_json(tmp_path / "out" / "config.json")["attention_probs_dropout_prob"] == 0.2
    assert read_json(tmp_path / "out" / "cosent_config.json")["decision"]["num_pairs"] == 96


def test_infonce_takes_the_pairs_that_match_and_holds_out_pairs_of_both_kinds(tiny_bert, tmp_path):
    flags = {"loss": "infonce", "use_negatives": True, "symmetric": True, "max_steps": 2, "no_duplicate_texts": True}
    done = cosent("train", *options(tiny_bert, tmp_path, eval_data_path="", **flags))
    assert done.status == 0, done.stderr
    held_out, kept = re.search(r"Holding out (\d+) of (\d+) pairs", done.stdout).groups()
    triplets = int(re.search(r"train: (\d+) triplets", done.stdout).group(1))
    assert 0 < triplets < int(kept) - int(held_out)
    assert re.search(r"0 to [1-9] hard negatives each", done.stdout)
    assert f"eval: {held_out} pairs" in done.stdout
    assert read_json(tmp_path / "out" / "cosent_config.json")["loss"]["symmetric"] is True


CLASSES = {name: DATA / "zh" / f"classes.{name}.tsv" for name in ("train", "dev", "test")}


def test_classes_are_looked_up_in_the_training_data(tiny_bert, tmp_path):
    flags = {
        "loss": "batch_hard_triplet",
        "train_data_path": CLASSES["train"],
        "eval_data_path": CLASSES["dev"],
        "test_data_path": CLASSES["test"],
        "mining": "semi_hard",
        "distance": "cosine",
        "margin": 0.2,
        "classes_per_batch": 2,
        "samples_per_class": 3,
        "num_neighbors": 3,
        "max_steps": 2,
    }
    done = cosent("train", *options(tiny_bert, tmp_path, **flags))
    assert done.status == 0, done.stderr
    assert "train: 163 texts with a class" in done.stdout
    assert "21 classes of 1 to 14 texts" in done.stdout
    loss = read_json(tmp_path / "out" / "cosent_config.json")["loss"]
    assert (loss["mining"], loss["distance"], loss["margin"]) == ("semi_hard", "cosine", 0.2)
    best = SentenceBert(tmp_path / "out", device="cpu")
    train, test = (load_data(CLASSES[name], best, data_format="classes") for name in ("train", "test"))
    expected = evaluate(best, test, EvaluationOptions(index=train, num_neighbors=3)).metrics
    found = read_json(tmp_path / "out" / "test_results.json")
    tested = cosent(
        "test",
        *("--model_name_or_path", tmp_path / "out", "--test_data_path", CLASSES["test"], "--num_neighbors", 3),
        *("--index_data_path", CLASSES["train"], "--output_dir", tmp_path / "test"),
    )
    assert tested.status == 0, tested.stderr
    for name in ("nn_accuracy", "knn_accuracy", "map_at_r"):
        assert found[f"test_{name}"] == pytest.approx(expected[name])
        assert read_json(tmp_path / "test" / "metrics.json")[name] == pytest.approx(expected[name])
        assert f"{expected[name]:.4f}" in tested.stdout
    assert table(done)["test knn accuracy"][1] == pytest.approx(expected["knn_accuracy"], abs=5e-5)
    assert "on 100 texts with a class" in tested.stdout
    assert not (tmp_path / "test" / "predictions.tsv").exists()


def test_classes_are_held_out_by_text_and_looked_up_where_asked(tiny_bert, tmp_path):
    flags = {
        "loss": "batch_hard_triplet",
        "train_data_path": CLASSES["train"],
        "eval_data_path": "",
        "knn_index": "eval",
    }
    more = {"test_data_path": CLASSES["test"], "eval_fraction": 0.3, "max_steps": 2}
    done = cosent("train", *options(tiny_bert, tmp_path, **flags, **more))
    assert done.status == 0, done.stderr
    assert re.search(r"Holding out 4\d of 163 texts with a class", done.stdout)
    best = SentenceBert(tmp_path / "out", device="cpu")
    alone = evaluate(best, load_data(CLASSES["test"], best, data_format="classes")).metrics
    assert read_json(tmp_path / "out" / "test_results.json")["test_nn_accuracy"] == pytest.approx(alone["nn_accuracy"])


def test_eval_data_has_a_format_and_columns_of_its_own(tiny_bert, tmp_path):
    rows = [line.split("\t") for line in (DATA / "zh" / "dev.txt").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "dev.tsv").write_text("".join(f"{c}\t{a}\t{b}\n" for a, b, c in rows), encoding="utf-8")
    flags = {"loss": "infonce", "data_format": "sentences", "text_columns": 1, "eval_data_path": tmp_path / "dev.tsv"}
    own = {"eval_data_format": "pairs", "eval_text_columns": "1,2", "eval_label_column": 0, "max_steps": 1}
    done = cosent("train", *options(tiny_bert, tmp_path, **flags, **own))
    assert done.status == 0, done.stderr
    assert "train: 384 sentences" in done.stdout
    assert "eval: 96 pairs" in done.stdout
    assert "labels 0: 48, 1: 48" in done.stdout


def test_columns_declared_for_training_do_not_bind_eval_data_of_another_format(tiny_bert, tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"{i}\tsentence {i}\n" for i in range(20)))
    flags = {"loss": "infonce", "train_data_path": tmp_path / "a.tsv", "data_format": "sentences", "text_columns": 1}
    done = cosent("train", *options(tiny_bert, tmp_path, **flags, max_steps=1))
    assert done.status == 0, done.stderr
    assert "train: 20 sentences" in done.stdout
    assert "  'sentence 0'\n" in done.stdout


def test_training_data_is_streamed(tiny_bert, tmp_path):
    done = cosent("train", *options(tiny_bert, tmp_path, streaming=True, max_steps=4, buffer_size=50))
    assert done.status == 0, done.stderr
    assert f"train: a stream of pairs of {TRAIN}" in done.stdout
    assert done.stdout.count("'eval_spearman'") == 2
    assert read_json(tmp_path / "out" / "cosent_config.json")["decision"]["num_pairs"] == 96


def test_a_stream_says_what_it_cannot_do(error_of, tiny_bert, tmp_path):
    for more, message in (
        ({}, "--max_steps says how long to train"),
        ({"eval_data_path": ""}, "--streaming holds nothing out: give --eval_data_path, or --eval_fraction 0"),
        ({"max_train_samples": 5}, "--max_train_samples needs to see all data"),
        ({"loss": "infonce", "use_negatives": True}, "--use_negatives needs to see all data"),
        ({"max_steps": 2, "no_duplicate_texts": True}, "--no_duplicate_texts needs to see all data"),
    ):
        assert message in error_of(
            "train", *options(tiny_bert, tmp_path, **{"max_steps": -1, "streaming": True} | more)
        )


def test_data_in_several_files_and_eval_data_by_name(tiny_bert, tmp_path):
    lines = TRAIN.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, part in enumerate((lines[:100], lines[100:])):
        (tmp_path / f"part-{number}.tsv").write_text("".join(part), encoding="utf-8")
    dev, test = DATA / "zh" / "dev.txt", DATA / "zh" / "test.txt"
    data = ["--train_data_path", str(tmp_path / "part-0.tsv"), str(tmp_path / "part-1.tsv")]
    evals = ["--eval_data_path", f"one={dev}", f"two={test}", "--max_steps", "2"]
    done = cosent("train", *options(tiny_bert, tmp_path, test_data_path=test), *data, *evals)
    assert done.status == 0, done.stderr
    assert f"train: 384 pairs of {tmp_path}/part-0.tsv and 1 more" in done.stdout
    out = tmp_path / "out"
    assert read_json(out / "cosent_config.json")["decision"]["calibrated_on"] == str(dev)
    for split in ("one", "two"):
        assert f"eval_{split}_spearman" in read_json(out / f"eval_{split}_results.json")
        assert f"eval {split} spearman" in done.stdout
        assert f"eval_{split}_spearman" in (out / "trainer_state.json").read_text()
    assert read_json(out / "eval_two_results.json")["eval_two_spearman"] == pytest.approx(
        read_json(out / "test_results.json")["test_spearman"]
    )
    chosen = cosent("train", *options(tiny_bert, tmp_path / "b"), *evals, "--metric_for_best_model", "eval_two_pearson")
    assert chosen.status == 0, chosen.stderr
    decision = read_json(tmp_path / "b" / "out" / "cosent_config.json")["decision"]
    assert decision["calibrated_on"] == str(test)
    assert set(re.findall(r"By the eval data's (\S+)", chosen.stdout)) <= {"pearson"}


def test_names_of_eval_data_are_given_to_all_or_none(error_of, tiny_bert, tmp_path):
    dev = DATA / "zh" / "dev.txt"
    given = [*options(tiny_bert, tmp_path), "--eval_data_path", f"one={dev}", str(dev)]
    assert "has no name, unlike others: give all of them a name" in error_of("train", *given)
