import json
import math

import pytest

from cosent.files import to_json, write_json


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null(value):
    assert to_json({"a": value, "b": [value, 1.5], "c": {"d": (value, "NaN")}}) == (
        '{"a": null, "b": [null, 1.5], "c": {"d": [null, "NaN"]}}'
    )


def test_a_file_holds_what_was_given(tmp_path):
    content = {"text": "长江 — é", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "长江" in text
    assert text.endswith("}\n")
