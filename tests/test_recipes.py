"""Walks the table "To add something" of CONTRIBUTING.md in a copy of the tree: each row's edits touch what the row names and nothing
else, and what was added works.

All rows are walked in one copy, as they would come together. An edit whose anchor is gone says that a row has become untrue, or only
this file: mend what is wrong.
"""

from __future__ import annotations

import fnmatch
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("compiler", "examples", "runtime", "spec", "stdlib", "tests", "CONTRIBUTING.md", "Makefile", "README.md", "pyproject.toml")

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Edit:
    """A file that is added, or with `anchor`, a pattern, one place of a file that becomes `text` (\\g<0>: what was there)."""

    path: str
    text: str
    anchor: str | None = None


@dataclass(frozen=True)
class Recipe:
    """The edits of a row and, in the copy, the words of the commands that show that they work.

    free:  what the row leaves to whoever adds it: the place that raises an error
    """

    edits: tuple[Edit, ...]
    shown: tuple[tuple[str, ...], ...]
    free: tuple[str, ...] = ()


def pytest_of(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *words)


CUBE = '''

def _cube_slope(b: Builder, x: Value, _y: Value, dy: Value) -> Value:
    return b.one("mul", dy, times(b, b.one("mul", x, x), 3.0))


CUBE = unary("cube", "x * x * x", lambda x: x * x * x, apply("mul", X, apply("mul", X, X)), _cube_slope)
'''

FLAT_CUBE = '''
def _flat(types: Types, attributes: Attributes) -> Types:
    if len(types[0].shape) > 4:
        raise OpError("E0299", f"cube: wants at most 4 dims, got {types[0]}")
    return _CUBE.type_rule(types, attributes)


CUBE = replace(_CUBE, type_rule=_flat)
'''

DOT_CHECK = """
static void test_dot(void)
{
    const float x[] = {1, 2, 3}, y[] = {4, 5, 6};
    check(mlc_dot(x, y, 3) == 32, "dot", mlc_dot(x, y, 3), 32);
    check(MLC_TILE_ROWS == 6, "rows of the tile", MLC_TILE_ROWS, 6);
}

int main"""

SMALL_TILE = """#if defined(MLC_SMALL)
#define MLC_VECTOR_BYTES 16
#define MLC_TILE_ROWS 6
#elif defined(__AVX512F__)"""

#: The kernels for a processor without vectors of its own, whose tile is the small one: one build for two rows.
KERNELS = (
    ("make", "-s", "-j2", "-C", "runtime", "MARCH=x86-64", "CFLAGS=-O1 -DMLC_SMALL", "build/test_kernels"),
    ("runtime/build/test_kernels",),
)

PRUNE = '''"""Removes instructions whose results nobody reads.

before:  %a = neg %x; %b = exp %x; return %b          after:  %b = exp %x; return %b
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlc.ir.function import Function
from mlc.ir.op import Op


def prune(function: Function, ops: Mapping[str, Op]) -> Function:
    """The function without what its results do not need."""
    read = {value.name for value in function.results}
    kept = []
    for instruction in reversed(function.instructions):
        if read.isdisjoint(value.name for value in instruction.results):
            continue
        read.update(value.name for value in instruction.operands)
        kept.append(instruction)
    return replace(function, instructions=tuple(reversed(kept)))
'''

PRUNE_FILE = """func @dead(%x: f32[4]) -> (%b) {
  %a = neg %x : f32[4]
  %b = exp %x : f32[4]
}
"""

ANNOTATED = '''"""The target `annotated`: the C of the target `c`, with a heading."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlc.emit.model import emit
from mlc.emit.project import SourceTree
from mlc.targets.c import C


def _emit(*arguments: Any) -> SourceTree:
    files = emit(*arguments).files
    return SourceTree(tuple((path, f"/* annotated */\\n{text}" if path.endswith(".c") else text) for path, text in files))


ANNOTATED = replace(C, doc="C with a heading", rules=replace(C.rules, target="annotated"), emit=_emit)
'''

#: What the runtime's header has is the whole kernel, and an op that is one.
NEGATED = '''"""The kernel mlc_negated of mlc_kernel.h."""

from __future__ import annotations

from mlc.ir.function import Instruction
from mlc.ir.types import Value
from mlc.lower.library import NO_SCRATCH, Constants, Operand, RuntimeKernel


def _operands(instruction: Instruction) -> tuple[Value | None, ...]:
    return (instruction.operands[0],)


def _constants(instruction: Instruction, _operands: tuple[Operand | None, ...]) -> tuple[Constants, ...]:
    return ((("count", instruction.results[0].type.size),),)


NEGATED = RuntimeKernel(
    name="negated",
    doc="minus x",
    function=lambda _instruction: "mlc_negated",
    shape="mlc_negation",
    dtypes=("f32",),
    dense=False,
    operands=_operands,
    plain=lambda instruction: (*instruction.operands, *instruction.results),
    constants=_constants,
    scratch=lambda _instruction: NO_SCRATCH,
    workspace=lambda _instruction: 0,
    over=None,
)
'''

NEGATED_C = '''/* y = -x, count contiguous numbers. All threads call it. */
typedef struct mlc_negation {
    int64_t count;
} mlc_negation;

static inline void mlc_negated(const mlc_env *env, const mlc_negation *shape, const float *x, float *y)
{
    const mlc_range range = mlc_share(env, shape->count);
    for (int64_t i = range.begin; i < range.end; i++)
        y[i] = -x[i];
}

'''

NEGATED_OP = '''
NEGATED = Op(
    name="negated",
    doc="-x, as a kernel of the runtime",
    attributes=(),
    type_rule=NEG.type_rule,
    meaning=NEG.meaning,
    vjp=NEG.vjp,
    factors=NEG.factors,
    lowering=LibraryKernel("negated"),
    flops=NEG.flops,
    samples=tuple(s for s in NEG.samples if not s.operands[0].startswith(("i32", "f64"))),
)


'''

COUNTED = """/* counted.c: the transport `counted`: `threads` under another name. */
#include "transports.h"

void mlc_counted_attach(mlc_hub *hub, mlc_world *world)
{
    static mlc_transport counted;
    mlc_hub_attach(hub, world);
    counted = *world->transport;
    counted.name = "counted";
    world->transport = &counted;
}
"""

WALKED = """from mlc.nn import triple
from mlc.optim import sgd

batch: dim = 4


@model
def walked(x: real[batch], y: real[batch]):
    a = param("a", [1], init=ones())
    error = triple(cube(a * x)) - y
    return mean(error * error)


@train(microbatches=2)
def recipe():
    return sgd(rate=0.001)
"""

RECIPES = {
    "an op": Recipe(
        (Edit("compiler/ops/unary.py", CUBE + "\n\n\\g<0>CUBE, ", r"(?m)^UNARY = \("),),
        (pytest_of("tests/test_ops.py", "tests/test_emit.py", "-k", "cube or unique"),),
    ),
    "a built-in function": Recipe(
        (Edit("compiler/elaborate/arithmetic.py", '\\g<0>    "cube": lambda x: x * x * x,\n', r"(?m)^NUMBER_FUNCTIONS.*\n"),),
        ((sys.executable, "-m", "mlc", "check", "examples/walked.dsl"),),
    ),
    "a library kernel": Recipe(
        (
            Edit("compiler/targets/c/negated.py", NEGATED),
            Edit("compiler/targets/c/__init__.py", "\\g<0>, NEGATED", r"(?m)^KERNELS = \(ATTENTION_FORWARD, ATTENTION_VJP"),
            Edit(
                "compiler/targets/c/__init__.py",
                "\\g<0>\nfrom mlc.targets.c.negated import NEGATED",
                r"from mlc\.targets\.c\.attention.*",
            ),
            Edit("compiler/ops/unary.py", NEGATED_OP + "\\g<0>NEGATED, ", r"(?m)^UNARY = \("),
            Edit("compiler/ops/unary.py", "import LibraryKernel, ", r"(?<=from mlc\.ir\.op )import "),
            Edit("runtime/include/mlc_kernel.h", NEGATED_C + "\\g<0>", r"#endif\s*\Z"),
        ),
        (pytest_of("tests/test_ops.py", "tests/test_emit.py", "-k", "negated"),),
        free=("compiler/ops/unary.py", "runtime/include/mlc_kernel.h"),
    ),
    "a tuned kernel": Recipe(
        (
            Edit(
                "runtime/kernels/dot.c",
                '#include "mlc_kernel.h"\n\nfloat mlc_dot(const float *x, const float *y, int64_t count)\n{\n    float sum = 0;\n'
                "    for (int64_t i = 0; i < count; i++)\n        sum += x[i] * y[i];\n    return sum;\n}\n",
            ),
            Edit(
                "runtime/include/mlc_kernel.h",
                "/* The sum of products. */\nfloat mlc_dot(const float *x, const float *y, int64_t count);\n\n\\g<0>",
                r"#endif\s*\Z",
            ),
            Edit("runtime/tests/test_kernels.c", DOT_CHECK, r"\nint main"),
            Edit("runtime/tests/test_kernels.c", "\\g<0>\n    test_dot();", r"test_blind_query\(\);"),
            Edit("runtime/tests/test_kernels.c", '\\g<0>\n#include "../kernels/tile.h"', r"#include <string\.h>"),
        ),
        KERNELS,
    ),
    "a processor": Recipe(
        (Edit("runtime/kernels/tile.h", SMALL_TILE, r"#if defined\(__AVX512F__\)"),),
        KERNELS,
    ),
    "a pass": Recipe(
        (
            Edit("compiler/passes/prune.py", PRUNE),
            Edit(
                "compiler/passes/__init__.py",
                'Pass("prune", "Only what is read is made.", every(prune)),\n    \\g<0>',
                r'Pass\("expand"',
            ),
            Edit("compiler/passes/__init__.py", "\\g<0>from mlc.passes.prune import prune\n", r"from mlc\.passes\.expand .*\n"),
            Edit("tests/passes/prune/dead.ir", PRUNE_FILE),
        ),
        (
            pytest_of("tests/test_passes.py", "-k", "pass_of_files and prune", "--accept"),
            pytest_of("tests/test_passes.py", "-k", "pass_of_files"),
            pytest_of("tests/test_layers.py", "-k", "prune or cycle"),
        ),
    ),
    "a schedule": Recipe(
        (
            Edit(
                "compiler/parallel/schedules/lazy.py",
                '"""All forwards, then all backwards, the last first."""\n\nfrom __future__ import annotations\n\n'
                "from mlc.parallel.actions import Action\n\n\n"
                "def lazy(ranks: int, microbatches: int, chunks: int) -> list[list[Action]]:\n"
                '    """F 0 to m-1, then B 0 to m-1, on every rank."""\n'
                '    return [[Action(kind, rank, j) for kind in "FB" for j in range(microbatches)] for rank in range(ranks)]\n',
            ),
            Edit(
                "compiler/parallel/schedules/__init__.py",
                '\\g<0>    "lazy": Named(lazy, looped, range(1, 2), 1, "any", "all forwards, then all backwards"),\n',
                r"(?m)^SCHEDULES.*\n",
            ),
            Edit(
                "compiler/parallel/schedules/__init__.py",
                "from mlc.parallel.schedules.lazy import lazy\n\\g<0>",
                r"(?m)^from mlc\.parallel\.schedules\.zb_h1",
            ),
            Edit("spec/schedules.md", "| `lazy` | 1 | looped | (p-1)(F+B) | m | 2m(p-1) | any m |\n\\g<0>", r"(?m)^\| `1f1b` \| "),
        ),
        (pytest_of("tests/test_schedules.py", "-k", "one_of_a_step or chunks_are_taken or bound or manual or csv_round or svg"),),
    ),
    "a transport": Recipe(
        (
            Edit("runtime/transports/counted.c", COUNTED),
            Edit(
                "runtime/transports/transports.h",
                "\\g<0>\n/* The same of the transport `counted`. */\nvoid mlc_counted_attach(mlc_hub *hub, mlc_world *world);\n",
                r"void mlc_hub_attach\(.*\n",
            ),
            Edit("runtime/src/launch/launcher.c", "mlc_counted_attach(launch->hub, world)", r"mlc_hub_attach\(launch->hub, world\)"),
            Edit(
                "runtime/src/launch/launcher.c",
                'transport && (!strcmp(transport, "counted") || !strcmp(transport, "threads")) ?',
                r'transport && !strcmp\(transport, "threads"\) \?',
            ),
            Edit("runtime/transports/transports.h", "local|counted|threads|mpi", r"local\|threads\|mpi"),
            Edit("runtime/tests/test_transports.c", "mlc_counted_attach(self->hub", r"mlc_hub_attach\(self->hub"),
        ),
        (
            ("make", "-s", "-C", "runtime", "CFLAGS=-O1", "MPICC=", "BUILD=build/counted", "build/counted/test_transports"),
            ("runtime/build/counted/test_transports",),
        ),
    ),
    "an error": Recipe(
        (
            Edit(
                "compiler/diagnostics.py",
                '    "E0299": CodeText(\n        "too many dims",\n        """\n        What is cubed has at most four dims.\n'
                '        """,\n    ),\n\\g<0>',
                r'    "E0301": CodeText',
            ),
            Edit("compiler/ops/unary.py", '_CUBE = unary("cube"\\g<1>\n' + FLAT_CUBE, r'CUBE = unary\("cube"(.*)\n'),
            Edit(
                "compiler/ops/unary.py",
                "from dataclasses import replace\n\nimport numpy as np\n\nfrom mlc.diagnostics import OpError\n",
                r"import numpy as np\n\n",
            ),
            Edit(
                "tests/errors/E0299_dims.dsl",
                "from mlc.optim import sgd\n\nbatch: dim = 4\n\n\n@model\ndef wrong(x: real[batch, 1, 1, 1, 2]):\n"
                '    return mean(cube(x) * param("w", [2], init=ones()))\n\n\n@train()\ndef recipe():\n    return sgd(rate=0.1)\n',
            ),
        ),
        (
            pytest_of("tests/test_errors.py", "-k", "E0299", "--accept"),
            pytest_of("tests/test_errors.py", "-k", "E0299 or every_code"),
            (sys.executable, "-m", "mlc", "explain", "E0299"),
        ),
        free=("compiler/ops/unary.py",),
    ),
    "a library function": Recipe(
        (Edit("stdlib/nn.dsl", "\\g<0>\n\ndef triple(x: real[...]):\n    return 3 * x\n", r"\Z"), Edit("examples/walked.dsl", WALKED)),
        ((sys.executable, "-m", "mlc", "check", "examples/walked.dsl"),),
    ),
    "a target": Recipe(
        (
            Edit("compiler/targets/annotated.py", ANNOTATED),
            Edit("compiler/targets/__init__.py", "\\g<0>, ANNOTATED", r"in \(C(?=,)"),
            Edit("compiler/targets/__init__.py", "from mlc.targets.annotated import ANNOTATED\n\\g<0>", r"from mlc\.targets\.c "),
        ),
        (
            (sys.executable, "-m", "mlc", "compile", "examples/walked.dsl", "-o", "built", "--emit", "c", "--target", "annotated"),
            ("grep", "-q", "annotated", "built/src/model.c"),
        ),
    ),
}


def table() -> dict[str, list[str]]:
    """The names in backticks of each row: what is touched, and tests."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (rows,) = re.findall(r"(?m)^\| to add .*\n\|[-|]+\|\n((?:\|.*\n)+)", text)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
    return {name: re.findall(r"`([^`]+)`", f"{touch} {written}") for name, touch, written in cells}


def named(path: str, names: list[str]) -> bool:
    """Is a path one of those that a row names? `<name>` stands for what is added, an ending / for all that lies there."""
    patterns = [re.sub(r"<\w+>", "*", f"{name}*" if name.endswith("/") else name) for name in names]
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which every row has been followed."""
    copy = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("build", "__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    (copy / "packages").mkdir()
    (copy / "packages" / "mlc").symlink_to(copy / "compiler")
    shutil.copytree(ROOT / "benchmarks", copy / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    for recipe in RECIPES.values():
        for edit in recipe.edits:
            apply(copy, edit)
    return copy


def apply(copy: Path, edit: Edit) -> None:
    path = copy / edit.path
    if edit.anchor is None:
        assert not path.exists(), f"{edit.path} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(edit.text, encoding="utf-8")
        return
    changed, count = re.subn(edit.anchor, edit.text, path.read_text(encoding="utf-8"), count=1)
    assert count == 1, f"{edit.path} has no {edit.anchor}"
    path.write_text(changed, encoding="utf-8")


def run(tree: Path, command: tuple[str, ...]) -> str:
    """The output of a command in the copy, whose package is the copy's."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "packages"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_table_is_walked() -> None:
    assert list(table()) == list(RECIPES)


@pytest.mark.parametrize("row", RECIPES)
def test_row_names_all_that_it_touches(row: str) -> None:
    names = table()[row]
    for edit in RECIPES[row].edits:
        assert named(edit.path, names) or edit.path in RECIPES[row].free, f"{row}: {edit.path} is not in the row"


def test_the_package_is_the_copy(tree: Path) -> None:
    assert run(tree, (sys.executable, "-c", "import mlc; print(mlc.__file__)")).startswith(str(tree))


@pytest.mark.parametrize("row", RECIPES)
def test_row(row: str, tree: Path) -> None:
    if RECIPES[row].shown == KERNELS and platform.machine() != "x86_64":
        pytest.skip("the small tile is for x86-64")
    for command in RECIPES[row].shown:
        run(tree, command)


def test_all_together(tree: Path, tmp_path: Path) -> None:
    """One program has op, pass, schedule, transport, library function and target; and the generated pages follow."""
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 16, dtype=np.float32))
    np.save(tmp_path / "y.npy", np.linspace(-2, 2, 16, dtype=np.float32))
    options = ("--emit", "c", "--target", "annotated", "--dp", "2", "--schedule", "lazy")
    run(tree, (sys.executable, "-m", "mlc", "compile", "examples/walked.dsl", "-o", "all", *options))
    run(tree, ("make", "-s", "-j2", "-C", "all/src", "OPTIMIZE=-O1", "MPICC=", "../walked"))
    data = [word for name in "xy" for word in ("--data", f"{name}={tmp_path / name}.npy")]
    said = {way: run(tree, ("all/walked", *data, "--steps", "3", "--hash", "--transport", way)) for way in ("local", "threads", "counted")}
    digests = {re.findall(r"^digest: (\w+)$", text, re.MULTILINE)[0] for text in said.values()}
    assert len(digests) == 1, said
    run(tree, (sys.executable, "-m", "mlc.docs", "spec"))
    assert "cube" in (tree / "spec" / "ops.md").read_text() and "E0299" in (tree / "spec" / "errors.md").read_text()
