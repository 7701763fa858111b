"""Look for what is wrong with data before training on it: python scripts/check_data.py train.tsv dev.tsv test.tsv."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from command_line import NOUNS, parse, run, write_json

from cosent import SentenceBert
from cosent.data.layouts import Columns
from cosent.data.lint import Finding, Split, check_leaks, check_split, normalized, quantiles
from cosent.data.readers import ExampleReader
from cosent.data.splits import assign_by_component, component_of_examples
from cosent.errors import UserError
from cosent.inference.predictions import tsv_line
from cosent.model.tokens import tokenize
from cosent.training.arguments import ReadingArguments

SPLIT_NAMES = ("train", "dev", "test")


@dataclass
class CheckArguments(ReadingArguments):
    """What to look at, and what to write."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Count lengths in this model's tokens, too, and what it would cut off."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Tokens in a text at most. Default: the model's."})
    write_split: str | None = field(
        default=None,
        metadata={"help": "A folder for train.tsv, dev.tsv and test.tsv, dealt anew such that they share no text."},
    )
    fractions: list[float] = field(
        default_factory=lambda: [0.1, 0.1], metadata={"help": "Shares of dev and test for --write_split."}
    )
    seed: int = field(default=42, metadata={"help": "Of --write_split."})
    output_path: str | None = field(default=None, metadata={"help": "Where findings go, as JSON. Default: nowhere."})


def main() -> None:
    """Read, check each file and all pairs of files, print, write."""
    args, positional = parse(CheckArguments, positional=("paths", "Data files: what is trained on comes first."))
    model = SentenceBert(args.model_name_or_path, max_length=args.max_length) if args.model_name_or_path else None
    if args.write_split:
        check_split_arguments(args)
    splits = read(positional.paths, args)
    found: dict[str, list[Finding]] = {}
    for split in splits:
        print(f"\n{split.path}: {len(split):,} {NOUNS[split.data_format]}")
        for line in about(split, model):
            print(f"  {line}")
        found[split.path] = check_split(split, args.positive_label_min)
        show(found[split.path])
    for earlier, later in combinations(splits, 2):
        print(f"\n{later.path} beside {earlier.path}")
        name = f"{later.path} beside {earlier.path}"
        found[name] = check_leaks(earlier, later)
        show(found[name])
    if args.output_path:
        content = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
        write_json(Path(args.output_path), content)
    if args.write_split:
        write_split(splits, Path(args.write_split), args)


def read(paths: Sequence[str], args: CheckArguments) -> list[Split]:
    """The files' examples; of two columns without names, the first file says what they are."""
    options = args.reading_options
    splits: list[Split] = []
    for path in paths:
        # as in train.py: of two columns without names, others are not to be guessed
        likely = splits[0].data_format if splits and splits[0].data_format in ("classes", "triplets") else None
        columns = Columns(options["data_format"], options["text_columns"], options["label_column"], likely)
        splits.append(Split.read(ExampleReader(path, columns, on_bad_rows=options["on_bad_rows"])))
    return splits


def about(split: Split, model: SentenceBert | None) -> list[str]:
    """What a file holds, good or bad: labels and lengths."""
    texts = list(dict.fromkeys(text for example in split.examples for text in example.texts))
    lines = [f"{len(texts):,} different texts; characters: {quantiles([len(text) for text in texts])}"]
    if split.data_format in ("pairs", "classes"):
        values, counts = np.unique(split.labels, return_counts=True)
        if len(values) <= 12:
            names = values if split.data_format == "classes" else [f"{value:g}" for value in values]
            shares = (
                f"{name}: {count:,} ({count / len(split):.1%})" for name, count in zip(names, counts, strict=True)
            )
            lines.append(f"labels {', '.join(shares)}")
        elif split.data_format == "pairs":
            low, middle, high = np.quantile(split.labels, [0, 0.5, 1])
            lines.append(f"labels from {low:g} to {high:g}, median {middle:g}, {len(values):,} different ones")
        else:
            lines.append(f"{len(values):,} classes of {counts.min():,} to {counts.max():,} texts")
    if model is not None:
        prepared = model.prepare(texts)
        whole = tokenize(model.tokenizer, prepared, 2**31 - 1)
        cut = np.mean(whole.lengths > model.max_length)
        unknown = np.mean(whole.input_ids == model.tokenizer.unk_token_id)
        lines.append(
            f"tokens: {quantiles(whole.lengths)}; {cut:.2%} of texts are cut at {model.max_length}, "
            f"{unknown:.2%} of tokens are unknown"
        )
    return lines


def show(findings: Sequence[Finding]) -> None:
    """Print findings, with their effect and examples."""
    if not findings:
        print("  nothing found")
    for finding in findings:
        print(f"  - {finding}\n      {finding.effect}")
        for example in finding.examples:
            print(f"      {example}")


def check_split_arguments(args: CheckArguments) -> None:
    """Refuse shares that leave nothing to train on, and files that are there already."""
    if len(args.fractions) != 2 or min(args.fractions) < 0 or sum(args.fractions) >= 1:
        raise UserError(f"--fractions are the shares of dev and test, below 1 together; got {args.fractions}")
    for name in SPLIT_NAMES:
        if (path := Path(args.write_split or "", f"{name}.tsv")).exists():
            raise UserError(f"{path} is there already; give --write_split another folder")


def write_split(splits: Sequence[Split], folder: Path, args: CheckArguments) -> None:
    """Deal all examples anew into files that share no text, not even one that differs in case or punctuation."""
    if len({split.data_format for split in splits}) > 1:
        raise UserError("--write_split deals out examples of one format; these files hold several")
    examples = [example for split in splits for example in split.examples]
    component = component_of_examples([[normalized(text) for text in example.texts] for example in examples])
    number = assign_by_component(component, [int(share * len(examples)) for share in args.fractions], args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"\nA split by component, seed {args.seed}; the largest component has {np.bincount(component).max():,} examples"
    )
    for which, name in enumerate(SPLIT_NAMES):
        path = folder / f"{name}.tsv"
        chosen = np.flatnonzero(number == which)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for n in chosen:
                texts, label = examples[n]
                print(tsv_line(*texts, *([] if label is None else [label])), file=file)
        print(f"  {path}: {len(chosen):,} examples")


if __name__ == "__main__":
    run(main)
