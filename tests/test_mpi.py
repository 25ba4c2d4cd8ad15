"""Samples of benchmarks/mpi.py: ranks that mpirun, torchrun or srun started; over several machines, over a bad cable, cut off, killed."""

from __future__ import annotations

import mpi
import pytest
from conftest import need_mpi


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> mpi.Bench:
    return mpi.Bench(tmp_path_factory.mktemp("mpi"), short=True)


def check(name: str, bench: mpi.Bench) -> None:
    need_mpi()
    figures, obstacle = mpi.CHECKS[name]
    if reason := obstacle():
        pytest.skip(reason)
    missed = [figure for figure in figures(bench) if not figure.met]
    assert not missed, missed


@pytest.mark.parametrize("name", ["machine", "kill", "launchers"])
def test_on_this_machine(name: str, bench: mpi.Bench) -> None:
    check(name, bench)


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", ["network", "relay", "cut"])
def test_over_a_network(name: str, bench: mpi.Bench) -> None:
    check(name, bench)
