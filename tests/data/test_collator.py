import numpy as np
import torch

from cosent.data.collator import TokenBatchCollator

EXAMPLES = [
    {"input_ids": np.array([1, 2, 3]), "lengths": np.array([2, 1]), "text_ids": np.array([10, 20]), "labels": 0.5},
    {"input_ids": np.array([4, 5, 6, 7]), "lengths": np.array([1, 3]), "text_ids": np.array([30, 10]), "labels": 1.0},
]


def test_texts_stand_column_by_column():
    batch = TokenBatchCollator()(EXAMPLES)
    assert batch["input_ids"].tolist() == [1, 2, 4, 3, 5, 6, 7]
    assert batch["lengths"].tolist() == [2, 1, 1, 3]
    assert batch["text_ids"].tolist() == [10, 30, 20, 10]
    assert batch["labels"].tolist() == [0.5, 1.0]
    assert {batch[name].dtype for name in ("input_ids", "lengths", "text_ids")} == {torch.int64}


def test_unlabelled_single_texts():
    examples = [
        {"input_ids": [7, 8], "lengths": [2], "text_ids": [1]},
        {"input_ids": [9], "lengths": [1], "text_ids": [2]},
    ]
    batch = TokenBatchCollator()(examples)
    assert batch["input_ids"].tolist() == [7, 8, 9]
    assert batch["lengths"].tolist() == [2, 1]
    assert "labels" not in batch
