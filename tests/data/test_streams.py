"""Streams: training data that is read while training runs."""

import logging
from collections import Counter
from itertools import islice

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from cosent import (
    BatchHardTripletLoss,
    CoSENTLoss,
    CosentTrainer,
    CosentTrainingArguments,
    DataError,
    InfoNCELoss,
    SentenceBert,
    UserError,
    load_data,
    read_records,
)
from cosent.data.streams import BatchStream, stream_data

ROWS = [(f"text {i}", f"other {i}", float(i % 2)) for i in range(60)]
FRAME = pd.DataFrame(ROWS, columns=["sentence1", "sentence2", "label"])


def iterable():
    return datasets.Dataset.from_pandas(FRAME).to_iterable_dataset()


@pytest.fixture
def model(tiny_bert):
    return SentenceBert(tiny_bert, device="cpu")


def test_every_example_comes_once_a_pass_and_in_another_order_each_time(model):
    stream = stream_data(ROWS, model, buffer_size=16)
    examples = list(islice(stream.shuffled(7), 3 * len(ROWS)))
    passes = [[one.texts[0] for one in examples[start : start + len(ROWS)]] for start in range(0, 180, 60)]
    assert all(Counter(texts) == Counter(first for first, _, _ in ROWS) for texts in passes)
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] != [first for first, _, _ in ROWS]
    again = list(islice(stream.shuffled(7), 3 * len(ROWS)))
    assert examples == again
    assert examples != list(islice(stream.shuffled(8), 3 * len(ROWS)))


def test_an_example_waits_no_longer_than_the_buffer_is_large(model):
    order = [one.texts[0] for one in islice(stream_data(ROWS, model, buffer_size=4).shuffled(0), len(ROWS))]
    places = {text: place for place, text in enumerate(order)}
    assert all(places[f"text {i}"] >= i - 4 for i in range(60))


def test_tokens_are_those_of_the_same_examples_in_a_dataset(model):
    stream = stream_data(FRAME, model, buffer_size=1)
    batch = next(iter(BatchStream(stream, batch_size=60, seed=0)))
    rows = load_data(FRAME, model).tokens.with_format("arrow")[:]
    for name in ("input_ids", "lengths", "text_ids"):
        assert getattr(batch, name).tolist() == rows[name].combine_chunks().flatten().to_pylist()
    assert batch.labels.tolist() == rows["labels"].to_pylist()
    assert batch.num_texts.tolist() == [2] * 60


def texts_of(batches):
    return [tuple(batch.text_ids.tolist()) for batch in batches]


def test_ranks_and_workers_share_the_batches_without_overlap(model):
    stream = stream_data(ROWS, model, buffer_size=8)
    whole = list(islice(BatchStream(stream, batch_size=6, seed=1), 10))
    shares = [list(islice(BatchStream(stream, batch_size=6, seed=1, rank=r, num_ranks=2), 10)) for r in (0, 1)]
    for all_of_it, one, two in zip(whole, *shares, strict=True):
        assert len(one.num_texts) == len(two.num_texts) == 3
        assert Counter(all_of_it.text_ids.tolist()) == Counter([*one.text_ids.tolist(), *two.text_ids.tolist()])
    in_workers = DataLoader(BatchStream(stream, batch_size=6, seed=1), batch_size=None, num_workers=2)
    assert texts_of(islice(in_workers, 10)) == texts_of(whole)


def test_skipped_batches_are_empty_and_the_others_stay_what_they_were(model):
    stream = stream_data(ROWS, model, buffer_size=8)
    whole = list(islice(BatchStream(stream, batch_size=6, seed=1), 30))
    resumed = BatchStream(stream, batch_size=6, seed=1)
    resumed.skip = 20
    batches = list(islice(resumed, 30))
    assert not any(len(batch.num_texts) for batch in batches[:20])
    assert texts_of(batches[20:]) == texts_of(whole[20:])


def test_bad_rows_end_training_at_once_or_are_counted(model, caplog):
    rows = [*ROWS[:5], ("a", "", 1), *ROWS[5:]]
    with pytest.raises(DataError, match="1 of 6 rows cannot be used\n  row 6: the second text is empty"):
        list(islice(stream_data(rows, model, buffer_size=1).shuffled(0), 6))
    stream = stream_data(rows, model, on_bad_rows="skip")
    with caplog.at_level(logging.WARNING):
        assert len(list(islice(stream.shuffled(0), 130))) == 130
    assert caplog.text.count("1 of 61 rows cannot be used") == 1


def test_matches_are_those_of_the_same_pairs_in_a_dataset(model):
    rows = [(f"a {i}", f"b {i}", float(i % 6)) for i in range(30)]
    stream = stream_data(rows, model, buffer_size=1)
    stream.to_triplets(positive_label_min=4)
    kept = read_records(rows).to_triplets(positive_label_min=4)
    streamed = list(islice(stream.shuffled(0), len(kept)))
    assert sorted(one.texts for one in streamed) == sorted(map(tuple, kept.texts))


def test_a_source_that_cannot_be_read_again_says_so(model):
    stream = stream_data(iter(ROWS), model)
    next(stream.shuffled(0))
    with pytest.raises(DataError, match="can be read only once"):
        next(stream.shuffled(0))
    for source in (iter(ROWS), iterable()):
        batches = BatchStream(stream_data(source, model), batch_size=6, seed=1)
        with pytest.raises(UserError, match="dataloader_num_workers must be 0 or 1"):
            list(islice(DataLoader(batches, batch_size=None, num_workers=2), 2))


def test_batches_of_classes_need_all_data(make_trainer):
    rows = datasets.Dataset.from_dict({"text": ["a", "b"] * 4, "label": ["x", "y"] * 4}).to_iterable_dataset()
    with pytest.raises(UserError, match="batches of classes need all data, not a stream"):
        make_trainer(rows, BatchHardTripletLoss())


def test_what_cannot_be_streamed_is_one_clear_error(model):
    classes = [("a", "x"), ("b", "y")] * 10
    for source, options, message in (
        (classes, {"data_format": "classes"}, "batches of classes need all data, not a stream"),
        ([], {}, "the list is empty"),
        (ROWS, {"buffer_size": 0}, "buffer_size must be at least 1"),
        ("none.tsv", {}, "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            stream_data(source, model, **options)
    with pytest.raises(DataError, match="can be read only once"):
        list(islice(stream_data(iter(ROWS), model).shuffled(0), 61))
    graded = stream_data([("a", "b", 3), ("c", "d", 1)], model)
    graded.to_triplets()
    with pytest.raises(DataError, match="labels are graded; positive_label_min says"):
        next(graded.shuffled(0))
    none = stream_data([("a", "b", 0), ("c", "d", 0)], model)
    none.to_triplets()
    with pytest.raises(DataError, match="no pair matches"):
        next(none.shuffled(0))


@pytest.fixture
def make_trainer(tiny_bert, tmp_path):
    def make(data, loss=None, **options):
        options = {"max_steps": 6, "logging_steps": 1, "load_best_model_at_end": False, "dropout": 0.2} | options
        model = SentenceBert(tiny_bert, device="cpu", dropout=options.pop("dropout"))
        args = CosentTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=8, learning_rate=1e-3, **options
        )
        data = data(model) if callable(data) else data
        return CosentTrainer(model, args, loss or CoSENTLoss(), train_dataset=data, eval_dataset=FRAME)

    return make


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_a_trainer_takes_an_iterable_dataset_and_goes_on_where_it_was_stopped(make_trainer, tmp_path):
    whole = make_trainer(iterable(), save_steps=3, eval_steps=3, eval_strategy="steps")
    whole.train()
    resumed = make_trainer(iterable(), save_steps=3, eval_steps=3, eval_strategy="steps")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.train_dataset.skip == 3  # these batches are not tokenised again
    assert losses(whole) == losses(resumed)
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert whole.model.settings.decision is not None


def test_a_run_may_begin_the_stream_anew(make_trainer, tmp_path):
    options = {"save_steps": 3, "eval_steps": 3, "eval_strategy": "steps"}
    make_trainer(iterable(), **options).train()
    trainer = make_trainer(iterable(), ignore_data_skip=True, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.state.global_step == 6
    assert trainer.train_dataset.skip == 0


def test_a_dict_of_streams_is_its_training_split(make_trainer):
    splits = datasets.IterableDatasetDict({"train": iterable(), "test": iterable()})
    trainer = make_trainer(splits, eval_strategy="no")
    trainer.train()
    assert trainer.state.global_step == 6


def test_pairs_of_a_stream_become_what_the_loss_learns_from(make_trainer):
    trainer = make_trainer(lambda model: stream_data(ROWS, model), InfoNCELoss(), eval_strategy="no")
    assert trainer._examples.data_format == "triplets"


def test_a_stream_is_evaluated_ten_times_if_it_was_to_be_evaluated_every_epoch(make_trainer):
    trainer = make_trainer(iterable(), max_steps=20)
    trainer.train()
    assert [log["step"] for log in trainer.state.log_history if "eval_n" in log] == list(range(2, 21, 2))


@pytest.mark.parametrize("loss", [InfoNCELoss(), CoSENTLoss()])
def test_losses_learn_from_streams(make_trainer, loss):
    trainer = make_trainer(iterable(), loss, eval_strategy="no")
    trainer.train()
    assert np.isfinite(losses(trainer)).all()


def test_sentences_are_streamed_in_two_views(make_trainer):
    texts = [(f"a sentence about {i}",) for i in range(40)]
    trainer = make_trainer(lambda model: stream_data(texts, model), InfoNCELoss(), eval_strategy="no")
    trainer.train()
    assert np.isfinite(losses(trainer)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "a stream has no end: max_steps says how long to train"),
        ({"no_duplicate_texts": True}, "no_duplicate_texts needs to see all data"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length needs to see all data"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size needs to see all data"),
    ],
)
def test_what_needs_all_data_is_refused(make_trainer, options, message):
    with pytest.raises(UserError, match=message):
        make_trainer(iterable(), **options)
