"""scikit-learn takes a SentenceBert, LangChain its folder, and the Hugging Face hub what it uploads."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cosent import SentenceBert, UserError
from tests.conftest import DATA

SAME = {"rtol": 1e-5, "atol": 1e-5}  # float32, batched differently
ROWS = [line.split("\t") for line in (DATA / "classes.train.tsv").read_text(encoding="utf-8").splitlines()]
TEXTS, CLASSES = [row[0] for row in ROWS], [row[1] for row in ROWS]


def test_it_is_a_step_of_scikit_learns_pipelines(model):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(model, LogisticRegression(max_iter=500)).fit(TEXTS, CLASSES)
    alone = LogisticRegression(max_iter=500).fit(model.encode(TEXTS), CLASSES)
    assert pipeline.predict(TEXTS).tolist() == alone.predict(model.encode(TEXTS)).tolist()
    assert pipeline.score(TEXTS, CLASSES) > 0.2  # of 20 classes
    assert "SentenceBert" in str(pipeline)
    assert "SentenceBert" in pipeline._repr_html_()


def test_folds_and_searches_share_the_model(model, monkeypatch):
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(model, LogisticRegression(max_iter=500))
    assert clone(pipeline)[0] is model
    assert len(cross_val_score(pipeline, TEXTS, CLASSES, cv=2)) == 2
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 10.0]}, cv=2).fit(TEXTS, CLASSES)
    assert search.best_estimator_[0] is model


def test_it_embeds_a_column_of_a_frame(model):
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion

    frame = pandas.DataFrame({"text": TEXTS[:20], "length": [len(text) for text in TEXTS[:20]]})
    columns = ColumnTransformer([("text", model, "text"), ("length", "passthrough", ["length"])])
    found = columns.fit_transform(frame)
    assert_allclose(found[:, :32], model.encode(TEXTS[:20]), **SAME)
    assert_allclose(found[:, 32], frame["length"])
    union = FeatureUnion([("one", model), ("again", model)]).fit(TEXTS[:3]).transform(TEXTS[:3])
    assert_allclose(union, np.tile(model.encode(TEXTS[:3]), 2), **SAME)


def test_fitting_changes_nothing(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert model.fit(TEXTS, CLASSES) is model
    assert all((before[name] == weight).all() for name, weight in model.state_dict().items())
    with pytest.raises(TypeError, match="train_objectives"):
        model.fit(train_objectives=[])  # sentence-transformers' method that trains


def test_langchain_embeds_with_the_saved_folder(model, tmp_path):
    from langchain_huggingface import HuggingFaceEmbeddings

    model.settings.prompts = {"query": "a question: "}
    model.save_pretrained(tmp_path)
    options = {"prompt_name": "query", "normalize_embeddings": True}
    chain = HuggingFaceEmbeddings(model_name=str(tmp_path), model_kwargs={"device": "cpu"}, query_encode_kwargs=options)
    assert_allclose(chain.embed_documents(TEXTS[:5]), model.encode(TEXTS[:5]), **SAME)
    assert_allclose(chain.embed_query(TEXTS[0]), model.encode_query(TEXTS[0], normalize_embeddings=True), **SAME)


class Hub:
    """What huggingface_hub's client is asked for; `uploaded` holds the names of the files."""

    def __init__(self, *, has_card: bool = False, error: Exception | None = None):
        self.calls: list[tuple] = []
        self.uploaded: set[str] = set()
        self.has_card, self.error = has_card, error

    def __call__(self, token: str | None = None) -> "Hub":
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        self.calls.append(("create_repo", repo_id, private, exist_ok))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        self.calls.append(("create_branch", repo_id, branch, exist_ok))

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None) -> bool:
        assert (repo_id, filename) == ("me/model", "README.md")
        return self.has_card

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, ignore_patterns) -> SimpleNamespace:
        self.calls.append(("upload_folder", repo_id, revision, commit_message))
        paths = [path for path in Path(folder_path).rglob("*") if path.is_file()]
        assert SentenceBert(folder_path, device="cpu").settings.decision.threshold == 0.7
        self.uploaded = {str(path.relative_to(folder_path)) for path in paths} - set(ignore_patterns or ())
        return SimpleNamespace(commit_url="https://huggingface.co/me/model/commit/1")


FILES = {
    *("1_Pooling/config.json", "README.md", "config.json", "config_sentence_transformers.json", "cosent_config.json"),
    *("model.safetensors", "modules.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"),
}


def test_it_uploads_its_whole_folder(model, monkeypatch):
    model.settings.decision = 0.7
    hub = Hub()
    monkeypatch.setattr("cosent.model.peer.HfApi", hub)
    address = model.push_to_hub("model", token="secret", private=True, revision="v2", commit_message="Better")
    assert address == "https://huggingface.co/me/model/commit/1"
    assert hub.calls == [
        ("token", "secret"),
        ("create_repo", "model", True, False),
        ("create_branch", "me/model", "v2", True),
        ("upload_folder", "me/model", "v2", "Better"),
    ]
    assert hub.uploaded == FILES


@pytest.mark.parametrize("has_card", [True, False])
def test_the_card_of_a_repository_is_kept(model, monkeypatch, has_card):
    model.settings.decision = 0.7
    hub = Hub(has_card=has_card)
    monkeypatch.setattr("cosent.model.peer.HfApi", hub)
    model.push_to_hub("model", exist_ok=True)
    assert hub.calls[1:] == [
        ("create_repo", "model", None, True),
        ("upload_folder", "me/model", None, "Add a sentence encoder of cosent"),
    ]
    assert hub.uploaded == (FILES - {"README.md"} if has_card else FILES)


def test_a_refusal_of_the_hub_is_one_clear_error(model, monkeypatch):
    monkeypatch.setattr("cosent.model.peer.HfApi", Hub(error=OSError("409 Client Error: Conflict\nmore")))
    with pytest.raises(UserError, match="^me/m cannot be uploaded: 409 Client Error: Conflict; exist_ok=True uploads"):
        model.push_to_hub("me/m")


def test_the_hub_is_not_reached_from_here(model):
    with pytest.raises(UserError, match="me/m cannot be uploaded"):
        model.push_to_hub("me/m", exist_ok=True)
