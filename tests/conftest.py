"""Tiny models built from a config, so that every test runs on a CPU, offline, in moments."""

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# before datasets is imported: the tests' caches must not mix with the user's
_CACHE = tempfile.TemporaryDirectory(prefix="cosent-tests-")
os.environ["HF_DATASETS_CACHE"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerBase  # noqa: E402

from cosent import SentenceBert  # noqa: E402

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # tiny models: handing work between threads costs more than the work


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is slow where there are several workers, so that none is left with it at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Let the garbage collector, which every training calls, leave alone what imports have made."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def build_tokenizer() -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer for the sample data's English and Chinese."""
    texts = [path.read_text(encoding="utf-8") for path in (DATA / "train.txt", DATA / "zh" / "train.txt")]
    return BertTokenizer(model_max_length=64).train_new_from_iterator(texts, vocab_size=2500, show_progress=False)


def build_tiny_bert(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A plain Hugging Face folder: a random two-layer BERT. Its texts differ widely, as a trained encoder's do."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """See `build_tokenizer`."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """See `build_tiny_bert`."""
    return build_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert", tokenizer)


@pytest.fixture
def model(tiny_bert: Path) -> SentenceBert:
    """The tiny BERT as a sentence encoder, on the CPU."""
    return SentenceBert(tiny_bert, device="cpu")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The bundled backbone."""
    folder = ROOT / "models" / "all-MiniLM-L6-v2"
    if not folder.exists():
        pytest.skip("the bundled backbone is not set up: run scripts/setup.sh")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public datasets beside the repository, where somebody has put them."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no public datasets in ../shared/data")
    return folder


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """CUDA graphs without CUDA: what would be recorded is kept, and run again when it is replayed; all of it so far."""
    kept: list[Callable[[], None]] = []

    def record(function: Callable[[], None], pool: object) -> Callable[[], None]:
        keeps_gradients = torch.is_grad_enabled()

        def replay() -> None:
            with torch.inference_mode(False), torch.set_grad_enabled(keeps_gradients):
                function()

        kept.append(replay)
        return replay

    monkeypatch.setattr("cosent.kernels.graphs.record", record)
    monkeypatch.setattr("cosent.kernels.graphs.new_pool", lambda device: object())
    for module in ("cosent.kernels.graphs", "cosent.training.recording"):
        monkeypatch.setattr(f"{module}.can_record", lambda device: True)
    return kept
