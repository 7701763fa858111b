"""Seals on cached token files, so that a damaged file is recreated instead of read.

A seal is a small file with the size and the CRC-32 of the file beside it. It is written once that file is complete.
"""

import logging
from pathlib import Path
from uuid import uuid4

from datasets import Dataset, is_caching_enabled

from cosent.files import checksum

logger = logging.getLogger(__name__)


def cached_file(rows: Dataset, fingerprint: str) -> Path | None:
    """Return the file in which `datasets` caches a result made from rows; None if it does not cache.

    Args:
        rows: the source rows.
        fingerprint: fingerprint of the result.
    """
    if not (is_caching_enabled() and rows.cache_files):
        return None
    return Path(rows.cache_files[0]["filename"]).with_name(f"cache-{fingerprint}.arrow")


def seal(path: Path) -> None:
    """Seal a complete file. Another process that makes the same file may have removed it, which does no harm.

    Args:
        path: the file.
    """
    unfinished = path.with_name(f"unfinished-{uuid4().hex}.seal")
    try:
        unfinished.write_text(_content(path), encoding="ascii")
        unfinished.replace(_seal_of(path))
    except FileNotFoundError:
        pass
    finally:
        unfinished.unlink(missing_ok=True)


def discard_damaged(path: Path) -> None:
    """Remove a file that does not match its seal.

    Args:
        path: the file.
    """
    try:
        is_whole = _seal_of(path).read_bytes() == _content(path).encode()
    except FileNotFoundError:
        is_whole = False
    if not is_whole and path.exists():
        logger.warning("%s is damaged or unfinished; the texts are tokenised again", path)
        discard(path)


def discard(path: Path) -> None:
    """Remove a file and its seal.

    Args:
        path: the file.
    """
    for file in (path, _seal_of(path)):
        file.unlink(missing_ok=True)


def is_sealed(path: Path) -> bool:
    """Tell whether a file has a seal, valid or not.

    Args:
        path: the file.
    """
    return _seal_of(path).exists()


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal")


def _content(path: Path) -> str:
    return f"{checksum(path)}\n"
