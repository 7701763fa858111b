#!/usr/bin/env bash
# Evaluate a model: bash test.sh [folder or hub id] [flags of `cosent test`]. Default: the latest run, sample data.
# Paths are relative to where this is called.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bash "$root/scripts/setup.sh"

flags=()
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
    flags+=(--model_name_or_path "$1")
    shift
elif [[ " $*" != *" --model_name_or_path"* && " $*" != *" --model-name-or-path"* ]]; then
    latest=$(ls -t output/cosent_config.json output/*/cosent_config.json output/*/*/cosent_config.json 2>/dev/null |
        grep -v /checkpoint- | head -n 1 || true)
    if [ -z "$latest" ]; then
        echo "error: there is no run under output/ yet; run train.sh, or name a model: bash test.sh FOLDER" >&2
        exit 1
    fi
    flags+=(--model_name_or_path "$(dirname "$latest")")
fi
if [[ " $*" != *" --test_data_path"* && " $*" != *" --test-data-path"* ]]; then
    sample=$root/data/test.txt
    [ "$PWD" -ef "$root" ] && sample=data/test.txt
    echo "Testing on the sample data; --test_data_path names your own"
    flags+=(--test_data_path "$sample" --positive_label_min 4)
fi
# before bash 4.4, which macOS still has, an empty array is an unset variable
exec "$root/.venv/bin/python" "$root/scripts/test.py" ${flags[@]+"${flags[@]}"} "$@"
