"""The one place that writes C braces, semicolons and indentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlc.emit.tree import (
    Assign,
    Blank,
    Block,
    Comment,
    Constant,
    Define,
    Directive,
    Do,
    External,
    For,
    Function,
    If,
    Lambda,
    Node,
    Struct,
    declared,
)

_INDENT = "    "


def c_text(nodes: Iterable[Node]) -> str:
    """The text of a file."""
    return "".join(f"{line}\n" for line in _lines(nodes))


def _lines(nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        yield from _node(node)


def _node(node: Node) -> Iterator[str]:
    match node:
        case Define(kind, name, value, note):
            yield declared(kind, name) + (f" = {value};" if value else ";") + (f" /* {note} */" if note else "")
        case Assign(place, value, operator):
            yield f"{place} {operator} {value};"
        case Do(expression):
            yield f"{expression};"
        case For():
            yield from _for(node)
        case If(condition, body):
            yield from _scope(f"if ({condition}) ", body)
        case Block(body, note):
            yield from _scope(f"/* {note} */ " if note else "", body)
        case Lambda(name, parameters, body):
            yield from _scope(f"const auto {name} = [=]({parameters}) ", body, "};")
        case Comment(lines):
            yield from _comment(lines)
        case Blank():
            yield ""
        case Directive(text):
            yield f"#{text}"
        case Struct(name, fields):
            yield from _scope(f"struct {name} ", [Define(kind, field) for kind, field in fields], "};")
        case Constant(kind, name, rows):
            yield f"{declared(kind, name)} = {{"
            yield from (f"{_INDENT}{row}," for row in rows)
            yield "};"
        case Function(head, body):
            yield from head
            yield from _scope("", body)
        case External(body):
            yield from ("#ifdef __cplusplus", 'extern "C" {', "#endif")
            yield from _lines(body)
            yield from ("#ifdef __cplusplus", "}", "#endif")


def _for(loop: For) -> Iterator[str]:
    if loop.pragma:
        yield loop.pragma
    c, step = loop.counter, f"{loop.counter}++" if loop.step == 1 else f"{loop.counter} += {loop.step}"
    yield from _scope(f"for ({loop.kind} {c} = {loop.start}; {c} < {loop.end}; {step}) ", loop.body)


def _scope(head: str, body: Iterable[Node], end: str = "}") -> Iterator[str]:
    yield f"{head}{{"
    yield from (f"{_INDENT}{line}" if line else "" for line in _lines(body))
    yield end


def _comment(lines: Sequence[str]) -> Iterator[str]:
    (first, *rest) = lines
    if not rest:
        yield f"/* {first} */"
        return
    yield f"/* {first}"
    yield from (f" * {line}".rstrip() for line in rest)
    yield " */"


# Values that hold others.


def braced(fields: str) -> str:
    """The value of a struct from the text of its fields."""
    return f"{{{fields}}}"


def designated(fields: Mapping[str, object]) -> str:
    """The value of a struct from its members by name; those that are 0 or NULL are left out."""
    given = [f".{name} = {value}" for name, value in fields.items() if value not in (0, "NULL", "{NULL, 0}")]
    return braced(", ".join(given) or "0")


def initializer(fields: Iterable[object]) -> str:
    """The value of a struct from its fields in order."""
    return braced(", ".join(map(str, fields)))
