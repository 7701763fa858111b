"""The run of `cosent test`: score held-out data, print and write the metrics."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosent import SentenceBert, TextDataset, load_data
from cosent.cli.arguments import ModelArguments, one_or_all
from cosent.cli.running import choose_device, launched_ranks
from cosent.cli.showing import language_gap, show_interval
from cosent.cli.test import TestArguments
from cosent.data.formats import FORMATS
from cosent.distributed import first_rank_first
from cosent.errors import UserError
from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.decide import describe_probability, is_chosen_on
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import Evaluation, EvaluationOptions, evaluate, load_test_data, stored_options
from cosent.evaluation.metrics import CALIBRATION, DECISION
from cosent.evaluation.report import NO_PICTURES, can_draw, evaluation_report
from cosent.evaluation.report.changes import CHOSE_THRESHOLD
from cosent.evaluation.scored import ScoredPairs
from cosent.files import write_json
from cosent.inference.predictions import ScoredRow, write_scored
from cosent.progress import is_watched


def test(model_args: ModelArguments, args: TestArguments) -> None:
    """Score the data and report the metrics; under a launcher, each rank embeds its share and the first one reports."""
    model = SentenceBert(**vars(model_args), device=choose_device(args.device))
    data, index = load(model, args)
    result = evaluate(model, data, evaluation_options(model, args, index))
    base_name, base_scores = score_base(model, data, args, trust_remote_code=model_args.trust_remote_code)
    if launched_ranks()[0] > 0:
        return
    folder = Path(args.output_dir or default_folder(model_args.model_name_or_path, args.test_data_path[0]))
    folder.mkdir(parents=True, exist_ok=True)
    intervals = {"intervals": result.intervals} if result.intervals else {}
    write_json(folder / "metrics.json", {**result.metrics, **intervals})
    print(heading(model_args.model_name_or_path, data, model))
    predictions = f"predictions.{'csv' if args.spreadsheet else 'tsv'}"
    if result.pairs is None:
        report_metrics(result, args.index_data_path)
    else:
        report_pairs(result, model, data.name)
        write_scored(folder / predictions, scored_rows(data, result.pairs), spreadsheet=args.spreadsheet)
    if args.report:
        page = evaluation_report(
            result,
            model_name=model_args.model_name_or_path,
            data_name=data.name,
            texts=list(data.records.texts),
            decision=model.settings.decision,
            base_name=base_name,
            base_scores=base_scores,
        )
        print(f"\nReport: {page.write(folder, 'report')}{'' if can_draw() else f' ({NO_PICTURES})'}")
    for warning in warnings_of(result):
        print(f"\n{warning}")
    seconds, speed = result.metrics["seconds"], result.metrics["texts_per_second"]
    print(f"\nTook {seconds:.1f} s, {speed:,.0f} distinct texts a second")
    print(f"\nWritten to {folder}: metrics.json" + (f" and {predictions}" if result.pairs is not None else ""))


def load(model: SentenceBert, args: TestArguments) -> tuple[TextDataset, TextDataset | None]:
    """Load the test data and, for classes, the texts in which neighbours are searched, if given."""
    index_path = args.index_data_path
    with first_rank_first():
        data = load_test_data(one_or_all(args.test_data_path), model, **args.reading_options)
        index = load_data(index_path, model, likely_format="classes", **args.reading_options) if index_path else None
    if data.data_format == "triplets" and args.data_format == "auto" and model.settings.decision is not None:
        raise UserError(
            f"{data.name} holds no labels, and this model decides about pairs: name the labels with "
            "--label_column, or say with --data_format triplets that the second texts are the firsts' positives"
        )
    if index is not None and data.data_format != "classes":
        noun = FORMATS[data.data_format].noun
        raise UserError(f"--index_data_path is for classes; {data.name} holds {noun}")
    return data, index


def evaluation_options(model: SentenceBert, args: TestArguments, index: TextDataset | None) -> EvaluationOptions:
    """Choose how to score; the model's stored settings are the defaults."""
    stored = stored_options(model)
    return replace(
        stored,
        batch_size=args.batch_size,
        positive_label_min=stored.positive_label_min if args.positive_label_min is None else args.positive_label_min,
        num_resamples=args.num_resamples,
        index=index,
        num_neighbors=args.num_neighbors,
        show_progress_bar=is_watched(),
    )


def score_base(
    model: SentenceBert, data: TextDataset, args: TestArguments, *, trust_remote_code: bool
) -> tuple[str, NDArray[np.float64] | None]:
    """For a report on pairs, score the model before fine-tuning, if available; return its name and the scores."""
    name = args.base_model_name_or_path or model.settings.base_model or ""
    is_there = args.base_model_name_or_path is not None or Path(name).is_dir()
    if not (args.report and name and is_there and data.data_format == "pairs"):
        return "", None
    try:
        base = SentenceBert(
            name,
            pooling_mode=model.pooling_mode,
            max_length=model.max_length,
            trust_remote_code=trust_remote_code,
            device=choose_device(args.device),
        )
    except UserError as error:
        if args.base_model_name_or_path is not None:
            raise
        print(f"Without scores before fine-tuning: {error}\n")  # these scores were not requested
        return "", None
    pairs = evaluate(base, data.records.tokenize(base), EvaluationOptions(batch_size=args.batch_size)).pairs
    return name, None if pairs is None else pairs.scores


def default_folder(model_name: str, data_path: str) -> str:
    """Return the default folder for results, named after the model and the data."""
    data = Path(data_path).absolute()
    name = data.name.removesuffix(".gz").rsplit(".", 1)[0]
    return f"output/test-{Path(model_name).absolute().name}-{data.parent.name}-{name}"


def heading(name: str, data: TextDataset, model: SentenceBert) -> str:
    """Make the heading: the model and the data."""
    report = data.records.report
    skipped = f" ({report.num_bad:,} bad rows left out)" if report.num_bad else ""
    cut = data.truncated_share
    truncated = f"\n{cut:.2%} of texts were cut at {model.max_length} tokens" if cut else ""
    gap = language_gap(data, model)
    remarks = "".join(f"\n{remark}" for remark in report.remarks)
    lines = f"{name} on {len(data):,} {FORMATS[data.data_format].noun} of {report.path}{skipped}{truncated}{remarks}\n"
    return f"{lines}\n{gap}\n" if gap else lines


def report_metrics(result: Evaluation, index_path: str | None) -> None:
    """Print the metrics of data without decisions."""
    metrics = result.metrics
    left_out = metrics["n"] - metrics.get("num_queries", metrics["n"])
    if "knn_accuracy" in metrics:
        print(f"Neighbours are looked for in {index_path or 'the other test texts; --index_data_path names a file'}\n")
    if left_out:
        print(f"{left_out:,} texts are left out: no other text of their class is there to be found\n")
    show(result, *(name for name in metrics if name not in ("n", "num_queries", "seconds", "texts_per_second")))


def report_pairs(result: Evaluation, model: SentenceBert, data_path: str) -> None:
    """Print the metrics of pairs; those at the stored threshold are separate from those chosen on the test data."""
    metrics, decision = result.metrics, model.settings.decision
    if decision is not None and is_chosen_on(decision, data_path, int(metrics["n"])):
        print(f"{CHOSE_THRESHOLD}\n")
    show(result, "spearman", "pearson")
    if "accuracy" in metrics and decision is not None:
        print(f"\nAt the stored threshold {decision}:")
        show(result, *DECISION, *CALIBRATION)
        if decision.calibration is not None:
            print(f"  {describe_probability(decision)}")
    elif decision is not None and "best_accuracy" in metrics:
        print(f"\nThe stored threshold {decision} is not applied: these scores are of all dimensions in float32.")
    if decision is None:
        print("\nNo threshold is stored with this model: `cosent calibrate` chooses one on labelled pairs.")
    if "best_accuracy" in metrics:
        print("\nWithout a threshold:")
        show(result, "average_precision", "roc_auc")
        print("\nChosen on this very test data, so no forecast for other data:")
        print(f"  best accuracy {metrics['best_accuracy']:.4f} at threshold {metrics['best_threshold']:.4f}")
        print(f"  best F1       {metrics['best_f1']:.4f} at threshold {metrics['best_f1_threshold']:.4f}")
    else:
        print("\nLabels are graded: --positive_label_min says from which label on a pair matches.")


def show(result: Evaluation, *names: str) -> None:
    """Print the metrics that exist, one per line, with their intervals."""
    for name in names:
        if name in result.metrics and name != "threshold":
            ends = show_interval(result.intervals.get(name))
            interval = f"   {CONFIDENCE:.0%} interval {ends}" if ends else ""
            print(f"  {name.replace('_', ' '):26}{result.metrics[name]:8.4f}{interval}")


def scored_rows(data: TextDataset, pairs: ScoredPairs) -> Iterator[ScoredRow]:
    """Yield the test pairs with their scores and decisions."""
    threshold, probabilities = pairs.threshold, pairs.probabilities
    for number, (texts, score) in enumerate(zip(data.records.texts, pairs.scores, strict=True)):
        yield ScoredRow(
            tuple(texts),
            float(score),
            float(pairs.labels[number]),
            None if probabilities is None else float(probabilities[number]),
            None if threshold is None else bool(score >= threshold),
        )
