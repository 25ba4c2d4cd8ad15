"""Planning: addresses for every tensor, rows for every rank."""

from mlc.plan.placed import Plan
from mlc.plan.plan import plan

__all__ = ["Plan", "plan"]
