"""The pages in a real browser, where there is one."""

import html
import re
import shutil
import subprocess

import pytest

from cosent.evaluation.report import can_draw
from tests.cli.conftest import cosent
from tests.conftest import DATA

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()

# what a person would see: whether something sticks out to the right, pictures that do not show, and what was fetched
PROBE = """<script>addEventListener("load", () => { top.document.title = "probe " + JSON.stringify([
    document.documentElement.scrollWidth - document.documentElement.clientWidth,
    [...document.images].filter(image => !image.naturalWidth).length, document.images.length,
    performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length]) })</script>"""


@pytest.fixture(scope="module")
def report(classic_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    flags = ["--model_name_or_path", classic_run[1], "--test_data_path", DATA / "zh" / "test.txt", "--device=cpu"]
    done = cosent("test", *flags, "--output_dir", folder, "--report=True")
    assert done.status == 0, done.stderr
    assert f"Report: {folder / 'report.html'}" in done.stdout
    return folder / "report.html"


def browse(*arguments, folder):
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize(("name", "num_pictures"), [("report", 5), ("training", 4)])
def test_a_browser_shows_it_whole_without_a_network(report, classic_run, tmp_path, name, num_pictures, width):
    page = report if name == "report" else classic_run[1] / "training.html"
    probed = page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>")
    outer = tmp_path / "outer.html"  # as a window cannot be as narrow as a phone
    frame = f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{html.escape(probed)}"></iframe>'
    outer.write_text(f'<!DOCTYPE html><meta charset="utf-8"><title></title>{frame}', encoding="utf-8")
    shown = browse("--virtual-time-budget=5000", "--dump-dom", outer.as_uri(), folder=tmp_path)
    overflow, broken, pictures, fetched = re.search(r"<title>probe \[(-?\d+),(\d+),(\d+),(\d+)\]", shown).groups()
    assert (overflow, broken, fetched) == ("0", "0", "0")
    assert pictures == (str(num_pictures) if can_draw() else "0")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_it_prints(report, tmp_path):
    browse(f"--print-to-pdf={tmp_path / 'report.pdf'}", report.as_uri(), folder=tmp_path)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_training_draws_its_curves(classic_run):
    page = (classic_run[1] / "training.html").read_text(encoding="utf-8")
    assert "<h2>Evaluations</h2>" in page
    assert "spearman" in page
