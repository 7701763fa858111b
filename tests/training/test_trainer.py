import json

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from cosent import CoSENTLoss, CosentTrainer, CosentTrainingArguments, SentenceBert, UserError, load_pairs, modeling
from cosent.checkpoint import Decision
from tests.conftest import DATA

BINARY = DATA / "zh" / "train.txt"


@pytest.fixture
def pairs(model):
    return load_pairs(BINARY, model).select(np.arange(60))


@pytest.fixture
def make_trainer(tiny_bert, pairs, tmp_path):
    """A trainer of the tiny model; its options are training arguments."""

    def make(*, eval_dataset=True, callbacks=None, folder="run", model_path=tiny_bert, **options):
        settings = {
            "output_dir": str(tmp_path / folder),
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "use_cpu": True,
            "disable_tqdm": True,
            "eval_strategy": "epoch" if eval_dataset else "no",
            **options,
        }
        return CosentTrainer(
            SentenceBert(model_path, device="cpu"),
            CosentTrainingArguments(**settings),
            CoSENTLoss(),
            train_dataset=pairs,
            eval_dataset=pairs.select(np.arange(30)) if eval_dataset else None,
            callbacks=callbacks,
        )

    return make


def trained(trainer):
    """Train at once: making a trainer seeds the generator that training draws from."""
    trainer.train()
    return trainer


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def weights(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_it_learns_a_memorisable_set_and_moves_every_trainable_weight(make_trainer):
    trainer = make_trainer(max_steps=150, per_device_train_batch_size=16, eval_dataset=False)
    before = weights(trainer.model)
    trainer.train()
    curve = losses(trainer)
    assert np.mean(curve[-8:]) < 0.3 * np.mean(curve[:8])
    for name, parameter in trainer.model.named_parameters():
        # an attention's key bias shifts all scores of a query alike: softmax does not see it
        unmoved = torch.equal(parameter, before[name])
        assert unmoved == (not parameter.requires_grad) or "key.bias" in name, name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_one_step_is_one_step_of_plain_pytorch(make_trainer, accumulation):
    sgd = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    trainer = make_trainer(eval_dataset=False, max_steps=1, gradient_accumulation_steps=accumulation, **sgd)
    seen = []
    step = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **kw: (
        seen.append((inputs, torch.get_rng_state())) or step(model, inputs, **kw)
    )
    reference = SentenceBert(trainer.model.backbone.name_or_path, device="cpu").train()
    trainer.train()
    assert len(seen) == accumulation
    mean_loss = 0.0
    for inputs, rng in seen:
        torch.set_rng_state(rng)
        embeddings = reference(inputs["input_ids"], inputs["lengths"])
        loss = CoSENTLoss()(embeddings.view(2, 8, -1), inputs["labels"]) / accumulation
        loss.backward()
        mean_loss += loss.item()
    assert losses(trainer) == pytest.approx([mean_loss])
    for (name, trained), plain in zip(trainer.model.named_parameters(), reference.parameters(), strict=True):
        expected = plain if plain.grad is None else plain - 0.1 * plain.grad
        torch.testing.assert_close(trained, expected, rtol=1e-6, atol=1e-6, msg=name)


def test_evaluation_in_training_changes_nothing_about_training(make_trainer):
    evaluated = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": False}
    with_evaluation = trained(make_trainer(max_steps=20, **evaluated))
    without = trained(make_trainer(max_steps=20, eval_dataset=False))
    assert any("eval_spearman" in log for log in with_evaluation.state.log_history)
    assert losses(with_evaluation) == losses(without)
    one, two = weights(with_evaluation.model), weights(without.model)
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_twenty_steps_equal_ten_and_ten_resumed_in_mid_epoch(make_trainer, accumulation):
    options = {
        "max_steps": 20,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "load_best_model_at_end": False,
        "gradient_accumulation_steps": accumulation,
    }

    class StopAtTen(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 10

    whole = make_trainer(folder="whole", **options)
    whole.train()
    make_trainer(folder="halves", callbacks=[StopAtTen()], **options).train()
    second_half = make_trainer(folder="halves", **options)
    for parameter in second_half.model.parameters():
        parameter.data.zero_()  # what is resumed must come from the checkpoint
    second_half.train(resume_from_checkpoint=True)
    assert second_half.state.global_step == 20
    assert losses(second_half) == losses(whole)
    one, two = weights(whole.model), weights(second_half.model)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_best_model_is_kept_and_loads_everywhere(make_trainer, tmp_path):
    trainer = make_trainer(num_train_epochs=4, learning_rate=0.05)  # too high: quality jumps about
    trainer.train()
    trainer.save_model()
    scores = [log["eval_spearman"] for log in trainer.state.log_history if "eval_spearman" in log]
    assert len(set(scores)) > 1
    assert trainer.state.best_metric == max(scores)
    assert trainer.evaluate()["eval_spearman"] == pytest.approx(max(scores), abs=1e-6)
    reloaded = SentenceBert(tmp_path / "run", device="cpu")
    np.testing.assert_array_equal(reloaded.encode(["我要退款"]), trainer.model.eval().encode(["我要退款"]))
    assert reloaded.settings.loss == {"name": "CoSENTLoss", "scale": 20.0}
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) <= 2


def test_loading_the_best_model_loads_its_weights(make_trainer):
    trainer = make_trainer(num_train_epochs=2)
    trainer.train()
    best = weights(trainer.model)
    for parameter in trainer.model.parameters():
        parameter.data.zero_()
    trainer._load_best_model()
    assert all(torch.equal(best[key], value) for key, value in trainer.model.state_dict().items())


def test_an_older_threshold_does_not_pass_to_other_weights(make_trainer, tiny_bert, tmp_path):
    model = SentenceBert(tiny_bert, device="cpu")
    model.settings.decision = Decision(0.77, "accuracy", 1.0, "old.tsv", 10)
    model.save_pretrained(tmp_path / "old")
    trainer = make_trainer(max_steps=1, eval_dataset=False, model_path=tmp_path / "old")
    trainer.train()
    trainer.save_model()
    assert SentenceBert(tmp_path / "run", device="cpu").settings.decision is None


def test_pair_datasets_can_be_evaluated_by_hand(make_trainer, pairs):
    assert make_trainer().evaluate(pairs)["eval_n"] == 60


def test_neftune_finds_the_embeddings_that_it_adds_noise_to(make_trainer):
    plain = trained(make_trainer(max_steps=2))
    noisy = trained(make_trainer(max_steps=2, neftune_noise_alpha=5))
    assert losses(plain) != losses(noisy)


def test_remote_code_that_was_allowed_stays_allowed(tiny_bert, monkeypatch, tmp_path):
    asked = []
    load = modeling.load_backbone
    monkeypatch.setattr(
        modeling, "load_backbone", lambda *a, **kw: asked.append(kw["trust_remote_code"]) or load(*a, **kw)
    )
    model = SentenceBert(tiny_bert, trust_remote_code=True, device="cpu")
    model.save_pretrained(tmp_path)
    model.load_weights(tmp_path)
    assert asked == [True, True]


def test_early_stopping(make_trainer):
    trainer = make_trainer(num_train_epochs=20, learning_rate=1e-12, early_stopping_patience=2)
    trainer.train()
    assert trainer.state.epoch == 3


def test_a_metric_that_is_not_there_is_refused_before_the_first_step(make_trainer):
    trainer = make_trainer(metric_for_best_model="eval_spaerman")
    with pytest.raises(UserError, match="eval_spearman, eval_pearson, eval_best_accuracy"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_every_listed_metric_can_choose_the_best_model(make_trainer):
    trainer = make_trainer(max_steps=1)
    found = trainer.evaluate()
    assert all(f"eval_{name}" in found for name in trainer.eval_metric_names)


def test_unused_columns_may_be_removed(make_trainer):
    kept = trained(make_trainer(max_steps=3))
    removed = trained(make_trainer(max_steps=3, remove_unused_columns=True))
    assert losses(kept) == losses(removed)


def test_batches_without_an_ordered_pair_are_counted(make_trainer, pairs):
    ordered, unordered = make_trainer(max_steps=2), make_trainer(max_steps=2)
    single = np.flatnonzero(pairs.labels == 1)
    unordered.train_dataset = pairs.select(single).tokens.with_format("numpy")
    for trainer, expected in ((ordered, 0), (unordered, 1)):
        trainer.train()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        assert [log["unordered_batches"] for log in logs] == [expected, expected]
    assert losses(unordered) == [0, 0]


def test_bf16_autocast_trains_float32_weights(make_trainer):
    trainer = make_trainer(eval_dataset=False, max_steps=30, bf16=True)
    trainer.train()
    assert trainer.model.backbone.dtype == torch.float32
    assert np.isfinite(losses(trainer)).all()
    assert np.mean(losses(trainer)[-7:]) < np.mean(losses(trainer)[:7])


def test_activation_checkpointing_changes_no_loss(make_trainer):
    plain = trained(make_trainer(max_steps=4))
    checkpointed = trained(make_trainer(max_steps=4, activation_checkpointing=True))
    assert losses(plain) == pytest.approx(losses(checkpointed), rel=1e-5)


def test_checkpoints_hold_no_pickled_arguments_and_a_readable_state(make_trainer, tmp_path):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert not (checkpoint / "training_args.bin").exists()
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 8
    assert SentenceBert(checkpoint, device="cpu").encode("a").shape == (32,)
