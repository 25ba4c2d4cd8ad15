"""Diagnostics from chains of call sites: where a mistake is reported, and what the notes say."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mlc.diagnostics import Diagnostic, MlcError, Note, Span, nearest

#: More diagnostics than these help nobody.
MOST = 20


class Failure(Exception):
    """A mistake at a place: `span` is the innermost call site, its callers are the chain."""

    def __init__(self, code: str, message: str, span: Span, help: str | None = None, notes: tuple[Note, ...] = ()):
        super().__init__(message)
        self.code = code
        self.message = message
        self.span = span
        self.help = help
        self.notes = notes


class Exhausted(Exception):
    """The budget of compile time is used up at a place: elaboration ends, for all that follows would use it too."""

    def __init__(self, message: str, span: Span, help: str | None = None):
        super().__init__(message)
        self.failure = Failure("E0414", message, span, help)


class Poisoned(Exception):
    """An operand was already reported: nothing more is said."""


def diagnostic(failure: Failure, library: Collection[str], severity: str = "error") -> Diagnostic:
    """The diagnostic of a failure: reported at the innermost frame outside the files of the library."""
    chain = list(callers(failure.span))
    outside = [i for i, span in enumerate(chain) if span.file not in library]
    at = outside[0] if outside else len(chain) - 1
    notes = list(failure.notes)
    if at > 0:
        notes.append(Note("in the library here", bare(chain[0])))
    notes.extend(Note("called from here", bare(span)) for span in chain[at + 1 :] if span.file not in library)
    return Diagnostic(failure.code, failure.message, bare(chain[at]), tuple(notes), failure.help, severity)


def callers(span: Span | None) -> Iterable[Span]:
    while span is not None:
        yield span
        span = span.caller


def bare(span: Span) -> Span:
    """The span without its callers."""
    return Span(span.file, span.line, span.column, span.end_line, span.end_column)


def inside(span: Span, caller: Span | None) -> Span:
    """`span` as reached from the call site `caller`."""
    if caller is None:
        return span
    return Span(span.file, span.line, span.column, span.end_line, span.end_column, caller)


#: How other languages write a literal.
_LITERALS = {"true": "True", "false": "False", "none": "None", "null": "None"}


def hint(name: str, candidates: Iterable[str]) -> str | None:
    """A help text with the nearest known name, None where none is near. A number is no misspelling: `exp2` is not `exp`."""
    best = _LITERALS.get(name) or nearest(name, [c for c in candidates if _digits(c) == _digits(name)])
    return f"did you mean `{best}`?" if best else None


def _digits(name: str) -> str:
    return "".join(c for c in name if c.isdigit())


class Reports:
    """Collects diagnostics, each once. Warnings stop nothing."""

    def __init__(self, library: Collection[str]):
        self.library = library
        self.diagnostics: list[Diagnostic] = []
        self._warnings: list[Diagnostic] = []
        self._seen: set[tuple[str, Span]] = set()

    def add(self, failure: Failure, every: bool = False) -> None:
        """`every`: also a second one of this code at this place; elsewhere that is the next round of a loop."""
        made = diagnostic(failure, self.library)
        if (made.code, made.span) in self._seen and not every:
            return
        self._seen.add((made.code, made.span))
        self.diagnostics.append(made)
        if len(self.diagnostics) >= MOST:
            self.check()

    def place(self, span: Span) -> Span:
        """Where a diagnostic of this span points: its innermost call site outside the library."""
        return diagnostic(Failure("", "", span), self.library).span

    def warn(self, failure: Failure) -> None:
        """Collect what is no mistake for sure; more than MOST help nobody."""
        made = diagnostic(failure, self.library, "warning")
        if made not in self._warnings and len(self._warnings) < MOST:
            self._warnings.append(made)

    def check(self) -> None:
        """Raise what was collected."""
        if self.diagnostics:
            raise MlcError(_in_order(self.diagnostics))

    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(_in_order(self._warnings))


def _in_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    return sorted(diagnostics, key=lambda d: (d.span.file, d.span.line, d.span.column, d.code))
