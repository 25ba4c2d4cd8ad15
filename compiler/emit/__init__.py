"""Emission: plans become C source trees."""

from mlc.emit.model import emit
from mlc.emit.plan_json import plan_json
from mlc.emit.project import SourceTree

__all__ = ["SourceTree", "emit", "plan_json"]
