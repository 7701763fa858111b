#!/usr/bin/env bash
# Test and measure cosent on a GPU, in at most six minutes. Paths are relative to the repository's folder.
#     DATA=folder bash benchmarks/gpu.sh [OUT]
# DATA holds lcqmc/dev.tsv and stsb_en/train.tsv (text, text, label; tab-separated, no header); bundled samples replace
# missing files. The script writes gpu.md, gpu.json and two logs to OUT (default: output/gpu). GPU_FLAGS holds further
# flags for gpu.py, separated by spaces; GPU_TESTS holds the paths of the tests (default: tests/). The script installs
# nothing; set PYTHONPATH if the packages are elsewhere.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LIMIT=350        # seconds for everything
TESTS_LIMIT=110  # for the tests
BUDGET=240       # for the measurements

out=${1:-output/gpu}
python=python3
if [ -x .venv/bin/python ]; then
    python=.venv/bin/python
fi
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1

# No -q: pyproject.toml sets it, and a second one would hide the summary line. Tests run even if a test module cannot be
# imported on this machine.
timeout --kill-after=5 $TESTS_LIMIT "$python" -m pytest -m cuda -p no:cacheprovider \
    --continue-on-collection-errors ${GPU_TESTS:-tests/} 2>&1 | tee "$out/pytest.log"
status=${PIPESTATUS[0]}
tests=$(grep -v '^ *$' "$out/pytest.log" | tail -n 1)
if [ "$status" -ge 124 ]; then
    tests="stopped after $TESTS_LIMIT s; last line: $tests"
elif [ "$status" -ne 0 ]; then
    tests="$tests (exit code $status)"
fi

left=$((LIMIT - SECONDS))
# GPU_FLAGS is split into words on purpose
# shellcheck disable=SC2086
timeout --kill-after=5 $left "$python" benchmarks/gpu.py --out "$out" --data "${DATA:-}" --tests "$tests" \
    --seconds $((left - 20 < BUDGET ? left - 20 : BUDGET)) ${GPU_FLAGS:-} 2>&1 | tee "$out/gpu.log"
status=${PIPESTATUS[0]}
cat "$out/gpu.md"
exit "$status"
