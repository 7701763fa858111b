"""Whether larger batches make better models: quality by effective batch, epochs and data being equal.

    python benchmarks/batch_quality.py --task cosent --model_name_or_path models/all-MiniLM-L6-v2 \\
        --train_data_path stsb_en/train.tsv --eval_data_path stsb_en/dev.tsv --test_data_path stsb_en/test.tsv

For each batch size the learning rate is tuned on the eval data with the first seed: from a start that grows with the
square root of the batch, it is doubled or halved for as long as that helps. The other seeds then train with it. A run's
last model counts. Runs are kept in --results, one a line: a study that was interrupted goes on, and
`--plot quality.png` draws what is there (with matplotlib). A run is known by its task, model, batch, learning rate,
seed and epochs: other data wants another file of results.
"""

import json
import statistics
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from measuring import machine, table

from cosent import (
    BatchHardTripletLoss,
    CoSENTLoss,
    CosentTrainer,
    CosentTrainingArguments,
    EvaluationOptions,
    InfoNCELoss,
    SentenceBert,
    TextDataset,
    evaluate,
    read_records,
)
from cosent.data.splits import split_by_component

_ROWS_PER_CLASS = 4  # of a small batch
_BASE_BATCH = 32
_MICRO_BATCH_TOKENS = 8_192


@dataclass(frozen=True)
class Run:
    """One training, and how good its model is; the first six fields say which."""

    task: str
    model: str
    batch: int
    learning_rate: float
    seed: int
    epochs: float
    steps: int = 0
    eval_quality: float = 0.0
    test_quality: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from other runs."""
        return self.task, self.model, self.batch, self.learning_rate, self.seed, self.epochs


def main() -> None:
    """Tune and train for every batch size; print the table, and draw it."""
    args = parse()
    transformers.utils.logging.disable_progress_bar()
    if args.plot and not args.train_data_path:
        draw(read(args.results), args.plot)
        return
    runs = {run.key: run for run in read(args.results)}
    print(machine(torch.device("cpu" if args.cpu else "cuda" if torch.cuda.is_available() else "cpu")))
    for batch in args.batches:
        tuned = tune(args, batch, runs)
        for seed in args.seeds[1:]:
            once(args, batch, tuned.learning_rate, seed, runs)
    model = Path(args.model_name_or_path).name
    this_study = (args.task, model, args.epochs)
    report([run for run in runs.values() if (run.task, run.model, run.epochs) == this_study], args.seeds)
    if args.plot:
        draw(list(runs.values()), args.plot)


def parse() -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=("cosent", "infonce", "batch_hard_triplet"), default="cosent")
    parser.add_argument("--model_name_or_path", default="models/all-MiniLM-L6-v2")
    parser.add_argument("--train_data_path")
    parser.add_argument("--eval_data_path", help="default: a tenth of the training data, which shares no text with it")
    parser.add_argument("--test_data_path")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128, 512, 2048])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning_rate", type=float, default=4e-5, help=f"start at {_BASE_BATCH} examples a batch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--max_length", type=int)
    parser.add_argument("--margin", type=float, default=0.3)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("output/batch_quality.jsonl"))
    parser.add_argument("--plot", type=Path, help="a file to draw into; without training data, draw what is there")
    return parser.parse_args()


def tune(args: Namespace, batch: int, runs: dict[tuple[object, ...], Run]) -> Run:
    """Climb from the start to the learning rate that the eval data likes best, in steps of 2."""
    start = args.learning_rate * (batch / _BASE_BATCH) ** 0.5
    best = once(args, batch, start, args.seeds[0], runs)
    for factor in (2.0, 0.5):
        climbed = False
        while True:
            candidate = once(args, batch, best.learning_rate * factor, args.seeds[0], runs)
            if candidate.eval_quality <= best.eval_quality:
                break
            best, climbed = candidate, True
        if climbed:
            break
    return best


def once(args: Namespace, batch: int, learning_rate: float, seed: int, runs: dict[tuple[object, ...], Run]) -> Run:
    """Train and evaluate, unless that is done."""
    learning_rate = float(f"{learning_rate:.3g}")
    run = Run(args.task, Path(args.model_name_or_path).name, batch, learning_rate, seed, args.epochs)
    if run.key not in runs:
        runs[run.key] = train(args, run)
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with args.results.open("a", encoding="utf-8") as file:
            print(json.dumps(asdict(runs[run.key])), file=file)
        print(runs[run.key], flush=True)
    return runs[run.key]


def train(args: Namespace, run: Run) -> Run:
    """One run."""
    transformers.set_seed(run.seed)
    model = SentenceBert(args.model_name_or_path, device="cpu" if args.cpu else None, max_length=args.max_length)
    train_data, eval_data, test_data = splits(args, model)
    losses = {
        "cosent": CoSENTLoss(),
        "infonce": InfoNCELoss(),
        "batch_hard_triplet": BatchHardTripletLoss(margin=args.margin),
    }
    classes = {}
    if train_data.data_format == "classes":
        num_classes = min(run.batch // _ROWS_PER_CLASS, len(set(train_data.labels.tolist())))
        classes = {"classes_per_batch": num_classes, "samples_per_class": run.batch // num_classes}
    with tempfile.TemporaryDirectory() as folder:
        training = CosentTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=run.batch,
            micro_batch_tokens=_MICRO_BATCH_TOKENS,
            learning_rate=run.learning_rate,
            num_train_epochs=run.epochs,
            warmup_ratio=0.1,
            bf16=True,
            eval_strategy="no",
            seed=run.seed,
            use_cpu=args.cpu,
            disable_tqdm=True,
            logging_strategy="no",
            **classes,
        )
        trainer = CosentTrainer(model, training, losses[run.task], train_dataset=train_data)
        trainer.train()
    index = train_data if train_data.data_format == "classes" else None
    qualities = [quality(model, data, index) for data in (eval_data, test_data)]
    return Run(*run.key, trainer.state.global_step, *qualities)  # type: ignore[arg-type]


def splits(args: Namespace, model: SentenceBert) -> tuple[TextDataset, TextDataset, TextDataset]:
    """Data to train on, to tune by, and to report on."""
    formats = {"cosent": "pairs", "infonce": "triplets", "batch_hard_triplet": "classes"}
    train_records = read_records(args.train_data_path, data_format=formats[args.task])
    if args.eval_data_path:
        eval_records = read_records(args.eval_data_path)
    else:
        kept, out = split_by_component(list(train_records.texts), 0.1, seed=0)
        train_records, eval_records = train_records.select(kept), train_records.select(out)
    likely = "classes" if args.task == "batch_hard_triplet" else None
    test_records = read_records(args.test_data_path, likely_format=likely)
    return train_records.tokenize(model), eval_records.tokenize(model), test_records.tokenize(model)


def quality(model: SentenceBert, data: TextDataset, index: TextDataset | None) -> float:
    """The figure that counts for data of this format."""
    metrics = {"pairs": "spearman", "triplets": "triplet_accuracy", "classes": "knn_accuracy"}
    return evaluate(model, data, EvaluationOptions(index=index)).metrics[metrics[data.data_format]]


def read(path: Path) -> list[Run]:
    """Runs that are done."""
    return [Run(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def tuned_runs(runs: list[Run]) -> Iterator[list[Run]]:
    """For each batch, smallest first, the runs of the learning rate that most seeds have."""
    for batch in sorted({run.batch for run in runs}):
        by_rate: dict[float, list[Run]] = {}
        for run in runs:
            if run.batch == batch:
                by_rate.setdefault(run.learning_rate, []).append(run)
        yield max(by_rate.values(), key=lambda group: (len(group), group[0].eval_quality))


def report(runs: list[Run], seeds: list[int]) -> None:
    """Print quality by batch."""
    rows = []
    for group in tuned_runs(runs):
        values = [run.test_quality for run in sorted(group, key=lambda run: run.seed)]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append(
            [
                f"{group[0].batch:,}",
                f"{group[0].steps:,}",
                f"{group[0].learning_rate:.2g}",
                f"{statistics.mean(values):.4f} ± {deviation:.4f}",
                ", ".join(f"{value:.4f}" for value in values),
            ]
        )
    names = f"seeds {', '.join(map(str, seeds))}"
    print(table(["examples a batch", "steps", "learning rate", "test quality, mean ± standard deviation", names], rows))


def draw(runs: list[Run], path: Path) -> None:
    """Draw test quality against the batch, a panel for each task: all seeds, and their mean."""
    from matplotlib import pyplot

    titles = {
        "cosent": "CoSENT: Spearman",
        "infonce": "InfoNCE: Spearman",
        "batch_hard_triplet": "batch-hard: 10-NN accuracy",
    }
    tasks = [task for task in titles if any(run.task == task for run in runs)]
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.2), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        groups = list(tuned_runs([run for run in runs if run.task == task]))
        for group in groups:
            panel.plot([run.batch for run in group], [run.test_quality for run in group], "o", color="0.6")
        means = [statistics.mean(run.test_quality for run in group) for group in groups]
        panel.plot([group[0].batch for group in groups], means, "-", color="black")
        panel.set_xscale("log", base=2)
        panel.set_xticks([group[0].batch for group in groups], [f"{group[0].batch:,}" for group in groups])
        panel.set(title=titles[task], xlabel="examples a batch")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"Drawn in {path}")


if __name__ == "__main__":
    main()
