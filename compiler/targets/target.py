"""The record of a target: what the compiler knows of a kind of machine that it emits programs for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mlc.build import Toolchain
from mlc.emit.project import SourceTree
from mlc.frozen import frozen_by_name
from mlc.lower.program import Lowered
from mlc.lower.rules import Rules
from mlc.parallel.planned import Planned
from mlc.parallel.sweeps import KERNELS, OWN

#: (lowered, plan, stem of the program, the .dsl file as sources name it, version) -> the model's files.
Emit = Callable[[Lowered, Planned, str, str, str], SourceTree]

#: (files of a model, stem, folder of the runtime, C compiler, options that name the machine) -> all files, with a Makefile.
Project = Callable[[SourceTree, str, Path, Toolchain, tuple[str, ...]], SourceTree]


def _swept(kernel: str, wide: str) -> str:
    return f"mlc_{kernel}_{wide}"


#: The kernels of sweeps, which have one name whatever they are compiled for (runtime/include/mlc_kernel.h).
SWEPT = {kernel: partial(_swept, kernel) for kernel in KERNELS if kernel not in OWN}


@frozen_by_name
class Target:
    """A target. No field has a default.

    doc:    what it is, in a sentence
    rules:  how functions become kernels, and what they cost; `rules.target` is what --target calls it
    emit:   the sources of a plan; the Makefile compiles every src/*.c of theirs
    project: adds the runtime and the Makefile
    check:  refuses to build where what the Makefile needs beside a C compiler is not there
    """

    doc: str
    rules: Rules
    emit: Emit
    project: Project
    check: Callable[[], object]

    @property
    def name(self) -> str:
        return self.rules.target
