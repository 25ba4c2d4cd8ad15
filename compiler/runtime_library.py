"""The runtime as a library, built once for a toolchain and kept in the user's cache for every model that comes after.

An entry holds libmlcrt.a, the settings it was made with, and libmlc_mpi.so where there is an MPI. What decides its bytes: the runtime's
sources, its Makefile with the target, the compiler (its files, what it says of itself, what it predefines), the MPI, and those variables of
the environment that compilers obey. Without a cache the runtime is built beside the model, as `make` does it there; nothing else differs.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import tempfile
import zipfile
from pathlib import Path

from mlc.build import Toolchain, make, run, unwritable, write_file, write_files
from mlc.cache import MAKING, Cache, find_cache, keep_entry, read_entry
from mlc.diagnostics import MlcError
from mlc.emit.project import LIBRARY, MPI_LIBRARY, RUNTIME_OBJECTS, SETTINGS, SourceTree

#: Variables of the environment that change what compilers, mpicc and make do.
_OBEYED = (
    "AR", "CCC_OVERRIDE_OPTIONS", "COMPILER_PATH", "CPATH", "C_INCLUDE_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH", "MPICH_CC", "OMPI_CFLAGS",
    "OMPI_CPPFLAGS", "OMPI_LDFLAGS", "OMPI_LIBS", "OPAL_PREFIX", "SOURCE_DATE_EPOCH",
)  # fmt: skip

#: The members of an entry, by their path in an emitted directory; the last one only where there is an MPI.
_MEMBERS = (SETTINGS, LIBRARY, MPI_LIBRARY)


def describe_cache(cache: Cache) -> str:
    """A line for `mlc doctor`."""
    if cache.problem:
        return f"none ({cache.problem}): the runtime is compiled with every model"
    entries = cache.entries("runtime")
    size_bytes = sum(entry.lstat().st_size for entry in entries)
    return f"{cache.folder}: the runtime of {len(entries)} toolchain{'' if len(entries) == 1 else 's'}, {size_bytes / 1e6:.1f} MB"


def install_runtime(toolchain: Toolchain, target: tuple[str, ...], runtime: SourceTree, folder: Path) -> None:
    """Put the library of the runtime into an emitted directory, as make would have built it there; build it first if it was never built.

    runtime:  the files of a directory without a model; `folder` has the same runtime and the model's Makefile

    A runtime that does not compile here is left to the make of `folder`, which says so where the sources are.
    """
    cache = find_cache()
    if cache.folder is None or cache.problem:
        return
    entry = cache.entry("runtime", _facts(toolchain, target, runtime))
    members = _unpack(read_entry(entry))
    if members:
        _install(members, folder)
        return
    with contextlib.suppress(MlcError, OSError):
        members = _build(cache.folder, toolchain, runtime)
        keep_entry(entry, _pack(members))
    if members:
        _install(members, folder)


def _facts(toolchain: Toolchain, target: tuple[str, ...], runtime: SourceTree) -> list[str]:
    """All that decides what the runtime becomes."""
    return [repr(runtime.files), *_compiler_facts(toolchain, target), *_mpi_facts(), *(f"{n}={os.environ.get(n)}" for n in _OBEYED)]


def _compiler_facts(toolchain: Toolchain, target: tuple[str, ...]) -> list[str]:
    """The files of a compiler and what it says. Behind ccache or a script, cc1 is the compiler itself; features.h names the C library."""
    command = toolchain.command
    parts = [run([*command, f"-print-prog-name={part}"]).stdout.strip() for part in ("cc1", "as")]
    files = [_file_facts(word) for word in [*command, *parts] if word and not word.startswith("-")]
    source = "#if __has_include(<features.h>)\n#include <features.h>\n#endif\n"
    predefined = run([*command, *target, "-dM", "-E", "-x", "c", "-"], source).stdout
    return [toolchain.compiler, run([*command, "--version"]).stdout, predefined, *files]


def _mpi_facts() -> list[str]:
    """Which MPI the transport is built against: mpicc, its options, and the headers that they lead to."""
    if shutil.which("mpicc") is None:
        return []
    shown = run(["mpicc", "-show"]).stdout
    headers = [_file_facts(f"{word[2:]}/mpi.h") for word in shlex.split(shown) if word.startswith("-I")]
    return [_file_facts("mpicc"), shown, *headers]


def _file_facts(name: str) -> str:
    """Where a file lies that the shell would find, its size and when it was written."""
    found = shutil.which(name) or name
    try:
        about = os.stat(found)
    except OSError:
        return found
    return f"{os.path.realpath(found)} {about.st_size} {about.st_mtime_ns}"


def _pack(members: dict[str, bytes]) -> bytes:
    """The members of an entry as an archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return packed.getvalue()


def _unpack(packed: bytes | None) -> dict[str, bytes]:
    """The reverse of _pack; no members where there is no entry."""
    if packed is None:
        return {}
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _build(cache: Path, toolchain: Toolchain, runtime: SourceTree) -> dict[str, bytes]:
    """Build the runtime in a folder of its own. raises: E0804, E0805, OSError"""
    with tempfile.TemporaryDirectory(prefix=MAKING, dir=cache, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        write_files(folder, runtime.files)
        make(toolchain, folder / "src", "runtime")
        return {name: (folder / name).read_bytes() for name in _MEMBERS if (folder / name).exists()}


def _install(members: dict[str, bytes], folder: Path) -> None:
    """Write what differs. For make a library is up to date when it is no older than the files it is made from, and objects beside it,
    of another time, would be older than those: they go."""
    settings = folder / SETTINGS
    if not _holds(settings, members[SETTINGS]):
        write_file(settings, members[SETTINGS])
    newest = max(path.stat().st_mtime_ns for path in [settings, folder / "src" / "Makefile", *(folder / "src" / "runtime").rglob("*.[ch]")])
    for name in (LIBRARY, MPI_LIBRARY):
        path = folder / name
        if name not in members or (_holds(path, members[name]) and path.stat().st_mtime_ns >= newest):
            continue
        if name == LIBRARY:
            shutil.rmtree(folder / RUNTIME_OBJECTS, ignore_errors=True)
        _replace(path, members[name])


def _replace(path: Path, data: bytes) -> None:
    """Write a file under another name first: make takes whatever has the right name for whole. raises: E0804"""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    write_file(part, data)
    try:
        part.replace(path)
    except OSError as problem:
        part.unlink(missing_ok=True)
        raise unwritable(path, problem) from problem


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
