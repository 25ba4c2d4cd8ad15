"""The files that a model may import: those beside it, and the standard library, whose trees are kept in the user's cache."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

from mlc import diagnostics, frozen
from mlc.cache import find_cache, keep_entry, read_entry
from mlc.diagnostics import MlcError
from mlc.resources import MOST_SOURCE_BYTES, read_bytes, stdlib_folder
from mlc.syntax import tree
from mlc.syntax.parser import parse

#: The tree of a dotted name. Raises LookupError for no such file, with a text where there is one that cannot be read.
Library = Callable[[str], tree.Module]

LIBRARY = "mlc."


def file_library(folder: Path) -> Library:
    """The library of a file in `folder`: dotted names beside it, `mlc.` in the standard library."""
    kept = cache(library_trees)

    def load(name: str) -> tree.Module:
        path = library_path(folder, name)
        if name.startswith(LIBRARY) and name in kept():
            return pickle.loads(kept()[name])
        try:
            text = read_bytes(path, MOST_SOURCE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise LookupError from None
        except OSError as error:
            raise LookupError(f"cannot read {path}: {error.strerror or error}") from error
        return parse(text, _shown(name) if name.startswith(LIBRARY) else str(path))

    return load


def library_path(folder: Path, name: str) -> Path:
    """The file of a dotted name."""
    if name.startswith(LIBRARY):
        return stdlib_folder().joinpath(*name.split(".")[1:]).with_suffix(".dsl")
    return folder.joinpath(*name.split(".")).with_suffix(".dsl")


def library_modules() -> list[str]:
    """The modules of the standard library, as they are imported."""
    return sorted(LIBRARY + path.stem for path in stdlib_folder().glob("*.dsl"))


def library_trees() -> Mapping[str, bytes]:
    """By module of the standard library, its tree as a pickle: from the user's cache, else read and kept there.

    Nothing without a cache, and where a file cannot be read: who imports it reads it, and says so.
    """
    store = find_cache()
    if store.folder is None or store.problem:
        return {}
    try:
        texts = {name: read_bytes(library_path(Path(), name), MOST_SOURCE_BYTES) for name in library_modules()}
        entry = store.entry("library", _facts(texts))
        kept = read_entry(entry)
        if kept is not None:
            return pickle.loads(kept)
        made = {name: pickle.dumps(parse(text, _shown(name))) for name, text in texts.items()}
    except (MlcError, OSError):
        return {}
    keep_entry(entry, pickle.dumps(made))
    return made


def _shown(name: str) -> str:
    """What messages call a file of the standard library."""
    return f"<{name}>"


def _facts(texts: Mapping[str, bytes]) -> Iterator[str]:
    """All that decides pickles of trees: the texts, and the sources of what reads them and of what they are made of."""
    yield sys.version
    yield from (f"{name} {hashlib.sha256(text).hexdigest()}" for name, text in texts.items())
    syntax = Path(tree.__file__).parent
    for path in (*sorted(syntax.glob("*.py")), *syntax.glob("*.lark"), Path(diagnostics.__file__), Path(frozen.__file__)):
        yield f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
