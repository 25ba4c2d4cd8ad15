"""Names of the IR as identifiers of C.

What a user calls a thing may be a keyword, a macro or a function of any header of any libc: no list of them is whole. So each name
gets an ending that nothing else has: `x_v` is a value, `x_m` its memory, and a routine ends with its phase, or with `_f`. Headers
declare no such names, and what emitted code calls by itself (env, at, i, j) has no such ending.
"""

from __future__ import annotations

from pathlib import PurePath

from mlc.diagnostics import Span

_VALUE = "_v"
_MEMORY = "_m"
_ROUTINE = "_f"

#: Endings of routines that are endings enough: those of a unit's phases.
_PHASES = ("_forward", "_input_gradient", "_weight_gradient", "_again_selective", "_again_full")


def identifier(name: str) -> str:
    """The name with `_` for what an identifier cannot hold. Names that begin with `_` are the C library's: here none does."""
    text = "".join(c if c.isalnum() else "_" for c in name).lstrip("_")
    return text if text[:1].isalpha() else f"n{text}"


def local_name(name: str) -> str:
    """The name of a local for a value."""
    return identifier(name) + _VALUE


def memory_name(name: str) -> str:
    """The name of a pointer to a buffer."""
    return identifier(name) + _MEMORY


def routine_name(name: str) -> str:
    """The name of a function: `block_forward`, `update_adamw_f`. The runtime has mlc_attention_forward and more of them."""
    base = identifier(name)
    return base if base.endswith(_PHASES) and not base.startswith("mlc_") else base + _ROUTINE


def unique_name(base: str, taken: set[str], joint: str = "_") -> str:
    """`base`, or base_2, base_3 ... when it is taken; taken from now on."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}{joint}{count}"
    taken.add(name)
    return name


def place_of(span: Span) -> str:
    """The innermost place outside the standard library; of a file only its name, wherever it lies."""
    while span.caller is not None and span.file.startswith("<"):
        span = span.caller
    return f"{PurePath(span.file).name}:{span.line}:{span.column}"
