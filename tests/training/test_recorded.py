"""Training whose encoder is recorded and replayed, beside training that is not."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

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
from cosent.kernels import graphs as graphs_module
from tests.conftest import DATA

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32, summed in another order, over 24 steps
LOSSES = {
    "pairs": ("train.txt", CoSENTLoss()),
    "sentences": ("sentences.txt", InfoNCELoss()),
    "triplets": ("triplets.train.jsonl", InfoNCELoss()),
    "classes": ("classes.train.tsv", BatchHardTripletLoss(margin=0.5)),
}


@pytest.fixture
def make_trainer(tiny_bert, tmp_path):
    def make(*, graphs="auto", data_format="pairs", dropout=0.0, device="cpu", folder="run", frozen=False, **options):
        name, loss = LOSSES[data_format]
        model = SentenceBert(tiny_bert, device=device, dropout=dropout, cuda_graphs=graphs)
        if frozen:
            model.backbone.embeddings.requires_grad_(False)
        dataset = load_data(DATA / "zh" / name, model, data_format=data_format).select(np.arange(90))
        settings = {
            "output_dir": str(tmp_path / folder),
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "optim": "sgd",  # AdamW divides by gradients that are zero but for rounding
            "num_train_epochs": 2,
            "logging_steps": 1,
            "use_cpu": device == "cpu",
            "disable_tqdm": True,
            "eval_strategy": "no",
            **options,
        }
        args = CosentTrainingArguments(**settings)
        return CosentTrainer(model, args, loss, train_dataset=dataset, eval_dataset=dataset.select(np.arange(40)))

    return make


def run(trainer, **options):
    """Losses and gradient norms of all steps, and the weights at the end."""
    trainer.train(**options)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [(log["loss"], log["grad_norm"]) for log in logs], trainer.model.state_dict()


def assert_same(found, expected):
    assert_close(found[0], expected[0], **CLOSE)
    for name, weight in expected[1].items():
        assert_close(found[1][name], weight, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data_format": "triplets"},
        {"data_format": "classes"},
        {"gradient_accumulation_steps": 3, "max_grad_norm": 0.1},
        {"micro_batch_tokens": 60, "gradient_accumulation_steps": 2},
        {"frozen": True},
        {"bf16": True},
        {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3},
        {"max_grad_norm": 0.0},
    ],
    ids=str,
)
def test_trajectories_are_those_of_unrecorded_training(make_trainer, recordings, options):
    expected = run(make_trainer(graphs="off", folder="off", **options))
    assert not recordings
    found = run(make_trainer(**options))
    assert recordings
    if options.get("bf16"):  # rounds sums of another order to three digits
        assert_close(torch.tensor(found[0])[:, 0], torch.tensor(expected[0])[:, 0], rtol=2e-2, atol=2e-2)
    else:
        assert_same(found, expected)


@pytest.mark.parametrize("data_format", ["pairs", "sentences"])
def test_a_seed_determines_the_run_whatever_is_recorded_when(make_trainer, recordings, monkeypatch, data_format):
    results = []
    for runs in (2, 2, 100):
        monkeypatch.setattr(graphs_module, "_RUNS_BEFORE_RECORDING", runs)
        results.append(run(make_trainer(data_format=data_format, dropout=0.2, max_grad_norm=0.0)))
    for found in results[1:]:
        assert [loss for loss, _ in found[0]] == [loss for loss, _ in results[0][0]]
        for name, weight in results[0][1].items():
            assert torch.equal(found[1][name], weight), name


def test_a_resumed_run_goes_on_to_the_last_bit(make_trainer, recordings):
    options = {"dropout": 0.2, "save_strategy": "steps", "save_steps": 10, "eval_strategy": "steps", "eval_steps": 10}
    options |= {"load_best_model_at_end": False, "save_total_limit": None}
    trainer = make_trainer(**options)
    _, expected = run(trainer)
    again = make_trainer(**options, folder="resumed")
    _, found = run(again, resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-10")
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def test_training_is_recorded_and_evaluation_beside_it(make_trainer, recordings):
    trainer = make_trainer(eval_strategy="steps", eval_steps=2, save_strategy="no", load_best_model_at_end=False)
    trainer.train()
    assert trainer.model.graphs.gradients(trainer.model) is None  # nothing is left over
    kinds = {key[1] for key in trainer.model.graphs._recordings}
    assert kinds == {True, False}
    trainer.model.encode(["a text"])  # and afterwards it is a model like others


def test_all_gradients_are_clipped_in_one_piece(make_trainer, recordings, monkeypatch):
    def refuse(*args):
        raise AssertionError("the parent's way was taken")

    trainer = make_trainer()
    monkeypatch.setattr(trainer.accelerator, "clip_grad_norm_", refuse)
    trainer.train()
    assert recordings


def test_where_training_cannot_be_recorded_it_is_not(make_trainer, recordings):
    trainer = make_trainer(gradient_checkpointing=True)
    trainer.train()
    assert not recordings
    with pytest.raises(UserError, match="cuda_graphs='on': training cannot be recorded, as gradient_checkpointing"):
        make_trainer(graphs="on", gradient_checkpointing=True)
    with pytest.raises(UserError, match="FSDP and DeepSpeed replace the weights"):
        make_trainer(graphs="on", fsdp=True)


def test_compilation_is_for_the_recordings(make_trainer, recordings):
    trainer = make_trainer(torch_compile=True)
    assert trainer.model.graphs.compile_options == {"backend": "inductor", "mode": None}
    assert not trainer.args.torch_compile  # the parent would compile the whole model, too
    assert trainer.accelerator.state.dynamo_plugin.backend == "NO"
    with pytest.raises(UserError, match="'reduce-overhead' makes CUDA graphs of its own: add cuda_graphs='off'"):
        make_trainer(torch_compile_mode="reduce-overhead")


@pytest.mark.cuda
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bf16": True},
        {"fp16": True},
        {"data_format": "triplets"},
        {"data_format": "classes"},
        {"gradient_accumulation_steps": 3},
        {"micro_batch_tokens": 60},
        {"frozen": True},
        {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3},
    ],
    ids=str,
)
def test_cuda_trajectories_are_those_of_unrecorded_training(make_trainer, options):
    expected = run(make_trainer(graphs="off", folder="off", device="cuda", **options))
    trainer = make_trainer(graphs="on", device="cuda", **options)
    found = run(trainer)
    assert trainer.model.graphs._recordings
    bound = 5e-2 if options.get("bf16") or options.get("fp16") else 1e-2  # float32 on tensor cores
    losses, others = (torch.tensor([loss for loss, _ in logs]) for logs, _ in (found, expected))
    assert_close(losses, others, rtol=bound, atol=bound)


@pytest.mark.cuda
@pytest.mark.parametrize("data_format", LOSSES)
@pytest.mark.parametrize("pieces", [{}, {"micro_batch_tokens": 60}], ids=str)
def test_cuda_no_step_waits_for_the_device(make_trainer, monkeypatch, data_format, pieces):
    trainer = make_trainer(data_format=data_format, dropout=0.1, device="cuda", bf16=True, logging_steps=1000, **pieces)
    taken = []
    step, clip = trainer.training_step, trainer._clip_grad_norm

    def watched(function):
        def call(*args, **options):
            recorded = len(trainer.model.graphs._recordings)
            before = torch.cuda.get_sync_debug_mode()
            # a recording waits, once a size
            torch.cuda.set_sync_debug_mode("error" if len(taken) > 12 else "default")
            try:
                return function(*args, **options)
            finally:
                torch.cuda.set_sync_debug_mode(before)
                taken.append(recorded)

        return call

    monkeypatch.setattr(graphs_module, "_RUNS_BEFORE_RECORDING", 0)
    monkeypatch.setattr(trainer, "training_step", watched(step))
    monkeypatch.setattr(trainer, "_clip_grad_norm", watched(clip))
    record = trainer.model.graphs._record

    def unwatched(*args):
        torch.cuda.set_sync_debug_mode("default")
        return record(*args)

    monkeypatch.setattr(trainer.model.graphs, "_record", unwatched)
    trainer.train()
    assert len(taken) > 13
