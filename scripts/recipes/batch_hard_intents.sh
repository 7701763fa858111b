#!/usr/bin/env bash
# Batch-hard triplet loss on texts with a class, such as the 77 intents of banking77, with gte-base: 4 classes of 8.
#     bash scripts/recipes/batch_hard_intents.sh thenlper/gte-base path/to/banking77 [more flags of `cosent train`]
# The folder holds train.csv and test.csv with the columns text and category (or text and label). A tenth of the
# training data chooses the best step; the test texts are looked up among the training texts.
set -euo pipefail
model=${1:?which model? a hub id or a folder}
data=$(cd "${2:?which data? the folder of train.csv and test.csv}" && pwd)
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

exec bash "$root/train.sh" --model_name_or_path "$model" --loss batch_hard_triplet --margin 1.0 --distance euclidean \
    --train_data_path "$data/train.csv" --test_data_path "$data/test.csv" \
    --classes_per_batch 4 --samples_per_class 8 --max_length 128 --learning_rate 2e-5 --warmup_ratio 0.1 \
    --num_train_epochs 3 --bf16 True "$@"
