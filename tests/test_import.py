import subprocess
import sys

import pytest

import cosent


def test_importing_loads_nothing_heavy():
    heavy = ["torch", "transformers", "datasets", "pandas", "scipy", "sklearn", "sentence_transformers"]
    code = f"import sys, cosent; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_never_imports_its_peer():
    code = (
        "import sys, cosent; [getattr(cosent, name) for name in cosent.__all__];"
        "print('sentence_transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_public_name_is_there_under_its_own_name():
    for name in set(cosent.__all__) - {"__version__"}:
        assert getattr(cosent, name).__name__ == name


def test_names_complete_in_a_notebook():
    assert set(cosent.__all__) <= set(dir(cosent))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'CoSentLoss'"):
        cosent.CoSentLoss  # noqa: B018
