import subprocess
import sys

from tests.conftest import ROOT


def test_loss_scaling_prints_a_row_for_each_batch():
    command = [sys.executable, str(ROOT / "benchmarks" / "loss_scaling.py"), "--max_exponent", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["64", "256"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])
