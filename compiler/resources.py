"""Where the standard library and the sources of the runtime lie: beside this package when installed, else in the checkout."""

from __future__ import annotations

import stat
from pathlib import Path

VERSION = "0.1.0"

#: A model is written by people.
MOST_SOURCE_BYTES = 1 << 24

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def stdlib_folder() -> Path:
    """The folder of `from mlc.nn import ...`: nn.dsl and its siblings."""
    return _folder("stdlib")


def runtime_folder() -> Path:
    """The folder with include/, kernels/, src/ and transports/ of the runtime."""
    return _folder("runtime")


def read_text(path: Path, most_bytes: int) -> str:
    """The text of a file. raises: OSError as `read_bytes` does; UnicodeDecodeError"""
    return read_bytes(path, most_bytes).decode("utf-8")


def read_bytes(path: Path, most_bytes: int | None = None, pipes: bool = False) -> bytes:
    """What a file holds. What is no file is not opened: a FIFO would wait for ever, a device never end.

    most_bytes: None: as many as there are
    pipes:      whether a FIFO is read too, as what another command writes
    raises:     OSError, also for what is no file or larger than most_bytes
    """
    try:
        found = path.stat()
    except ValueError as problem:  # a zero byte in the name
        raise OSError(str(problem)) from problem
    if not (stat.S_ISREG(found.st_mode) or (pipes and stat.S_ISFIFO(found.st_mode))):
        raise OSError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no file")
    if most_bytes is not None and found.st_size > most_bytes:
        raise OSError(f"it has {found.st_size:,} bytes, and {most_bytes:,} are the most")
    return path.read_bytes()
