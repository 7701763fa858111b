"""What docs/extending.md says is all there is to do."""

import importlib
import subprocess
import sys

import pytest
import torch

from cosent import SentenceBert
from cosent.cli import losses as loss_flags
from cosent.cli.parsing import FlagParser
from cosent.cli.sources import table_names
from cosent.losses import LOSSES
from cosent.model.pooling import POOLING_MODES, Pooling
from tests.conftest import ROOT
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "extending.md"


def rows(code):
    """The rows of a block, as the tables hold them."""
    return eval(f"{{{code}}}", {"Pooling": Pooling, "balanced_accuracy": None})


@pytest.fixture
def added():
    """The page's text blocks: a row of LOSSES, of POOLING_MODES and of DECISION_METRICS."""
    return [rows(block.code) for block in blocks(PAGE, "text")]


@pytest.fixture
def regression_loss(tmp_path, monkeypatch, added):
    """The page's loss in a file of its own, and in the table."""
    ((name, path),) = added[0].items()
    module = path.partition(":")[0].replace("cosent.losses.", "losses_of_a_test.")
    (tmp_path / "losses_of_a_test").mkdir()
    (tmp_path / f"{module.replace('.', '/')}.py").write_text(blocks(PAGE, "python")[0].code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LOSSES, name, f"{module}:{path.partition(':')[2]}")
    yield name
    monkeypatch.undo()
    sys.modules.pop(module, None)
    importlib.reload(loss_flags)


def test_a_loss_is_a_file_and_a_line(regression_loss):
    kind = importlib.reload(loss_flags).LossArguments
    parser = FlagParser("train", [kind])
    (given,) = parser.fill(parser.parse(["--loss", regression_loss, "--power", "1.5"]))
    loss = given.build()
    assert loss.power == 1.5
    assert loss(torch.ones(2, 4, 8), torch.tensor([1.0, 1.0, 0.0, 0.5])) == pytest.approx((1 + 0.5**1.5) / 4)
    assert "cosine_regression: of the error; 2 is the squared error." in " ".join(parser.format_help().split())
    assert loss_flags.formats_of(regression_loss) == ("pairs",)


def test_a_pooling_mode_is_a_row(added, tiny_bert, monkeypatch):
    ((name, pooling),) = added[1].items()
    monkeypatch.setitem(POOLING_MODES, name, pooling)
    layers = SentenceBert(tiny_bert, pooling_mode="first_last_avg").encode(["a text"])
    embeddings = SentenceBert(tiny_bert, pooling_mode=name).encode(["a text"])
    assert embeddings.shape == layers.shape
    assert (embeddings >= layers - 1e-6).all()  # a maximum is no less than the mean of the same states
    assert name not in table_names("cosent.model.pooling", "POOLING_MODES")  # as the file has not changed


def test_a_metric_is_a_row(added):
    (name,) = added[2]
    program = f"""{blocks(PAGE, "python")[1].code}
from cosent.evaluation.confusion import DECISION_METRICS
DECISION_METRICS[{name!r}] = {name}  # before what asks the table is imported, as an edit of it would be
from cosent.evaluation.bootstrap import resampled_metrics
from cosent.evaluation.scored import ScoredPairs
from cosent.evaluation.threshold import ThresholdMetric, attainable_decisions
scores, matches = np.linspace(0, 1, 40), np.arange(40) % 4 == 0
pairs = ScoredPairs(scores, matches * 1.0, np.arange(40), matches, threshold=0.5)
resampled = resampled_metrics(pairs, num_resamples=5)
_, best = ThresholdMetric.parse({name!r}).choose(attainable_decisions(scores, matches))
print(pairs.metrics()[{name!r}], len(resampled[{name!r}]), best)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    example, figures = done.stdout.splitlines()
    assert float(example) == pytest.approx(0.85)
    value, resamples, best = map(float, figures.split())
    assert (value, resamples) == (pytest.approx((5 / 10 + 15 / 30) / 2), 5)
    assert best >= value
