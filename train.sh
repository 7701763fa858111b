#!/usr/bin/env bash
# Fine-tune an encoder. Without arguments: the bundled backbone on the sample data. Arguments go to `cosent train` and
# win over what the sample job sets; paths are relative to where this is called.
#     bash train.sh --model_name_or_path hfl/chinese-macbert-large --train_data_path my.tsv
#     bash train.sh --loss infonce
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/python" "$root/scripts/train.py" "$@"
