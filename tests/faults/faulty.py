"""Runs a command in which one operation on a file below a folder goes wrong: the process ends there, or it fails.

    faulty.py FOLDER NUMBER FAULT COUNT_PATH COMMAND ...

Operations are counted from 1; NUMBER 0 lets all succeed. Their descriptions are written to COUNT_PATH at the end.
"""

import builtins
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers.modeling_utils
from transformers import PreTrainedTokenizerBase

KILLED = 99

_WRITES = frozenset("wax+")
_EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


class Faults:
    """Counts what is done to files below a folder, and lets one operation go wrong.

    Args:
        folder: where operations count.
        number: of the operation that goes wrong.
        fault: "kill", or "fail" as on a full disk.
    """

    def __init__(self, folder: str, number: int, fault: str):
        self.folder, self.number, self.fault = os.path.realpath(folder), number, fault
        self.seen: list[str] = []

    def meets(self, what: str, path: Any) -> bool:
        """Count an operation; says whether it is the one."""
        if not isinstance(path, str | os.PathLike) or not os.path.realpath(path).startswith(self.folder):
            return False
        self.seen.append(f"{what} {os.path.relpath(path, self.folder)}")
        return len(self.seen) == self.number

    def strike(self) -> None:
        """Go wrong."""
        if self.fault == "kill":
            os._exit(KILLED)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Meet what Python itself does to files."""
        if event == "os.mkdir" and os.path.isdir(arguments[0]):
            return  # nothing is done
        if event in _EVENTS and self.meets(event, _path(*arguments)):
            self.strike()
        if event == "open" and isinstance(arguments[1], str) and _WRITES & set(arguments[1]):
            if self.meets("open", arguments[0]):
                self.strike()

    def opened(self, opening: Callable[..., Any]) -> Callable[..., Any]:
        """Meet the writes to files that Python opens; the one that goes wrong comes half as far."""

        def open_file(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = opening(path, mode, *args, **kwargs)
            if _WRITES & set(mode) and isinstance(path, str | os.PathLike):
                self._watch(file, path)
            return file

        return open_file

    def _watch(self, file: Any, path: Any) -> None:
        write, flush = file.write, file.flush

        def cut_write(content: Any) -> int:
            if self.meets("write", path):
                write(content[: len(content) // 2])
                flush()
                self.strike()
            return write(content)

        file.write = cut_write

    def saved(self, saving: Callable[..., Any], name: str = "") -> Callable[..., Any]:
        """Meet what libraries write by themselves; the one that goes wrong leaves half a file.

        Args:
            saving: what writes; its second argument is the path.
            name: of the file, where the path is a folder's.
        """

        def save(*args: Any, **kwargs: Any) -> Any:
            path = args[1] if len(args) > 1 else kwargs.get("filename", kwargs.get("f"))
            path = os.path.join(path, name) if name else path
            if self.meets("save", path):
                saving(*args, **kwargs)
                os.truncate(path, os.path.getsize(path) // 2)
                self.strike()
            return saving(*args, **kwargs)

        return save


def _path(path: Any, *more: Any) -> Any:
    """The path of an event, which may be relative to an open folder, as where a tree is removed."""
    folder = more[-1] if more else -1
    if isinstance(folder, int) and folder >= 0 and os.path.isdir(f"/proc/self/fd/{folder}"):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(path))
    return path


def main() -> None:
    """Hook in, and run the command."""
    folder, number, fault, count_path, *command = sys.argv[1:]
    faults = Faults(folder, int(number), fault)
    builtins.open = io.open = faults.opened(io.open)
    torch.save = faults.saved(torch.save)
    safetensors.torch.save_file = faults.saved(safetensors.torch.save_file)
    transformers.modeling_utils.safe_save_file = safetensors.torch.save_file
    saving = PreTrainedTokenizerBase.save_pretrained
    PreTrainedTokenizerBase.save_pretrained = faults.saved(saving, "tokenizer.json")
    sys.addaudithook(faults.audit)

    from cosent.cli.main import main as cosent

    try:
        cosent(command)
    finally:
        Path(count_path).write_text("\n".join(faults.seen), encoding="utf-8")


if __name__ == "__main__":
    main()
