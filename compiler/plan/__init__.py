"""Planning: stages, lists, and addresses for every tensor of every rank."""

from mlc.plan.layout import Layout, StageNote, single_layout
from mlc.plan.placed import Plan
from mlc.plan.plan import plan

__all__ = ["Layout", "Plan", "StageNote", "plan", "single_layout"]
