"""Under torchrun: writes which rows this rank is given in an epoch. Arguments: a model, a data file, a folder."""

import json
import sys
from pathlib import Path

from cosent import CoSENTLoss, CosentTrainer, CosentTrainingArguments, SentenceBert, load_data
from cosent.distributed import rank

if __name__ == "__main__":
    model_name, data_path, folder = sys.argv[1:]
    model = SentenceBert(model_name, device="cpu")
    data = load_data(data_path, model)
    args = CosentTrainingArguments(
        output_dir=folder, use_cpu=True, gather_across_devices=False, per_device_train_batch_size=4, eval_strategy="no"
    )
    trainer = CosentTrainer(model, args, CoSENTLoss(), train_dataset=data)
    seen = [batch["text_ids"].view(2, -1).T.tolist() for batch in trainer.get_train_dataloader()]
    (Path(folder) / f"{rank()}.json").write_text(json.dumps([row for batch in seen for row in batch]))
