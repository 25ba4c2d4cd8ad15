"""What every kernel of a device is: a CUDA function, the grid that it is launched with, and the statement that launches it.

A kernel takes the environment of its row by value, whose addresses are of the device, then a pointer to each buffer that it touches. It is
cut into blocks from shapes alone, so its sums have one order on every GPU.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from mlc.diagnostics import InternalError
from mlc.emit import tree as c
from mlc.emit.expressions import pointer_type
from mlc.emit.printer import c_text
from mlc.frozen import frozen
from mlc.lower.loops import Buffer, Kernel
from mlc.lower.uses import kernel_uses

#: Threads of a block.
THREADS = 256

#: Bytes of shared memory that a block may have: MLC_MOST_SHARED of mlc_device.h.
MOST_SHARED = 232448

#: Blocks of a launch: enough for every GPU to be full several times over; the rest is a loop.
MOST_BLOCKS = 4096


@frozen
class Launched:
    """A kernel: the definition of its function, nothing where a function of the runtime does it, and what launches it."""

    function: tuple[c.Node, ...]
    launch: tuple[c.Statement, ...]


@frozen
class Named:
    """What kernels of a routine are made with: C names and stored dtypes of its buffers, the buffers, and the target."""

    buffers: Mapping[str, tuple[str, str]]
    sizes: Mapping[str, Buffer]
    target: str


def integer_of(named: Named, kernel: Kernel, items: int) -> str:
    """The type of counters: 32 bits where everything that is counted and indexed fits."""
    reads, writes = kernel_uses(kernel)
    most = max([items, *(named.sizes[n].elements for n in reads | writes)])
    return "int" if most < 1 << 30 else "int64_t"


#: A parameter of a kernel and its argument.
Parameter = tuple[str, str]


def parameters(named: Named, uses: tuple[Collection[str], Collection[str]]) -> list[Parameter]:
    """The buffers that are read and those that are written."""
    reads, writes = uses
    names = sorted({*reads, *writes})
    return [(f"{pointer_type(named.buffers[n][1], n in writes)} *{named.buffers[n][0]}", named.buffers[n][0]) for n in names]


@frozen
class Grid:
    """How a kernel is launched. shared: bytes of shared memory that are asked for; together: blocks a multiprocessor at least."""

    blocks: int | str
    threads: int
    shared: int = 0
    together: int = 1


def function(name: str, buffers: list[Parameter], grid: Grid, body: Sequence[c.Statement], others: Sequence[Parameter] = ()) -> Launched:
    """A kernel and its launch. Its environment comes first where it reads it, then its buffers, then others."""
    taken = [*buffers, *others]
    if re.search(r"\benv\b", c_text(body)):
        taken = [("const mlc_env env_", "*env"), *taken]
        body = (c.Define("const mlc_env *", "env", "&env_"), *body)
    if grid.shared > MOST_SHARED:
        raise InternalError(f"emit: {name} asks for {grid.shared} bytes of shared memory, and a block has {MOST_SHARED}")
    # A block a multiprocessor is enough where nothing else is said: else ptxas spills a word or two so that more fit.
    bounds = f"__launch_bounds__({grid.threads}, {grid.together})"
    head = _wrapped(f"MLC_KERNEL void {bounds} {name}(", [parameter for parameter, _ in taken])
    arguments = ", ".join(argument for _, argument in taken)
    launch = c.Do(f"MLC_LAUNCH({name}, {grid.blocks}, {grid.threads}, {grid.shared}, mlc_stream(env), {arguments})")
    allow = (c.Do(f"mlc_allow_shared((const void *){name}, {grid.shared})"),) if grid.shared else ()
    return Launched((c.Function(head, tuple(body)), c.Blank()), (*allow, launch))


def plain(name: str, named: Named, kernel: Kernel, blocks: int, threads: int, body: Sequence[c.Statement]) -> Launched:
    """A kernel of all its buffers, without shared memory that is asked for."""
    return function(name, parameters(named, kernel_uses(kernel)), Grid(blocks, threads), body)


def _wrapped(start: str, items: Sequence[str]) -> tuple[str, ...]:
    """A list of parameters in lines of at most 140 characters."""
    lines, line = [], start
    for n, item in enumerate(items):
        text = item + (", " if n + 1 < len(items) else ")")
        if len(line) + len(text) > 140 and line.strip():
            lines.append(line.rstrip())
            line = " " * 8
        line += text
    return (*lines, line)


def blocks_of(items: int) -> int:
    """Blocks for so many items of a thread each."""
    return max(1, min(MOST_BLOCKS, -(-items // THREADS)))
