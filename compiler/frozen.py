"""Immutable values with named fields and slots: what `dataclass(frozen=True, slots=True)` makes, at two fifths of its cost.

Python 3.11 makes each of six methods of a dataclass from a text of its own, parsed and compiled when the module is imported: 3.6 million
instructions a class, and for all classes of this package a quarter of what a compilation takes. Here each of the three methods that must
know the fields is made when it is first called, for most values are never compared and many never made; the others are the same for all
classes. fields(), replace() and `match` see a dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from functools import partial
from typing import Any, TypeVar, dataclass_transform

C = TypeVar("C", bound=type[Any])
T = TypeVar("T", bound=tuple[Any, ...])


def tuples_of(kind: type[T], rows: Iterable[tuple[Any, ...]]) -> list[T]:
    """Many named tuples, each from a row of its fields: without a call of Python for each, which is most of what making one takes."""
    return list(map(partial(tuple.__new__, kind), rows))


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: C) -> C:
    """A class of immutable values that are equal when their compared fields are; a method that the class has itself stays."""
    return _made(cls, ("__init__", "__eq__", "__hash__"))


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def frozen_object(cls: C) -> C:
    """A class of immutable values that are themselves only, whatever their fields hold."""
    return _made(cls, ("__init__",))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen_by_name(cls: C) -> C:
    """A class as `frozen` makes, whose fields are given by name."""
    return _made(cls, ("__init__", "__eq__", "__hash__"), kw_only=True)


def _made(cls: C, wanted: tuple[str, ...], kw_only: bool = False) -> C:
    given = not kw_only and not {"__init__", "__reduce__"} & vars(cls).keys()
    for name, method in _SHARED.items():
        if name not in vars(cls):
            setattr(cls, name, method)
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__  # else dataclass makes a signature to write there
    made = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
    if given and all(f.init for f in fields(made)):
        made.__reduce__ = _again
    for name in wanted:
        if name not in vars(cls):
            setattr(made, name, _later(made, name, kw_only))
    return made


def _later(cls: type[Any], name: str, kw_only: bool) -> Callable[..., Any]:
    """A method that puts the real one in its place, and does what that does."""

    def method(self: Any, *values: Any, **named: Any) -> Any:
        made = _method(cls, name, kw_only)
        setattr(cls, name, made)
        return made(self, *values, **named)

    return method


def _method(cls: type[Any], name: str, kw_only: bool) -> Callable[..., Any]:
    """A method that knows the fields of its class."""
    scope: dict[str, Any] = {"MISSING": MISSING}
    if name == "__init__":
        exec(_init_text(cls, kw_only, scope), scope)
    else:
        mine, others = ("".join(f"{of_whom}.{f.name}, " for f in fields(cls) if f.compare) for of_whom in ("self", "other"))
        exec(_TEXTS[name].format(mine=mine, others=others), scope)
    made = scope[name]
    made.__qualname__ = f"{cls.__qualname__}.{name}"
    return made


def _init_text(cls: type[Any], kw_only: bool, scope: dict[str, Any]) -> str:
    """The text of __init__, which fills each slot itself; what it names goes into the scope."""
    taken = ["self", *(["*"] if kw_only else [])]
    puts: list[str] = []
    for f in fields(cls):
        if not f.init:  # __post_init__ puts it
            continue
        scope[f"default_{f.name}"], scope[f"make_{f.name}"] = f.default, f.default_factory
        scope[f"put_{f.name}"] = getattr(cls, f.name).__set__
        made = f.default_factory is not MISSING
        taken.append(f"{f.name}=default_{f.name}" if made or f.default is not MISSING else f.name)
        value = f"make_{f.name}() if {f.name} is MISSING else {f.name}" if made else f.name
        puts.append(f"    put_{f.name}(self, {value})")
    body = [*puts, "    self.__post_init__()"] if hasattr(cls, "__post_init__") else puts
    return f"def __init__({', '.join(taken)}):\n" + ("\n".join(body) or "    pass")


_TEXTS = {
    "__eq__": "def __eq__(self, other): return ({mine}) == ({others}) if other.__class__ is self.__class__ else NotImplemented",
    "__hash__": "def __hash__(self): return hash(({mine}))",
}


def _refuse_put(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self) if f.repr)})"


def _again(self: Any) -> tuple[type[Any], tuple[Any, ...]]:
    """For copies and pickles of values that are given all their fields in order: half the size, and made in a third of the time."""
    return type(self), tuple([getattr(self, f.name) for f in fields(self)])


def _state(self: Any) -> list[Any]:
    """For copies and pickles, which would assign to the fields."""
    return [getattr(self, f.name) for f in fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for f, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)


_SHARED = {
    "__reduce__": object.__reduce__,  # not that of a class it is made of
    "__setattr__": _refuse_put,
    "__delattr__": _refuse_delete,
    "__repr__": _repr,
    "__getstate__": _state,
    "__setstate__": _restore,
}
