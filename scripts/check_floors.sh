#!/usr/bin/env bash
# Run the tests with the oldest versions that pyproject.toml allows, in .venv-floors. Downloads some gigabytes: PyPI's
# torch is a CUDA build.
#   bash scripts/check_floors.sh [what to give pytest; default: tests]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-floors
[ -x $venv/bin/python ] || "${PYTHON:-python3.11}" -m venv $venv
$venv/bin/python -m pip install --quiet --disable-pip-version-check uv
$venv/bin/uv pip install --quiet --python $venv/bin/python --resolution lowest-direct -e '.[backbone,report,dev]'
$venv/bin/uv pip list --python $venv/bin/python | grep -E '^(accelerate|datasets|numpy|pyarrow|scipy|torch|transformers) '
HF_DATASETS_CACHE=$PWD/$venv/datasets $venv/bin/python -m pytest -n 2 "${@:-tests}"
