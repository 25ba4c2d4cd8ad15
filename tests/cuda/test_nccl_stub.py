"""The stub of NCCL between processes: what is right goes through under every schedule, each planted fault is reported, none waited for."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest
from shim_library import FLAGS, KERNELS, compiler, scratch, shim_objects

#: Scenario of kernels/nccl_pair.cu -> what is reported.
FAULTS = {
    "deadlock": "deadlock: every process waits for another one; this one in send 0 of 150000 bytes",
    "deadlock in a graph": "deadlock: every process waits for another one; this one in receive 0 of 64 bytes",
    "sizes": " of type 0, not captured, meets ",
    "types": ", not captured, meets 64 bytes of type ",
    "captured": " captured, meets 64 bytes of type 0, ",
    "peer": "which is not the other one",
    "streams": "on another stream than its communicator was used on",
    "host memory": "memory that is not the device's",
    "bounds": "nccl: out of bounds: ",
    "destroyed early": "ncclCommDestroy while a stream or a graph still uses the communicator",
    "used late": "with a communicator that does not exist, or was destroyed",
}


@functools.cache
def program() -> Path:
    path = scratch() / "nccl_pair"
    command = [*compiler()[-1:], *FLAGS, "-O1", "-DMLC_SHIM", "-x", "c++", str(KERNELS / "nccl_pair.cu"), "-x", "none", *shim_objects()]
    subprocess.run([*command, "-o", str(path)], check=True)
    return path


def said(scenario: str, order: str = "forward", seed: int = 1) -> str:
    environment = {**os.environ, "MLC_SHIM_ORDER": order, "MLC_SHIM_SEED": str(seed)}
    done = subprocess.run([str(program()), scenario], capture_output=True, text=True, timeout=60, check=False, env=environment)
    return done.stderr


@pytest.mark.parametrize(("order", "seed"), [("forward", 1), ("reverse", 1), ("random", 1), ("random", 2), ("ahead", 1)])
@pytest.mark.parametrize("scenario", ["graph", "group"])
def test_what_is_right_goes_through(scenario: str, order: str, seed: int) -> None:
    assert said(scenario, order, seed) == ""


@pytest.mark.parametrize("scenario", FAULTS)
def test_a_fault_is_reported(scenario: str) -> None:
    assert FAULTS[scenario] in said(scenario)
