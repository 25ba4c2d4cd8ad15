"""What Python programs call: compile, check and format. Nothing prints or exits; what the user can mend is an MlcError."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from mlc.diagnostics import Diagnostic
from mlc.driver import Build, Options, compile_file, compile_module, differentiated, load_program
from mlc.syntax.formatter import format_text
from mlc.syntax.python import parse_function


def compile(
    source: str | Path | Callable[..., Any],
    out: str | Path | None = None,
    define: Mapping[str, Any] | None = None,
    **options: Any,
) -> Build:
    """Compile a .dsl file, or a Python function marked `@mlc.model`.

    out:      output folder; build/<stem of the file, or name of the function> when None
    define:   constants of the file, as -D on the command line
    options:  fields of mlc.Options: target, march, pp, dp, schedule, chunks, microbatches, groups, split, memory, recompute, plan, emit
    """
    folder = None if out is None else Path(out)
    chosen = Options(**{name: _option(name, value) for name, value in options.items()})
    if not callable(source):
        return compile_file(Path(source), folder, define or {}, chosen)
    module = parse_function(source)
    file = Path(inspect.getsourcefile(inspect.unwrap(source)) or source.__name__)
    return compile_module(module, source.__name__, file, folder, define or {}, chosen)


def _option(name: str, value: Any) -> Any:
    """A value as the command has it: an integer of NumPy is Python's, a plan that is text is a path."""
    if name == "plan" and isinstance(value, str):
        return Path(value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def check(path: str | Path, define: Mapping[str, Any] | None = None) -> tuple[Diagnostic, ...]:
    """Look for errors in a .dsl file; returns its warnings. raises: MlcError with all errors that were found"""
    program, _ = load_program(Path(path), define or {}, Options())
    differentiated(program)
    return program.warnings


def format(text: str, file: str = "<text>") -> str:
    """The text of a .dsl file, formatted. raises: MlcError when it is not one"""
    return format_text(text, file)
