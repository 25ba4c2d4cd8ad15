"""What a microbatch of a model gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """loss: with every added loss; weight: of the microbatch; fed: parameter name -> what accumulate gave it."""

    loss: Tensor
    weight: float = 1.0
    fed: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
