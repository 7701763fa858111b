import numpy as np
import pytest

from cosent import CoSENTLoss, CosentTrainer, CosentTrainingArguments, InfoNCELoss, SentenceBert, load_data
from cosent.losses import BatchHardTripletLoss
from cosent.training.logged_loss import leave_out_short_batches
from tests.conftest import DATA

LOSSES = {"pairs": CoSENTLoss, "triplets": InfoNCELoss, "classes": BatchHardTripletLoss}
PATHS = {"pairs": "train.txt", "triplets": "triplets.train.jsonl", "classes": "classes.train.tsv"}


@pytest.fixture
def run(tiny_bert, tmp_path):
    """Trains, and returns the logs and, for each step, the number of examples and the loss."""

    def make(data_format, *, num_rows, batch_size=8, folder="run", resume=None, **options):
        model = SentenceBert(tiny_bert, device="cpu")
        data = load_data(DATA / "zh" / PATHS[data_format], model, data_format=data_format)
        loss, steps = LOSSES[data_format](), []
        loss.register_forward_hook(lambda _, given, value: steps.append((given[0].shape[1], value.item())))
        settings = {"per_device_train_batch_size": batch_size, "num_train_epochs": 2, "logging_steps": 1, **options}
        flags = {"output_dir": str(tmp_path / folder), "eval_strategy": "no", "use_cpu": True, "disable_tqdm": True}
        args = CosentTrainingArguments(**{**flags, **settings})
        trainer = CosentTrainer(model, args, loss, train_dataset=data.select(np.arange(num_rows)))
        trainer.train(resume_from_checkpoint=resume)
        return [log for log in trainer.state.log_history if "learning_rate" in log], steps

    return make


def test_a_short_last_batch_has_no_part_in_the_logged_loss(run):
    logs, steps = run("pairs", num_rows=20, logging_steps=3)
    assert [size for size, _ in steps] == [8, 8, 4, 8, 8, 4]
    for log, of_epoch in zip(logs, (steps[:3], steps[3:]), strict=True):
        assert log["loss"] == pytest.approx(np.mean([value for _, value in of_epoch[:2]]), rel=1e-5)
        assert log["short_batches"] == pytest.approx(1 / 3)
        assert "loss_of_full_batches" not in log


def test_a_log_of_nothing_but_a_short_batch_has_no_loss(run):
    logs, steps = run("pairs", num_rows=20)
    assert ["loss" in log for log in logs] == [True, True, False] * 2
    assert logs[1]["loss"] == pytest.approx(steps[1][1], rel=1e-5)
    assert "short_batches" not in logs[1]
    assert logs[2]["short_batches"] == 1


def test_data_smaller_than_a_batch_has_a_loss(run):
    logs, steps = run("pairs", num_rows=6)
    assert [size for size, _ in steps] == [6, 6]
    assert [log["loss"] for log in logs] == pytest.approx([value for _, value in steps], rel=1e-5)


def test_a_short_batch_may_stand_anywhere_among_batches_of_distinct_texts(run):
    logs, steps = run("triplets", num_rows=20, logging_steps=3, no_duplicate_texts=True)
    for log, of_epoch in zip(logs, (steps[:3], steps[3:]), strict=True):
        assert sorted(size for size, _ in of_epoch) == [4, 8, 8]
        assert log["loss"] == pytest.approx(np.mean([value for size, value in of_epoch if size == 8]), rel=1e-5)


def test_batches_of_classes_differ_in_size_by_design(run):
    logs, steps = run("classes", num_rows=60, classes_per_batch=3, samples_per_class=4)
    assert len({size for size, _ in steps}) > 1
    assert [log["loss"] for log in logs] == pytest.approx([value for _, value in steps], rel=1e-5)


def test_a_resumed_run_logs_the_same_losses(run, tmp_path):
    options = {"logging_steps": 3, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 5}
    whole, _ = run("pairs", num_rows=20, folder="whole", **options)
    resumed, steps = run("pairs", num_rows=20, resume=str(tmp_path / "whole" / "checkpoint-2"), **options)
    assert len(steps) == 4
    assert [log["loss"] for log in resumed] == [log["loss"] for log in whole]


def test_until_a_full_batch_was_logged_short_ones_are_shown():
    history: list[dict[str, float]] = []
    for short, shown in ((1.0, True), (1.0, True), (0.0, True), (1.0, False)):
        logs, means = {"loss": 2.0}, {"short_batches": short, "loss_of_full_batches": 0.0}
        leave_out_short_batches(logs, means, history)
        history.append({**logs, **means})
        assert ("loss" in logs) == shown
    assert [log.get("short_batches", 0.0) for log in history] == [1, 1, 0, 1]
