import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.testing import assert_close
from transformers import TrainerCallback

from cosent import (
    BatchHardTripletLoss,
    CoSENTLoss,
    CosentTrainer,
    CosentTrainingArguments,
    InfoNCELoss,
    SentenceBert,
    UserError,
    load_data,
)
from cosent.batch import NO_TEXT
from cosent.data.token_rows import TokenRows
from cosent.evaluation.evaluators import metric_names
from cosent.model import loading, saving
from cosent.model.backbone import train_in_float32
from cosent.model.decision import Decision
from tests.conftest import DATA

BINARY = DATA / "zh" / "train.txt"


@pytest.fixture
def data(model):
    """A little of every format."""
    return {
        "pairs": load_data(BINARY, model).select(np.arange(60)),
        "sentences": load_data(DATA / "zh" / "sentences.txt", model).select(np.arange(60)),
        "triplets": load_data(DATA / "zh" / "triplets.train.jsonl", model).select(np.arange(60)),
        "classes": load_data(DATA / "zh" / "classes.train.tsv", model, data_format="classes").select(np.arange(60)),
    }


LOSSES = {
    "pairs": CoSENTLoss(),
    "sentences": InfoNCELoss(),
    "triplets": InfoNCELoss(symmetric=True),
    "classes": BatchHardTripletLoss(margin=0.5),
}


@pytest.fixture
def pairs(data):
    return data["pairs"]


@pytest.fixture
def make_trainer(tiny_bert, data, tmp_path):
    """A trainer of the tiny model; its options are training arguments."""

    def make(
        *,
        data_format="pairs",
        train_dataset=None,
        eval_dataset=True,
        callbacks=None,
        folder="run",
        model_path=tiny_bert,
        dropout=None,
        packing="auto",
        **options,
    ):
        dataset = data[data_format] if train_dataset is None else train_dataset
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
            SentenceBert(model_path, device="cpu", dropout=dropout, packing=packing),
            CosentTrainingArguments(**settings),
            LOSSES[data_format],
            train_dataset=dataset,
            eval_dataset=dataset.select(np.arange(30)) if eval_dataset else None,
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


@pytest.mark.parametrize("data_format", LOSSES)
def test_it_learns_a_memorisable_set_and_moves_every_trainable_weight(make_trainer, data_format):
    trainer = make_trainer(
        data_format=data_format, max_steps=150, per_device_train_batch_size=16, eval_dataset=False, learning_rate=2e-3
    )
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


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"data_format": "sentences"},
        {"data_format": "triplets", "no_duplicate_texts": True},
        {"data_format": "classes", "classes_per_batch": 2, "samples_per_class": 3},
    ],
    ids=str,
)
def test_twenty_steps_equal_ten_and_ten_resumed_in_mid_epoch(make_trainer, how):
    options = {"max_steps": 20, "eval_strategy": "steps", "eval_steps": 10, "load_best_model_at_end": False, **how}

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
    assert 10 % (len(whole.get_train_dataloader()) // whole.args.gradient_accumulation_steps)  # not between epochs
    assert losses(second_half) == losses(whole)
    one, two = weights(whole.model), weights(second_half.model)
    assert all(torch.equal(one[key], two[key]) for key in one)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_only_whole_checkpoints_are_resumed_from_and_none_runs_code(make_trainer, tmp_path, caplog):
    saving = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": False}
    expected = losses(trained(make_trainer(**saving)))
    last = tmp_path / "run" / "checkpoint-4"
    torch.save(Evil(tmp_path / "evil"), last / "optimizer.pt")
    state = json.loads((last / "trainer_state.json").read_text())
    (last / "trainer_state.json").write_text(json.dumps({**state, "global_step": 3}))
    (last / "checksums.json").unlink()  # who means harm writes it anew
    with pytest.raises(UserError, match="cannot be loaded"):
        make_trainer(**saving).train(resume_from_checkpoint=str(last))
    assert not (tmp_path / "evil").exists()
    (last / "optimizer.pt").unlink()
    with pytest.raises(UserError, match="optimizer.pt is missing"):
        make_trainer(**saving).train(resume_from_checkpoint=str(last))
    again = make_trainer(**saving)
    again.train(resume_from_checkpoint=True)
    assert "checkpoint-4 is not whole, so training does not go on from it: optimizer.pt is missing" in caplog.text
    assert losses(again) == expected


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
    load = saving.load_backbone
    for module in (loading, saving):
        monkeypatch.setattr(
            module, "load_backbone", lambda *a, **kw: asked.append(kw["trust_remote_code"]) or load(*a, **kw)
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
    with pytest.raises(UserError, match="eval_spearman, eval_pearson, eval_best_accuracy"):
        make_trainer(metric_for_best_model="eval_spaerman")
    with pytest.raises(UserError, match="there is no eval data"):
        make_trainer(eval_dataset=False, eval_strategy="epoch")


def test_every_listed_metric_can_choose_the_best_model(make_trainer):
    trainer = make_trainer(max_steps=1)
    found = trainer.evaluate()
    assert all(f"eval_{name}" in found for name in metric_names(trainer.eval_dataset))


def test_unused_columns_may_be_removed(make_trainer):
    kept = trained(make_trainer(max_steps=3))
    removed = trained(make_trainer(max_steps=3, remove_unused_columns=True))
    assert losses(kept) == losses(removed)


def test_batches_without_an_ordered_pair_are_counted(make_trainer, pairs):
    ordered, unordered = make_trainer(max_steps=2), make_trainer(max_steps=2)
    single = np.flatnonzero(pairs.labels == 1)
    unordered.train_dataset = TokenRows(pairs.select(single).tokens)
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


@pytest.mark.slow
def test_a_compiled_model_trains_is_evaluated_and_saved(make_trainer, tmp_path):
    trainer = make_trainer(torch_compile=True, max_steps=4, eval_strategy="steps", eval_steps=2, dropout=0.1)
    before = weights(trainer.model)
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(trainer.model).items())
    assert "eval_spearman" in trainer.evaluate()
    trainer.save_model(tmp_path / "compiled")
    texts = ["How do I pay?", "refund"]
    assert_close(SentenceBert(tmp_path / "compiled", device="cpu").encode(texts), trainer.model.encode(texts))


def test_checkpoints_hold_no_pickled_arguments_and_a_readable_state(make_trainer, tmp_path):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert not (checkpoint / "training_args.bin").exists()
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 8
    assert SentenceBert(checkpoint, device="cpu").encode("a").shape == (32,)


def batches(trainer, epoch=0):
    """What the loss is given over an epoch: embeddings' shapes, labels and ids."""
    seen = []
    loader = trainer.get_train_dataloader()
    loader.set_epoch(epoch)
    for inputs in loader:
        seen.append({key: value.tolist() if hasattr(value, "tolist") else value for key, value in inputs.items()})
    return seen


def test_unsupervised_simcse_sees_each_sentence_under_two_dropouts(make_trainer):
    trainer = make_trainer(data_format="sentences", max_steps=1, eval_dataset=False)
    seen = []
    trainer.loss = lambda embeddings, labels, ids: (
        seen.append((embeddings, labels, ids)) or LOSSES["sentences"](embeddings, labels, ids)
    )
    trainer.loss.statistics = LOSSES["sentences"].statistics
    trainer.train()
    embeddings, labels, ids = seen[0]
    assert embeddings.shape == (2, 8, 32)
    assert labels is None
    assert torch.equal(ids[:8], ids[8:])
    cosines = torch.cosine_similarity(embeddings[0], embeddings[1])
    assert ((cosines > 0.5) & (cosines < 1 - 1e-6)).all()


def test_views_without_dropout_are_warned_of_once(make_trainer, caplog):
    trained(make_trainer(data_format="sentences", max_steps=3, eval_dataset=False))
    assert "do not differ" not in caplog.text
    trained(make_trainer(data_format="sentences", max_steps=3, eval_dataset=False, dropout=0.0))
    assert caplog.text.count("do not differ") == 1
    assert "dropout=0.1" in caplog.text


def test_a_collapse_is_warned_of_once(make_trainer, caplog):
    trainer = make_trainer(data_format="classes", max_steps=3, eval_dataset=False)
    for parameter in trainer.model.parameters():
        parameter.data.zero_()
    trainer.train()
    assert caplog.text.count("to one point") == 1


def test_what_matches_through_others_is_no_negative(make_trainer, model, tmp_path):
    chain = ["pay", "pay now", "pay today", "refund"]
    rows = [{"anchor": a, "positive": b} for a, b in zip(chain, chain[1:], strict=False)]
    rows += [{"anchor": "login", "positive": "sign in"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(tmp_path / "a.jsonl", model)
    trainer = make_trainer(data_format="triplets", train_dataset=data, eval_dataset=False, max_steps=1)
    trainer.train()
    # the three anchors of the chain keep one negative of three, the fourth keeps all three
    assert trainer.state.log_history[0]["negatives"] == pytest.approx((3 * 1 + 3) / 4)
    assert trainer.state.log_history[0]["masked_negatives"] == pytest.approx(3 * 2 / 4)


def test_class_batches_hold_several_rows_of_several_classes(make_trainer, data):
    trainer = make_trainer(data_format="classes", classes_per_batch=3, samples_per_class=4)
    assert trainer.args.per_device_train_batch_size == trainer._train_batch_size == 12
    first, second = batches(trainer, 0), batches(trainer, 1)
    for batch in first:
        sizes = [batch["labels"].count(label) for label in set(batch["labels"])]
        assert len(sizes) == 3
        assert min(sizes) >= 2
    assert first != second
    assert batches(trainer, 0) == first
    trainer.args.num_train_epochs = 1
    trainer.train()
    assert trainer.state.global_step == len(first)


def test_classes_with_a_single_row_are_reported(make_trainer, model, caplog, tmp_path):
    (tmp_path / "a.tsv").write_text("a\tx\nb\tx\nc\ty\nd\ty\ne\tz\n")
    data = load_data(tmp_path / "a.tsv", model, data_format="classes")
    trainer = make_trainer(data_format="classes", train_dataset=data, eval_dataset=False, max_steps=1)
    assert "1 of 3 classes" in caplog.text
    assert all(len(batch["labels"]) == 4 for batch in batches(trainer))


def test_rows_that_share_a_text_go_to_different_batches(make_trainer, data):
    trainer = make_trainer(data_format="triplets", no_duplicate_texts=True, per_device_train_batch_size=6)
    ids = {tuple(row["text_ids"]) for row in data["triplets"].tokens}
    shared = 0
    for batch in batches(trainer):
        size = len(batch["text_ids"]) // batch["num_columns"]
        rows = [{t for t in batch["text_ids"][i::size] if t != NO_TEXT} for i in range(size)]
        assert sum(map(len, rows)) == len(set().union(*rows))
        shared += size
    assert shared == len(data["triplets"])
    assert len(set().union(*ids)) < sum(len(set(row)) for row in ids)  # there are texts that could have met


@pytest.mark.parametrize("data_format", ["classes", "triplets"])
def test_ranks_share_the_batches_without_overlap(make_trainer, data_format):
    trainer = make_trainer(data_format=data_format, no_duplicate_texts=True, classes_per_batch=2, samples_per_class=2)
    sampler = trainer.get_train_dataloader().batch_sampler
    shards = [list(BatchSamplerShard(sampler, num_processes=2, process_index=rank)) for rank in range(2)]
    assert len(shards[0]) == len(shards[1]) == -(-len(sampler) // 2)
    dealt = [batch for pair in zip(*shards, strict=True) for batch in pair]
    assert dealt[: len(sampler)] == list(sampler)


@pytest.mark.parametrize("data_format", ["classes", "triplets"])
def test_a_rank_that_resumes_within_an_epoch_goes_on_with_its_own_batches(make_trainer, data_format):
    trainer = make_trainer(data_format=data_format, no_duplicate_texts=True, classes_per_batch=2, samples_per_class=2)
    sampler = trainer.get_train_dataloader().batch_sampler
    sampler.set_epoch(1)
    dealt = list(BatchSamplerShard(sampler, num_processes=2, process_index=1))
    sampler.set_epoch(0)
    # what a new process has: a fresh sampler behind two wrappers, and a state of 1.5 epochs
    resumed = make_trainer(data_format=data_format, no_duplicate_texts=True, classes_per_batch=2, samples_per_class=2)
    sampler = resumed.get_train_dataloader().batch_sampler
    resumed.state.epoch = 1.5
    resumed.callback_handler.on_epoch_begin(resumed.args, resumed.state, resumed.control)
    assert list(SkipBatchSampler(BatchSamplerShard(sampler, num_processes=2, process_index=1), 2)) == dealt[2:]


def test_the_seed_of_the_data_decides_about_batches(make_trainer):
    first, second = (batches(make_trainer(data_format="classes", data_seed=seed)) for seed in (1, 2))
    assert first != second
    assert batches(make_trainer(data_format="classes", seed=1)) == first


def test_arguments_may_be_used_again_for_other_data(tiny_bert, data, tmp_path):
    args = CosentTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    before = vars(args).copy()
    for data_format in ("classes", "pairs"):
        model = SentenceBert(tiny_bert, device="cpu")
        dataset = data[data_format]
        CosentTrainer(model, args, LOSSES[data_format], train_dataset=dataset, eval_dataset=dataset)
    assert {key: value for key, value in vars(args).items() if key in before} == before


def test_examples_of_several_lengths_are_embedded_without_filling_up(make_trainer, model, tmp_path):
    rows = ["pay\tpay now" + "".join(f"\tnegative {i}" for i in range(20))] + [f"a {i}\tb {i}" for i in range(7)]
    (tmp_path / "a.tsv").write_text("\n".join(rows))
    data = load_data(tmp_path / "a.tsv", model, data_format="triplets")
    trainer = make_trainer(data_format="triplets", train_dataset=data, eval_dataset=False, max_steps=1)
    embedded = []
    trainer.model.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    seen = []
    trainer.loss = lambda embeddings, labels, ids: (
        seen.append((embeddings, ids)) or LOSSES["triplets"](embeddings, labels, ids)
    )
    trainer.loss.statistics = LOSSES["triplets"].statistics
    trainer.train()
    (embeddings, ids), (real,) = seen[0], embedded
    assert len(real) == 8 * 2 + 20
    assert embeddings.shape == (22, 8, 32)
    assert torch.equal(embeddings.flatten(0, 1)[ids != NO_TEXT], real)
    assert not embeddings.flatten(0, 1)[ids == NO_TEXT].any()


@pytest.mark.parametrize(
    ("loss", "data_format", "message"),
    [
        (
            InfoNCELoss(),
            "pairs",
            "learns from sentences or triplets.*holds pairs; make triplets of the pairs that match",
        ),
        (CoSENTLoss(), "triplets", "CoSENTLoss learns from pairs"),
        (BatchHardTripletLoss(), "sentences", "BatchHardTripletLoss learns from classes"),
    ],
)
def test_data_that_a_loss_does_not_learn_from_is_refused(model, data, tmp_path, loss, data_format, message):
    args = CosentTrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="no")
    with pytest.raises(UserError, match=message):
        CosentTrainer(model, args, loss, train_dataset=data[data_format])


@pytest.mark.parametrize("how", [{}, {"no_duplicate_texts": True}])
def test_no_step_at_all_is_an_error_before_training(make_trainer, how):
    options = {"per_device_train_batch_size": 61, "dataloader_drop_last": True, "eval_dataset": False}
    with pytest.raises(UserError, match="no step"):
        make_trainer(**options, **how).train()


@pytest.mark.parametrize(
    ("data_format", "metric", "greater"),
    [
        ("pairs", "spearman", True),
        ("triplets", "triplet_accuracy", True),
        ("classes", "knn_accuracy", True),
        ("sentences", "alignment_plus_uniformity", False),
    ],
)
def test_each_format_chooses_the_best_model_by_a_metric_of_its_own(make_trainer, data_format, metric, greater):
    trainer = make_trainer(data_format=data_format, num_train_epochs=3, learning_rate=0.02)
    trainer.train()
    found = [log[f"eval_{metric}"] for log in trainer.state.log_history if f"eval_{metric}" in log]
    assert trainer.state.best_metric == (max if greater else min)(found)


def test_a_metric_of_which_less_is_better_may_be_chosen(make_trainer):
    trainer = make_trainer(num_train_epochs=3, metric_for_best_model="eval_uniformity")
    trainer.train()
    found = [log["eval_uniformity"] for log in trainer.state.log_history if "eval_uniformity" in log]
    assert trainer.state.best_metric == min(found)


@pytest.mark.parametrize("how", [{"micro_batch_tokens": 20}, {"micro_batch_size": 2}], ids=str)
@pytest.mark.parametrize("data_format", LOSSES)
def test_a_batch_in_pieces_trains_as_a_whole_one(make_trainer, data_format, how):
    sgd = {"optim": "sgd", "learning_rate": 0.02, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    options = {"data_format": data_format, "dropout": 0.0, "max_steps": 3, "gradient_accumulation_steps": 2, **sgd}
    whole = trained(make_trainer(eval_dataset=False, **options))
    in_pieces = make_trainer(eval_dataset=False, folder="pieces", **options, **how)
    sizes = []
    in_pieces.model.register_forward_pre_hook(lambda module, args: sizes.append((len(args[0]), len(args[1]))))
    in_pieces.train()
    assert len(sizes) > 2 * 6
    if "micro_batch_tokens" in how:
        assert max(tokens for tokens, texts in sizes if texts > 1) <= 20
    assert losses(in_pieces) == pytest.approx(losses(whole), rel=1e-5)
    one, two = weights(whole.model), weights(in_pieces.model)
    for name in one:
        assert_close(two[name], one[name], atol=1e-5, rtol=1e-5, msg=name)


def test_pieces_of_so_many_examples_are_of_about_as_many_tokens(make_trainer):
    trainer = make_trainer(eval_dataset=False, micro_batch_size=2)
    (batch, *_) = trainer.get_train_dataloader()
    pieces = trainer._pieces(batch)
    tokens = [len(piece.input_ids) for piece in pieces]
    assert max(tokens) <= np.ceil(len(batch["input_ids"]) / 4)
    assert len(pieces) in (4, 5)


@pytest.mark.parametrize("packing", ["on", "off"])
def test_pieces_are_padded_where_the_backbone_runs_on_flat_tokens(make_trainer, packing):
    trainer = make_trainer(eval_dataset=False, packing=packing, per_device_train_batch_size=60, micro_batch_tokens=100)
    (batch,) = trainer.get_train_dataloader()
    is_padded = [len(piece.lengths) > piece.num_kept for piece in trainer._pieces(batch)]
    assert any(is_padded) == (packing == "on")


def test_resuming_in_pieces_is_exact_too(make_trainer):
    options = {"micro_batch_tokens": 30, "eval_strategy": "steps", "eval_steps": 5, "load_best_model_at_end": False}
    whole = trained(make_trainer(folder="whole", max_steps=10, **options))
    second = make_trainer(folder="second", max_steps=10, **options)
    with torch.no_grad():
        for parameter in second.model.parameters():  # else starting anew would end alike
            parameter.zero_()
    second.train(resume_from_checkpoint=str(whole.args.output_dir) + "/checkpoint-5")
    one, two = weights(whole.model), weights(second.model)
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("data_format", "counted"), [("pairs", "ordered_pairs"), ("triplets", "negatives"), ("classes", "valid_triplets")]
)
def test_the_log_says_how_many_examples_a_loss_compared(make_trainer, data_format, counted):
    options = {"gradient_accumulation_steps": 2, "classes_per_batch": 2, "samples_per_class": 2}
    trainer = trained(make_trainer(data_format=data_format, max_steps=2, eval_dataset=False, **options))
    log = trainer.state.log_history[0]
    assert log["effective_batch"] == (4 if data_format == "classes" else 8)  # accumulation compares no more
    assert log[counted] > 0


def out_of_memory_above(limit, monkeypatch):
    """Let the model run out of memory at more tokens than so many."""
    forward = SentenceBert.forward

    def limited(self, input_ids, *args):
        if len(input_ids) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, input_ids, *args)

    monkeypatch.setattr(SentenceBert, "forward", limited)


def test_out_of_memory_names_the_batch_its_tokens_and_two_ways_out(make_trainer, monkeypatch):
    trainer = make_trainer(eval_dataset=False, per_device_train_batch_size=16)
    (batch, *_) = trainer.get_train_dataloader()
    out_of_memory_above(100, monkeypatch)
    with pytest.raises(UserError) as error:
        trainer.train()
    message = str(error.value)
    assert "out of memory at a batch of 16 examples" in message
    assert "per_device_train_batch_size=8" in message
    tokens, suggested = (int(re.search(pattern, message)[1]) for pattern in (r"with (\d+) tokens", r"tokens=(\d+) w"))
    assert tokens > 100
    assert suggested == tokens // 2
    monkeypatch.undo()
    out_of_memory_above(suggested, monkeypatch)
    make_trainer(eval_dataset=False, per_device_train_batch_size=16, micro_batch_tokens=suggested, max_steps=3).train()
    out_of_memory_above(10, monkeypatch)
    with pytest.raises(UserError) as error:
        make_trainer(eval_dataset=False, per_device_train_batch_size=16, micro_batch_tokens=suggested).train()
    at_a_time, next_suggested = map(int, re.search(r", (\d+) of them .*tokens=(\d+) w", str(error.value)).groups())
    assert suggested / 2 < at_a_time <= suggested
    assert next_suggested == at_a_time // 2


@pytest.mark.parametrize(
    ("data_format", "options", "advice"),
    [
        ("pairs", {"micro_batch_size": 4}, ("micro_batch_size=2 ", "per_device_train_batch_size=8 ")),
        ("classes", {"classes_per_batch": 8}, ("micro_batch_tokens", "classes_per_batch=4 ")),
    ],
)
def test_the_advice_is_in_terms_of_the_arguments_that_count(make_trainer, monkeypatch, data_format, options, advice):
    out_of_memory_above(10, monkeypatch)
    with pytest.raises(UserError) as error:
        sizes = {"per_device_train_batch_size": 16, **options}
        make_trainer(data_format=data_format, eval_dataset=False, **sizes).train()
    assert all(words in str(error.value) for words in advice)


def test_rows_may_be_grouped_by_length(make_trainer):
    trainer = make_trainer(train_sampling_strategy="group_by_length", length_column_name="truncated", max_steps=2)
    assert trained(trainer).state.global_step == 2
    assert "eval_spearman" in trainer.evaluate()


def test_deepspeed_and_half_sharded_models_are_refused_where_they_would_fail_later(make_trainer, monkeypatch):
    monkeypatch.setattr(CosentTrainer, "_check_engine", lambda self: None)
    trainer = make_trainer(micro_batch_size=2)
    monkeypatch.undo()
    trainer.is_deepspeed_enabled = True
    with pytest.raises(UserError, match="DeepSpeed runs the backward pass itself"):
        trainer._check_engine()
    trainer.is_deepspeed_enabled, trainer.is_fsdp_enabled = False, True
    for version, kind in ((1, "FULL_STATE_DICT"), (2, "SHARDED_STATE_DICT")):
        plugin = SimpleNamespace(fsdp_version=version, state_dict_type=kind)
        monkeypatch.setattr(type(trainer.accelerator.state), "fsdp_plugin", plugin, raising=False)
        with pytest.raises(UserError, match=f"version {version} with {kind}"):
            trainer._check_engine()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.bfloat16)
    plugin = SimpleNamespace(fsdp_version=2, state_dict_type="FULL_STATE_DICT", mixed_precision_policy=policy)
    monkeypatch.setattr(type(trainer.accelerator.state), "fsdp_plugin", plugin, raising=False)
    trainer._check_engine()
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(param_dtype=torch.bfloat16)  # embeddings as they are


def test_an_order_by_length_wants_gathered_batches(make_trainer, monkeypatch):
    trainer = make_trainer(train_sampling_strategy="group_by_length", gather_across_devices=False)
    trainer._check_engine()
    monkeypatch.setattr("cosent.training.trainer.num_ranks", lambda: 2)
    with pytest.raises(UserError, match="order the rows differently on each rank"):
        trainer._check_engine()


@pytest.mark.parametrize("data_format", LOSSES)
def test_auto_find_batch_size_finds_one_that_fits(make_trainer, data_format, monkeypatch):
    sizes = {"per_device_train_batch_size": 32, "classes_per_batch": 8, "samples_per_class": 4}
    options = {"eval_dataset": False, "auto_find_batch_size": True, "max_steps": 3, **sizes}
    trainer = make_trainer(data_format=data_format, no_duplicate_texts=data_format == "triplets", **options)
    (batch, *_) = trainer.get_train_dataloader()
    out_of_memory_above(0.6 * len(batch["input_ids"]), monkeypatch)
    trainer.train()
    assert trainer.state.global_step == 3
    # 0.9 ** 5 is the first below 0.6; texts differ in length, so it may be one size more or less
    sizes = [log["effective_batch"] for log in trainer.state.log_history if "loss" in log]
    assert 8 <= max(sizes) <= 21
    assert max(sizes) <= trainer.state.train_batch_size < 32


def test_flags_that_contradict_each_other_are_refused(tmp_path):
    for options, message in (
        ({"micro_batch_tokens": 0}, "micro_batch_tokens must be at least 1, got 0"),
        ({"micro_batch_size": -1}, "micro_batch_size must be at least 1, got -1"),
        ({"micro_batch_size": 4, "micro_batch_tokens": 99}, "give one of them"),
    ):
        with pytest.raises(UserError, match=message):
            CosentTrainingArguments(output_dir=str(tmp_path), **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_trained_in_float32(make_trainer, tiny_bert, tmp_path, dtype):
    SentenceBert(tiny_bert, device="cpu", dtype=dtype, packing="off").save_pretrained(tmp_path / "half")
    assert SentenceBert(tmp_path / "half", device="cpu").backbone.dtype == dtype  # to encode with
    trainer = make_trainer(eval_dataset=False, model_path=tmp_path / "half", max_steps=3)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            assert weight.dtype == torch.float32, name
            # position embeddings beyond the longest text, and words of no text, have no gradient
            share = 0.01 if "embeddings" in name else 0.9
            assert (weight != before[name]).float().mean() > share, name
    expected = make_trainer(eval_dataset=False, max_steps=3, folder="full").train().training_loss
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(expected, rel=0.05)


def test_float32_weights_beside_frozen_half_ones_come_back_as_they_were(tiny_bert, tmp_path):
    model = SentenceBert(tiny_bert, device="cpu", dtype=torch.bfloat16, packing="off")
    for name, weight in model.named_parameters():
        weight.requires_grad_("layer.1.output" in name)
    assert train_in_float32(model)
    trained = model.backbone.encoder.layer[1].output.dense.weight
    torch.nn.init.normal_(trained)
    expected = trained.detach().clone()
    model.backbone.save_pretrained(tmp_path)
    trained.data.zero_()
    model.load_weights(tmp_path)
    assert torch.equal(trained, expected)
