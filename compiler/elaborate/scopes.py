"""Scopes of parameter names: what name= and share= open."""

from __future__ import annotations

from mlc.frozen import frozen


@frozen
class Scope:
    """`prefix` is the dotted path. `shared` is the path opened by the innermost share=, `entry` the number of its opening."""

    prefix: str = ""
    shared: str | None = None
    entry: int = 0

    def enter(self, name: str, share: bool, entry: int) -> Scope:
        prefix = join(self.prefix, name)
        return Scope(prefix, prefix, entry) if share else Scope(prefix, self.shared, self.entry)


def join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
