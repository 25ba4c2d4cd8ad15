"""Names of the IR as identifiers of C."""

from __future__ import annotations

_WORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return
short signed sizeof static struct switch typedef union unsigned void volatile while asm typeof bool true false
i j k l n o p q m c r m0 n0 env at arena work range begin end item first columns row rows pitch batch total part closure to acc
last best last_index best_index later value scalars shape
"""

#: Words a local of an emitted function cannot be called: keywords of C, and the names emitted code uses itself.
RESERVED = frozenset(_WORDS.split())


def identifier(name: str) -> str:
    """The name with `_` for what an identifier cannot hold; a first digit is left."""
    return "".join(c if c.isalnum() else "_" for c in name)


def local_name(name: str) -> str:
    """The name of a local for a value: the value's own, with `_v` behind a word that is taken."""
    base = identifier(name)
    return f"{base}_v" if base in RESERVED or base.startswith("mlc_") else base


def unique_name(base: str, taken: set[str], joint: str = "_") -> str:
    """`base`, or base_2, base_3 ... when it is taken; taken from now on."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}{joint}{count}"
    taken.add(name)
    return name
