#!/usr/bin/env bash
# CoSENT on LCQMC, Chinese question matching, with MacBERT-large.
#     bash scripts/recipes/cosent_lcqmc.sh hfl/chinese-macbert-large path/to/lcqmc [more flags of `cosent train`]
# The folder holds train.tsv, dev.tsv and test.tsv: text, text, 0 or 1, tab-separated, without a header.
set -euo pipefail
model=${1:?which model? a hub id or a folder}
data=$(cd "${2:?which data? the folder of train.tsv, dev.tsv and test.tsv}" && pwd)
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

exec bash "$root/train.sh" --model_name_or_path "$model" --loss cosent --scale 20 \
    --train_data_path "$data/train.tsv" --eval_data_path "$data/dev.tsv" --test_data_path "$data/test.tsv" \
    --max_length 64 --per_device_train_batch_size 64 --learning_rate 2e-5 --weight_decay 0.01 --warmup_ratio 0.01 \
    --num_train_epochs 3 --eval_strategy epoch --save_total_limit 5 --bf16 True "$@"
