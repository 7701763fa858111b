"""Check data for problems before training: cosent check train.tsv dev.tsv test.tsv."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cosent.cli.arguments import ReadingArguments
from cosent.cli.parsing import FlagParser, Positional, require_apart, require_files
from cosent.cli.running import hush_libraries
from cosent.errors import UserError
from cosent.files import write_json

if TYPE_CHECKING:
    from cosent import SentenceBert
    from cosent.data.checking import DataCheck
    from cosent.data.lint import Split

SPLIT_NAMES = ("train", "dev", "test")


@dataclass
class CheckArguments(ReadingArguments):
    """Options of `cosent check`."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Also count this model's tokens, and the texts that it would truncate."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Most tokens in a text. Default: the model's."})
    write_split: str | None = field(
        default=None,
        metadata={"help": "A folder for train.tsv, dev.tsv and test.tsv, split anew so that they share no text."},
    )
    fractions: list[float] = field(
        default_factory=lambda: [0.1, 0.1], metadata={"help": "Shares of dev and test for --write_split."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of --write_split."})
    output_path: str | None = field(default=None, metadata={"help": "JSON file for the findings. Default: none."})


def main(arguments: Sequence[str]) -> None:
    """Read the files, check each file and each pair of files, print and write the findings."""
    parser = FlagParser(
        "check",
        [CheckArguments],
        description="Check data for problems: repetitions, contradictions, leaks, damaged texts.",
        positional=Positional("paths", "Data files: the training data, the data that chooses, the test data."),
    )
    given = parser.parse(arguments)
    (args,) = parser.fill(given)
    require_files(*given.paths)
    if args.output_path:
        require_apart([Path(args.output_path)], *given.paths)
    if args.write_split:
        check_split_arguments(args)
    model = load_model(args.model_name_or_path, args.max_length) if args.model_name_or_path else None
    splits = read(given.paths, args)
    found = find(splits, model, args.positive_label_min).findings
    if args.output_path:
        content = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
        with writing(args.output_path):
            Path(args.output_path).parent.mkdir(parents=True, exist_ok=True)
            write_json(Path(args.output_path), content)
    if args.write_split:
        with writing(args.write_split):
            write_split(list(splits.values()), Path(args.write_split), args)


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn a write error into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def load_model(name: str, max_length: int | None) -> "SentenceBert":
    """Load the model whose tokens are counted."""
    from cosent import SentenceBert

    hush_libraries()
    return SentenceBert(name, max_length=max_length)


def read(paths: Sequence[str], args: CheckArguments) -> dict[str, "Split"]:
    """Read the examples of all files, by path; the first file decides the meaning of two columns without names."""
    from cosent.data.checking import read_split

    splits: dict[str, Split] = {}
    for path in paths:
        likely = next((split.data_format for split in splits.values()), None)
        name = path if path not in splits else f"{path} (again)"
        splits[name] = read_split(path, likely_format=likely, **args.reading_options)
    return splits


def find(splits: dict[str, "Split"], model: "SentenceBert | None", positive_label_min: float | None) -> "DataCheck":
    """Check each file and each pair of files, and print the findings."""
    from cosent.data.checking import check_splits

    checked = check_splits(splits, positive_label_min)
    for name in checked.findings:
        heading, *lines = checked.describe(name)
        print(f"\n{heading}")
        for line in about(splits[name], model) if name in splits else ():
            print(f"  {line}")
        print("\n".join(lines))
    return checked


def about(split: "Split", model: "SentenceBert | None") -> list[str]:
    """Describe a file's labels and lengths."""
    from cosent.data.lint import quantiles

    texts = list(dict.fromkeys(text for example in split.examples for text in example.texts))
    lines = [f"{len(texts):,} different texts; characters: {quantiles([len(text) for text in texts])}"]
    if split.data_format in ("pairs", "classes"):
        lines.append(about_labels(split))
    if model is not None:
        lines.append(about_tokens(texts, model))
    return lines


def about_labels(split: "Split") -> str:
    """Describe the labels: count a few, summarise many."""
    import numpy as np

    values, counts = np.unique(split.labels, return_counts=True)
    if len(values) <= 12:
        names = values if split.data_format == "classes" else [f"{value:g}" for value in values]
        shares = (f"{name}: {count:,} ({count / len(split):.1%})" for name, count in zip(names, counts, strict=True))
        return f"labels {', '.join(shares)}"
    if split.data_format == "pairs":
        low, middle, high = np.quantile(split.labels, [0, 0.5, 1])
        return f"labels from {low:g} to {high:g}, median {middle:g}, {len(values):,} different ones"
    return f"{len(values):,} classes of {counts.min():,} to {counts.max():,} texts"


def about_tokens(texts: list[str], model: "SentenceBert") -> str:
    """Describe the lengths of texts in the model's tokens."""
    import numpy as np

    from cosent.data.lint import quantiles
    from cosent.model.tokens import tokenize

    whole = tokenize(model.tokenizer, model.prepare(texts), 2**31 - 1)
    cut = np.mean(whole.lengths > model.max_length)
    unknown = np.mean(whole.input_ids == model.tokenizer.unk_token_id)
    return (
        f"tokens: {quantiles(whole.lengths)}; {cut:.2%} of texts are cut at {model.max_length}, "
        f"{unknown:.2%} of tokens are unknown"
    )


def check_split_arguments(args: CheckArguments) -> None:
    """Refuse shares that leave no training data, and existing files."""
    if len(args.fractions) != 2 or min(args.fractions) < 0 or sum(args.fractions) >= 1:
        raise UserError(f"--fractions are the shares of dev and test, below 1 together; got {args.fractions}")
    for name in SPLIT_NAMES:
        if (path := Path(args.write_split or "", f"{name}.tsv")).exists():
            raise UserError(f"{path} is there already; give --write_split another folder")


def write_split(splits: Sequence["Split"], folder: Path, args: CheckArguments) -> None:
    """Split all examples into files that share no text, not even one that differs only in case or punctuation."""
    import numpy as np

    from cosent.data.checking import deal_out
    from cosent.inference.predictions import tsv_line

    if len({split.data_format for split in splits}) > 1:
        raise UserError("--write_split deals out examples of one format; these files hold several")
    examples = [example for split in splits for example in split.examples]
    number, largest = deal_out([example.texts for example in examples], args.fractions, args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\nA split by component, seed {args.seed}; the largest component has {largest:,} examples")
    for which, name in enumerate(SPLIT_NAMES):
        path = folder / f"{name}.tsv"
        chosen = np.flatnonzero(number == which)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for n in chosen:
                texts, label = examples[n]
                print(tsv_line(*texts, *([] if label is None else [label])), file=file)
        print(f"  {path}: {len(chosen):,} examples")
