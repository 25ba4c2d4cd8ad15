"""The language of `--split`: which calls of the chain each stage holds, written by hand.

    embed block*5 | block*7 head

    split:  part ("|" part)*        as many parts as stages; a part without words is an empty stage
    part:   word*
    word:   name | name "*" | name "*" count

A word takes calls from where the word before it ended: one, as many as follow (at least one), or `count`. It takes a call whose layer
function or whose path it names. Of a path it names any run of whole parts: `h.3` is `h` and `h.3`, `model.layers.3` is `layers` and
`layers.3`. Code before the first call of a layer is `begin` and also `embed`, code after the last one `end` and also `head`, unless a
layer of the chain has that name. `h.*` is the same as `h*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from mlc.diagnostics import Diagnostic, MlcError, Span, nearest
from mlc.frozen import frozen

#: What spans of a split name as their file; the text of the option is the source.
SPLIT = "--split"

#: What users call the code of a model before its first layer and after its last.
_ALIASES = {"begin": "embed", "end": "head"}

_WORD = re.compile(r"(?P<name>[A-Za-z0-9_#][A-Za-z0-9_.#]*)(?P<star>\*(?P<count>[0-9]+)?)?$")


@frozen
class _Word:
    """A word of a split. count: calls it takes; None for all that follow."""

    text: str
    name: str
    count: int | None
    span: Span


@frozen
class _Named:
    """A call of the chain and what words may call it. paths: with dots around, `.h.3.`"""

    label: str
    units: frozenset[str]
    paths: tuple[str, ...]

    def answers(self, name: str) -> bool:
        if name in self.units:
            return True
        return not name.isdigit() and any(f".{name.rstrip('.')}." in path for path in self.paths)


def split_calls(text: str, calls: Sequence[tuple[str, str]], stages: int) -> tuple[range, ...]:
    """The calls of each stage as a split says.

    calls:   (name of the unit, call path) of each call of the chain
    raises:  E1003 for what is no split or has another number of parts, E1004 for one that does not follow the chain;
             spans are places in the text, their file is SPLIT
    """
    parts = list(_parts(text))
    named = _named(calls)
    bounds = [0]
    for part in parts:
        at = bounds[-1]
        for word in part:
            at = _taken(word, named, at)
        bounds.append(at)
    if bounds[-1] < len(named):
        raise _left_over(text, named[bounds[-1] :])
    if len(parts) != stages:
        raise _error("E1003", f"{_count(len(parts), 'part')} for {_count(stages, 'stage')}", _whole(text), "parts are divided by `|`")
    return tuple(range(i, j) for i, j in pairwise(bounds))


def _parts(text: str) -> Iterator[list[_Word]]:
    """The words of each part. raises: E1003"""
    part: list[_Word] = []
    for found in re.finditer(r"\||[^\s|]+", text):
        if found.group() == "|":
            yield part
            part = []
        else:
            part.append(_word(found))
    yield part


def _word(found: re.Match[str]) -> _Word:
    text, span = found.group(), _span(found.start(), found.end())
    parsed = _WORD.match(text)
    if parsed is None:
        raise _error("E1003", f"`{text}` is no word of a split", span, "a word is `name`, `name*5` or `name*`")
    count = int(parsed["count"]) if parsed["count"] else None if parsed["star"] else 1
    if count == 0:
        raise _error("E1003", f"`{text}` takes no call", span, "leave it out, or say how many calls it takes")
    return _Word(text, parsed["name"], count, span)


def _named(calls: Sequence[tuple[str, str]]) -> list[_Named]:
    layers = {_base(unit) for unit, _ in calls}
    return [_call_names(unit, path, layers) for unit, path in calls]


def _call_names(unit: str, path: str, layers: set[str]) -> _Named:
    alias = _ALIASES.get(unit, unit)
    units = {unit, _base(unit)} | ({alias} if alias not in layers else set())
    paths = {f".{path}.", f".{path.partition('#')[0]}."}
    return _Named(path or unit, frozenset(units), tuple(sorted(paths)))


def _base(unit: str) -> str:
    """The layer function of a unit: one that is called with other shapes is `block.1`."""
    return re.sub(r"\.[0-9]+$", "", unit)


def _taken(word: _Word, named: Sequence[_Named], at: int) -> int:
    """Where the calls that a word takes end. raises: E1004"""
    end = at
    while end < len(named) and named[end].answers(word.name) and (word.count is None or end - at < word.count):
        end += 1
    if end == at or (word.count is not None and end - at < word.count):
        raise _mismatch(word, named, at, end)
    return end


def _mismatch(word: _Word, named: Sequence[_Named], at: int, end: int) -> MlcError:
    """Why a word does not take the calls it should."""
    if not any(call.answers(word.name) for call in named):
        names = sorted({name for call in named for name in (*call.units, *_path_names(call))})
        near = nearest(word.name, names)
        help = f"did you mean `{near}`?" if near else f"{_expected(named, at)}; layers are called {', '.join(sorted(_unit_names(named)))}"
        return _error("E1004", f"no call of the chain is called `{word.name}`", word.span, help)
    if end == at:
        return _error("E1004", f"`{word.name}` is not next: {_expected(named, at)}", word.span, None)
    message = f"`{word.text}` takes {word.count} calls, but only {end - at} of that name follow: {_expected(named, end)}"
    return _error("E1004", message, word.span, f"write `{word.name}*{end - at}`")


def _expected(named: Sequence[_Named], at: int) -> str:
    if at == len(named):
        return "the chain ends here"
    return f"the chain goes on with {_told(named[at])}"


def _told(call: _Named) -> str:
    """A call and its layer function: h.3 (block)."""
    unit = min(call.units, key=lambda name: (len(name), name))
    return call.label if call.label in call.units else f"{call.label} ({unit})"


def _unit_names(named: Sequence[_Named]) -> set[str]:
    return {min(call.units, key=lambda name: (len(name), name)) for call in named}


def _path_names(call: _Named) -> set[str]:
    """The parts of a path that are no numbers, and the path."""
    return {call.label, *(part for path in call.paths for part in path.strip(".").split(".") if not part.isdigit())}


def _left_over(text: str, rest: Sequence[_Named]) -> MlcError:
    calls = _told(rest[0]) if len(rest) == 1 else f"{_told(rest[0])} to {_told(rest[-1])}"
    message = f"the split ends before {calls}: {_count(len(rest), 'call')} of the chain in no stage"
    return _error("E1004", message, _span(len(text), len(text)), None)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _whole(text: str) -> Span:
    return _span(0, len(text))


def _span(start: int, end: int) -> Span:
    return Span(SPLIT, 1, start + 1, 1, end + 1)


def _error(code: str, message: str, span: Span, help: str | None) -> MlcError:
    return MlcError([Diagnostic(code, message, span, (), help)])
