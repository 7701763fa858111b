"""The loss that is logged: the mean over full batches.

The loss of a batch grows with the number of its examples if each is compared with the others: CoSENT's with the
logarithm of the number of ordered pairs. The short last batch of an epoch would show as a sudden fall.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SHORT = "short_batches"  # the share of batches that the logged loss leaves out; absent if it is 0

_FULL_LOSS = "loss_of_full_batches"


def batch_statistics(loss: Tensor, size: int, full_size: int) -> dict[str, Tensor]:
    """Return the statistics of a batch that `leave_out_short_batches` needs.

    Args:
        loss: the loss of the batch.
        size: number of examples in the batch.
        full_size: number of examples in a full batch.
    """
    is_short = size < full_size
    return {
        SHORT: torch.tensor(float(is_short)),
        _FULL_LOSS: torch.zeros_like(loss) if is_short else loss.detach(),
    }


def leave_out_short_batches(
    logs: dict[str, float], means: dict[str, float], history: Sequence[dict[str, float]]
) -> None:
    """Replace the mean loss in the logs by the mean over full batches.

    Without any full batch since the last log, the loss is removed if full batches were logged before.

    Args:
        logs: the Trainer's logs with a "loss"; changed in place.
        means: means of the statistics of batches; the ones of `batch_statistics` are removed, except a share of short
            batches above 0.
        history: the logs so far.
    """
    short, full_loss = means[SHORT], means.pop(_FULL_LOSS)
    if short == 0:
        del means[SHORT]
    elif short < 1:
        logs["loss"] = full_loss / (1 - short)
    elif any("loss" in log and log.get(SHORT, 0.0) < 1 for log in history):
        del logs["loss"]
