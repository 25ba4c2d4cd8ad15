"""Makespans that no schedule of a step can beat, from first principles; numbers in brackets are those of spec/schedules.md.

Times are per stage; `placement` maps stages to ranks; `c` is one transfer between two ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

Times = Sequence[float]


def work(placement: Sequence[int], m: int, forward: Times, i: Times, w: Times) -> float:
    """[1] The busiest rank."""
    ranks = max(placement) + 1
    return max(m * sum(f + a + b for f, a, b, r in zip(forward, i, w, placement) if r == rank) for rank in range(ranks))


def one_microbatch(placement: Sequence[int], forward: Times, i: Times, w: Times, c: float) -> float:
    """[1] There and back, and the weight gradient of stage 0."""
    hops = sum(a != b for a, b in pairwise(placement))
    return sum(forward) + sum(i) + 2 * hops * c + w[0]


def fused_linear(m: int, forward: Times, b: Times, c: float) -> float:
    """[2] One stage a rank, backwards whole: before its first forward and behind its last backward a rank waits for those below."""
    before = [sum(forward[s] + b[s] + 2 * c for s in range(r)) for r in range(len(forward))]
    return max(t + m * (f + a) for t, f, a in zip(before, forward, b))


def fused_looped(p: int, m: int, v: int, forward: float, b: float) -> float:
    """[3] Equal stages, v chunks a rank in a loop, backwards whole; times are those of a rank."""
    return (m + (p - 1) / v) * (forward + b)


def split_linear(m: int, forward: Times, i: Times, w: Times, c: float) -> float:
    """[4] One stage a rank: the way in and all work; and the way in and out around all forwards and input gradients."""
    p = len(forward)
    filled = max(sum(forward[s] + c for s in range(r)) + m * (forward[r] + i[r] + w[r]) for r in range(p))
    critical = max(sum(forward[s] + i[s] + 2 * c for s in range(r)) + m * (forward[r] + i[r]) for r in range(p))
    return max(filled, critical + w[0])


def split_v(p: int, m: int, forward: float, i: float, w: float) -> float:
    """[7] Equal stages, two chunks a rank down and up: the last rank idles until the first input; times are those of a rank."""
    return (p - 1) * forward / 2 + m * (forward + i + w)


def held_linear(m: int, held: int, forward: Times, i: Times, w: Times, c: float) -> float:
    """[9] One stage a rank, at most `held` residuals on rank 0, in order: each is held for as long as its microbatch takes."""
    life = sum(forward) + sum(i) + w[0] + 2 * (len(forward) - 1) * c
    return ceil(m / held) * life


def held_fused(m: int, held: int, forward: Times, b: Times, c: float) -> float:
    """[9] The same where gradients leave a stage only after the whole backward."""
    life = sum(forward) + sum(b) + 2 * (len(forward) - 1) * c
    return ceil(m / held) * life
