"""A trainer takes data from anywhere, evaluates several sets, and leaves a model that decides."""

import datasets
import pandas as pd
import pytest
import torch
from scipy import stats

from cosent import (
    BatchHardTripletLoss,
    CoSENTLoss,
    CosentTrainer,
    CosentTrainingArguments,
    DecisionOptions,
    EvaluationOptions,
    InfoNCELoss,
    SentenceBert,
    UserError,
    evaluate,
    load_data,
)
from tests.cli.conftest import cosent
from tests.conftest import DATA

TRAIN, DEV, TEST = (DATA / "zh" / f"{split}.txt" for split in ("train", "dev", "test"))


def frame_of(path):
    return pd.read_csv(path, sep="\t", header=None, names=["text1", "text2", "label"], quoting=3)


@pytest.fixture
def make_trainer(tiny_bert, tmp_path):
    def make(train=TRAIN, eval_dataset=DEV, loss=None, evaluation=None, decision=None, **options):
        options = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1} | options
        args = CosentTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, learning_rate=1e-3, **options)
        model = SentenceBert(tiny_bert, device="cpu", dropout=0.1)
        torch.manual_seed(0)
        return CosentTrainer(
            model,
            args,
            loss or CoSENTLoss(),
            train_dataset=train(model) if callable(train) else train,
            eval_dataset=eval_dataset,
            evaluation=evaluation,
            decision=decision,
        )

    return make


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_same_data_trains_the_same_weights_wherever_it_comes_from(make_trainer, tiny_bert, tmp_path):
    frame = frame_of(TRAIN)
    dataset = datasets.Dataset.from_pandas(frame)
    dataset.save_to_disk(tmp_path / "saved")
    (tmp_path / "clone" / "data").mkdir(parents=True)
    frame.to_parquet(tmp_path / "clone" / "data" / "train-00000-of-00001.parquet")
    ways = [TRAIN, str(TRAIN), frame, dataset, tmp_path / "saved", tmp_path / "clone", frame.to_dict("records")]
    ways.append(lambda model: load_data(TRAIN, model))
    found = []
    for way in ways:
        trainer = make_trainer(way, frame_of(DEV))
        trainer.train()
        found.append(weights(trainer.model))
    assert all(torch.equal(one, found[0]) for one in found)
    assert not torch.equal(found[0], weights(SentenceBert(tiny_bert, device="cpu")))
    flags = {"model_name_or_path": tiny_bert, "train_data_path": TRAIN, "eval_data_path": DEV, "max_steps": 4}
    flags |= {"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1, "learning_rate": 1e-3, "dropout": 0.1}
    flags |= {"output_dir": tmp_path / "cli", "timestamp_output_dir": False, "use_cpu": True}
    done = cosent("train", *[f"--{name}={value}" for name, value in flags.items()])
    assert done.status == 0, done.stderr
    model = SentenceBert(tmp_path / "cli", device="cpu")
    assert torch.equal(weights(model), found[0])
    assert model.settings.decision.threshold == trainer.model.settings.decision.threshold
    assert model.settings.decision.calibration == trainer.model.settings.decision.calibration


def test_a_trained_model_decides_as_it_was_evaluated(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.save_model()
    saved = SentenceBert(trainer.args.output_dir, device="cpu")
    decision = saved.settings.decision
    assert decision.calibrated_on == str(DEV)
    assert decision.value == trainer.final_evaluation.metrics["best_accuracy"]
    assert evaluate(saved, DEV).metrics["accuracy"] == decision.value
    assert decision.calibration is not None


def test_the_criterion_of_the_decision_is_an_option(make_trainer):
    trainer = make_trainer(decision=DecisionOptions(threshold_metric="f1", calibration="none"))
    trainer.train()
    decision = trainer.model.settings.decision
    assert (decision.metric, decision.calibration) == ("f1", None)


def test_graded_pairs_decide_if_a_match_is_known(make_trainer):
    trainer = make_trainer(DATA / "train.txt", DATA / "dev.txt")
    trainer.train()
    assert trainer.model.settings.decision is None
    trainer = make_trainer(
        DATA / "train.txt", DATA / "dev.txt", evaluation=EvaluationOptions(positive_label_min=4, num_resamples=20)
    )
    trainer.train()
    assert trainer.model.settings.decision.positive_label_min == 4
    assert "spearman" in trainer.final_evaluation.intervals


def test_building_a_trainer_leaves_a_models_threshold_alone(make_trainer):
    trainer = make_trainer(eval_dataset=None, eval_strategy="no")
    trainer.model.settings.decision = 0.7
    again = CosentTrainer(trainer.model, trainer.args, CoSENTLoss(), train_dataset=TRAIN)
    assert again.model.settings.decision.threshold == 0.7
    again.train()
    assert again.model.settings.decision is None  # which was valid for other weights


def test_bfloat16_training_decides_by_the_scores_of_the_saved_model(make_trainer):
    trainer = make_trainer(bf16=True)
    trainer.train()
    trainer.save_model()
    saved = SentenceBert(trainer.args.output_dir, device="cpu")
    scores = evaluate(saved, DEV).pairs.scores
    assert (trainer.final_evaluation.pairs.scores == scores).all()
    assert (evaluate(trainer.model, DEV).pairs.scores != scores).any()  # under the Trainer's mixed precision


def test_several_eval_sets_have_metrics_of_their_own(make_trainer, caplog):
    sets = {"one": DEV, "two": frame_of(TEST)}
    trainer = make_trainer(eval_dataset=sets, early_stopping_patience=3)
    trainer.train()
    assert trainer.args.metric_for_best_model == "eval_one_spearman"
    logged = {name for log in trainer.state.log_history for name in log}
    assert {"eval_one_spearman", "eval_two_spearman"} <= logged
    assert trainer.model.settings.decision.calibrated_on == str(DEV)
    assert "early stopping" not in caplog.text
    other = make_trainer(eval_dataset=sets, metric_for_best_model="eval_two_uniformity")
    assert (other.selecting, other.args.greater_is_better) == ("two", False)
    other.train()
    assert other.model.settings.decision.calibrated_on == "the DataFrame"
    with pytest.raises(UserError, match="is none of the metrics of this eval data: eval_one_spearman"):
        make_trainer(eval_dataset=sets, metric_for_best_model="eval_spearman")


def kendall(scores, labels):
    return {"kendall": stats.kendalltau(scores, labels).statistic}


def test_a_metric_of_ones_own_selects_the_best_model(make_trainer):
    options = EvaluationOptions(compute_metrics=kendall)
    trainer = make_trainer(evaluation=options, metric_for_best_model="eval_kendall")
    trainer.train()
    values = [log["eval_kendall"] for log in trainer.state.log_history if "eval_kendall" in log]
    assert trainer.state.best_metric == max(values)


def test_a_metric_of_ones_own_names_its_eval_set(make_trainer):
    options = EvaluationOptions(compute_metrics=kendall)
    sets = {"one": DEV, "two": frame_of(TEST)}
    trainer = make_trainer(eval_dataset=sets, evaluation=options, metric_for_best_model="eval_two_kendall")
    assert trainer.selecting == "two"


def test_pairs_become_what_the_loss_learns_from(make_trainer):
    trainer = make_trainer(loss=InfoNCELoss())
    assert trainer._examples.data_format == "triplets"
    trainer.train()
    with pytest.raises(UserError, match="positive_label_min says"):
        make_trainer(DATA / "train.txt", loss=InfoNCELoss())
    with pytest.raises(UserError, match="3 columns, expected 2"):
        make_trainer(loss=BatchHardTripletLoss())


@pytest.mark.parametrize(("train", "held_out"), [(3, DEV), (TRAIN, 3), (TRAIN, {"a": 3})])
def test_other_types_are_told_what_is_taken(make_trainer, train, held_out):
    with pytest.raises(TypeError, match="data must be a path, a glob, a folder"):
        make_trainer(train, held_out)


def test_evaluation_takes_data_from_anywhere_too(make_trainer):
    trainer = make_trainer()
    expected = trainer.evaluate()["eval_spearman"]
    assert trainer.evaluate(str(DEV))["eval_spearman"] == expected
    assert trainer.evaluate(frame_of(DEV))["eval_spearman"] == expected
    several = trainer.evaluate({"a": DEV, "b": frame_of(TEST)})
    assert several["eval_a_spearman"] == expected
    assert "eval_b_spearman" in several


def test_what_is_no_trainers_is_told(make_trainer, tiny_bert):
    trainer = make_trainer()
    for model, args, loss, message in (
        (str(tiny_bert), trainer.args, CoSENTLoss(), "model must be a SentenceBert"),
        (trainer.model, None, CoSENTLoss(), "args must be CosentTrainingArguments, got NoneType"),
        (trainer.model, trainer.args, "cosent", "loss must be a loss, such as CoSENTLoss"),
        (trainer.model, trainer.args, CoSENTLoss, "loss must be a loss, such as CoSENTLoss"),
    ):
        with pytest.raises(TypeError, match=message):
            CosentTrainer(model, args, loss, train_dataset=TRAIN)
    with pytest.raises(UserError, match="give each a name"):
        make_trainer(eval_dataset={"a": DEV, "": DEV})
