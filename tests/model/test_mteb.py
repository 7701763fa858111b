"""mteb takes a SentenceBert in its own wrapper, and finds what it finds for the saved folder in sentence-transformers.

mteb's own mock tasks bring their data along; other tasks here read files of ours. Nothing asks the network.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.cache import ResultCache
from mteb.mocks import (
    MockClassificationTask,
    MockClusteringTask,
    MockPairClassificationTask,
    MockRerankingTask,
    MockRetrievalTask,
    MockSTSTask,
)
from mteb.models import SentenceTransformerEncoderWrapper
from numpy.testing import assert_allclose
from sentence_transformers import SentenceTransformer

from cosent import SentenceBert, UserError
from tests.conftest import DATA

DESCRIPTION: dict[str, Any] = {
    "description": "pairs of a local file",
    "dataset": {"path": "local", "revision": "1"},
    "type": "STS",
    "category": "t2t",
    "modalities": ["text"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "main_score": "cosine_spearman",
    "reference": None,
    "date": None,
    "domains": None,
    "task_subtypes": None,
    "license": None,
    "annotations_creators": None,
    "dialect": None,
    "sample_creation": None,
    "bibtex_citation": None,
}


def sts_task(path: Path, *, name: str = "LocalSTS") -> AbsTaskSTS:
    """A task of mteb on a file of pairs."""

    class LocalSTS(AbsTaskSTS):
        metadata = TaskMetadata(name=name, **DESCRIPTION)

        def load_data(self, *_: Any, **__: Any) -> None:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            columns = {"sentence1": [row[0] for row in rows], "sentence2": [row[1] for row in rows]}
            self.dataset = DatasetDict(test=Dataset.from_dict({**columns, "score": [float(row[2]) for row in rows]}))
            self.data_loaded = True

    return LocalSTS()


def scores(model: object, task: object, cache: ResultCache | None = None, **encode_kwargs: Any) -> dict[str, float]:
    """The numbers that mteb finds."""
    if isinstance(model, SentenceBert):
        model = SentenceTransformerEncoderWrapper(model)
    result = mteb.evaluate(model, task, cache=cache, show_progress_bar=False, encode_kwargs=encode_kwargs or None)
    ((found,),) = (task_result.scores["test"] for task_result in result.task_results)
    return {name: value for name, value in found.items() if isinstance(value, float)}


@pytest.fixture
def folder(model: SentenceBert, tmp_path: Path) -> Path:
    model.settings.prompts = {"query": "a question: ", "document": "an answer: ", "STS": "compare: "}
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize(
    "task",
    [
        MockSTSTask,
        MockRetrievalTask,
        MockRerankingTask,
        MockPairClassificationTask,
        MockClassificationTask,
        MockClusteringTask,
    ],
)
def test_tasks_of_each_kind_find_the_same(folder, task):
    ours, theirs = (
        scores(model, task()) for model in (SentenceBert(folder, device="cpu"), SentenceTransformer(str(folder)))
    )
    assert ours.keys() == theirs.keys()
    assert len(theirs) > 1
    assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encode_kwargs", [{}, {"precision": "int8"}, {"truncate_dim": 9, "batch_size": 7}])
def test_a_task_of_ones_own_with_its_prompt(folder, encode_kwargs):
    model = SentenceBert(folder, device="cpu")
    ours, theirs = (
        scores(found, sts_task(DATA / "dev.txt"), **encode_kwargs)
        for found in (model, SentenceTransformer(str(folder), device="cpu"))
    )
    assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-3, atol=1e-3)
    model.prompts["STS"] = ""
    assert (
        abs(scores(model, sts_task(DATA / "dev.txt"), **encode_kwargs)["cosine_spearman"] - ours["main_score"]) > 1e-4
    )


def test_results_are_kept_for_this_very_model(folder, tmp_path):
    cache = ResultCache(tmp_path / "cache")
    model = SentenceBert(folder, device="cpu")
    found = scores(model, sts_task(DATA / "dev.txt"), cache)
    metadata = SentenceTransformerEncoderWrapper(model).mteb_model_meta
    assert metadata.name == "cosent/saved"
    assert (metadata.embed_dim, metadata.max_tokens, metadata.similarity_fn_name.value) == (32, 64, "cosine")
    assert SentenceBert(folder, device="cpu").model_card_data.base_model_revision == metadata.revision
    assert len(list((tmp_path / "cache").rglob("LocalSTS.json"))) == 1
    revisions = {metadata.revision}
    for change in ({"max_length": 9}, {"pooling_mode": "cls"}, {"normalize_embeddings": True}):
        revisions.add(SentenceBert(folder, device="cpu", **change).model_card_data.base_model_revision)
    model.truncate_dim = 5
    revisions.add(model.model_card_data.base_model_revision)
    assert len(revisions) == 5
    assert scores(model, sts_task(DATA / "dev.txt"), cache) != found  # truncated, and so not read from the cache


def test_without_the_wrapper_it_is_named(model, monkeypatch):
    with pytest.raises(UserError, match=r"mteb.models.SentenceTransformerEncoderWrapper\(model\)"):
        mteb.evaluate(model, MockSTSTask(), cache=None)
    monkeypatch.delitem(sys.modules, "mteb")
    assert not hasattr(model, "mteb_model_meta")


@pytest.mark.slow
def test_the_bundled_backbone_scores_what_is_known_of_it_on_stsb(minilm, shared_data):
    path = shared_data / "stsb_en" / "test.tsv"
    if not path.exists():
        pytest.skip("STS-B is not there")
    found = [
        scores(model, sts_task(path, name="LocalSTSB"))["cosine_spearman"]
        for model in (SentenceBert(minilm, device="cpu"), SentenceTransformer(str(minilm), device="cpu"))
    ]
    assert np.round(100 * np.array(found), 2).tolist() == [82.03, 82.03]
