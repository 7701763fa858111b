"""The run of `cosent test` on a search: rank documents for queries, print and write the metrics."""

import time
from collections.abc import Mapping
from pathlib import Path

from cosent import SentenceBert
from cosent.cli.arguments import ModelArguments
from cosent.cli.running import choose_device
from cosent.cli.test import TestArguments
from cosent.cli.testing import default_folder, show
from cosent.evaluation.bootstrap import FEWEST_CLUSTERS
from cosent.evaluation.rankings import RANKING
from cosent.evaluation.search import K_VALUES, Qrels, RetrievalEvaluation, evaluate_retrieval
from cosent.files import write_json
from cosent.progress import is_watched


def test_search(
    model_args: ModelArguments, args: TestArguments, queries: Mapping[str, str], corpus: Mapping[str, str], qrels: Qrels
) -> None:
    """Rank the documents for each query, and report the metrics."""
    assert args.corpus is not None  # as it was read
    model = SentenceBert(**vars(model_args), device=choose_device(args.device))
    started = time.perf_counter()
    result = evaluate_retrieval(
        model,
        queries,
        corpus,
        qrels,
        ignore_identical_ids=args.ignore_identical_ids,
        query_prompt=args.query_prompt,
        document_prompt=args.document_prompt,
        batch_size=args.batch_size,
        num_resamples=args.num_resamples,
        show_progress_bar=is_watched(),
    )
    seconds = time.perf_counter() - started
    folder = Path(args.output_dir or default_folder(model_args.model_name_or_path, args.corpus))
    folder.mkdir(parents=True, exist_ok=True)
    intervals = {"intervals": result.intervals} if result.intervals else {}
    write_json(folder / "metrics.json", {**result.metrics, "seconds": seconds, **intervals})
    report(model_args.model_name_or_path, args.corpus, result)
    print(f"\nTook {seconds:.1f} s\n\nWritten to {folder}: metrics.json")


def report(name: str, corpus_path: str, result: RetrievalEvaluation) -> None:
    """Print what was searched, and the metrics."""
    metrics = result.metrics
    print(f"{name} on {metrics['n']:,} queries and {metrics['num_documents']:,} documents of {corpus_path}")
    if metrics["num_left_out"]:
        print(f"{metrics['num_left_out']:,} queries are left out: no document is known to be relevant to them")
    if metrics["num_tied"]:
        print(
            f"For {metrics['num_tied']:,} queries, documents of different relevance have equal scores: their ids decide"
        )
    for metric in RANKING:
        print()
        show(result, *(f"{metric}@{k}" for k in K_VALUES))
    if result.intervals and metrics["n"] < FEWEST_CLUSTERS:
        print(f"\nThere are no intervals: there are fewer than {FEWEST_CLUSTERS} queries")
