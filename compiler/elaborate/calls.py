"""What a call is made of, and what elaborating one asks of the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlc.diagnostics import Span
from mlc.elaborate.precision import Precision
from mlc.elaborate.scopes import Scope
from mlc.elaborate.signatures import Names
from mlc.elaborate.site import Site
from mlc.elaborate.trace import LayerBody, ParameterSpec, Trace
from mlc.elaborate.values import FunctionValue, ModuleScope, Option
from mlc.frozen import frozen
from mlc.syntax import tree

#: What a block gives that ended without `return`.
RUNNING = object()

#: What a name means that means nothing.
MISSING = object()


@dataclass(slots=True)
class Frame:
    """One call of a function: its names. `call` is the place it was called from."""

    module: ModuleScope
    function: FunctionValue | None = None
    call: Span | None = None
    names: dict[str, Any] = field(default_factory=dict)
    assigned: dict[str, Span] = field(default_factory=dict)


@frozen
class Given:
    """What a call gives, and where each argument is written."""

    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    node: tree.Call | None = None
    frame: Frame | None = None


class Caller(Protocol):
    """The interpreter, as builtins with effects and calls of layers see it.

    precision:  what names of dtypes mean
    training:   the compile-time bool of that name
    scope:      what name= and share= have opened here
    registry:   parameters by full name of the training elaboration, once it is done
    outer:      call site of the layer that is being elaborated
    pure:       the @kernel whose body is being elaborated
    entries:    openings of share= and name= so far
    bodies:     layers elaborated so far
    paths:      calls of each path so far
    """

    precision: Precision
    training: bool
    trace: Trace | None
    scope: Scope
    registry: dict[str, ParameterSpec] | None
    outer: Span | None
    pure: str | None
    entries: int
    bodies: dict[Any, LayerBody | None]
    paths: dict[str, int]

    def bind(self, function: FunctionValue, skip: int, given: Given, site: Site) -> dict[str, Any]: ...

    def match(self, inner: Frame, values: dict[str, Any], given: Given, site: Site) -> None: ...

    def body(self, function: FunctionValue, inner: Frame, site: Site) -> Any: ...


class Evaluator(Caller, Protocol):
    """The interpreter, as statements and expressions see it.

    reads_name:  whether the recipe has read the name of the parameter it was called for
    """

    reads_name: bool

    def site(self, node: Any, frame: Frame) -> Site: ...

    def run(self, statements: tuple[tree.Statement, ...], frame: Frame) -> Any: ...

    def evaluate(self, node: tree.Expression, frame: Frame) -> Any: ...

    def lookup(self, name: str, frame: Frame) -> Any: ...

    def option(self, option: Option, span: Span) -> None: ...

    def known_names(self, frame: Frame) -> list[str]: ...

    def call(self, node: tree.Call, frame: Frame) -> Any: ...

    def names(self, frame: Frame) -> Names: ...
