"""Values made by mlc.frozen against what dataclass makes of the same class."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from mlc.diagnostics import Span
from mlc.frozen import frozen, frozen_by_name, frozen_object

ROOT = Path(__file__).resolve().parent.parent


def point(make: Callable[[type[Any]], type[Any]]) -> Any:
    """One class with everything that classes here have, made by `make`."""

    @make
    class Point:
        x: int
        names: tuple[str, ...] = ()
        seen: list[int] = field(default_factory=list, compare=False, repr=False)
        size: int = field(init=False, repr=False, compare=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "size", self.x * 2)

    return Point


OURS, THEIRS = point(frozen), point(dataclass(frozen=True, slots=True))
GIVEN = ((1,), (1, ("a",)), (2, ()), (1, (), [3]), (float("nan"),))


def test_values_are_equal_and_hashed_as_those_of_a_dataclass():
    for a in GIVEN:
        assert hash(OURS(*a)) == hash(THEIRS(*a))
        assert [OURS(*a) == OURS(*b) for b in GIVEN] == [THEIRS(*a) == THEIRS(*b) for b in GIVEN]
    assert OURS(1) != THEIRS(1)


def test_values_show_and_give_their_fields():
    assert [repr(OURS(*a)) for a in GIVEN] == [repr(THEIRS(*a)) for a in GIVEN]
    assert [f.name for f in fields(OURS)] == [f.name for f in fields(THEIRS)] == ["x", "names", "seen", "size"]
    assert OURS.__match_args__ == THEIRS.__match_args__
    assert replace(OURS(1, ("a",)), x=5) == OURS(x=5, names=("a",))
    assert replace(OURS(1), x=5).size == 10
    assert OURS(1).seen is not OURS(1).seen


@pytest.mark.parametrize("arguments", [(), (1, (), [], 4)])
def test_arguments_are_those_of_a_dataclass(arguments: tuple[object, ...]):
    for make in (OURS, THEIRS):
        with pytest.raises(TypeError):
            make(*arguments)


def test_values_stay_as_they_are():
    value = OURS(1)
    for name in ("x", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 2)
        with pytest.raises(FrozenInstanceError):
            delattr(value, name)
    assert not hasattr(value, "__dict__")


def test_values_are_copied_and_pickled():
    span = Span("a.dsl", 1, 2, 3, 4)
    assert copy.copy(span) == copy.deepcopy(span) == pickle.loads(pickle.dumps(span)) == span


def test_what_is_more_than_its_fields_is_copied_as_it_is():
    """Values that are not made of all their fields in order: of a class that is, by name, by a method of their own, or pickled so."""
    values = (Derived(1), Named(x=1, y=2, z=3), Measured("abc"))
    for value in values:
        assert copy.copy(value) == copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(Derived(1)).z == 7
    assert copy.copy(Changed(1)) == Changed(9)


@frozen
class Base:
    x: int
    y: int = 2


@frozen
class Derived(Base):
    z: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "z", 7)


@frozen_by_name
class Named(Base):
    z: int


@frozen
class Measured:
    x: int

    def __init__(self, text: str):
        object.__setattr__(self, "x", len(text))


@frozen
class Changed:
    x: int

    def __reduce__(self) -> tuple[type[Any], tuple[int]]:
        return Changed, (9,)


def test_objects_are_themselves_only():
    @frozen_object
    class Thing:
        x: int

    thing = Thing(1)
    assert thing == thing and thing != Thing(1) and hash(thing) == object.__hash__(thing)


def test_fields_by_name_are_given_by_name():
    @frozen_by_name
    class Named:
        a: int
        b: int = 2

    assert (Named(a=1).b, Named(b=3, a=1)) == (2, Named(a=1, b=3))
    with pytest.raises(TypeError):
        Named(1)


def test_a_method_of_the_class_itself_stays():
    @frozen
    class Same:
        x: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Same)

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "same"

    assert (Same(1) == Same(2), hash(Same(1)), repr(Same(1))) == (True, 7, "same")


def test_every_immutable_class_of_the_compiler_is_made_so():
    made = [path.name for path in (ROOT / "compiler").rglob("*.py") if re.search(r"^@dataclass\(.*frozen", path.read_text(), re.MULTILINE)]
    assert made == []
