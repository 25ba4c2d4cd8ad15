"""Names of the IR as identifiers of C."""

from __future__ import annotations


def identifier(name: str) -> str:
    """The name with `_` for what an identifier cannot hold; a first digit is left."""
    return "".join(c if c.isalnum() else "_" for c in name)


def unique_name(base: str, taken: set[str], joint: str = "_") -> str:
    """`base`, or base_2, base_3 ... when it is taken; taken from now on."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}{joint}{count}"
    taken.add(name)
    return name
