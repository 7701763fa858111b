import numpy as np
import torch

from cosent.data.collator import TokenBatchCollator
from cosent.losses.shapes import NO_TEXT

EXAMPLES = [
    {"input_ids": np.array([1, 2, 3]), "lengths": np.array([2, 1]), "text_ids": np.array([10, 20]), "labels": 0.5},
    {"input_ids": np.array([4, 5, 6, 7]), "lengths": np.array([1, 3]), "text_ids": np.array([30, 10]), "labels": 1.0},
]
SENTENCES = [
    {"input_ids": [7, 8], "lengths": [2], "text_ids": [1]},
    {"input_ids": [9], "lengths": [1], "text_ids": [2]},
]


def test_texts_stand_column_by_column():
    batch = TokenBatchCollator(label_dtype=torch.float32)(EXAMPLES)
    assert batch["input_ids"].tolist() == [1, 2, 4, 3, 5, 6, 7]
    assert batch["lengths"].tolist() == [2, 1, 1, 3]
    assert batch["text_ids"].tolist() == [10, 30, 20, 10]
    assert batch["num_columns"] == 2
    assert batch["labels"].tolist() == [0.5, 1.0]
    assert batch["labels"].dtype == torch.float32
    assert {batch[name].dtype for name in ("input_ids", "lengths", "text_ids")} == {torch.int64}


def test_unlabelled_single_texts():
    batch = TokenBatchCollator()(SENTENCES)
    assert batch["input_ids"].tolist() == [7, 8, 9]
    assert batch["lengths"].tolist() == [2, 1]
    assert batch["max_length"] == 2
    assert batch["num_columns"] == 1
    assert batch.keys() == {"input_ids", "lengths", "max_length", "text_ids", "num_columns"}


def test_two_views_of_each_text():
    batch = TokenBatchCollator(num_views=2)(SENTENCES)
    assert batch["input_ids"].tolist() == [7, 8, 9, 7, 8, 9]
    assert batch["lengths"].tolist() == [2, 1, 2, 1]
    assert batch["text_ids"].tolist() == [1, 2, 1, 2]
    assert batch["num_columns"] == 2


def test_places_without_a_text_have_no_tokens():
    short = {"input_ids": [1, 2, 3, 4], "lengths": [2, 2], "text_ids": [5, 6]}
    long = {"input_ids": [1, 8, 9, 10, 11], "lengths": [1, 1, 2, 1], "text_ids": [7, 8, 9, 10]}
    batch = TokenBatchCollator()([short, long])
    assert batch["input_ids"].tolist() == [1, 2, 1, 3, 4, 8, 9, 10, 11]
    assert batch["lengths"].tolist() == [2, 1, 2, 1, 2, 1]
    assert batch["text_ids"].tolist() == [5, 7, 6, 8, NO_TEXT, 9, NO_TEXT, 10]
    assert batch["num_columns"] == 4


def test_class_ids_stay_whole_numbers():
    ids = [2**62 + 1, -5]
    batch = TokenBatchCollator(label_dtype=torch.int64)(
        [{**row, "labels": label} for row, label in zip(SENTENCES, ids, strict=True)]
    )
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == ids


def test_groups_go_beside_the_text_ids():
    batch = TokenBatchCollator(groups=lambda ids: ids // 20)(EXAMPLES)
    assert batch["group_ids"].tolist() == [0, 1, 1, 0]
    assert batch["text_ids"].tolist() == [10, 30, 20, 10]
