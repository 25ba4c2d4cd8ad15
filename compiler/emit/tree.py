"""Statements of C as a small tree. What builds sources builds this; printer.py alone writes braces, semicolons and indentation.

Expressions are texts that know how tightly they bind (expressions.Text) until they stand in a statement, where a plain text is enough.
"""

from __future__ import annotations

from mlc.frozen import frozen


@frozen
class Define:
    """A variable with its value, if it has one at once: `kind name = value;`. note: a comment behind it."""

    kind: str
    name: str
    value: str = ""
    note: str = ""


@frozen
class Assign:
    """place operator value; the operator is =, += ..."""

    place: str
    value: str
    operator: str = "="


@frozen
class Do:
    """An expression for its effect: a call."""

    expression: str


@frozen
class For:
    """The body for counter = start, start + step ... below end. pragma: what stands above the loop; kind: of the counter."""

    counter: str
    start: str
    end: str
    body: tuple[Statement, ...]
    step: int | str = 1
    pragma: str = ""
    kind: str = "int64_t"


@frozen
class If:
    """The body where the condition holds."""

    condition: str
    body: tuple[Statement, ...]


@frozen
class Block:
    """A scope. note: a comment before its brace."""

    body: tuple[Statement, ...]
    note: str = ""


@frozen
class Lambda:
    """A function of C++ inside another one: `const auto name = [=](parameters) { body };`."""

    name: str
    parameters: str
    body: tuple[Statement, ...]


@frozen
class Comment:
    """A comment, of one line or several."""

    lines: tuple[str, ...]


@frozen
class Blank:
    """An empty line."""


@frozen
class Directive:
    """A line of the preprocessor, without its `#`."""

    text: str


@frozen
class Constant:
    """`kind name = { lines };`: an array or struct whose lines are written one below the other, each with its comma."""

    kind: str
    name: str
    lines: tuple[str, ...]


Statement = Define | Constant | Assign | Do | For | If | Block | Lambda | Comment | Blank | Directive


@frozen
class Struct:
    """A type with fields (kind, name)."""

    name: str
    fields: tuple[tuple[str, str], ...]


@frozen
class Function:
    """A definition: the lines of its head, then its body."""

    head: tuple[str, ...]
    body: tuple[Node, ...]


@frozen
class External:
    """Declarations that C++ may read as C."""

    body: tuple[Node, ...]


Node = Statement | Struct | Function | External


def note(text: str) -> Comment:
    """A comment of one line."""
    return Comment((text,))


def declared(kind: str, name: str) -> str:
    """A name behind its type, as in a parameter list."""
    return f"{kind}{name}" if kind.endswith("*") else f"{kind} {name}"
