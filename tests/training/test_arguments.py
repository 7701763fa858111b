import pytest
import torch
from transformers import HfArgumentParser, TrainingArguments

from cosent import (
    AnglELoss,
    BatchHardTripletLoss,
    CoSENTLoss,
    CosentTrainingArguments,
    InfoNCELoss,
    UserError,
)
from cosent.cli.arguments import DataArguments, ModelArguments
from cosent.cli.losses import LossArguments

CLASSIC = (
    "--model_name_or_path=M --output_dir=output --train_data_path=T --eval_data_path=E --num_train_epochs=3 "
    "--save_total_limit=5 --learning_rate=2e-5 --weight_decay=0.01 --warmup_ratio=0.01 --bf16=True "
    "--eval_strategy=epoch --save_strategy=epoch --per_device_train_batch_size=64 --report_to=none "
    "--remove_unused_columns=False --max_length=128"
).split()


def parse(*arguments):
    parser = HfArgumentParser((ModelArguments, DataArguments, LossArguments, CosentTrainingArguments))
    return parser.parse_args_into_dataclasses(["--train_data_path", "T", *arguments])


def test_the_classic_command_line_parses_flag_by_flag():
    model, data, loss, training = parse(*CLASSIC)
    assert (model.model_name_or_path, model.max_length) == ("M", 128)
    assert (data.train_data_path, data.eval_data_path) == (["T"], ["E"])
    assert (loss.loss, loss.scale) == ("cosent", 20.0)
    assert (training.num_train_epochs, training.save_total_limit, training.learning_rate) == (3, 5, 2e-5)
    assert (training.weight_decay, training.warmup_steps, training.bf16) == (0.01, 0.01, True)
    assert (training.eval_strategy, training.save_strategy) == ("epoch", "epoch")
    assert (training.per_device_train_batch_size, training.report_to) == (64, [])
    assert training.remove_unused_columns is False


@pytest.mark.parametrize(("text", "value"), [("False", False), ("false", False), ("0", False), ("True", True)])
def test_a_flag_set_to_false_is_false(text, value):
    model, _, _, training = parse(
        "--model_name_or_path", "M", "--trust_remote_code", text, "--normalize_embeddings", text, "--bf16", text
    )
    assert (model.trust_remote_code, model.normalize_embeddings, training.bf16) == (value, value, value)


def test_defaults():
    model, data, loss, training = parse("--model_name_or_path", "M")
    assert model.trust_remote_code is False
    assert (model.pooling_mode, model.max_length, model.normalize_embeddings) == (None, None, None)
    assert (training.remove_unused_columns, training.report_to) == (False, [])
    assert training.metric_for_best_model == "auto"
    assert (training.save_total_limit, training.load_best_model_at_end) == (2, True)
    assert data.on_bad_rows == "error"
    assert isinstance(loss.build(), CoSENTLoss)
    assert training.use_cpu is not torch.accelerator.is_available()


def test_no_metric_for_the_best_model_is_the_default_one():
    assert CosentTrainingArguments(metric_for_best_model=None).metric_for_best_model == "auto"


def test_the_loss_is_built_as_asked():
    loss = parse("--model_name_or_path", "M", "--loss", "angle", "--scale", "30")[2].build()
    assert isinstance(loss, AnglELoss)
    assert loss.scale == 30


def test_saving_follows_evaluating():
    by_steps = CosentTrainingArguments(eval_strategy="steps", eval_steps=7)
    assert (by_steps.save_strategy, by_steps.save_steps) == ("steps", 7)
    by_default_steps = CosentTrainingArguments(eval_strategy="steps")
    assert by_default_steps.save_steps == by_default_steps.eval_steps == by_default_steps.logging_steps
    never = CosentTrainingArguments(eval_strategy="no")
    assert (never.save_strategy, never.load_best_model_at_end) == ("no", False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_strategy": "epoch", "save_strategy": "steps"}, "save and eval strategy to match"),
        ({"eval_strategy": "steps", "eval_steps": 3, "save_steps": 5}, "round multiple"),
        ({"eval_strategy": "sometimes"}, "sometimes"),
        ({"warmup_ratio": 1.5}, "below 1"),
        ({"eval_strategy": "no", "early_stopping_patience": 2}, "needs evaluations"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "takes the place of warmup_steps"),
    ],
)
def test_schedules_that_cannot_be_are_refused_before_anything_starts(options, message):
    with pytest.raises(UserError, match=message):
        CosentTrainingArguments(**options)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scale", "0"], "above 0"),
        (["--eval_fraction", "1"], "below 1"),
        (["--max_train_samples", "0"], "at least 1"),
        (["--num_neighbors", "0"], "at least 1"),
        (["--classes_per_batch", "1"], "at least 2"),
    ],
)
def test_data_flags_are_checked(flags, message):
    with pytest.raises(UserError, match=message):
        parse("--model_name_or_path", "M", *flags)


def test_several_visible_gpus_are_never_fed_by_data_parallel(monkeypatch):
    args = CosentTrainingArguments()
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 8))
    assert args.n_gpu == 1
    assert args.train_batch_size == args.per_device_train_batch_size


def test_losses_take_their_own_flags():
    infonce = parse("--model_name_or_path", "M", "--loss", "infonce", "--scale", "10", "--negatives", "all")[2].build()
    assert isinstance(infonce, InfoNCELoss)
    assert (infonce.scale, infonce.negatives, infonce.symmetric) == (10, "all", False)
    flags = ["--loss", "batch_hard_triplet", "--margin", "0.3", "--distance", "cosine", "--mining", "all"]
    triplet = parse("--model_name_or_path", "M", *flags)[2].build()
    assert isinstance(triplet, BatchHardTripletLoss)
    assert (triplet.margin, triplet.distance, triplet.mining, triplet.soft_margin) == (0.3, "cosine", "all", False)
    with pytest.raises(UserError, match="soft_margin goes with"):
        parse("--model_name_or_path", "M", *flags, "--soft_margin", "True")[2].build()


def test_eval_data_is_read_like_training_data_of_the_same_format_alone():
    declared = ["--model_name_or_path", "M", "--text_columns", "a, b", "--label_column", "c"]
    data = parse(*declared)[1]
    assert data.eval_reading_options("pairs") == data.reading_options
    given = parse(*declared, "--data_format", "pairs")[1].eval_reading_options("pairs")
    assert (given["data_format"], given["text_columns"], given["label_column"]) == ("auto", ("a", "b"), "c")
    assert data.reading_options["text_columns"] == ("a", "b")
    other = parse(*declared, "--data_format", "sentences")[1].eval_reading_options("sentences")
    assert (other["data_format"], other["text_columns"], other["label_column"]) == ("auto", None, None)
    apart = parse(*declared, "--eval_data_format", "triplets")[1].eval_reading_options("pairs")
    assert (apart["data_format"], apart["text_columns"], apart["label_column"]) == ("triplets", None, None)
    own = parse(*declared, "--eval_text_columns", "x,y", "--eval_label_column", "z")[1].eval_reading_options("pairs")
    assert (own["text_columns"], own["label_column"]) == (("x", "y"), "z")
