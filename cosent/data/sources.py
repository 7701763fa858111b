"""Sources of rows: files, folders, globs, the Hub, and tables or lists in memory, all as one type.

"train.tsv"  "shards/*.parquet"  "folder"  ["a.tsv", "b.tsv"]      files; a folder is one split of data
"hub:owner/name"  "hub:owner/name@revision:config:train[:10%]"     a dataset of the Hub
DataFrame  Dataset  DatasetDict                                    tables of pandas and datasets
[("text", "text", 1), ...]  [{"query1": "text", ...}, ...]         rows; any iterable of them
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from glob import glob, has_magic
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosent.data.clues import SEPARATORS, csv_separator, explain
from cosent.data.rows import FILE_TYPES, PlacedRow, open_rows, suffix_of
from cosent.data.shown import clipped, shown, shown_names
from cosent.data.tables import ChooseColumns, dataset_rows, frame_rows, python_rows
from cosent.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# What `read_records` takes: a path, a table, or rows; or several paths or tables.
Data = Any

TAKEN = (
    "a path, a glob, a folder, 'hub:owner/name', a pandas DataFrame, a datasets Dataset, or an iterable of tuples or "
    "dicts, one for each example; or a list of paths or tables"
)

HUB = "hub:"
_HUB = re.compile(r"hub:([\w.-]+(?:/[\w.-]+)?)(?:@([^:]+))?(?::([^:]*))?(?::(.+))?")

# Names of splits, the likeliest first, and words in the names of files that hold them.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "development"),
    "test": ("test", "testing"),
}

_WHAT_HAS_SPLITS = "split is for folders, datasets of the Hub and DatasetDicts, and revision for the Hub"
_NO_DATA = re.compile(r"[._].*|readme\b.*|license\b.*|requirements.*|dataset_infos?\.json", re.IGNORECASE)

_DATA_FOLDER = "data"  # where repositories of the Hub have their files
_SAVED_DATASET = "state.json"
_SAVED_DICT = "dataset_dict.json"


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: name of the source in messages.
        unit: the unit of the row numbers, "line" or "row".
        open: opens the source: takes the maximum number of bytes in a text and a function that picks columns, and
            returns the numbered rows.
        explain: says what an unreadable source looks like; "" if it looks right.
        remark: says what was guessed about the source, and how to override it; "" if nothing was.
        path: the file, if the source is one.
        is_repeatable: whether the rows can be read more than once.
        is_shared: whether several worker processes of a data loader would each get a part of the rows.
        class_names: names of the classes behind the numbers of a column, by column.
    """

    name: str
    unit: str
    open: Callable[[int, ChooseColumns | None], Iterator[PlacedRow]]
    explain: Callable[[], str] = str
    remark: Callable[[], str] = str
    path: Path | None = None
    is_repeatable: bool = True
    is_shared: bool = False
    class_names: Mapping[str, list[str]] = field(default_factory=dict)


def sources_of(
    data: Data,
    *,
    split: str | None = None,
    revision: str | None = None,
    usual: str = "train",
    streaming: bool = False,
) -> list[Source]:
    """Find the sources that make up some data.

    Args:
        data: the data; the module's docstring lists what it can be.
        split: the split to take from a dataset of the Hub, a DatasetDict or a folder. None: the only one, or `usual`.
        revision: revision of a dataset of the Hub.
        usual: what the data is for: "train", "validation" or "test".
        streaming: whether to download a dataset of the Hub while it is read, instead of before.

    Returns:
        At least one source; several files are several sources.

    Raises:
        DataError: if a path, a dataset or a split does not exist.
        TypeError: if the data is of a type that is not taken.
    """
    if isinstance(data, (str, Path)):
        if not str(data):
            raise DataError("the path of the data is empty")
        return _named(str(data), split, revision, usual, streaming)
    if revision is not None or split is not None and not (is_dataset_dict(data) or _is_list(data)):
        raise DataError(f"data of type {type(data).__name__} has no splits or revisions; {_WHAT_HAS_SPLITS}")
    if _is_of("pandas", "DataFrame", data):
        return [Source("the DataFrame", "row", partial(frame_rows, data, "the DataFrame"))]
    if _is_of("datasets", "Dataset", data):
        return [_dataset_source(data, "the Dataset")]
    if _is_of("datasets", "IterableDataset", data):
        return [_stream_source(data, "the IterableDataset")]
    if is_dataset_dict(data):
        return [_of_loaded(data, split, usual, f"the {type(data).__name__}")]
    if _is_list(data):
        _check_not_texts(data)
        options: dict[str, Any] = {"split": split, "revision": revision, "usual": usual, "streaming": streaming}
        return [source for part in data for source in sources_of(part, **options)]
    if isinstance(data, (Mapping, bytes)) or not isinstance(data, Iterable):
        raise TypeError(f"data must be {TAKEN}; got {shown(data)} of type {type(data).__name__}")
    name = f"the {type(data).__name__}"
    return [Source(name, "row", partial(python_rows, data, name), is_repeatable=iter(data) is not data)]


def file_source(path: str | Path) -> Source:
    """Make a source of one data file.

    Args:
        path: a file that `open_rows` reads.
    """
    path = Path(path)
    suffix = suffix_of(path)

    def rows(max_text_bytes: int, choose: ChooseColumns | None) -> Iterator[PlacedRow]:
        return open_rows(path, max_text_bytes=max_text_bytes, choose=choose)[1]

    def remark() -> str:
        mark = csv_separator(path) if suffix == ".csv" else ","
        return "" if mark == "," else f"line 1 has no comma, so {SEPARATORS[mark]} separate the columns"

    unit = FILE_TYPES[suffix].unit if suffix in FILE_TYPES else "line"
    return Source(str(path), unit, rows, partial(explain, path, suffix), remark, path)


def check_sources(data: str | Path) -> None:
    """Refuse missing and unknown files without reading them; the Hub is not asked.

    Args:
        data: a path, a glob, a folder or a name on the Hub.

    Raises:
        DataError: if a file is missing or of an unknown type, or a name is malformed.
    """
    name = str(data)
    if name.startswith(HUB):
        _hub_parts(name)
    elif not _is_saved(Path(name)):
        for path in _files(name):
            open_rows(path)


def name_of(sources: list[Source]) -> str:
    """Name sources in a message.

    Args:
        sources: at least one source.
    """
    return sources[0].name if len(sources) == 1 else f"{sources[0].name} and {len(sources) - 1:,} more"


def _named(name: str, split: str | None, revision: str | None, usual: str, streaming: bool) -> list[Source]:
    if name.startswith(HUB):
        return [_hub_source(name, split, revision, usual, streaming)]
    if revision is not None:
        raise DataError(f"{name} has no revisions: revision is for data of the Hub, hub:owner/name")
    if _is_saved(Path(name)):
        return [_saved_source(name, split, usual)]
    files = _files(name)
    if not isdir(name):
        if split is not None:
            raise DataError(f"{name} has no splits; {_WHAT_HAS_SPLITS}")
        return [file_source(path) for path in files]
    by_split: dict[str, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of(path.name), []).append(path)
    if len(by_split) == 1 and split is None:
        return [file_source(path) for path in files]
    taken, remark = _choose_split([known for known in SPLITS if known in by_split], split, usual, name)
    return [_remarked(file_source(path), remark) for path in by_split[taken]]


def _files(name: str) -> list[Path]:
    """List the files of a path, a folder or a glob."""
    path = Path(name)
    if not isdir(path):
        if exists(path) or not has_magic(name):
            return [path]
        found = sorted(Path(match) for match in glob(name, recursive=True) if Path(match).is_file())
        if not found:
            raise DataError(f"{name} matches no file")
        return found
    found = sorted(file for file in path.iterdir() if suffix_of(file) in FILE_TYPES and not _NO_DATA.match(file.name))
    if not found and isdir(path / _DATA_FOLDER):
        return _files(str(path / _DATA_FOLDER))
    if not found:
        raise DataError(f"{name} is a folder without data files; known are {', '.join(FILE_TYPES)}, and each with .gz")
    kinds = sorted({suffix_of(file) for file in found})
    if len(kinds) > 1:
        raise DataError(
            f"{name} is a folder with files of several types, {', '.join(kinds)}: name those that are meant, for "
            f"instance {path / ('*' + kinds[0])}"
        )
    return found


def _split_of(filename: str) -> str:
    """Tell by a file's name which split it holds; "" if the name does not say."""
    words = re.split(r"[^a-z]+", filename.lower())
    return next((split for split, names in SPLITS.items() if any(name in words for name in names)), "")


def _choose_split(names: list[str], split: str | None, usual: str, name: str) -> tuple[str, str]:
    """Choose one of several splits, and say so if it was not asked for."""
    if split is not None:
        same = [known for known in names if known == split or _split_of(split) and _split_of(known) == _split_of(split)]
        if not same:
            raise DataError(f"{name} has no split {split!r}; it has {shown_names(names)}")
        return (split if split in same else same[0]), ""
    if len(names) == 1:
        return names[0], ""
    taken = next((known for known in names if _split_of(known) == usual), None)
    if taken is None:
        raise DataError(f"{name} has the splits {shown_names(names)}, none of which is {usual}: name one with split")
    return taken, f"taking the split {taken!r} of {shown_names(names)}; split names another"


def _hub_parts(name: str) -> tuple[str, str | None, str | None, str | None]:
    """Split "hub:owner/name@revision:config:split" into its parts."""
    parts = _HUB.fullmatch(name)
    if parts is None:
        raise DataError(f"{name} is malformed: data of the Hub is hub:owner/name[@revision][:config[:split]]")
    repository, revision, config, split = parts.groups()
    return repository, revision, config or None, split


def _hub_source(name: str, split: str | None, revision: str | None, usual: str, streaming: bool) -> Source:
    from datasets import load_dataset

    repository, its_revision, config, its_split = _hub_parts(name)
    given = split or its_split
    with _loading(name):
        options: dict[str, Any] = {"streaming": True} if streaming else {}
        loaded = load_dataset(repository, config, split=given, revision=revision or its_revision, **options)
    return _of_loaded(loaded, None, usual, name)


def _saved_source(name: str, split: str | None, usual: str) -> Source:
    from datasets import load_from_disk

    with _loading(name):
        return _of_loaded(load_from_disk(name), split, usual, name)


def _of_loaded(loaded: Any, split: str | None, usual: str, name: str) -> Source:
    remark = ""
    if isinstance(loaded, dict):
        taken, remark = _choose_split(list(loaded), split, usual, name)
        loaded, name = loaded[taken], name if taken in name else f"{taken} of {name}"
    make = _dataset_source if hasattr(loaded, "__len__") else _stream_source
    return make(loaded, name, remark)


def _dataset_source(dataset: "Dataset", name: str, remark: str = "") -> Source:
    names = _class_names(dataset.features)
    return Source(name, "row", partial(dataset_rows, dataset, name), remark=lambda: remark, class_names=names)


def _stream_source(dataset: "IterableDataset", name: str, remark: str = "") -> Source:
    names = _class_names(dataset.features or {})
    rows = partial(python_rows, dataset, name)
    return Source(name, "row", rows, remark=lambda: remark, is_shared=True, class_names=names)


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    return {column: feature.names for column, feature in features.items() if hasattr(feature, "int2str")}


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turn the errors of `datasets` in loading into data errors."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        yield
    except DataError:
        raise
    except (DatasetsError, OSError, ValueError, RuntimeError, LookupError, pyarrow.ArrowException) as error:
        hint = ""
        if name.startswith(HUB):
            hint = ". Without a network, it must have been loaded before; a private repository needs HF_TOKEN"
        raise DataError(f"{name} cannot be loaded: {clipped(str(error)) or type(error).__name__}{hint}") from error


def is_dataset_dict(data: Data) -> bool:
    """Tell whether data is a DatasetDict or an IterableDatasetDict, one of whose splits is meant.

    Args:
        data: anything.
    """
    return _is_of("datasets", "DatasetDict", data) or _is_of("datasets", "IterableDatasetDict", data)


def is_stream(data: Data) -> bool:
    """Tell whether data is an IterableDataset, or a dict of them.

    Args:
        data: anything.
    """
    return _is_of("datasets", "IterableDataset", data) or _is_of("datasets", "IterableDatasetDict", data)


def _is_saved(path: Path) -> bool:
    """Tell whether a folder was written by `save_to_disk`."""
    return isdir(path) and any(isfile(path / name) for name in (_SAVED_DATASET, _SAVED_DICT))


def _is_whole(part: Any) -> bool:
    """Tell whether a part of a list is data by itself, and not a row."""
    return isinstance(part, (str, Path)) or _is_of("pandas", "DataFrame", part) or _is_of("datasets", "Dataset", part)


def _is_list(data: Any) -> bool:
    """Tell whether data is a list of several sources."""
    return isinstance(data, (list, tuple)) and bool(data) and all(map(_is_whole, data))


def _check_not_texts(parts: list[Any]) -> None:
    """Refuse a list of texts, none of which is a path."""
    if not all(isinstance(part, str) for part in parts):
        return
    if not any(name.startswith(HUB) or has_magic(name) and " " not in name or exists(name) for name in parts):
        raise DataError(
            f"none of the paths {shown_names(parts)} exists. If they are texts, put each in a row of its own, as in "
            "[(text,), ...]"
        )


def _is_of(module: str, kind: str, value: Any) -> bool:
    """Tell whether a value is of a type of a package, without importing it."""
    package = sys.modules.get(module)
    return package is not None and isinstance(value, getattr(package, kind))


def _remarked(source: Source, remark: str) -> Source:
    return replace(source, remark=lambda: remark or source.remark())
