"""Describes errors of the operating system in one line that says what to do."""

import errno
import os
from pathlib import Path

from cosent.files import system_error

_OTHER_FOLDER = "give a folder that can be written"
_OTHER_PATH = "give another path"
_SPACE = "free some space, or give a folder on another disk"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# The meaning of each error number, and what to do about it.
_MEANINGS = {
    errno.ENOSPC: ("disk full", _SPACE),
    errno.EDQUOT: ("disk full, as far as your quota goes", _SPACE),
    errno.EFBIG: ("disk full, as far as the limit on the size of a file goes", "raise it with ulimit -f unlimited"),
    errno.EROFS: ("the file system is read-only", _OTHER_FOLDER),
    errno.EACCES: ("permission denied", f"{_OTHER_FOLDER} and read, or change its permissions"),
    errno.EPERM: ("the operation is not permitted", f"{_OTHER_FOLDER} and read, or change its permissions"),
    errno.ENOTDIR: ("it is a file, where a folder is needed", _OTHER_PATH),
    errno.EEXIST: ("it is there already, as a file where a folder is needed", _OTHER_PATH),
    errno.EISDIR: ("it is a folder, where a file is needed", "give the path of a file"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter one"),
    errno.EMFILE: ("too many open files", "raise the limit with ulimit -n 4096, or use fewer worker processes"),
    errno.ENFILE: ("too many open files on this machine", "end other programs, or use fewer worker processes"),
    errno.ENOENT: ("it does not exist, or not any more", "check the path, and that nothing removes files meanwhile"),
    errno.EIO: ("the device reports an error", "check the disk, or give a folder on another one"),
    errno.EBUSY: ("it is in use", "wait, or give another path"),
    errno.ENOMEM: ("out of memory", "end other programs, or use smaller batches"),
}


def describe_failure(error: BaseException, if_full: str = "") -> str | None:
    """Describe in one line an error of the system and what to do about it.

    Args:
        error: an error of the system, or of a library that hides one.
        if_full: further advice for a full disk.

    Returns:
        The line; None if the error is not from the system.
    """
    found = system_error(error)
    if found is None:
        return None
    path = str(found.filename) if isinstance(found.filename, str | os.PathLike) else ""
    assert found.errno is not None  # as it was found
    what, fix = _MEANINGS.get(found.errno, (os.strerror(found.errno), _OTHER_PATH))
    if found.errno == errno.ENOENT and path and Path(path).is_symlink():
        what, fix = "it is a link to what does not exist", _OTHER_PATH
    if cache := _cache_of(path):
        what = f"the cache folder {cache} cannot be used ({what})"
        fix = "set HF_HOME, or HF_DATASETS_CACHE alone, to a folder that can be written"
    elif path:
        what = f"{path}: {what}"
    more = f"; {if_full}" if if_full and found.errno in _FULL else ""
    return f"{what}; {fix}{more}"


def _cache_of(path: str) -> str | None:
    """Find the Hugging Face cache folder that a path lies in, or whose creation it prevents."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    named = (os.environ.get(name) for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE"))
    for cache in (*(folder for folder in named if folder), home):
        if path and (_is_below(path, cache) or _is_below(cache, path) and not Path(path).exists()):
            return cache
    return None


def _is_below(path: str, folder: str) -> bool:
    return Path(path).absolute().is_relative_to(Path(folder).absolute())
