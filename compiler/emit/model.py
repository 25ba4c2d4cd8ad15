"""A plan as a C source tree: model.c holds the functions in the order they are used, tables.h the tables that name them."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.emit import tree as c
from mlc.emit.actions import actions_text
from mlc.emit.body import Body
from mlc.emit.dtypes import stored
from mlc.emit.launch import launch_files
from mlc.emit.literals import c_string
from mlc.emit.plan_json import plan_json
from mlc.emit.printer import c_text
from mlc.emit.project import SourceTree
from mlc.emit.routines import flat_routine_function, routine_function
from mlc.emit.tables import Tables
from mlc.ir.function import Function
from mlc.ir.program import path_hash
from mlc.lower.arrangement import Placement
from mlc.lower.graph import graph_of
from mlc.lower.names import identifier
from mlc.lower.program import Lowered
from mlc.lower.routine import Routine
from mlc.lower.scope import Scope
from mlc.lower.scratch import kernel_scratch
from mlc.ops import OPS
from mlc.parallel.planned import Planned

#: What the sources of a model give to the runtime.
_MODEL = c.Define("extern const mlc_model", "mlc_emitted_model")


def main_text() -> str:
    nodes = (
        c.note("The program: everything it knows is in mlc_emitted_model."),
        c.Directive('include "mlc.h"'),
        c.Blank(),
        _MODEL,
        c.Blank(),
        c.Function(("int main(int argc, char **argv)",), (c.Do("return mlc_main(&mlc_emitted_model, argc, argv)"),)),
    )
    return c_text(nodes)


def header_text(name: str) -> str:
    guard = f"MLC_MODEL_{identifier(name).upper()}_H"
    use = f"Link lib{name}.so and use the functions of mlc.h with &mlc_emitted_model."
    nodes = (
        c.note(f"{name}.h: the model as a library. {use}"),
        c.Directive(f"ifndef {guard}"),
        c.Directive(f"define {guard}"),
        c.Blank(),
        c.Directive('include "mlc.h"'),
        c.Blank(),
        c.External((c.Blank(), _MODEL, c.Blank())),
        c.Blank(),
        c.Directive("endif"),
    )
    return c_text(nodes)


def used(lowered: Lowered, plan: Planned) -> list[Routine]:
    """The routines some row calls, in the order they were lowered."""
    names = {routine.name for routine in plan.routines}
    return [r for r in lowered.routines if r.name in names]


def _scratch_checks(routines: Sequence[Routine], plan: Planned) -> list[c.Node]:
    """The kernels' own statement of their scratch must fit what was planned."""
    needs = {kernel_scratch(kernel).stated for routine in routines for kernel in routine.kernels} - {""}
    said = c_string("scratch of a kernel is larger than planned")
    return [c.Do(f"_Static_assert({need} <= {plan.scratch_bytes_per_thread}, {said})") for need in sorted(needs)]


def curves(lowered: Lowered, plan: Planned) -> c.Function:
    """Rates and other curves, computed once a step from step, steps and the options."""
    program = lowered.step.program
    kind = stored(program.wide).type
    body: list[c.Node] = [c.Define(f"{kind} *", "scalars", "record"), c.Do("(void)scalars")]
    for scalar in program.scalars:
        if scalar.curve is not None:
            body.append(c.Block(_curve(lowered, plan, scalar.name, scalar.curve), scalar.name))
    return c.Function(("static void set_scalars(void *record)",), tuple(body))


def _curve(lowered: Lowered, plan: Planned, name: str, function: Function) -> tuple[c.Statement, ...]:
    """The statements that set one scalar of the record."""
    slots = {scalar: n for n, scalar in enumerate(plan.scalars)}
    memory = {p.name: Placement("scalars", slots[p.name], ()) for p in function.parameters}
    scope = Scope(graph_of(function, OPS, lowered.rules), memory, {}, {}, set())
    value = scope.value(function.results[0], ())
    body = Body({"scalars": ("scalars", lowered.step.program.wide)})
    lets = body.statements(scope.lets)
    return (*lets, c.Assign(f"scalars[{slots[name]}]", body.text(value)))


def _model_text(lowered: Lowered, plan: Planned, source: str, version: str) -> str:
    routines = used(lowered, plan)
    nodes: list[c.Node] = [
        c.Comment((f"{lowered.step.program.name}, compiled from {source} by mlc {version}.", "")),
        *(c.Directive(f"include {name}") for name in ("<math.h>", "<stddef.h>", "<stdint.h>", '"mlc_kernel.h"')),
        c.Blank(),
        c.note("Keys the random numbers that the model draws outside its layers."),
        c.Directive(f"define MLC_MODEL_PATH {path_hash(''):#018x}u"),
        c.Blank(),
        *_scratch_checks(routines, plan),
        c.Blank(),
    ]
    for routine in routines:
        make = flat_routine_function if routine.name in lowered.flat else routine_function
        nodes += make(routine, routine.name)
    nodes += [curves(lowered, plan), c.Blank(), c.Directive('include "tables.h"')]
    return c_text(nodes)


def tables_text(lowered: Lowered, plan: Planned) -> str:
    """src/tables.h."""
    said = "The tables of model.c: where every tensor lies, which rows run in which order. Included at its end."
    return c_text([c.note(said), c.Blank(), *Tables(lowered, plan).made()])


def emit(lowered: Lowered, plan: Planned, name: str, source: str, version: str) -> SourceTree:
    """The files of a model: src/model.c, src/tables.h, src/actions.c, src/main.c, <name>.h and plan.json;
    of several ranks, what starts them. What they say of the layout is what plan.json says.

    name:      stem of the program
    source:    the .dsl file as the header of model.c names it
    """
    return SourceTree(
        (
            ("src/model.c", _model_text(lowered, plan, source, version)),
            ("src/tables.h", tables_text(lowered, plan)),
            ("src/actions.c", actions_text(plan)),
            ("src/main.c", main_text()),
            (f"{name}.h", header_text(name)),
            ("plan.json", plan_json(plan)),
            *launch_files(name, plan.mesh),
        )
    )
