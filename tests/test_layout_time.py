"""Work memory is laid out in time that does not grow with how long its buffers live."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlc.lower.layout import lay_out


def test_long_lives_are_not_walked_through() -> None:
    """A thousand million kernels between the first use of a buffer and the last cost nothing."""
    sizes = {"long": 64, "first": 128, "last": 128, "both": 64}
    lives = {"long": (0, 10**9), "first": (0, 1), "last": (2, 10**9), "both": (1, 2)}
    offsets, total = lay_out(sizes, lives)
    assert offsets["first"] == offsets["last"] == 0 and total == 256
    assert {offsets["long"], offsets["both"]} == {128, 192}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60), st.integers(0, 60)), max_size=150, unique_by=lambda one: one[1:]))
def test_blocks_give_the_place_that_a_plain_search_gives(drawn: list[tuple[int, int, int]]) -> None:
    """Largest first, each at the lowest place beside what is alive with it."""
    sizes = {f"b{n}": 64 * size for n, (size, _, _) in enumerate(drawn)}
    lives = {f"b{n}": (min(a, b), max(a, b)) for n, (_, a, b) in enumerate(drawn)}
    bundles: dict[tuple[int, int], int] = {}
    for name, life in lives.items():
        bundles[life] = bundles.get(life, 0) + sizes[name]
    placed: list[tuple[int, int, int, int]] = []
    for (first, last), size in sorted(bundles.items(), key=lambda one: (-one[1], one[0])):
        start = 0
        for low, high, begins, ends in sorted(placed):
            if begins <= last and ends >= first:
                if start + size <= low:
                    break
                start = max(start, high)
        placed.append((start, start + size, first, last))
    offsets, _ = lay_out(sizes, lives)
    begins = {life: min(offsets[name] for name, of in lives.items() if of == life) for life in bundles}
    assert begins == {(first, last): low for low, _, first, last in placed}
