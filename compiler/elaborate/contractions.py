"""`@` and einsum: written as contractions of two operands."""

from __future__ import annotations

from typing import Any

from mlc.elaborate.site import Site
from mlc.ir.types import Dim, Value

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def matmul(site: Site, a: Any, b: Any) -> Value:
    """a @ b as NumPy: the last dim of a with the second to last of b (the last of a vector), leading dims broadcast."""
    x = site.tensor(a, "`@`")
    y = site.tensor(b, "`@`")
    if not x.type.dims or not y.type.dims:
        raise site.fail("E0203", f"`@` wants at least one dim on each side, got {x.type} @ {y.type}", "write `*` for scalars")
    inner = y.type.shape[-2:][0]
    if x.type.shape[-1:] != (inner,):
        raise site.fail("E0203", f"matmul: inner dimensions differ: {x.type} @ {y.type}")
    x, y, leading = _leading(site, x, y)
    return site.one("contract", x, y, spec=_matmul_spec(x, y, leading))


def _matmul_spec(x: Value, y: Value, leading: tuple[str, str]) -> str:
    free = iter(LETTERS[len(set("".join(leading))) :])
    rows = next(free) if len(x.type.dims) > 1 else ""
    inner = next(free)
    columns = next(free) if len(y.type.dims) > 1 else ""
    batch = "".join(sorted(set("".join(leading))))
    return f"{leading[0]}{rows}{inner},{leading[1]}{inner}{columns}->{batch}{rows}{columns}"


def _leading(site: Site, x: Value, y: Value) -> tuple[Value, Value, tuple[str, str]]:
    """Letters of the leading dims of both, aligned at the right; a literal 1 that would stretch is dropped."""
    heads = [v.type.dims[:-2] for v in (x, y)]
    count = max(len(h) for h in heads)
    dropped: list[list[int]] = [[], []]
    letters = ["", ""]
    for place in range(-count, 0):
        dims = [h[place] if len(h) >= -place else None for h in heads]
        _check_leading(site, x, y, dims)
        for side in range(2):
            mine, other = dims[side], dims[1 - side]
            if mine is None:
                continue
            if mine.stretches and other is not None and (not other.stretches or side == 1):
                dropped[side].append(len(heads[side]) + place)
            else:
                letters[side] += LETTERS[count + place]
    kept = [_without(site, v, places) for v, places in zip((x, y), dropped, strict=True)]
    return kept[0], kept[1], (letters[0], letters[1])


def _check_leading(site: Site, x: Value, y: Value, dims: list[Dim | None]) -> None:
    firm = [d for d in dims if d is not None and not d.stretches]
    if len(firm) == 2 and firm[0].size != firm[1].size:
        raise site.fail("E0201", f"matmul: leading dimensions differ: {x.type} @ {y.type}")


def _without(site: Site, value: Value, places: list[int]) -> Value:
    if not places:
        return value
    return site.one("reshape", value, dims=tuple(d for i, d in enumerate(value.type.dims) if i not in places))


def einsum(site: Site, spec: Any, operands: tuple[Any, ...]) -> Value:
    """einsum of n operands, contracted left to right; a letter that only one of them has is summed first."""
    groups, result = _parse(site, spec, operands)
    tensors = [site.tensor(v, "einsum") for v in operands]
    _check_sizes(site, spec, groups, tensors)
    value, letters = tensors[0], groups[0]
    for at in range(1, len(tensors)):
        later = set(result).union(*groups[at + 1 :])
        value, letters = _contract(site, (value, letters), (tensors[at], groups[at]), later, result if at == len(tensors) - 1 else None)
    value, letters = _summed(site, value, letters, set(result))
    if letters == result:
        return value
    return site.one("transpose", value, permutation=tuple(letters.index(c) for c in result))


def _parse(site: Site, spec: Any, operands: tuple[Any, ...]) -> tuple[list[str], str]:
    if not isinstance(spec, str) or spec.count("->") != 1:
        raise site.fail("E0209", 'einsum: wants a specification like "ij,jk->ik" first')
    left, result = spec.replace(" ", "").split("->")
    groups = left.split(",")
    letters = set(left) - {","}
    if not (letters | set(result)) <= set(LETTERS):
        raise site.fail("E0209", f'einsum: "{spec}" has something other than small letters', "write every dim as a letter of its own")
    if len(groups) != len(operands):
        raise site.fail("E0209", f'einsum: "{spec}" has {len(groups)} operands, got {len(operands)}')
    repeated = next((g for g in (*groups, result) if len(set(g)) != len(g)), None)
    if repeated is not None:
        raise site.fail("E0209", f'einsum: a letter occurs twice in "{repeated}"')
    if not set(result) <= letters:
        raise site.fail("E0209", f'einsum: result letter "{sorted(set(result) - letters)[0]}" is in no operand')
    return groups, result


def _check_sizes(site: Site, spec: str, groups: list[str], tensors: list[Value]) -> None:
    sizes: dict[str, tuple[int, Value]] = {}
    for group, tensor in zip(groups, tensors, strict=True):
        if len(group) != len(tensor.type.dims):
            raise site.fail("E0209", f'einsum: "{group}" has {len(group)} letters for {tensor.type}')
        for letter, d in zip(group, tensor.type.dims, strict=True):
            size, first = sizes.setdefault(letter, (d.size, tensor))
            if size != d.size:
                raise site.fail("E0203", f'einsum: letter "{letter}" of "{spec}" is {size} in {first.type} and {d.size} in {tensor.type}')


def _contract(site: Site, a: tuple[Value, str], b: tuple[Value, str], later: set[str], result: str | None) -> tuple[Value, str]:
    x, x_letters = _summed(site, *a, later | set(b[1]))
    y, y_letters = _summed(site, *b, later | set(x_letters))
    both = x_letters + "".join(c for c in y_letters if c not in x_letters)
    out = result if result is not None else "".join(c for c in both if c in later)
    return site.one("contract", x, y, spec=f"{x_letters},{y_letters}->{out}"), out


def _summed(site: Site, value: Value, letters: str, kept: set[str]) -> tuple[Value, str]:
    """The value summed over letters that are not kept."""
    axes = tuple(i for i, c in enumerate(letters) if c not in kept)
    if not axes:
        return value, letters
    return site.one("sum", value, axes=axes, keepdims=False), "".join(c for c in letters if c in kept)
