"""The syntax tree of a .dsl file: data only, one class a construct, each with its production as docstring.

Every node ends in a `span`; spans take no part in equality, so two trees are equal when their texts mean the same.
Parentheses leave no node: they show in the nesting alone. The parser guarantees what the types below say, so no
reader of a tree needs to check it again (a target is a name or a tuple of targets, a comparison has two operands, ...).
"""

from __future__ import annotations

from dataclasses import field

from mlc.diagnostics import Span
from mlc.frozen import frozen

#: What may be nested in what: statements, brackets, operands. Keeps every walk over a tree within Python's own stack.
DEPTH = 100

# ---------------------------------------------------------------------------------------------------- expressions


@frozen
class Name:
    """`width`"""

    name: str
    span: Span = field(compare=False)


@frozen
class Integer:
    """`12`, `1_000`"""

    value: int
    span: Span = field(compare=False)


@frozen
class Float:
    """`0.5`, `3e-4`"""

    value: float
    span: Span = field(compare=False)


@frozen
class Boolean:
    """`True` | `False`"""

    value: bool
    span: Span = field(compare=False)


@frozen
class NoneValue:
    """`None`"""

    span: Span = field(compare=False)


@frozen
class Dots:
    """`...`"""

    span: Span = field(compare=False)


@frozen
class String:
    """`"text"`; adjacent literals are joined, escapes are resolved."""

    value: str
    span: Span = field(compare=False)


@frozen
class Interpolation:
    """`{value}` or `{value:spec}` inside a format string; `spec` is a format specification of Python without nested braces."""

    value: Expression
    spec: str
    span: Span = field(compare=False)


@frozen
class Format:
    """`f"h.{i}"`; no two literal parts are neighbours."""

    parts: tuple[str | Interpolation, ...]
    span: Span = field(compare=False)


@frozen
class Tuple:
    """`a, b` | `(a, b)` | `()`"""

    items: tuple[Expression, ...]
    span: Span = field(compare=False)


@frozen
class List:
    """`[a, b]`"""

    items: tuple[Expression, ...]
    span: Span = field(compare=False)


@frozen
class Pair:
    """`"key": value` inside a record."""

    key: String
    value: Expression
    span: Span = field(compare=False)


@frozen
class Record:
    """`{"key": value, ...}`; keys are distinct."""

    items: tuple[Pair, ...]
    span: Span = field(compare=False)


@frozen
class Keyword:
    """`name=value` in a call."""

    name: str
    value: Expression
    span: Span = field(compare=False)


@frozen
class Call:
    """`function(argument, ..., keyword=value, ...)`; keywords are distinct and follow the arguments."""

    function: Expression
    arguments: tuple[Expression, ...]
    keywords: tuple[Keyword, ...]
    span: Span = field(compare=False)


@frozen
class Slice:
    """`start:stop:step`, as an item of a subscript only."""

    start: Expression | None
    stop: Expression | None
    step: Expression | None
    span: Span = field(compare=False)


@frozen
class Subscript:
    """`value[item, ...]`, at least one item."""

    value: Expression
    items: tuple[Expression | Slice, ...]
    span: Span = field(compare=False)


@frozen
class Attribute:
    """`value.name`"""

    value: Expression
    name: str
    span: Span = field(compare=False)


@frozen
class Unary:
    """`-value` | `~value`; `operator` is "-" or "~"."""

    operator: str
    value: Expression
    span: Span = field(compare=False)


@frozen
class Binary:
    """`left operator right`; `operator` is one of + - * / // % @ ** & |"""

    operator: str
    left: Expression
    right: Expression
    span: Span = field(compare=False)


@frozen
class Compare:
    """`left operator right`; `operator` is one of == != < <= > >="""

    operator: str
    left: Expression
    right: Expression
    span: Span = field(compare=False)


@frozen
class Is:
    """`left is right` | `left is not right` (negated)"""

    left: Expression
    right: Expression
    negated: bool
    span: Span = field(compare=False)


@frozen
class In:
    """`left in right` | `left not in right` (negated)"""

    left: Expression
    right: Expression
    negated: bool
    span: Span = field(compare=False)


@frozen
class Not:
    """`not value`"""

    value: Expression
    span: Span = field(compare=False)


@frozen
class And:
    """`left and right`"""

    left: Expression
    right: Expression
    span: Span = field(compare=False)


@frozen
class Or:
    """`left or right`"""

    left: Expression
    right: Expression
    span: Span = field(compare=False)


@frozen
class Choose:
    """`then if condition else otherwise`"""

    condition: Expression
    then: Expression
    otherwise: Expression
    span: Span = field(compare=False)


Expression = (
    Name
    | Integer
    | Float
    | Boolean
    | NoneValue
    | Dots
    | String
    | Format
    | Tuple
    | List
    | Record
    | Call
    | Subscript
    | Attribute
    | Unary
    | Binary
    | Compare
    | Is
    | In
    | Not
    | And
    | Or
    | Choose
)

#: What stands left of `=` and after `for`: a name, or a tuple of names (never nested, never empty).
Target = Name | Tuple

# ----------------------------------------------------------------------------------------------------- statements


@frozen
class Assign:
    """`target = value`"""

    target: Target
    value: Expression
    span: Span = field(compare=False)


@frozen
class Augment:
    """`target += value`; `operator` is one of + - * /"""

    target: Name
    operator: str
    value: Expression
    span: Span = field(compare=False)


@frozen
class Annotate:
    """`target: annotation = value`"""

    target: Name
    annotation: Expression
    value: Expression
    span: Span = field(compare=False)


@frozen
class Return:
    """`return value`"""

    value: Expression
    span: Span = field(compare=False)


@frozen
class Assert:
    """`assert condition` | `assert condition, message`"""

    condition: Expression
    message: Expression | None
    span: Span = field(compare=False)


@frozen
class Branch:
    """`if condition: then [else: otherwise]`; `elif` is a branch alone in `otherwise`. The span is that of the header line."""

    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]
    span: Span = field(compare=False)


@frozen
class Loop:
    """`for target in values: body`. The span is that of the header line."""

    target: Target
    values: Expression
    body: tuple[Statement, ...]
    span: Span = field(compare=False)


@frozen
class ExpressionStatement:
    """`value`, for its effect: `add_loss(...)`, `report(...)`."""

    value: Expression
    span: Span = field(compare=False)


Statement = Assign | Augment | Annotate | Return | Assert | Branch | Loop | ExpressionStatement

# ------------------------------------------------------------------------------------------------------ top level


@frozen
class Imported:
    """`name` | `name as alias`; `alias` is the name itself where none is written."""

    name: str
    alias: str
    span: Span = field(compare=False)


@frozen
class Import:
    """`from module import name, ...`; `module` is dotted ("mlc.nn", "blocks")."""

    module: str
    names: tuple[Imported, ...]
    span: Span = field(compare=False)


@frozen
class Constant:
    """`name: annotation = value`; `value` is None where -D must give it."""

    name: str
    annotation: Expression
    value: Expression | None
    span: Span = field(compare=False)


@frozen
class Decorator:
    """`@name` | `@name(arguments)`"""

    name: str
    arguments: tuple[Expression, ...]
    keywords: tuple[Keyword, ...]
    span: Span = field(compare=False)


@frozen
class Parameter:
    """`name: annotation [= default]`; `keyword_only` after a bare `*`."""

    name: str
    annotation: Expression
    default: Expression | None
    keyword_only: bool
    span: Span = field(compare=False)


@frozen
class FunctionDef:
    """`@decorator def name(parameters) -> returns: docstring body`. The span is that of the name."""

    name: str
    decorators: tuple[Decorator, ...]
    parameters: tuple[Parameter, ...]
    returns: Expression | None
    docstring: String | None
    body: tuple[Statement, ...]
    span: Span = field(compare=False)


@frozen
class Module:
    """A file. Top-level order between kinds does not matter; within a kind it is the order of the text."""

    docstring: String | None
    imports: tuple[Import, ...]
    constants: tuple[Constant, ...]
    functions: tuple[FunctionDef, ...]
    file: str = field(compare=False)  # as it shows in messages
    lines: tuple[str, ...] = field(compare=False)  # source lines without ends, for rendering
