"""Work memory is laid out in time that does not grow with how long its buffers live."""

from __future__ import annotations

from mlc.lower.layout import lay_out


def test_long_lives_are_not_walked_through() -> None:
    """A thousand million kernels between the first use of a buffer and the last cost nothing."""
    sizes = {"long": 64, "first": 128, "last": 128, "both": 64}
    lives = {"long": (0, 10**9), "first": (0, 1), "last": (2, 10**9), "both": (1, 2)}
    offsets, total = lay_out(sizes, lives)
    assert offsets["first"] == offsets["last"] == 0 and total == 256
    assert {offsets["long"], offsets["both"]} == {128, 192}
