import threading

import pytest

from cosent.prefetch import prefetch


def test_items_come_in_order_and_one_is_made_ahead():
    made = [threading.Event() for _ in range(4)]

    def items():
        for i in range(4):
            made[i].set()
            yield i

    taken = []
    for item in prefetch(items()):
        taken.append(item)
        if item < 3:
            assert made[item + 1].wait(timeout=10)  # while this one is held
        assert not any(event.is_set() for event in made[item + 2 :])
    assert taken == [0, 1, 2, 3]


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
