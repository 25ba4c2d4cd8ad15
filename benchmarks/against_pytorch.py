"""How far compiled examples are from PyTorch in double precision: gradients of every parameter, and loss curves, at f32.

    python benchmarks/against_pytorch.py                   # every example; needs torch
    python benchmarks/against_pytorch.py gpt2 t5 --steps 50

A gradient's error is relative to the larger of its norm and 1e-6 of the global norm; gradients that are zero in exact arithmetic
(spec/numerics.md) are apart, relative to the global norm. Exits 1 when one is over its tolerance.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
import torch
from tolerances import TOLERANCES

from oracles.cases import CASES, Case
from oracles.compiled import SEED, Builds, curves, errors, truth
from oracles.random import Keys


def gradients(builds: Builds, case: Case) -> bool:
    """Print the worst gradients of a case; returns whether all keep their tolerances."""
    with builds.open(case, case.text()) as model:
        loss, found = model.gradient(**case.batches(1)[0])
    want = truth(case, [Keys(SEED)])
    shares = errors(case, found, want.loss_gradients)
    plain = {name: share * TOLERANCES["gradient.f32"] for name, share in shares.items() if not case.zero(name)}
    zero = [share * TOLERANCES["gradient.zero"] for name, share in shares.items() if case.zero(name)]
    worst = max(plain, key=lambda name: plain[name])
    print(f"{case!s:28} loss {abs(loss / want.loss - 1):.1e}   gradients {plain[worst]:.1e} ({worst})", end="")
    print(f"   zero gradients {max(zero):.1e}" if zero else "", flush=True)
    return max(shares.values()) <= 1


def curve(builds: Builds, case: Case, steps: int) -> bool:
    """Print how far the loss leaves PyTorch's; returns whether it keeps its tolerance."""
    found, want = curves(builds, case, steps)
    error = float(np.max(np.abs(np.divide(found, want) - 1)))
    print(f"{case!s:28} curve {error:.1e} over {steps} steps, loss {found[0]:.3f} to {found[-1]:.3f}", flush=True)
    return error <= TOLERANCES["curve.f32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", nargs="*", help="names of examples (default: all)")
    parser.add_argument("--steps", type=int, default=200, help="length of the curves")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        builds = Builds(Path(folder))
        for case in CASES:
            if arguments.examples and case.example not in arguments.examples:
                continue
            good &= gradients(builds, case)
            if not case.changes:
                good &= curve(builds, case, arguments.steps)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
