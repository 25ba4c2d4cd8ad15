"""The shape of the source: imports go one way, none inside functions, ASCII, names, sizes; the wheel carries every package."""

from __future__ import annotations

import ast
import re
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILER = ROOT / "compiler"

#: An import points down this list, never up; a folder is one entry, in which anything may import anything acyclic.
LAYERS = (
    "__main__", "docs", "cli", "usage", "__init__", "api", "corpus", "bench", "driver", "bind", "runtime_library", "targets", "emit",
    "nvcc", "build", "plan", "parallel", "lower", "passes", "elaborate", "ops", "ir", "syntax", "cache", "render", "resources", "mesh",
    "diagnostics", "frozen",
)  # fmt: skip

#: The same for the runtime: an include points up this list, never down. `include` and `kernels` are for all.
ROOMS = ("system", "world", "transports", "model", "command", "data", "report", "step", "checkpoint", "launch", "program")

#: Words that say nothing, or what only history knows.
FORBIDDEN_WORDS = {"fast", "new", "old", "tmp", "util", "utils", "helper", "helpers", "manager", "misc"}

FILES = sorted(COMPILER.rglob("*.py"))
TEXTS = sorted(
    path
    for folder in ("compiler", "runtime", "stdlib", "examples", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".c", ".h", ".dsl", ".lark", ".sh") and "build" not in path.parts
)


def layer(path: Path) -> str:
    relative = path.relative_to(COMPILER)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, module) of every import of this package."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mlc":
            whole = node.module == "mlc"
            found += [(node.lineno, f"mlc.{alias.name}" if whole else node.module) for alias in node.names]
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "mlc"]
    return found


def rooms_of(path: Path) -> tuple[int, list[tuple[str, int]]]:
    """The place in ROOMS of a C file, and (name, place) of what it includes of other rooms."""
    headers = {header.name: "transports" for header in (ROOT / "runtime/transports").glob("*.h")}
    names = re.findall(r'#include "([^"]+)"', path.read_text())
    found = [(name, headers.get(name) or name.split("/")[0]) for name in names]
    return ROOMS.index(path.parent.name), [(name, ROOMS.index(room)) for name, room in found if room in ROOMS]


@pytest.mark.parametrize("path", [p for part in ("src/*", "transports") for p in sorted(ROOT.glob(f"runtime/{part}/*.[ch]"))], ids=str)
def test_includes_go_one_way(path: Path) -> None:
    own, included = rooms_of(path)
    assert not [name for name, room in included if room > own]


def test_every_file_of_the_runtime_is_in_a_room() -> None:
    assert not list(ROOT.glob("runtime/src/*.[ch]"))
    assert {path.name for path in ROOT.glob("runtime/src/*")} == {*ROOMS} - {"transports"}


def without_type_checking(path: Path) -> ast.AST:
    """The module without what only a type checker reads."""
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return tree


def names_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=names_of)
def test_imports_point_down(path: Path) -> None:
    own = LAYERS.index(layer(path))
    for line, module in imported(ast.parse(path.read_text())):
        parts = module.split(".")
        other = parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__"
        assert LAYERS.index(other) >= own, f"{path.name}:{line}: {layer(path)} imports {module}, which lies above it"


def test_no_import_cycle() -> None:
    modules = {"mlc." + ".".join(p.relative_to(COMPILER).with_suffix("").parts): p for p in FILES}
    edges = {m: {i for _, i in imported(without_type_checking(p)) if i in modules} for m, p in modules.items()}
    while edges:
        leaves = [m for m, targets in edges.items() if not targets & edges.keys()]
        assert leaves, f"modules import each other: {sorted(edges)}"
        for module in leaves:
            del edges[module]


@pytest.mark.parametrize("path", FILES, ids=names_of)
def test_no_import_inside_functions(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            inner = [node.lineno for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
            assert not inner, f"{path.name}:{inner[0]}: import inside {function.name}"


@pytest.mark.parametrize("path", TEXTS, ids=names_of)
def test_source_is_ascii(path: Path) -> None:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        assert line.isascii(), f"{path.name}:{number}: not ASCII"


@pytest.mark.parametrize("path", FILES, ids=names_of)
def test_lines_are_short_in_tokens_too(path: Path) -> None:
    counts: dict[int, int] = {}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME or (token.type == tokenize.OP and token.string not in ",:"):
                counts[token.start[0]] = counts.get(token.start[0], 0) + 1
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert len(line) <= 140, f"{path.name}:{number}: {len(line)} characters"
        assert counts.get(number, 0) <= 50, f"{path.name}:{number}: {counts[number]} tokens in one line"


@pytest.mark.parametrize("path", FILES, ids=names_of)
def test_names_say_something(path: Path) -> None:
    assert path.stem.lower() not in FORBIDDEN_WORDS
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        words = set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower().split("_"))
        assert not words & FORBIDDEN_WORDS, f"{path.name}:{node.lineno}: {node.name} says nothing by {words & FORBIDDEN_WORDS}"


def test_wheel_carries_every_package() -> None:
    stated = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(COMPILER) for p in FILES}
    assert stated >= {".".join(("mlc", *folder.parts)) for folder in folders}


def test_comments_leave_nothing_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for path in TEXTS:
        if path != Path(__file__).resolve():
            found = marks.search(path.read_text())
            assert not found, f"{path.name}: {found}"


#: What makes texts of other languages.
OTHER_LANGUAGES = {"project.py", "launch.py", "plan_json.py"}


@pytest.mark.parametrize("path", [p for p in FILES if layer(p) in ("emit", "targets")], ids=names_of)
def test_one_file_writes_braces_and_semicolons(path: Path) -> None:
    tree = ast.parse(path.read_text())
    strings = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    documents = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    found = [n.value for n in strings if id(n) not in documents and set("{};") & set(n.value)]
    assert path.name in OTHER_LANGUAGES | {"printer.py"} or not found, found
