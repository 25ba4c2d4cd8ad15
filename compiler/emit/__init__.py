"""Emission: plans become C source trees."""

from mlc.emit.model import describe, emit
from mlc.emit.project import SourceTree

__all__ = ["SourceTree", "describe", "emit"]
