"""The user's cache: what costs time to make and is the same the next time.

<cache>/<kind>-<key>     an entry; its key is a hash of all that decides its bytes
<cache>/.making-*        what is being made or written; nobody reads it

An entry is one file, renamed to its name when it is whole on the disk, so that any number of commands may look for it, make it and replace
it at once. It begins with a hash of its name and of what follows: what is damaged, or lies under another name, is made again.

A cache that belongs to somebody else, or that others may write to, is not used: whoever writes there writes our programs. Without a cache
all is made each time; nothing else differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from mlc.frozen import frozen

#: Entries of a kind that are kept, the last used ones.
KEPT_ENTRIES = 16

#: What a command left that was killed is removed after this long.
ABANDONED_SECONDS = 24 * 3600

#: What the names of those begin with.
MAKING = ".making-"

_CHECKSUM_BYTES = hashlib.sha256().digest_size


@frozen
class Cache:
    """Where the cache lies, and why it is not used (None when it is)."""

    folder: Path | None
    problem: str | None

    def entries(self, kind: str) -> list[Path]:
        """All entries of a kind, the last used one first."""
        return [] if self.folder is None or self.problem else sorted(self.folder.glob(f"{kind}-*"), key=_used, reverse=True)

    def entry(self, kind: str, facts: Iterable[str]) -> Path:
        """Where the entry lies, or would lie, that these facts decide; only where there is a cache."""
        assert self.folder is not None
        return self.folder / f"{kind}-{hashlib.sha256(chr(0).join([kind, *facts]).encode()).hexdigest()[:32]}"


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


def _unwritable(folder: Path) -> str | None:
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written to"


def read_entry(entry: Path) -> bytes | None:
    """What an entry holds; None when it is not there, is not ours alone, or is damaged."""
    try:
        with open(entry, "rb", opener=_without_links) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or _distrust(about, str(entry)):
                return None
            os.utime(file.fileno())
            whole = file.read()
    except OSError:
        return None
    data = whole[_CHECKSUM_BYTES:]
    return data if whole[:_CHECKSUM_BYTES] == _checksum(entry, data) else None


def _checksum(entry: Path, data: bytes) -> bytes:
    return hashlib.sha256(entry.name.encode() + b"\0" + data).digest()


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def keep_entry(entry: Path, data: bytes) -> None:
    """Write an entry, whole or not at all, and make room. A cache that cannot keep it changes nothing but time."""
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix=MAKING, dir=entry.parent)
        with open(descriptor, "wb") as file:
            file.write(_checksum(entry, data) + data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, entry)
        _prune(entry)


def _prune(entry: Path) -> None:
    """Remove the entries of this kind that were used longest ago, and what killed commands left."""
    kind, _, _ = entry.name.partition("-")
    for other in Cache(entry.parent, None).entries(kind)[KEPT_ENTRIES:]:
        other.unlink(missing_ok=True)
    for left in entry.parent.glob(f"{MAKING}*"):
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
