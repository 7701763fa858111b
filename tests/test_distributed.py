import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torch.testing import assert_close

from cosent import distributed as ranks
from cosent.batch import NO_TEXT
from cosent.errors import UserError
from tests.processes import forks

SHAPES = [(3, 2), (2, 4), (1, 0)]  # columns and examples of three ranks, the last one without any


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def batch(rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    columns, examples = SHAPES[rank]
    torch.manual_seed(rank)
    return (
        torch.randn(columns, examples, 5, dtype=torch.float64),
        torch.randint(2**62, 2**63 - 1, (examples,)),  # class ids have 64 bits
        torch.randint(-(2**63), 2**63 - 1, (columns, examples)),
    )


def expected_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What one process would hold; places without a text are zeros and have an id of their own."""
    embeddings = torch.zeros(3, 6, 5, dtype=torch.float64)
    ids = torch.full((3, 6), NO_TEXT)
    start = 0
    for rank, (columns, examples) in enumerate(SHAPES):
        some, _, some_ids = batch(rank)
        embeddings[:columns, start : start + examples] = some
        ids[:columns, start : start + examples] = some_ids
        start += examples
    return embeddings, torch.cat([batch(rank)[1] for rank in range(3)]), ids


def meet(rank: int, folder: str) -> None:
    """What each of three processes does."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    assert (ranks.rank(), ranks.num_ranks()) == (rank, 3)
    assert ranks.gather_numbers(rank, 10 * rank) == [[0, 0], [1, 10], [2, 20]]

    embeddings, labels, ids = batch(rank)
    embeddings.requires_grad_()
    shapes = [shape for _, *shape in ranks.gather_numbers(9, *SHAPES[rank])]
    gathered = ranks.gather_batch(embeddings, labels, ids, shapes=shapes, no_text=NO_TEXT)
    for actual, expected in zip(gathered, expected_batch(), strict=True):
        assert torch.equal(actual, expected)
    # every rank computes the same loss; the mean over ranks of what arrives is the loss's own gradient
    weights = torch.arange(90.0, dtype=torch.float64).view(3, 6, 5)
    (gathered[0].square() * weights).sum().backward()
    columns, examples = SHAPES[rank]
    start = sum(size for _, size in SHAPES[:rank])
    own = weights[:columns, start : start + examples]
    assert_close(embeddings.grad, 3 * 2 * own * embeddings.detach())
    assert ranks.gather_batch(embeddings, None, ids, shapes=shapes, no_text=NO_TEXT)[1] is None

    rows = torch.zeros(5, 2)
    rows[rank::3] = rank + 1.0
    total = ranks.sum_on_first_rank(rows)
    if rank == 0:
        assert total[:, 0].tolist() == [1, 2, 3, 1, 2]

    calls = []
    assert ranks.on_first_rank(lambda: calls.append(rank) or {"rank": rank}) == {"rank": 0}
    assert calls == ([0] if rank == 0 else [])

    def fail() -> None:
        raise UserError("on the first rank")

    with pytest.raises(UserError, match="on the first rank"):
        ranks.on_first_rank(fail)

    path = Path(folder) / "seen"
    with ranks.first_rank_first():
        if rank == 0:
            time.sleep(0.2)
            path.touch()
        assert path.exists()
    # a failure of the first rank does not keep the others waiting
    with suppress(UserError), ranks.first_rank_first():
        if rank == 0:
            fail()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_three_ranks_tell_each_other_what_they_have(tmp_path):
    method = forks().get_start_method()
    multiprocessing.start_processes(meet, (str(tmp_path),), nprocs=3, start_method=method)


def test_a_process_on_its_own_is_all_ranks():
    assert (ranks.rank(), ranks.num_ranks()) == (0, 1)
    assert ranks.gather_numbers(3, 4) == [[3, 4]]
    assert ranks.on_first_rank(lambda: 5) == 5
    embeddings, labels, ids = batch(0)
    gathered = ranks.gather_batch(embeddings, labels, ids, shapes=[[3, 2]], no_text=NO_TEXT)
    assert all(one is two for one, two in zip(gathered, (embeddings, labels, ids), strict=True))
    rows = torch.ones(2, 2)
    assert ranks.sum_on_first_rank(rows) is rows


def test_ranks_have_one_connection_that_waits_for_as_long_as_it_takes(alone):
    group = ranks._cpu_group()
    assert group is not distributed.group.WORLD
    assert ranks._cpu_group() is group
    assert group._get_backend(torch.device("cpu")).options._timeout == ranks.PATIENCE
