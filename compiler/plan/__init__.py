"""Planning: addresses for every tensor, rows for every rank."""

from mlc.plan.plan import Plan, plan

__all__ = ["Plan", "plan"]
