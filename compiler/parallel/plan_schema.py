"""What a plan.json is made of: the kind of every value, so that an edited or damaged one is refused with the place of the fault.

What the values mean, and whether they fit together, is the reader's and the verifier's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlc.frozen import frozen
from mlc.ir.dtypes import FLOAT_DTYPES
from mlc.ir.program import CALL_CHOICES
from mlc.lower.arrangement import arranges
from mlc.parallel.entries import Entries
from mlc.parallel.planned import CHAINS

#: Of a plan: more than any machine runs, and little enough to look at one by one.
MOST_PLACES = 4096
MOST_REPLICAS = 1 << 20
MOST_LEVELS = 64
#: Whole numbers are addresses and sizes of a 64-bit machine.
MOST = 1 << 62
#: Letters of an arrangement.
MOST_ARRANGEMENT = 1000

Kind = Callable[[Any], bool]


def _whole(least: int, most: int) -> Kind:
    return lambda value: type(value) is int and least <= value <= most


def _row(value: Any) -> bool:
    of_kinds = isinstance(value, list) and len(value) == 3 and _is_text(value[0]) and isinstance(value[1], (int, str))
    return of_kinds and type(value[1]) is not bool and type(value[2]) is int and abs(value[2]) < MOST


def _call(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_whole(value[0]) and _are_whole(value[1])


def _buffer(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and _is_text(value[0]) and all(map(_is_whole, value[1:]))


def _launch(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    return _is_whole(value[0]) and _is_text(value[1]) and _is_text(value[2]) and _are_whole(value[3])


def _are_whole(values: Any) -> bool:
    return isinstance(values, list) and all(map(_is_whole, values))


def _is_text(value: Any) -> bool:
    """JSON has halves of characters too, which no file of ours can hold."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value))


def _is_arrangement(value: Any) -> bool:
    """Of a rank and with numbers that plans may have."""
    return _is_text(value) and len(value) <= MOST_ARRANGEMENT and arranges(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST


LIES = "an arrangement or null"

#: What a value of a kind must be, and how to tell.
KINDS: dict[str, Kind] = {
    "a whole number": _whole(-MOST, MOST),
    "a whole number from 0": _whole(0, MOST),
    "a whole number from 1": _whole(1, MOST),
    f"a whole number from 1 to {MOST_PLACES}": _whole(1, MOST_PLACES),
    f"a whole number from 1 to {MOST_REPLICAS}": _whole(1, MOST_REPLICAS),
    "1: nothing is divided on this axis yet": _whole(1, 1),
    f"a whole number from 0 to {MOST_LEVELS}": _whole(0, MOST_LEVELS),
    "a number from 0": lambda value: type(value) in (int, float) and 0 <= value < 1e30,
    "a text": _is_text,
    "the dtype of a parameter": lambda value: value in FLOAT_DTYPES,
    "true or false": lambda value: isinstance(value, bool),
    "a whole number or null": lambda value: value is None or (type(value) is int and abs(value) < MOST),
    "a chain": lambda value: value in CHAINS,
    "a chain or null": lambda value: value is None or value in CHAINS,
    LIES: lambda value: value is None or _is_arrangement(value),
    "[action, chunk or channel, microbatch]": _row,
    "none, selective, full or states": lambda value: value in CALL_CHOICES,
    "[name, region, offset, bytes]": _buffer,
    "[routine, path, name, buffers]": _launch,
    "[routine, addresses]": _call,
    "[routine, addresses] or null": lambda value: value is None or _call(value),
    "[kernel, operands]": lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value)),
    "two whole numbers from 0": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value)),
    "[name, stage]": lambda value: isinstance(value, list) and len(value) == 2 and _is_text(value[0]) and type(value[1]) is int,
}

WHOLE, LEAST_0, LEAST_1 = "a whole number", "a whole number from 0", "a whole number from 1"
TEXT, FLAG, NUMBER, CHOICE = "a text", "true or false", "a number from 0", "none, selective, full or states"
PLACES, REPLICAS, LEVELS = (name for name in KINDS if " to " in name)
ONE = "1: nothing is divided on this axis yet"

AREA = {"at": LEAST_0, "bytes": LEAST_0}

#: Objects have all of these keys, but for those with a `?`; [kind] is a list, {"*": kind} an object with any keys.
SCHEMA: dict[str, Any] = {
    "version": WHOLE, "model": TEXT, "chunks": PLACES, "schedule": TEXT,
    "mesh": {"pp": PLACES, "dp": REPLICAS, "ep": ONE, "tp": ONE, "cp": ONE},
    "microbatches": LEAST_1, "groups": LEAST_1, "scratch_bytes_per_thread": LEAST_0, "flops_per_microbatch": NUMBER,
    "recomputed_flops_per_microbatch?": NUMBER,
    "rounds": {"train": LEAST_1, "evaluate?": LEAST_1, "sample?": LEAST_1, "decode?": LEAST_1}, "undecoded?": TEXT,
    "stages": [{"stage": LEAST_0, "place": LEAST_0, "calls": [TEXT], "recompute?": [CHOICE], "cost": {"*": NUMBER}, "why": TEXT}],
    "parameters": [{
        "name": TEXT, "dtype": "the dtype of a parameter", "shape": [LEAST_1], "elements": LEAST_1, "fed": TEXT, "owner": LEAST_0,
        "uses": [{"stage": LEAST_0, "phase": TEXT}], "states": [{"name": TEXT, "shape": [LEAST_1]}],
        "elementwise": FLAG, "update": "a whole number or null", "arranged?": {"master": LIES, "copy": LIES, "states": [LIES]},
    }],
    "scalars": [TEXT],
    "routines": [{"name": TEXT, "flops": LEAST_0, "scratch": LEAST_0, "flat": FLAG, "operands": [TEXT]}],
    "sweeps": [{"moment": TEXT, "over": TEXT, "only": [TEXT], "range": TEXT, "gated": FLAG, "calls": ["[kernel, operands]"]}],
    "columns": {"*": {"columns": ["[name, stage]"], "losses": LEAST_0, "logits_stage": WHOLE}},
    "channels": [{
        "name": TEXT, "kind": TEXT, "chain": "a chain or null", "from": WHOLE, "to": WHOLE, "slot_bytes": WHOLE, "slots": WHOLE,
        "outbox_slots": WHOLE, "inbox": WHOLE, "headers": WHOLE, "outbox": WHOLE,
    }],
    "places": [{
        "place": WHOLE, "arena_bytes": LEAST_1, "inbox_bytes": WHOLE, "record": LEAST_0, "microbatches": LEAST_0, "results": LEAST_0,
        "levels": LEVELS, "stages": [WHOLE],
        "fixed": [{"name": TEXT, "at": LEAST_0, "bytes": LEAST_0, "chain?": "a chain"}],
        "regions": [{"name": TEXT, "base": LEAST_0, "stride": LEAST_0, "slots": LEAST_1, "bytes": LEAST_0, "chain?": "a chain"}],
        "named": ["[name, region, offset, bytes]"],
        "lists": {"*": ["[action, chunk or channel, microbatch]"]},
        "chunks": {"*": [{
            "stage": LEAST_0, "meaning": TEXT, "buffers": ["[name, region, offset, bytes]"],
            "rows": {"*": ["[routine, path, name, buffers]"]}, "heads": {"*": LEAST_1},
            "weight": "a whole number or null", "inputs": ["two whole numbers from 0"],
            "values": ["two whole numbers from 0"],
            "uses": [{"parameter": LEAST_0, "index": WHOLE, "phase": TEXT, "levels": [WHOLE]}],
            "logits?": {"dtype": TEXT, "shape": [LEAST_1], "buffer": LEAST_0},
        }]},
        "held": [{
            "parameter": LEAST_0, "master": LEAST_0, "copy": "a whole number or null", "init": "[routine, addresses]", "meaning": TEXT,
        }],
        "owned": [{
            "parameter": LEAST_0, "elements": LEAST_1, "sharing": TEXT, "gradient": "a whole number or null",
            "update": "a whole number or null", "reads": [LEAST_0], "work": LEAST_0, "meaning": TEXT,
        }],
        "shards": {"states": AREA, "work": AREA, "guests": AREA},
    }],
}  # fmt: skip


@frozen
class _Leaf:
    """A value with nothing below it."""

    name: str
    holds: Kind


@frozen
class _List:
    item: _Shape


@frozen
class _Object:
    """fields: key, kind, and whether it may be missing; others: the kind of every value, of an object with any keys"""

    fields: tuple[tuple[str, _Shape, bool], ...]
    others: _Shape | None


_Shape = _Leaf | _List | _Object


def _shape(schema: Any) -> _Shape:
    """A schema, ready to be compared with many values."""
    match schema:
        case str():
            return _Leaf(schema, KINDS[schema])
        case [item]:
            return _List(_shape(item))
        case {"*": others}:
            return _Object((), _shape(others))
        case _:
            return _Object(tuple((key.removesuffix("?"), _shape(kind), key.endswith("?")) for key, kind in schema.items()), None)


_PLAN = _shape(SCHEMA)


def fault(plan: Any) -> str | None:
    """The first value that is not of its kind, in a sentence that begins with its path; None where there is none."""
    found = _fault(plan, _PLAN)
    return None if found is None else f"{found[0].removeprefix('.') or 'the file'} {found[1]}"


def _fault(value: Any, shape: _Shape) -> tuple[str, str] | None:
    """The path from here to what is wrong, and what is."""
    match shape:
        case _Leaf(name, holds):
            return None if holds(value) else ("", f"is {_shown(value)}, and must be {name}")
        case _List(item):
            return _list_fault(value, item)
        case _Object(fields, others):
            return _object_fault(value, fields, others)


def _list_fault(value: Any, item: _Shape) -> tuple[str, str] | None:
    if isinstance(value, Entries):  # packed from rows, each of its kind
        return None
    if not isinstance(value, list):
        return "", f"is {_shown(value)}, and must be a list"
    if isinstance(item, _Leaf) and all(map(item.holds, value)):
        return None
    for n, one in enumerate(value):
        found = _fault(one, item)
        if found is not None:
            return f"[{n}]{found[0]}", found[1]
    return None


def _object_fault(value: Any, fields: Sequence[tuple[str, _Shape, bool]], others: _Shape | None) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return "", f"is {_shown(value)}, and must be an object"
    for key, shape, optional in fields if others is None else [(key, others, False) for key in value]:
        if key not in value:
            if optional:
                continue
            return "", f"has no `{key}`"
        found = _fault(value[key], shape)
        if found is not None:
            return f".{key}{found[0]}", found[1]
    if others is None and len(value) > sum(key in value for key, _, _ in fields):
        strange = next(key for key in value if key not in {key for key, _, _ in fields})
        return "", f"has {_shown(strange)}, which no plan has"
    return None


def _shown(value: Any) -> str:
    """A value in a few characters, however large or deep it is."""
    match value:
        case None | bool() | float():
            return {None: "null", True: "true", False: "false"}.get(value, repr(value))
        case int():
            return str(value) if abs(value) < 10**30 else "a number of many digits"
        case str():
            return repr(value if len(value) <= 40 else value[:40] + "...")
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"
