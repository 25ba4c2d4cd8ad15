"""Immutable values with named fields and slots: what `dataclass(frozen=True, slots=True)` makes, at two fifths of its cost.

Python 3.11 makes each of six methods of a dataclass from a text of its own, parsed and compiled when the module is imported: 3.6 million
instructions a class, and for all classes of this package a quarter of what a compilation takes. Here the methods that must know the
fields are one text, and the others are the same for all classes. fields(), replace() and `match` see a dataclass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

C = TypeVar("C", bound=type[Any])


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
    for name, method in _SHARED.items():
        if name not in vars(cls):
            setattr(cls, name, method)
    made = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
    own = _methods(fields(made), kw_only, hasattr(made, "__post_init__"))
    for name in wanted:
        if name not in vars(cls):
            own[name].__qualname__ = f"{made.__qualname__}.{name}"
            setattr(made, name, own[name])
    return made


def _methods(of: tuple[Field[Any], ...], kw_only: bool, post: bool) -> dict[str, Callable[..., Any]]:
    """The methods that know the fields."""
    scope: dict[str, Any] = {"put": object.__setattr__, "MISSING": MISSING}
    taken = ["self", *(["*"] if kw_only else [])]
    puts: list[str] = []
    for f in of:
        if not f.init:  # __post_init__ puts it
            continue
        scope[f"default_{f.name}"], scope[f"make_{f.name}"] = f.default, f.default_factory
        made = f.default_factory is not MISSING
        taken.append(f"{f.name}=default_{f.name}" if made or f.default is not MISSING else f.name)
        value = f"make_{f.name}() if {f.name} is MISSING else {f.name}" if made else f.name
        puts.append(f"    put(self, {f.name!r}, {value})")
    mine, others = ("".join(f"{of_whom}.{f.name}, " for f in of if f.compare) for of_whom in ("self", "other"))
    body = [*puts, "    self.__post_init__()"] if post else puts
    exec(_TEXT.format(taken=", ".join(taken), body="\n".join(body) or "    pass", mine=mine, others=others), scope)
    return scope


_TEXT = """
def __init__({taken}):
{body}
def __eq__(self, other):
    return ({mine}) == ({others}) if other.__class__ is self.__class__ else NotImplemented
def __hash__(self):
    return hash(({mine}))
"""


def _refuse_put(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self) if f.repr)})"


def _state(self: Any) -> list[Any]:
    """For copies and pickles, which would assign to the fields."""
    return [getattr(self, f.name) for f in fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for f, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)


_SHARED = {
    "__setattr__": _refuse_put,
    "__delattr__": _refuse_delete,
    "__repr__": _repr,
    "__getstate__": _state,
    "__setstate__": _restore,
}
