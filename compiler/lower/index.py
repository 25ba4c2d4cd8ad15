"""Index arithmetic: where an element of a value lies, as a function of the loop counters.

Moves (reshape, transpose, slice ...) never run: they compose indices. Division and remainder are simplified with the
ranges of the counters; what stays is removed by splitting a loop (`splits`), or printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlc.frozen import frozen
from mlc.lower.expression import Atom, Counter, Datum, Index, Operation, Position, Quotient, Remainder

ZERO = Index()


@frozen
class At:
    """An index as a number to reckon with: what the places of an op's record are functions of."""

    index: Index

    def __add__(self, other: At | int) -> At:
        return At(add(self.index, index_of(other)))

    def __radd__(self, other: int) -> At:
        return At(add(number(other), self.index))

    def __sub__(self, other: At | int) -> At:
        return At(add(self.index, scale(index_of(other), -1)))

    def __rsub__(self, other: int) -> At:
        return At(add(number(other), scale(self.index, -1)))

    def __mul__(self, factor: int) -> At:
        return At(scale(self.index, factor))

    def __rmul__(self, factor: int) -> At:
        return At(scale(self.index, factor))

    def __floordiv__(self, divisor: int) -> At:
        return At(divide(self.index, divisor))

    def __mod__(self, divisor: int) -> At:
        return At(modulo(self.index, divisor))


def index_of(coordinate: At | int) -> Index:
    """The index that a coordinate is."""
    return coordinate.index if isinstance(coordinate, At) else number(coordinate)


def length(indices: Sequence[Index]) -> int:
    """How long indices are, in atoms: what their text is in proportion to."""
    total = 0
    waiting = list(indices)
    while waiting:
        for atom, _ in waiting.pop().terms:
            total += 1
            match atom:
                case Quotient(index, _) | Remainder(index, _):
                    waiting.append(index)
                case Datum(Operation(_, args), _):
                    waiting.extend(a.index for a in args if isinstance(a, Position))
                case _:
                    pass
    return total


def number(value: int) -> Index:
    """An index that is always this number."""
    return Index((), value)


def counter(c: Counter) -> Index:
    """An index that is a loop counter."""
    return ZERO if c.extent == 1 else Index(((c, 1),))


def add(a: Index, b: Index) -> Index:
    """a + b."""
    terms = dict(a.terms)
    for atom, coefficient in b.terms:
        terms[atom] = terms.get(atom, 0) + coefficient
    total = Index(tuple((t, c) for t, c in terms.items() if c), a.constant + b.constant)
    return _rejoin(total)


def _rejoin(index: Index) -> Index:
    """c * d * (x // d) + c * (x mod d) is c * x."""
    for atom, coefficient in index.terms:
        if not isinstance(atom, Remainder):
            continue
        partner = Quotient(atom.index, atom.divisor)
        if (partner, coefficient * atom.divisor) in index.terms:
            rest = Index(tuple((t, c) for t, c in index.terms if t not in (atom, partner)), index.constant)
            return add(rest, scale(atom.index, coefficient))
    return index


def joined(index: Index) -> Index:
    """The same where x // d has another form: 32 * 32 * (i // 1024) + 32 * (i // 32 mod 32) is 32 * (i // 32). For loops that are not
    split: a split takes such divisions away altogether."""
    for atom, coefficient in index.terms:
        if not isinstance(atom, Remainder):
            continue
        whole = divide(atom.index, atom.divisor)
        partners = tuple((t, c * coefficient * atom.divisor) for t, c in whole.terms)
        if whole.terms and not whole.constant and all(partner in index.terms for partner in partners):
            gone = (atom, *(t for t, _ in whole.terms))
            rest = Index(tuple((t, c) for t, c in index.terms if t not in gone), index.constant)
            return joined(add(rest, scale(atom.index, coefficient)))
    return index


def scale(a: Index, factor: int) -> Index:
    """factor * a."""
    if factor == 0:
        return ZERO
    return Index(tuple((t, c * factor) for t, c in a.terms), a.constant * factor)


def linear(indices: Sequence[Index], strides: Sequence[int], start: int = 0) -> Index:
    """start + sum of stride * index."""
    total = number(start)
    for index, stride in zip(indices, strides, strict=True):
        total = add(total, scale(index, stride))
    return total


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    match atom:
        case Counter(extent=extent) | Datum(extent=extent):
            return 0, extent - 1
        case Quotient(index, divisor):
            low, high = bounds(index)
            return low // divisor, high // divisor
        case Remainder(_, divisor):
            return 0, divisor - 1


def bounds(index: Index) -> tuple[int, int]:
    """The least and greatest value the index can take (an outer bound)."""
    low = high = index.constant
    for atom, coefficient in index.terms:
        a, b = _atom_bounds(atom)
        low += min(a * coefficient, b * coefficient)
        high += max(a * coefficient, b * coefficient)
    return low, high


def _part(index: Index, divisor: int) -> tuple[Index, Index]:
    """(whole, rest) with index = whole * divisor + rest, where rest keeps the terms that do not divide."""
    whole = Index(tuple((t, c // divisor) for t, c in index.terms if c % divisor == 0), index.constant // divisor)
    rest = Index(tuple((t, c) for t, c in index.terms if c % divisor), index.constant % divisor)
    return whole, rest


def _coarsen(rest: Index, divisor: int) -> tuple[Index, int, Index] | None:
    """rest = coarse * k + fine with fine in [0, k) and k dividing divisor: then rest // divisor = coarse // (divisor / k)."""
    for k in sorted({abs(c) for _, c in rest.terms if abs(c) > 1 and divisor % abs(c) == 0}, reverse=True):
        coarse, fine = _part(rest, k)
        low, high = bounds(fine)
        if coarse.terms and low >= 0 and high < k:
            return coarse, k, fine
    return None


def divide(index: Index, divisor: int) -> Index:
    """floor(index / divisor)."""
    if divisor == 1:
        return index
    whole, rest = _part(index, divisor)
    low, high = bounds(rest)
    if low // divisor == high // divisor:
        return add(whole, number(low // divisor))
    if not whole.terms and len(rest.terms) == 1 and isinstance(rest.terms[0][0], Quotient) and rest.terms[0][1] == 1 and rest.constant == 0:
        inner = rest.terms[0][0]
        return add(whole, divide(inner.index, inner.divisor * divisor))
    found = _coarsen(rest, divisor)
    if found:
        coarse, k, _ = found
        return add(whole, divide(coarse, divisor // k))
    return add(whole, Index(((Quotient(rest, divisor), 1),)))


def modulo(index: Index, divisor: int) -> Index:
    """index mod divisor."""
    if divisor == 1:
        return ZERO
    _, rest = _part(index, divisor)
    low, high = bounds(rest)
    if low // divisor == high // divisor:
        return add(rest, number(-(low // divisor) * divisor))
    found = _coarsen(rest, divisor)
    if found:
        coarse, k, fine = found
        return add(scale(modulo(coarse, divisor // k), k), fine)
    return Index(((Remainder(rest, divisor), 1),))


def unflatten(index: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The coordinates of flat element `index` of a row-major tensor."""
    coordinates: list[Index] = []
    for extent in reversed(shape):
        coordinates.append(modulo(index, extent))
        index = divide(index, extent)
    return tuple(reversed(coordinates))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a contiguous tensor."""
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def counters(index: Index) -> set[int]:
    """The numbers of the loop counters the index depends on, not through data."""
    found: set[int] = set()
    for atom, _ in index.terms:
        match atom:
            case Counter(n, _):
                found.add(n)
            case Quotient(inner, _) | Remainder(inner, _):
                found |= counters(inner)
            case Datum():
                pass
    return found


def splits(index: Index) -> dict[int, int]:
    """Loops to split so that divisions vanish: counter number -> the extent of the new inner loop."""
    found: dict[int, int] = {}
    for atom, _ in index.terms:
        if not isinstance(atom, Quotient | Remainder):
            continue
        found |= splits(atom.index)
        for inner, coefficient in atom.index.terms:
            if not isinstance(inner, Counter) or atom.divisor % abs(coefficient):
                continue
            extent = atom.divisor // abs(coefficient)
            if 1 < extent < inner.extent and inner.extent % extent == 0:
                found.setdefault(inner.number, extent)
    return found


def substitute(index: Index, values: Mapping[int, Index]) -> Index:
    """Replace loop counters by indices; counters that are not named stay."""
    total = number(index.constant)
    for atom, coefficient in index.terms:
        match atom:
            case Counter(n, _):
                term = values.get(n, Index(((atom, 1),)))
            case Quotient(inner, divisor):
                term = divide(substitute(inner, values), divisor)
            case Remainder(inner, divisor):
                term = modulo(substitute(inner, values), divisor)
            case Datum():
                term = Index(((atom, 1),))
        total = add(total, scale(term, coefficient))
    return total


def coefficient_of(index: Index, number: int) -> int | None:
    """The stride of a loop counter in the index, 0 when absent; None when it occurs inside a division or remainder."""
    stride = 0
    for atom, coefficient in index.terms:
        match atom:
            case Counter(n, _) if n == number:
                stride = coefficient
            case Quotient(inner, _) | Remainder(inner, _) if number in counters(inner):
                return None
            case _:
                pass
    return stride
