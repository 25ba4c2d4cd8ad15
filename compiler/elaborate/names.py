"""Names that nothing defines, found in every function and every branch before anything is elaborated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from mlc.diagnostics import Span
from mlc.elaborate.blocks import assigned_names
from mlc.elaborate.builtins import TYPE_NAMES
from mlc.elaborate.failures import Failure, Reports, hint
from mlc.elaborate.foreign import MODULES, foreign
from mlc.elaborate.signatures import TENSOR_NAMES
from mlc.syntax import tree


def check(module: tree.Module, known: Sequence[str], importable: Callable[[str], str | None], reports: Reports) -> None:
    """Reports the unknown names of a file's functions, with the nearest known one, or one that could be imported."""
    for function in module.functions:
        local = {p.name for p in function.parameters} | set(assigned_names(function.body)) | _letters(function)
        everything = {*known, *local}
        for name in _read(function):
            if name.name not in everything:
                help = _member(name, function, known, importable) or foreign(name.name)
                help = help or hint(name.name, everything) or importable(name.name)
                reports.add(Failure("E0301", f"unknown name `{name.name}`", name.span, help))


def _member(name: tree.Name, function: tree.FunctionDef, known: Sequence[str], importable: Callable[[str], str | None]) -> str | None:
    """What is here that another framework has in the module `name`: `F.relu`, `torch.sqrt`, `nn.functional.gelu`."""
    if name.name not in MODULES:
        return None
    member = next((member for span, member in _members(function.body) if span == name.span), "")
    if member in known:
        return f"write `{member}` alone, without a module"
    return foreign(member) or importable(member)


def _members(node: Any) -> Iterator[tuple[Span, str]]:
    """(place, member) of each name that dots follow, with what stands behind the last of them."""
    match node:
        case tree.Attribute(value=value, name=member):
            while isinstance(value, tree.Attribute):
                value = value.value
            yield from [(value.span, member)] if isinstance(value, tree.Name) else _members(value)
        case tuple():
            for item in node:
                yield from _members(item)
        case None | str() | int() | float():
            return
        case _:
            for field in fields(node):
                if field.name != "span":
                    yield from _members(getattr(node, field.name))


def _letters(function: tree.FunctionDef) -> set[str]:
    """Single letters of annotations: dims bound by arguments."""
    notes = [p.annotation for p in function.parameters] + ([function.returns] if function.returns is not None else [])
    notes.extend(s.annotation for s in _annotated(function.body))
    return {"_", *(n.name for note in notes for n in _names(note) if len(n.name) == 1)}


def _annotated(statements: Sequence[tree.Statement]) -> Iterator[tree.Annotate]:
    for statement in statements:
        match statement:
            case tree.Annotate():
                yield statement
            case tree.Branch(then=then, otherwise=otherwise):
                yield from _annotated((*then, *otherwise))
            case tree.Loop(body=body):
                yield from _annotated(body)
            case _:
                pass


def _read(function: tree.FunctionDef) -> Iterator[tree.Name]:
    """Every name that the function reads. The names of types are no values."""
    for parameter in function.parameters:
        yield from _type_names(parameter.annotation)
        yield from _names(parameter.default)
    yield from _type_names(function.returns)
    for statement in function.body:
        yield from _names(statement)


def _type_names(annotation: tree.Expression | None) -> Iterator[tree.Name]:
    match annotation:
        case tree.Name(name=name) if name in TYPE_NAMES:
            return
        case tree.Subscript(value=tree.Name(name=name), items=items) if name in TENSOR_NAMES:
            for item in items:
                yield from _names(item)
        case tree.Tuple(items=items) | tree.List(items=items):
            for item in items:
                yield from _type_names(item)
        case _:
            yield from _names(annotation)


def _names(node: Any) -> Iterator[tree.Name]:
    """Every Name below a node that is read: not the target of an assignment."""
    match node:
        case tree.Name():
            yield node
        case tree.Assign(value=value):
            yield from _names(value)
        case tree.Annotate(annotation=annotation, value=value):
            yield from _type_names(annotation)
            yield from _names(value)
        case tree.Loop(values=values, body=body):
            yield from _names(values)
            yield from _names(body)
        case tuple():
            for item in node:
                yield from _names(item)
        case None | str() | int() | float():
            return
        case _:
            for field in fields(node):
                if field.name != "span":
                    yield from _names(getattr(node, field.name))
