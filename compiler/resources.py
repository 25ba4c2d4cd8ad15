"""Where the standard library and the sources of the runtime lie: beside this package when installed, else in the checkout."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.1.0"

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
