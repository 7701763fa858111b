"""Search a corpus: cosent search M TEXT --corpus C.tsv, or search M --queries Q.tsv --corpus C.tsv."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cosent.cli.arguments import BatchArguments, ModelArguments, PromptArguments
from cosent.cli.parsing import FlagParser, Positional, UsageError, require_files
from cosent.cli.running import choose_device, hush_libraries
from cosent.cli.standard_streams import STREAM, StreamedPaths, check_streams, output_name, streamed
from cosent.cli.wording import renamed
from cosent.data.lines import check_file
from cosent.data.retrieval import read_texts
from cosent.errors import UserError
from cosent.inference.predictions import check_output
from cosent.inference.search import open_embeddings, write_hits
from cosent.progress import is_watched


@dataclass(kw_only=True)
class SearchArguments(PromptArguments, BatchArguments):
    """Input and output of `cosent search`."""

    queries: str = field(
        metadata={"help": "File of queries, with or without ids; docs/search.md has the formats. -: standard input."}
    )
    corpus: str = field(metadata={"help": "File of the texts to search, with or without ids and titles."})
    corpus_embeddings: str | None = field(
        default=None,
        metadata={"help": "The corpus's embeddings, row by row: a .npy file of `cosent encode` with the same model."},
    )
    output_path: str = field(
        default=STREAM,
        metadata={"help": "File for the hits: .tsv, .csv or .jsonl. -: tab-separated on standard output."},
    )
    top_k: int = field(default=10, metadata={"help": "Number of hits per query."})
    query_column: str | None = field(
        default=None,
        metadata={"help": "Column of the queries, by name or by number from 1. Default: detect it."},
    )
    column: str | None = field(
        default=None,
        metadata={"help": "Column of the corpus's texts, by name or by number from 1. Default: detect it."},
    )

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UserError(f"--top_k must be at least 1, got {self.top_k}")


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then search for the queries of a file or the given ones."""
    parser = FlagParser(
        "search",
        [ModelArguments, SearchArguments],
        description="For each query, find the texts of a corpus with the highest cosines; exact, in bounded memory.",
        positional=Positional("query", "A model and queries, in the place of --model_name_or_path and --queries.", "*"),
        stands_for=("model_name_or_path", "queries"),
    )
    given = parser.parse(arguments)
    model_args, args = parser.fill(given)
    texts = list(given.query)
    if texts and model_args.model_name_or_path is None:
        model_args.model_name_or_path = texts.pop(0)
    if bool(texts) == (args.queries is not None):
        raise UsageError("cosent search takes queries either as arguments after the model, or as a file, --queries")
    check_paths(args)
    with streamed(args.queries or "", args.output_path, None, output_suffix=".tsv") as paths:
        search_corpus(model_args, args, texts, paths)


def check_paths(args: SearchArguments) -> None:
    """Refuse paths that cannot be read, or written as they are meant."""
    check_streams(args.queries, args.output_path, None)
    require_files(args.corpus)
    if args.corpus_embeddings is not None:
        check_file(Path(args.corpus_embeddings))
    if args.output_path != STREAM:
        output = check_output(args.output_path).resolve()
        if output in [Path(path).resolve() for path in (args.queries, args.corpus) if path is not None]:
            raise UserError(f"{args.output_path} would be overwritten by its own hits; give another --output_path")


def search_corpus(
    model_args: ModelArguments, args: SearchArguments, texts: Sequence[str], paths: StreamedPaths
) -> None:
    """Read both files, search, and write the hits."""
    if texts:
        queries = {str(number): text for number, text in enumerate(texts, start=1)}
    else:
        with renamed({"column": "query_column"}):
            queries = read_texts(paths.input, column=args.query_column)
    corpus = read_texts(args.corpus, column=args.column)
    hush_libraries()
    from cosent import SentenceBert
    from cosent.model.search import search

    documents = list(corpus.values())
    model = SentenceBert(**vars(model_args), device=choose_device(args.device))
    path = args.corpus_embeddings
    hits = search(
        model,
        list(queries.values()),
        open_embeddings(path, model, documents, document_prompt=args.document_prompt) if path else documents,
        top_k=args.top_k,
        batch_size=args.batch_size,
        query_prompt=args.query_prompt,
        document_prompt=args.document_prompt,
        show_progress_bar=is_watched(),
    )
    write_hits(paths.output, queries, corpus, hits)
    print(f"Compared {len(queries):,} queries with {len(corpus):,} texts\nWritten to {output_name(args.output_path)}")
