"""The user's cache: the runtime as a library, built once for a toolchain and kept for every model that comes after.

<cache>/runtime-<key>         libmlcrt.a, the settings it was made with, libmlc_mpi.so where there is an MPI
<cache>/.making-*             what is being built or written; nobody reads it

The key is a hash of all that decides the bytes: the runtime's sources, its Makefile with the target, the compiler (its files, what it says
of itself, what it predefines), the MPI, and those variables of the environment that compilers obey. An entry is one file, renamed to its
name when it is whole on the disk, so that any number of compilations may look for it, make it and replace it at once.

A cache that belongs to somebody else, or that others may write to, is not used: whoever writes there writes our programs. Without a cache
the runtime is built beside the model, as `make` does it there; nothing else differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shlex
import shutil
import stat
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mlc.build import Toolchain, make, run, unwritable, write_file, write_files
from mlc.diagnostics import MlcError
from mlc.emit.project import LIBRARY, MPI_LIBRARY, RUNTIME_OBJECTS, SETTINGS, SourceTree

#: Entries that are kept, the last used ones; each has about a megabyte.
KEPT_ENTRIES = 16

#: What a compilation left that was killed is removed after this long.
ABANDONED_SECONDS = 24 * 3600

#: Variables of the environment that change what compilers, mpicc and make do.
_OBEYED = (
    "AR", "CCC_OVERRIDE_OPTIONS", "COMPILER_PATH", "CPATH", "C_INCLUDE_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH", "MPICH_CC", "OMPI_CFLAGS",
    "OMPI_CPPFLAGS", "OMPI_LDFLAGS", "OMPI_LIBS", "OPAL_PREFIX", "SOURCE_DATE_EPOCH",
)  # fmt: skip

_CHECKSUM_BYTES = hashlib.sha256().digest_size

#: The members of an entry, by their path in an emitted directory; the last one only where there is an MPI.
_MEMBERS = (SETTINGS, LIBRARY, MPI_LIBRARY)


@dataclass(frozen=True, slots=True)
class Cache:
    """Where the cache lies, and why it is not used (None when it is)."""

    folder: Path | None
    problem: str | None

    def entries(self) -> list[Path]:
        """All entries, the last used one first."""
        return [] if self.folder is None or self.problem else sorted(self.folder.glob("runtime-*"), key=_used, reverse=True)


def find_cache() -> Cache:
    """The folder of MLC_CACHE (`off`: none), of XDG_CACHE_HOME, or ~/.cache; made when it is not there."""
    asked = os.environ.get("MLC_CACHE", "")
    if asked == "off":
        return Cache(None, "MLC_CACHE is off")
    try:
        folder = Path(asked).absolute() if asked else _cache_home() / "mlc"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Cache(folder, _distrust(folder.stat(), str(folder)) or _unwritable(folder))
    except OSError as problem:
        return Cache(None, f"{problem.filename}: {problem.strerror}")
    except RuntimeError:
        return Cache(None, "this user has no home directory")


def _cache_home() -> Path:
    """raises: RuntimeError where there is no home"""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base) if os.path.isabs(base) else Path.home() / ".cache"


def _distrust(found: os.stat_result, name: str) -> str | None:
    """Why what lies there may have been put there by somebody else."""
    if found.st_uid != os.geteuid():
        return f"{name} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{name} can be written to by others"
    return None


def describe_cache(cache: Cache) -> str:
    """A line for `mlc doctor`."""
    if cache.problem:
        return f"none ({cache.problem}): the runtime is compiled with every model"
    entries = cache.entries()
    size_bytes = sum(entry.lstat().st_size for entry in entries)
    return f"{cache.folder}: the runtime of {len(entries)} toolchain{'' if len(entries) == 1 else 's'}, {size_bytes / 1e6:.1f} MB"


def _unwritable(folder: Path) -> str | None:
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written to"


def install_runtime(toolchain: Toolchain, target: tuple[str, ...], runtime: SourceTree, folder: Path) -> None:
    """Put the library of the runtime into an emitted directory, as make would have built it there; build it first if it was never built.

    runtime:  the files of a directory without a model; `folder` has the same runtime and the model's Makefile

    A runtime that does not compile here is left to the make of `folder`, which says so where the sources are.
    """
    cache = find_cache()
    if cache.folder is None or cache.problem:
        return
    entry = cache.folder / f"runtime-{_key(toolchain, target, runtime)}"
    members = read_entry(entry)
    if members:
        _install(members, folder)
        return
    with contextlib.suppress(MlcError, OSError):
        members = _build(cache.folder, toolchain, runtime)
        _keep(entry, members)
    if members:
        _install(members, folder)


def _key(toolchain: Toolchain, target: tuple[str, ...], runtime: SourceTree) -> str:
    """A hash of all that decides what the runtime becomes."""
    facts = [repr(runtime.files), *_compiler_facts(toolchain, target), *_mpi_facts(), *(f"{n}={os.environ.get(n)}" for n in _OBEYED)]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]


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


def read_entry(entry: Path) -> dict[str, bytes]:
    """The members of an entry by name; none when it is not there, is not ours alone, or is damaged."""
    try:
        with open(entry, "rb", opener=_without_links) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or _distrust(about, str(entry)):
                return {}
            os.utime(file.fileno())
            return _unpack(file.read())
    except OSError:
        return {}


def _pack(members: dict[str, bytes]) -> bytes:
    """The hash of an archive, and the archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return hashlib.sha256(packed.getvalue()).digest() + packed.getvalue()


def _unpack(data: bytes) -> dict[str, bytes]:
    """The reverse of _pack; nothing of what it has not made."""
    checksum, packed = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if hashlib.sha256(packed).digest() != checksum:
        return {}
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _build(cache: Path, toolchain: Toolchain, runtime: SourceTree) -> dict[str, bytes]:
    """Build the runtime in a folder of its own. raises: E0804, E0805, OSError"""
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        write_files(folder, runtime.files)
        make(toolchain, folder / "src", "runtime")
        return {name: (folder / name).read_bytes() for name in _MEMBERS if (folder / name).exists()}


def _keep(entry: Path, members: dict[str, bytes]) -> None:
    """Write an entry, whole or not at all, and make room. A cache that cannot keep it changes nothing but time."""
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix=".making-", dir=entry.parent)
        with open(descriptor, "wb") as file:
            file.write(_pack(members))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, entry)
        _prune(entry.parent)


def _prune(cache: Path) -> None:
    """Remove the entries that were used longest ago, and what killed compilations left."""
    for entry in Cache(cache, None).entries()[KEPT_ENTRIES:]:
        entry.unlink(missing_ok=True)
    for left in cache.glob(".making-*"):
        if time.time() - _used(left) < ABANDONED_SECONDS:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _used(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


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
