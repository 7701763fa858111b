#!/usr/bin/env bash
# Fine-tune an encoder. Without arguments: the bundled backbone on the sample data. Arguments go to scripts/train.py
# and win over what is set here; paths are relative to this folder.
#     bash train.sh --model_name_or_path hfl/chinese-macbert-large --train_data_path my.tsv
#     bash train.sh --loss infonce
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash scripts/setup.sh

# a config file comes first, and alone: it says everything itself
if [[ ${1:-} == *.json || ${1:-} == *.yaml || ${1:-} == *.yml ]]; then
    exec .venv/bin/python scripts/train.py "$@"
fi
flags=(--model_name_or_path models/all-MiniLM-L6-v2 --output_dir output)
# the sample's own settings do not apply to other data
if [[ " $*" != *" --train_data_path"* && " $*" != *" --train-data-path"* ]]; then
    case " $* " in
        *" --loss infonce "* | *" --loss=infonce "*)
            flags+=(--train_data_path data/triplets.train.tsv --eval_data_path data/dev.txt)
            flags+=(--test_data_path data/test.txt --positive_label_min 4)
            flags+=(--learning_rate 5e-5 --per_device_train_batch_size 32 --num_train_epochs 4)
            ;;
        *" --loss batch_hard_triplet "* | *" --loss=batch_hard_triplet "*)
            flags+=(--train_data_path data/classes.train.tsv --eval_data_path data/classes.dev.tsv)
            flags+=(--test_data_path data/classes.test.tsv --learning_rate 5e-5 --num_train_epochs 10)
            ;;
        *)
            flags+=(--train_data_path data/train.txt --eval_data_path data/dev.txt --test_data_path data/test.txt)
            flags+=(--positive_label_min 4)
            flags+=(--learning_rate 1e-4 --per_device_train_batch_size 32 --num_train_epochs 4)
            ;;
    esac
fi
exec .venv/bin/python scripts/train.py "${flags[@]}" "$@"
