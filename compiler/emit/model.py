"""A plan as a C source tree: model.c holds the functions in the order they are used, tables.h the tables that name them."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.emit.actions import actions_text
from mlc.emit.body import Body
from mlc.emit.launch import launch_files
from mlc.emit.plan_json import plan_json
from mlc.emit.project import SourceTree
from mlc.emit.routines import write_flat_routine, write_routine
from mlc.emit.tables import Tables, plan_routines
from mlc.emit.writer import Writer
from mlc.ir.function import Function
from mlc.ir.program import path_hash
from mlc.lower.graph import Placement, graph_of
from mlc.lower.loops import Attention, Contract
from mlc.lower.names import identifier
from mlc.lower.routine import Routine
from mlc.lower.scope import Scope
from mlc.ops import OPS
from mlc.parallel.planned import Planned, parse_plan, read_plan
from mlc.plan.placed import Plan

_MAIN = """\
/* The program: everything it knows is in mlc_emitted_model. */
#include "mlc.h"

extern const mlc_model mlc_emitted_model;

int main(int argc, char **argv)
{
    return mlc_main(&mlc_emitted_model, argc, argv);
}
"""

_HEADER = """\
/* {name}.h: the model as a library. Link lib{name}.so and use the functions of mlc.h with &mlc_emitted_model. */
#ifndef MLC_MODEL_{guard}_H
#define MLC_MODEL_{guard}_H

#include "mlc.h"

#ifdef __cplusplus
extern "C" {{
#endif

extern const mlc_model mlc_emitted_model;

#ifdef __cplusplus
}}
#endif

#endif
"""


def _used(plan: Plan) -> list[Routine]:
    """The routines some row calls, in the order they were lowered."""
    names = {routine.name for routine in plan_routines(plan)}
    return [r for r in plan.lowered.routines if r.name in names]


def _scratch_checks(writer: Writer, routines: Sequence[Routine], plan: Plan) -> None:
    """The kernels' own statement of their scratch must fit what was planned."""
    needs: set[str] = set()
    for routine in routines:
        for kernel in routine.kernels:
            match kernel:
                case Contract():
                    needs.add("MLC_CONTRACT_SCRATCH_BYTES")
                case Attention(vjp=True, dims=(_, _, keys, _, _, head, value)):
                    needs.add(f"MLC_ATTENTION_VJP_SCRATCH_BYTES({keys}, {head}, {value})")
                case Attention(dims=(_, _, _, _, _, head, value)):
                    needs.add(f"MLC_ATTENTION_FORWARD_SCRATCH_BYTES({head}, {value})")
                case _:
                    pass
    for need in sorted(needs):
        writer.line(f'_Static_assert({need} <= {plan.scratch_bytes_per_thread}, "scratch of a kernel is larger than planned");')
    writer.line()


def _curves(writer: Writer, plan: Plan) -> None:
    """Rates and other curves, computed once a step from step, steps and the options."""
    with writer.function("static void set_scalars(float *scalars)"):
        writer.line("(void)scalars;")
        for scalar in plan.program.scalars:
            if scalar.curve is not None:
                with writer.block(f"/* {scalar.name} */"):
                    _curve(writer, plan, scalar.name, scalar.curve)


def _curve(writer: Writer, plan: Plan, name: str, function: Function) -> None:
    """The statements that set one scalar of the record."""
    slots = {scalar: n for n, scalar in enumerate(plan.scalar_names)}
    memory = {p.name: Placement("scalars", slots[p.name], ()) for p in function.parameters}
    scope = Scope(graph_of(function, OPS), memory, {}, {}, set())
    value = scope.value(function.results[0], ())
    body = Body(writer, {"scalars": ("scalars", "f32")})
    body.statements(scope.lets)
    writer.line(f"scalars[{slots[name]}] = {body.text(value)};")


def _model_text(plan: Plan, source: str, version: str) -> str:
    writer = Writer()
    program = plan.program
    writer.line(f"/* {program.name}, compiled from {source} by mlc {version}.")
    writer.line(" *")
    writer.line(" */")
    for include in ("<math.h>", "<stddef.h>", "<stdint.h>", '"mlc_kernel.h"'):
        writer.line(f"#include {include}")
    writer.line()
    writer.line("/* Keys the random numbers that the model draws outside its layers. */")
    writer.line(f"#define MLC_MODEL_PATH {path_hash(''):#018x}u")
    writer.line()
    routines = _used(plan)
    _scratch_checks(writer, routines, plan)
    for routine in routines:
        write = write_flat_routine if routine.name in plan.lowered.flat else write_routine
        write(writer, routine, routine.name)
    _curves(writer, plan)
    writer.line('#include "tables.h"')
    return writer.text()


def _tables_text(plan: Plan) -> str:
    writer = Writer()
    writer.line("/* The tables of model.c: where every tensor lies, which rows run in which order. Included at its end. */")
    writer.line()
    Tables(writer, plan).write()
    return writer.text()


def describe(plan: Plan) -> tuple[str, Planned]:
    """plan.json: its text, and what it says when it is read back."""
    text = plan_json(plan)
    return text, read_plan(parse_plan(text))


def emit(plan: Plan, described: tuple[str, Planned], name: str, source: str, version: str) -> SourceTree:
    """The files of a model: src/model.c, src/tables.h, src/actions.c, src/main.c, <name>.h and plan.json;
    of several ranks, what starts them.

    described: what `describe` makes of the plan
    name:      stem of the program
    source:    the .dsl file as the header of model.c names it
    """
    guard = identifier(name).upper()
    decided, planned = described
    return SourceTree(
        (
            ("src/model.c", _model_text(plan, source, version)),
            ("src/tables.h", _tables_text(plan)),
            ("src/actions.c", actions_text(planned)),
            ("src/main.c", _MAIN),
            (f"{name}.h", _HEADER.format(name=name, guard=guard)),
            ("plan.json", decided),
            *launch_files(name, plan.layout.mesh),
        )
    )
