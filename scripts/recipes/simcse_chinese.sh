#!/usr/bin/env bash
# Unsupervised SimCSE on the five Chinese tasks ATEC, BQ, LCQMC, PAWSX and STS-B, one model each: a sentence is its own
# positive under another dropout. Labels choose the best step (dev) and say how good it is (test), no more.
#     bash scripts/recipes/simcse_chinese.sh hfl/chinese-roberta-wwm-ext path/to/data [more flags of `cosent train`]
# The folder holds a folder for each task, ATEC/ATEC.train.data, ATEC/ATEC.valid.data, ATEC/ATEC.test.data: text, text,
# label, tab-separated, without a header. POOLING=first_last_avg and DROPOUT=0.3 in front of the command change those.
set -euo pipefail
model=${1:?which model? a hub id or a folder}
data=$(cd "${2:?which data? the folder of the tasks\' folders}" && pwd)
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

found=0
for task in ATEC BQ LCQMC PAWSX STS-B; do
    if [ -d "$data/$task" ]; then
        found=1
        echo "== $task"
        bash "$root/train.sh" --model_name_or_path "$model" --loss infonce --scale 20 \
            --pooling_mode "${POOLING:-cls}" --dropout "${DROPOUT:-0.1}" \
            --train_data_path "$data/$task/$task.train.data" --data_format sentences --max_train_samples 10000 \
            --eval_data_path "$data/$task/$task.valid.data" --test_data_path "$data/$task/$task.test.data" \
            --max_length 64 --per_device_train_batch_size 64 --learning_rate 1e-5 --num_train_epochs 1 \
            --eval_strategy steps --eval_steps 0.1 --output_dir "output/simcse-$task" "$@"
    fi
done
if [ $found = 0 ]; then
    echo "error: $data holds none of the folders ATEC, BQ, LCQMC, PAWSX and STS-B" >&2
    exit 1
fi
