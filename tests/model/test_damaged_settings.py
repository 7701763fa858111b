"""A sample of what `python -m tests.model.damaged_settings` tries."""

import random

import pytest

from tests.model.damaged_settings import damages, outcome, saved_model


@pytest.fixture(scope="module", params=[True, False], ids=["digests", "earlier version"])
def saved(request, tiny_bert, tmp_path_factory):
    return saved_model(tiny_bert, tmp_path_factory.mktemp("saved"), has_digests=request.param)


def test_the_whole_folder_is_the_same_model(saved):
    folder, expected = saved
    unchanged = next(damages(folder))._replace(content=(folder / "modules.json").read_bytes())
    assert outcome(folder, unchanged, expected) == "the same"
    assert outcome(folder, unchanged, expected + 1).startswith("bad")


def test_damaged_files_are_errors_of_ours_or_change_nothing(saved):
    folder, expected = saved
    tried = random.Random(1).sample(list(damages(folder)), 60)
    found = {f"{damage.filename}: {damage.what}": outcome(folder, damage, expected) for damage in tried}
    assert not {damage: what for damage, what in found.items() if what.startswith("bad")}
    assert sum(what.startswith("error") for what in found.values()) > 20
