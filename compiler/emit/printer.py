"""The one place that writes C braces, semicolons and indentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
    return "\n".join([*_lines(nodes), ""])


def _lines(nodes: Iterable[Node]) -> list[str]:
    return [line for node in nodes for line in _node(node)]


def _node(node: Node) -> list[str]:
    match node:
        case Define(kind, name, value, note):
            return [declared(kind, name) + (f" = {value};" if value else ";") + (f" /* {note} */" if note else "")]
        case Assign(place, value, operator):
            return [f"{place} {operator} {value};"]
        case Do(expression):
            return [f"{expression};"]
        case For():
            return _for(node)
        case If(condition, body):
            return _scope(f"if ({condition}) ", body)
        case Block(body, note):
            return _scope(f"/* {note} */ " if note else "", body)
        case Lambda(name, parameters, body):
            return _scope(f"const auto {name} = [=]({parameters}) ", body, "};")
        case Comment(lines):
            return _comment(lines)
        case Blank():
            return [""]
        case Directive(text):
            return [f"#{text}"]
        case Struct(name, fields):
            return _scope(f"struct {name} ", [Define(kind, field) for kind, field in fields], "};")
        case Constant(kind, name, rows):
            return [f"{declared(kind, name)} = {{", *map(f"{_INDENT}%s,".__mod__, rows), "};"]
        case Function(head, body):
            return [*head, *_scope("", body)]
        case External(body):
            return ["#ifdef __cplusplus", 'extern "C" {', "#endif", *_lines(body), "#ifdef __cplusplus", "}", "#endif"]


def _for(loop: For) -> list[str]:
    c, step = loop.counter, f"{loop.counter}++" if loop.step == 1 else f"{loop.counter} += {loop.step}"
    scope = _scope(f"for ({loop.kind} {c} = {loop.start}; {c} < {loop.end}; {step}) ", loop.body)
    return [loop.pragma, *scope] if loop.pragma else scope


def _scope(head: str, body: Iterable[Node], end: str = "}") -> list[str]:
    return [f"{head}{{", *[f"{_INDENT}{line}" if line else "" for line in _lines(body)], end]


def _comment(lines: Sequence[str]) -> list[str]:
    (first, *rest) = lines
    if not rest:
        return [f"/* {first} */"]
    return [f"/* {first}", *[f" * {line}".rstrip() for line in rest], " */"]


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
