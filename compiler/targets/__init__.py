"""Targets: one record each, in a file or folder of its own, and a row here. Nothing below knows which there are."""

from mlc.targets.c import C
from mlc.targets.cuda import SM_90, SM_103
from mlc.targets.target import Target

#: By the name that --target has for it.
TARGETS: dict[str, Target] = {target.name: target for target in (C, SM_90, SM_103)}

__all__ = ["TARGETS", "Target"]
