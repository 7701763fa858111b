import threading

import pytest

from cosent.prefetch import prefetch


def test_items_come_in_order_and_one_is_made_ahead():
    made = []

    def items():
        for i in range(4):
            made.append((i, threading.current_thread()))
            yield i

    taken = []
    for item in prefetch(items()):
        taken.append(item)
        assert len(made) <= len(taken) + 1
    assert taken == [0, 1, 2, 3]
    assert {thread for _, thread in made} != {threading.current_thread()}


def test_an_error_comes_where_its_item_would():
    def items():
        yield 1
        raise KeyError("second")

    taken = []
    with pytest.raises(KeyError, match="second"):
        for item in prefetch(items()):
            taken.append(item)
    assert taken == [1]
    assert list(prefetch([])) == []
