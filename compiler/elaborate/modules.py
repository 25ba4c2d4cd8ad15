"""Loading files: imports, top-level names, constants and -D.

A dotted name is relative to the folder of the compiled file ("blocks", "parts.blocks"); "mlc." names the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mlc.diagnostics import Span, nearest
from mlc.elaborate.failures import Failure, Reports, hint
from mlc.elaborate.library import LIBRARY, Library, library_modules
from mlc.elaborate.values import MOST_BITS, PROGRAM_OPTIONS, FunctionValue, ModuleScope, Option, integer, number, single
from mlc.syntax import tree

Evaluate = Callable[[ModuleScope, tree.Expression], Any]

KINDS = ("layer", "kernel", "model", "train", "init", "curve", "optimizer")
INITS = "mlc.inits"


class Loader:
    """Loads each file once.

    evaluate: the value of an expression in a module's scope
    """

    def __init__(self, library: Library, evaluate: Evaluate, reports: Reports, library_files: set[str]):
        self.library = library
        self.evaluate = evaluate
        self.reports = reports
        self.library_files = library_files
        self.loaded: dict[str, ModuleScope] = {}
        self.trees: list[tuple[tree.Module, ModuleScope]] = []
        self._loading: list[str] = []

    def load(self, name: str, module: tree.Module, defines: Mapping[str, str]) -> ModuleScope:
        """The scope of a file; `name` is "" for the compiled one."""
        scope = ModuleScope(name, module.file, name.startswith(LIBRARY), {}, {})
        if scope.library:
            self.library_files.add(module.file)
        self.loaded[name] = scope
        self.trees.append((module, scope))
        self._loading.append(name)
        for statement in module.imports:
            self._import(statement, scope)
        for function in module.functions:
            self._declare(function.name, self._function(function, scope), function.span, scope)
        if not name:
            self._check_defines(module, defines)
        for constant in module.constants:
            self._guard(lambda c=constant: self._declare(c.name, self._constant(c, scope, defines), c.span, scope))
        self._loading.pop()
        return scope

    def library_scope(self, name: str) -> ModuleScope:
        """A module of the standard library, imported or not."""
        if name not in self.loaded:
            self.load(name, self.library(name), {})
        return self.loaded[name]

    def importable(self, name: str) -> str | None:
        """The import that would give an unknown name a meaning: a function of the standard library of this or nearly this name.

        Four letters with another one among them are a name of their own: `selu` is no misspelt `gelu`, `gleu` is.
        """
        known = {f.name: m for m in reversed(library_modules()) if m != INITS for f in self.library(m).functions}
        likely = known if len(name) > 4 else [other for other in known if sorted(other) == sorted(name)]
        found = name if name in known else nearest(name, likely)
        return f"write `from {known[found]} import {found}`" if found else None

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Failure as failure:
            self.reports.add(failure)

    def _import(self, statement: tree.Import, scope: ModuleScope) -> None:
        try:
            imported = self._module(statement, scope)
        except Failure as failure:
            self.reports.add(failure)
            for item in statement.names:
                scope.names.setdefault(item.alias, None)
            return
        for item in statement.names:
            self._guard(lambda i=item: self._take(i, imported, statement, scope))

    def _take(self, item: tree.Imported, imported: ModuleScope, statement: tree.Import, scope: ModuleScope) -> None:
        if item.name not in imported.names:
            scope.names.setdefault(item.alias, None)
            raise Failure("E0303", f"{statement.module} has no `{item.name}`", item.span, hint(item.name, imported.names))
        self._declare(item.alias, imported.names[item.name], item.span, scope)

    def _module(self, statement: tree.Import, scope: ModuleScope) -> ModuleScope:
        name = beside(scope.name, statement.module)
        if name in self._loading:
            chain = [shown(n) for n in [*self._loading[self._loading.index(name) :], name]]
            raise Failure("E0304", f"circular import: {' -> '.join(chain)}", statement.span, "move what both need into a third file")
        if name in self.loaded:
            return self.loaded[name]
        try:
            module = self.library(name)
        except LookupError as problem:
            raise Failure("E0302", str(problem), statement.span) if str(problem) else self._missing(statement) from None
        return self.load(name, module, {})

    def _missing(self, statement: tree.Import) -> Failure:
        if statement.module.startswith(LIBRARY):
            return Failure("E0302", f"the standard library has no {statement.module}", statement.span, _modules_hint(statement.module))
        path = "/".join(statement.module.split(".")) + ".dsl"
        inside = LIBRARY + statement.module in library_modules()
        help = f"did you mean `{LIBRARY}{statement.module}`?" if inside else None
        return Failure("E0302", f"no file {path} beside the importing file", statement.span, help)

    def _function(self, function: tree.FunctionDef, scope: ModuleScope) -> FunctionValue:
        kind = "plain"
        for decorator in function.decorators:
            if decorator.name not in KINDS:
                self.reports.add(Failure("E0301", f"unknown decorator @{decorator.name}", decorator.span, hint(decorator.name, KINDS)))
            elif kind != "plain":
                self.reports.add(Failure("E0401", f"{function.name}: @{kind} and @{decorator.name} exclude each other", decorator.span))
            else:
                kind = decorator.name
            if decorator.name != "train" and (decorator.arguments or decorator.keywords):
                self.reports.add(Failure("E0401", f"@{decorator.name} takes no arguments", decorator.span))
        return FunctionValue(function, scope, kind)

    def _declare(self, name: str, value: Any, span: Span, scope: ModuleScope) -> None:
        if name in scope.spans:
            first, second = sorted((scope.spans[name], span), key=lambda s: (s.line, s.column))
            self.reports.add(Failure("E0307", f"`{name}` is defined twice in this file, first at line {first.line}", second))
            return
        scope.names[name] = value
        scope.spans[name] = span

    def _check_defines(self, module: tree.Module, defines: Mapping[str, str]) -> None:
        known = [c.name for c in module.constants]
        at = Span(module.file, 1, 1, 1, 1)
        for name in defines:
            if name not in known:
                help = hint(name, known) or (f"its constants are {', '.join(known)}" if known else "it declares no constants")
                self.reports.add(Failure("E0601", f"-D {name}: this file has no constant `{name}`", at, help), every=True)

    def _constant(self, constant: tree.Constant, scope: ModuleScope, defines: Mapping[str, str]) -> Any:
        scope.names.setdefault(constant.name, None)  # what reads it after an error says nothing more
        kind = constant.annotation.name if isinstance(constant.annotation, tree.Name) else ""
        if kind not in ("dim", "int", "float", "bool", "str", "f32"):
            help = "a constant is a dim, int, float, bool or str, or f32 for an option of the program"
            raise Failure("E0413", f"`{constant.name}` cannot have this type", constant.annotation.span, help)
        if kind == "f32" and constant.name in PROGRAM_OPTIONS:
            message = f"`{constant.name}` cannot be a run-time constant: every program has one of its own"
            raise Failure("E0309", message, constant.span, "give it another name")
        if not scope.name and constant.name in defines:
            return checked_constant(
                constant, kind, _parsed(constant, kind, defines[constant.name]), "E0602", f"-D {constant.name}={defines[constant.name]}"
            )
        if constant.value is None:
            raise Failure("E0603", f"`{constant.name}` has no value", constant.span, f"give it with -D {constant.name}=...")
        value = self.evaluate(scope, constant.value)
        return checked_constant(constant, kind, value, "E0413", f"`{constant.name}`")


def beside(importer: str, name: str) -> str:
    """The dotted name, from the root, of `name` imported by module `importer`."""
    folder = importer.rpartition(".")[0]
    if name.startswith(LIBRARY) or not folder:
        return name
    return f"{folder}.{name}"


def shown(name: str) -> str:
    return name or "the compiled file"


def _modules_hint(name: str) -> str:
    return hint(name, library_modules()) or f"it has {', '.join(library_modules())}"


def _parsed(constant: tree.Constant, kind: str, text: str) -> Any:
    """The value of -D text for a constant of this kind; text that does not read as one is left as it is."""
    try:
        match kind:
            case "dim" | "int":
                return int(text)
            case "float" | "f32":
                value = float(text)
                if not math.isfinite(value):
                    raise ValueError(text)
                return value
            case "bool":
                return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
            case _:
                return text
    except (ValueError, KeyError):
        raise Failure("E0602", f"-D {constant.name}={text}: `{constant.name}` is {_article(kind)}", constant.span) from None


def _article(kind: str) -> str:
    return {"dim": "a dim: an integer from 1", "int": "an integer", "float": "a number", "f32": "a number", "bool": "true or false"}[kind]


def checked_constant(constant: tree.Constant, kind: str, value: Any, code: str, what: str) -> Any:
    """The value as a constant of this kind, labelled by its name."""
    name = constant.name
    match kind:
        case "dim" if integer(value) and 1 <= value < 2**31:
            return single(name, value)
        case "dim" if integer(value):
            bound = "at least 1" if value < 1 else f"at most {2**31 - 1}"
            raise Failure(code, f"{what}: a dim is {bound}, not {int(value)}", constant.span)
        case "int" if integer(value) and value.bit_length() > MOST_BITS:
            raise Failure(code, f"{what}: an int has {MOST_BITS} bits at most", constant.span)
        case "int" if integer(value):
            return single(name, value) if value >= 1 else int(value)
        case "float" if number(value):
            return float(value)
        case "f32" if number(value):
            return Option(name, float(value), constant.span, code, what)
        case "bool" if isinstance(value, bool):
            return value
        case "str" if isinstance(value, str):
            return value
        case _:
            raise Failure(code, f"{what}: wants {_wanted(kind)}, got {_plain(value)}", constant.span)


def _wanted(kind: str) -> str:
    return {"dim": "a dim", "int": "an int", "float": "a float", "f32": "a number", "bool": "a bool", "str": "a str"}[kind]


def _plain(value: Any) -> str:
    return repr(int(value)) if integer(value) else repr(value) if isinstance(value, (str, float, bool)) else type(value).__name__
