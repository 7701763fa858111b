import sys

import pytest

from tests.conftest import ROOT

SCRIPTS = "train test encode predict calibrate compare check_data build_backbone".split()


def test_these_are_all_scripts():
    shared = {"command_line", "run_folder"}
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} == set(SCRIPTS) | shared


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_shown(name, monkeypatch, capsys):
    import runpy

    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "--" in capsys.readouterr().out
