import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cosent.batch import NO_TEXT
from cosent.data.collator import TokenBatchCollator
from cosent.data.token_rows import ExampleTokens


def together(*rows):
    """Examples' tokens, from rows of lists."""
    labels = np.array([row["labels"] for row in rows]) if "labels" in rows[0] else None
    return ExampleTokens(
        input_ids=np.concatenate([row["input_ids"] for row in rows]).astype(np.int32),
        lengths=np.concatenate([row["lengths"] for row in rows]).astype(np.int32),
        text_ids=np.concatenate([row["text_ids"] for row in rows]).astype(np.int64),
        num_texts=np.array([len(row["lengths"]) for row in rows]),
        labels=labels,
    )


EXAMPLES = together(
    {"input_ids": [1, 2, 3], "lengths": [2, 1], "text_ids": [10, 20], "labels": 0.5},
    {"input_ids": [4, 5, 6, 7], "lengths": [1, 3], "text_ids": [30, 10], "labels": 1.0},
)
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
    batch = TokenBatchCollator()(together(*SENTENCES))
    assert batch["input_ids"].tolist() == [7, 8, 9]
    assert batch["lengths"].tolist() == [2, 1]
    assert batch["max_length"] == 2
    assert batch["num_columns"] == 1
    assert batch["host_lengths"].tolist() == batch["lengths"].tolist()
    assert batch.keys() == {"input_ids", "lengths", "host_lengths", "max_length", "text_ids", "num_columns"}


def test_two_views_of_each_text():
    batch = TokenBatchCollator(num_views=2)(together(*SENTENCES))
    assert batch["input_ids"].tolist() == [7, 8, 9, 7, 8, 9]
    assert batch["lengths"].tolist() == [2, 1, 2, 1]
    assert batch["text_ids"].tolist() == [1, 2, 1, 2]
    assert batch["num_columns"] == 2


def test_places_without_a_text_have_no_tokens():
    short = {"input_ids": [1, 2, 3, 4], "lengths": [2, 2], "text_ids": [5, 6]}
    long = {"input_ids": [1, 8, 9, 10, 11], "lengths": [1, 1, 2, 1], "text_ids": [7, 8, 9, 10]}
    batch = TokenBatchCollator()(together(short, long))
    assert batch["input_ids"].tolist() == [1, 2, 1, 3, 4, 8, 9, 10, 11]
    assert batch["lengths"].tolist() == [2, 1, 2, 1, 2, 1]
    assert batch["text_ids"].tolist() == [5, 7, 6, 8, NO_TEXT, 9, NO_TEXT, 10]
    assert batch["num_columns"] == 4


def test_class_ids_stay_whole_numbers():
    ids = [2**62 + 1, -5]
    batch = TokenBatchCollator(label_dtype=torch.int64)(
        together(*({**row, "labels": label} for row, label in zip(SENTENCES, ids, strict=True)))
    )
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == ids


def test_groups_go_beside_the_text_ids():
    batch = TokenBatchCollator(groups=lambda ids: ids // 20)(EXAMPLES)
    assert batch["group_ids"].tolist() == [0, 1, 1, 0]
    assert batch["text_ids"].tolist() == [10, 30, 20, 10]


@pytest.mark.parametrize("label_dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("num_views", [1, 2])
def test_a_rank_without_examples_has_an_empty_batch(label_dtype, num_views):
    none = ExampleTokens(*(np.empty(0, dtype) for dtype in (np.int32, np.int32, np.int64, np.int64, np.float64)))
    batch = TokenBatchCollator(num_views=num_views, label_dtype=label_dtype, groups=lambda ids: ids)(none)
    for name in ("input_ids", "lengths", "text_ids", "group_ids"):
        assert_close(batch[name], torch.empty(0, dtype=torch.int64))
    assert_close(batch["labels"], torch.empty(0, dtype=label_dtype))
    assert (batch["max_length"], batch["num_columns"]) == (0, num_views)


@pytest.mark.parametrize("num_views", [1, 2])
@pytest.mark.parametrize("num_examples", [1, 7, 64])
def test_a_batch_is_what_a_loop_over_its_texts_gives(num_examples, num_views):
    rng = np.random.default_rng(num_examples)
    rows = []
    for _ in range(num_examples):
        lengths = rng.integers(1, 6, rng.integers(1, 5))
        ids = rng.integers(-(2**63), 2**63, len(lengths))
        rows.append({"input_ids": rng.integers(0, 2**31, lengths.sum()), "lengths": lengths, "text_ids": ids})
    columns = max(len(row["lengths"]) for row in rows)
    texts, text_ids = [], []
    for column in [*range(columns)] * num_views:
        for row in rows:
            if column < len(row["lengths"]):
                start = sum(row["lengths"][:column])
                texts.append(row["input_ids"][start : start + row["lengths"][column]].tolist())
                text_ids.append(row["text_ids"][column])
            else:
                text_ids.append(NO_TEXT)
    batch = TokenBatchCollator(num_views=num_views)(together(*rows))
    assert batch["input_ids"].tolist() == sum(texts, [])
    assert batch["lengths"].tolist() == [len(text) for text in texts]
    assert batch["max_length"] == max(len(text) for text in texts)
    assert batch["text_ids"].tolist() == text_ids
    assert batch["num_columns"] == columns * num_views
