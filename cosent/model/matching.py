"""What a model decides about pairs of texts.

Shapes: P pairs, D dimensions.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from cosent.model.decision import Decision
from cosent.model.embedding import check_texts
from cosent.model.quantization import check_precision, comparable
from cosent.model.settings import Settings
from cosent.similarity import balanced, pairwise_cosine


class Prediction(NamedTuple):
    """A model's decisions on P pairs.

    Attributes:
        scores: (P,) float32 cosines.
        matches: (P,) booleans, whether the score is at or above the threshold.
        probabilities: (P,) float64 probabilities of a match; None if the checkpoint stores no calibration.
    """

    scores: NDArray[np.float32]
    matches: NDArray[np.bool_]
    probabilities: NDArray[np.float64] | None = None


class PairMatcher(nn.Module):
    """The members of an encoder that score pairs of texts and decide which match."""

    settings: Settings
    encode: Any

    def pair_scores(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        precision: str | None = None,
        truncate_dim: int | None = None,
        ranges: ArrayLike | None = None,
        batch_size: int = 64,
    ) -> NDArray[np.float32]:
        """Compute the cosine of each pair of texts, from embeddings as `encode` returns them for the same options.

        Embeddings of one byte a dimension are compared as they are stored; the bits of "binary" and "ubinary" count as
        +1 and -1, so that a Hamming distance h gives 1 - 2 * h / D.

        Args:
            pairs: P pairs.
            precision: the precision of the embeddings, as in `encode`.
            truncate_dim: keep only the first dimensions. None: the model's.
            ranges: (2, D) minima and maxima for "int8" and "uint8". None: those of these texts.
            batch_size: batch size in texts of 128 tokens.

        Returns:
            (P,) float32 cosines.

        Raises:
            ValueError: if an item is not a pair of texts, or an option is out of range.
        """
        pairs = list(pairs)
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise ValueError("pairs must be pairs of texts, like [('one text', 'another text')]")
        precision = check_precision(precision)
        texts = check_texts([text for pair in pairs for text in pair])
        embeddings = self.encode(texts, batch_size=batch_size, truncate_dim=truncate_dim)  # (2P, D)
        compared = torch.from_numpy(comparable(embeddings, precision, ranges))
        return pairwise_cosine(*(balanced(compared[i::2]) for i in range(2))).numpy()

    def predict(
        self, pairs: Iterable[tuple[str, str]], *, threshold: float | None = None, batch_size: int = 64
    ) -> Prediction:
        """Score pairs of texts and decide which match.

        Scores are computed as those that the stored threshold was chosen on: with the precision and the number of
        dimensions that `settings.decision` names.

        Args:
            pairs: P pairs.
            threshold: a pair matches if its cosine is at or above this value. None: the checkpoint's threshold.
            batch_size: batch size in texts of 128 tokens.

        Returns:
            (P,) scores, (P,) decisions and, if the checkpoint stores a calibration, (P,) probabilities.

        Raises:
            ValueError: if no finite threshold is given or stored, the stored one is for another `truncate_dim` than
                the model's, or an item is not a pair of texts.
        """
        threshold = self.settings.threshold(threshold)
        decision = self.settings.decision if self.settings.decision_fits else None
        options: dict[str, Any] = {}
        if decision is not None:
            options = {name: getattr(decision, name) for name in ("precision", "truncate_dim", "ranges")}
        scores = self.pair_scores(pairs, batch_size=batch_size, **options)
        probabilities = decision.calibration(scores) if decision and decision.calibration else None
        return Prediction(scores, scores.astype(np.float64) >= threshold, probabilities)

    def calibrate(self, data: Any, **options: Any) -> Decision:
        """Choose the threshold and fit the probabilities on labelled pairs, without training.

        Args:
            data: labelled pairs: a path, a DataFrame, a list, a dataset, ...
            options: `metric`, `positive_label_min`, `precision` and the other arguments of `cosent.calibrate`, which
                documents them and the errors.

        Returns:
            The decision, which is also set as `settings.decision`.
        """
        import cosent  # whose functions stand above this module

        return cosent.calibrate(self, data, **options)  # type: ignore[arg-type]
