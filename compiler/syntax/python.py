"""Models written as Python functions: their source text goes through the same parser.

    from __future__ import annotations
    import mlc
    from mlc.language import dim, f32, i32, real, following, param
    from mlc.nn import linear

    width: dim = 64                       # a constant of the model

    @mlc.layer
    def block(x: real[batch, width]): ...

    @mlc.model
    def model(...): ...

    mlc.compile(model, define={"width": 128})

Read from the Python file, and nothing else of it: imports from the standard library, top-level constants annotated with a kind of
the language, and top-level functions marked `@mlc.layer`, `@mlc.train()` and so on, or `@mlc.function` where a .dsl file needs no
mark. The model itself may stand anywhere. The names imported from `mlc.language` and the library are stand-ins (`install`): they
let Python run the file, and do nothing.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import inspect
import linecache
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mlc.diagnostics import Diagnostic, MlcError, Span
from mlc.resources import stdlib_folder
from mlc.syntax import tree
from mlc.syntax.parser import parse_items
from mlc.syntax.tokens import Source, read_text

Marked = TypeVar("Marked", bound=Callable[..., Any])

PACKAGE = "mlc."
LANGUAGE = "mlc.language"
CONSTANT_KINDS = frozenset(["dim", "int", "float", "bool", "str", "f32"])
MARKS = frozenset(["layer", "kernel", "init", "curve", "optimizer", "train", "function"])


def parse_function(function: Callable[..., Any]) -> tree.Module:
    """The module of a Python function marked `@mlc.model`: with the constants, imports and marked functions of its file.

    Spans refer to the Python file. Raises MlcError: E0120 where there is no source text, else as `parse`.
    """
    plain = inspect.unwrap(function)
    try:
        file = inspect.getsourcefile(plain) or inspect.getfile(plain)
        lines, first = inspect.getsourcelines(plain)
    except (OSError, TypeError):
        raise MlcError([_no_source(plain)]) from None
    text = read_text("".join(linecache.getlines(file)) or "".join(lines), file)
    whole = text.split("\n")
    items = [_lines(node) for node in _visible(ast.parse(text))]
    pieces = {*items, (first, first + len(lines) - 1)}
    sources = [_piece(whole, start, end, file) for start, end in sorted(pieces)]
    module = parse_items(sources, file, whole)
    return replace(module, functions=tuple(_unmarked(f) for f in module.functions))


def _no_source(function: Callable[..., Any]) -> Diagnostic:
    code = getattr(function, "__code__", None)
    line = code.co_firstlineno if code else 1
    span = Span(code.co_filename if code else "<python>", line, 1, line, 2)
    name = getattr(function, "__name__", repr(function))
    return Diagnostic("E0120", f"the source text of `{name}` cannot be had", span, help="define it in a file")


def _visible(module: ast.Module) -> Iterator[ast.stmt]:
    """The top-level statements that belong to models."""
    for node in module.body:
        match node:
            case ast.If(ast.Name("TYPE_CHECKING") | ast.Attribute(_, "TYPE_CHECKING"), body):
                yield from _visible(ast.Module(body, []))
            case ast.ImportFrom(str(name)) if name.startswith(PACKAGE) and _is_library(name):
                yield node
            case ast.AnnAssign(ast.Name(), ast.Name(kind)) if kind in CONSTANT_KINDS:
                yield node
            case ast.FunctionDef() if any(_mark(d) in MARKS for d in node.decorator_list):
                yield node


def _is_library(name: str) -> bool:
    return stdlib_folder().joinpath(name.removeprefix(PACKAGE) + ".dsl").is_file()


def _mark(decorator: ast.expr) -> str:
    """`layer` of @layer, @mlc.layer and @mlc.layer(...)"""
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator).removeprefix(PACKAGE)


def _lines(node: ast.stmt) -> tuple[int, int]:
    """The first and last line of a statement, its decorators included."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return min([node.lineno, *(d.lineno for d in decorators)]), node.end_lineno or node.lineno


def _piece(lines: list[str], start: int, end: int, file: str) -> Source:
    head = lines[start - 1]
    return Source("\n".join(lines[start - 1 : end]), file, start, 1, len(head) - len(head.lstrip()))


def _unmarked(function: tree.FunctionDef) -> tree.FunctionDef:
    """As a .dsl file writes it: without `mlc.` and `@function`."""
    named = (replace(d, name=d.name.removeprefix(PACKAGE)) for d in function.decorators)
    return replace(function, decorators=tuple(d for d in named if d.name != "function"))


# ------------------------------------------------------------------------------------ what Python sees of the language


def function(marked: Marked) -> Marked:
    """Marks a Python function as one of the language; it is read by `parse_function`, never called."""
    return marked


model = layer = kernel = init = curve = optimizer = function


def train(**options: Any) -> Callable[[Marked], Marked]:
    """Marks the recipe: `@mlc.train(clip=1.0)`."""
    return function


class StandIn:
    """Stands for a name of the language while Python runs a file: can be called, indexed and calculated with, to no effect."""

    def __init__(self, name: str):
        self.__name__ = name

    def __repr__(self) -> str:
        return f"<{self.__name__} of the language>"

    def _itself(self, *_: Any, **__: Any) -> StandIn:
        return self

    def __iter__(self) -> Iterator[StandIn]:
        raise TypeError(f"{self!r} has no meaning in Python")

    __call__ = __getitem__ = __neg__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _itself
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = _itself


class _StandInModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes `mlc.language` and the modules of the standard library importable from Python; every name in them is a stand-in."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> Any:
        if fullname == LANGUAGE or (fullname.startswith(PACKAGE) and _is_library(fullname)):
            return importlib.machinery.ModuleSpec(fullname, self)
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__getattr__"] = _stand_in


def _stand_in(name: str) -> StandIn:
    if name.startswith("__"):
        raise AttributeError(name)
    return StandIn(name)


def install(finders: list[Any] | None = None) -> None:
    """Let Python import `mlc.language` and the standard library: once, behind Python's own finders (`sys.meta_path`)."""
    known: Iterable[Any] = sys.meta_path if finders is None else finders
    if not any(isinstance(f, _StandInModules) for f in known):
        (sys.meta_path if finders is None else finders).append(_StandInModules())
