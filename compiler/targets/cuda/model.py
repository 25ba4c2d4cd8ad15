"""A plan as a CUDA source tree: kernels.cu holds the kernels and, for each routine, the function that launches them; model.c the tables."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.diagnostics import InternalError
from mlc.emit import tree as c
from mlc.emit.actions import actions_text
from mlc.emit.launch import launch_files
from mlc.emit.literals import c_string
from mlc.emit.model import curves, header_text, main_text, tables_text, used
from mlc.emit.plan_json import plan_json
from mlc.emit.printer import c_text
from mlc.emit.project import SourceTree
from mlc.emit.routines import buffer_names, pointers
from mlc.ir.program import path_hash
from mlc.lower.loops import Nest
from mlc.lower.program import Lowered
from mlc.lower.routine import Routine
from mlc.parallel.planned import Planned
from mlc.targets.cuda.batch import flat
from mlc.targets.cuda.kernels import launched
from mlc.targets.cuda.launch import Named

#: What a pass notes on the device beside the arena: sizeof(mlc_found) of mlc_found.h, in the place of a thread's scratch.
FOUND_BYTES = 7808

_FLAT = "const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end"
_PLAIN = "const mlc_env *env, const uint64_t *at"


def routine_functions(routine: Routine, target: str, is_flat: bool) -> tuple[c.Node, ...]:
    """The kernels of a routine, then what launches them, one behind the other on the stream of its rank."""
    names = buffer_names(routine)
    named = Named(names, routine.buffers, target)
    nodes: list[c.Node] = []
    body: list[c.Node] = [] if is_flat else pointers(routine, names)
    for number, kernel in enumerate(routine.kernels):
        name = f"{routine.name}_{number}"
        if is_flat:
            if not isinstance(kernel, Nest):
                raise InternalError(f"emit: {routine.name} is not one elementwise loop")
            made = flat(named, name, kernel, routine.binds)
        else:
            made = launched(named, name, kernel)
        nodes += [c.note(kernel.note), *made.function] if made.function else []
        body += [c.note(kernel.note), *made.launch]
    body = body if body else [c.Do("(void)env, (void)at")]
    head = f'extern "C" void {routine.name}({_FLAT if is_flat else _PLAIN})'
    return (*nodes, c.Function((head,), tuple(body)), c.Blank())


def _kernels_text(lowered: Lowered, routines: Sequence[Routine], source: str, version: str) -> str:
    nodes: list[c.Node] = [
        c.Comment((f"{lowered.step.program.name}, compiled from {source} by mlc {version}: what a GPU computes.", "")),
        c.Directive('include "mlc_batch.h"'),
        c.Directive('include "mlc_contract.h"'),
        c.Directive('include "mlc_contract_tmem.h"'),
        c.Blank(),
        c.note("Keys the random numbers that the model draws outside its layers."),
        c.Directive(f"define MLC_MODEL_PATH {path_hash(''):#018x}u"),
        c.Blank(),
    ]
    for routine in routines:
        nodes += routine_functions(routine, lowered.rules.target, routine.name in lowered.flat)
    return c_text(nodes)


def _model_text(lowered: Lowered, plan: Planned, routines: Sequence[Routine], source: str, version: str) -> str:
    nodes: list[c.Node] = [
        c.Comment((f"{lowered.step.program.name}, compiled from {source} by mlc {version}.", "")),
        *(c.Directive(f"include {name}") for name in ("<math.h>", "<stddef.h>", "<stdint.h>", '"mlc_kernel.h"', '"mlc_found.h"')),
        c.Blank(),
        c.Do(f"_Static_assert(sizeof(mlc_found) <= {plan.scratch_bytes_per_thread}, {c_string('what is noted is larger than planned')})"),
        c.Blank(),
        c.note("Of kernels.cu: each puts what it does on the stream of its rank."),
        *(c.Do(f"void {r.name}({_FLAT if r.name in lowered.flat else _PLAIN})") for r in routines),
        c.Blank(),
        curves(lowered, plan),
        c.Blank(),
        c.Directive('include "tables.h"'),
    ]
    return c_text(nodes)


def emit(lowered: Lowered, plan: Planned, name: str, source: str, version: str) -> SourceTree:
    """The files of a model: those of target c, with src/kernels.cu for its functions."""
    routines = used(lowered, plan)
    return SourceTree(
        (
            ("src/kernels.cu", _kernels_text(lowered, routines, source, version)),
            ("src/model.c", _model_text(lowered, plan, routines, source, version)),
            ("src/tables.h", tables_text(lowered, plan)),
            ("src/actions.c", actions_text(plan)),
            ("src/main.c", main_text()),
            (f"{name}.h", header_text(name)),
            ("plan.json", plan_json(plan)),
            *launch_files(name, plan.mesh),
        )
    )
