"""Emission: plans become C source trees."""

from collections.abc import Callable

from mlc.emit.model import describe, emit
from mlc.emit.project import SourceTree

#: What makes the sources of a plan, by the name that --target has for it. The Makefile compiles every src/*.c of theirs.
TARGETS: dict[str, Callable[..., SourceTree]] = {"c": emit}

__all__ = ["TARGETS", "SourceTree", "describe", "emit"]
