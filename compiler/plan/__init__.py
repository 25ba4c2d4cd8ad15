"""Planning: stages, lists, and addresses for every tensor of every rank."""

from mlc.plan.layout import Layout, single_layout
from mlc.plan.plan import plan

__all__ = ["Layout", "plan", "single_layout"]
