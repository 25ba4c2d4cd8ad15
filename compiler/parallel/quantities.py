"""Bytes and seconds in words."""

from __future__ import annotations


def size_text(count: int) -> str:
    """Bytes in the unit that leaves one to four digits before the point."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count} B"


def size_texts(wanted: int, available: int) -> tuple[str, str]:
    """Two different sizes, in bytes where they read the same otherwise."""
    texts = size_text(wanted), size_text(available)
    return texts if texts[0] != texts[1] else (f"{wanted:,} B", f"{available:,} B")


def seconds_text(seconds: float) -> str:
    """Seconds with three digits, in the unit that leaves one to three before the point."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:,.3g} {unit}" if seconds < 1000 * scale else f"{seconds / scale:,.0f} {unit}"
    return f"{seconds / 1e-9:.3g} ns" if seconds else "0 s"
