"""Toolchains: finds a C compiler and make, names the machine's features, writes a source tree and builds it.

Knows nothing of models: it is given text files and a Makefile, and says what went wrong in diagnostics.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError, Note
from mlc.frozen import frozen

#: x86-64 levels, highest first, each with the feature macros that it needs.
_X86_LEVELS = (
    ("x86-64-v4", ("__AVX512F__", "__AVX512BW__", "__AVX512CD__", "__AVX512DQ__", "__AVX512VL__")),
    ("x86-64-v3", ("__AVX2__", "__BMI__", "__BMI2__", "__F16C__", "__FMA__", "__LZCNT__", "__MOVBE__")),
    ("x86-64-v2", ("__SSE4_2__", "__SSSE3__")),
    ("x86-64", ()),
)

#: Features beyond a level that a kernel may use: (macro, option).
_X86_FEATURES = (
    ("__AVX512BF16__", "-mavx512bf16"),
    ("__AVX512FP16__", "-mavx512fp16"),
    ("__AVX512VNNI__", "-mavx512vnni"),
    ("__AVXVNNI__", "-mavxvnni"),
)

#: aarch64 features beyond armv8-a: (macro, extension).
_ARM_FEATURES = (
    ("__ARM_FEATURE_ATOMICS", "lse"),
    ("__ARM_FEATURE_DOTPROD", "dotprod"),
    ("__ARM_FEATURE_FP16_VECTOR_ARITHMETIC", "fp16"),
    ("__ARM_FEATURE_BF16_VECTOR_ARITHMETIC", "bf16"),
    ("__ARM_FEATURE_SVE", "sve"),
    ("__ARM_FEATURE_SVE2", "sve2"),
)

#: What -march= calls the least machine of a kind.
_BASELINES = {"aarch64": "armv8-a", "x86_64": "x86-64"}

#: How what mlc makes begins: the Makefile of a program, and a plan.
MADE = b"# Builds ../"
PLAN = b'{\n "version":'

#: What helps where a file cannot be written, by the number of the error.
_WAYS_OUT = {
    errno.ENOSPC: "the disk is full: free some of it, or name another place",
    errno.EDQUOT: "your share of the disk is used up: free some of it, or name another place",
    errno.EFBIG: "raise the limit (ulimit -f), or name another place",
    errno.EROFS: "the disk is read-only: name another place",
    errno.EACCES: "it is not yours to write: name another place",
    errno.ENOTDIR: "a part of that path is a file: name another place, or remove it",
    errno.EEXIST: "a part of that path is a file, or a link to what is not there: name another place, or remove it",
    errno.EISDIR: "a folder is called so: name another place, or remove it",
    errno.ENAMETOOLONG: "name a shorter place",
}

#: How much of what a failing tool printed is shown to the user.
_SHOWN_LINES = 30
_SHOWN_COLUMNS = 300


@frozen
class Toolchain:
    """A C compiler and make. `compiler` is the command as a Makefile names it; `version` the first line of its --version."""

    compiler: str
    version: str
    make: str

    @property
    def command(self) -> list[str]:
        return shlex.split(self.compiler)


def find_toolchain() -> Toolchain:
    """The compiler of the environment variable CC, else the first of cc, gcc and clang that is there.

    raises: E0801 no compiler, E0802 no make
    """
    compiler = _find_compiler()
    make = shutil.which("make") or shutil.which("gmake")
    if make is None:
        raise _error("E0802", "make is not installed", "install it (Debian, Ubuntu: apt-get install make)")
    version = run([*shlex.split(compiler), "--version"]).stdout.partition("\n")[0].strip()
    return Toolchain(compiler, version, make)


def _find_compiler() -> str:
    asked = os.environ.get("CC", "").strip()
    if asked:
        return _asked_compiler(asked)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return name
    raise _error("E0801", "no C compiler: looked for cc, gcc and clang", "install one (Debian, Ubuntu: apt-get install gcc)")


def _asked_compiler(asked: str) -> str:
    """A command as CC has it: the path of a compiler, which may have blanks, or a command with options (`ccache gcc`, `gcc -static`)."""
    if shutil.which(asked):
        return shlex.quote(asked)
    try:
        command = shlex.split(asked)
    except ValueError as problem:
        raise _error("E0801", f"CC is not a command: `{asked}`", "close its quotation marks") from problem
    if not command or shutil.which(command[0]) is None:
        raise _error("E0801", f"the C compiler named by CC, `{asked}`, is not there", "unset CC, or name one that is installed")
    return shlex.join(command)


def target_flags(toolchain: Toolchain, march: str) -> tuple[str, ...]:
    """The options that name the machine, resolved: "native" becomes a list of features, anything else is checked.

    raises: E0803 the compiler refuses `march`
    """
    macros = _macros(toolchain, march)
    flags = _native_flags(macros) if march == "native" else (f"-march={march}",)
    if "__AVX512F__" in macros:
        return (*flags, "-mprefer-vector-width=512")
    return flags


def _macros(toolchain: Toolchain, march: str) -> frozenset[str]:
    """The macros that the compiler predefines for a machine."""
    done = run([*toolchain.command, f"-march={march}", "-dM", "-E", "-x", "c", os.devnull])
    machine = run([*toolchain.command, "-dumpmachine"]).stdout.partition("-")[0].strip()
    if march == "native" and machine and machine != platform.machine():
        message = f"{toolchain.compiler} compiles for {machine}, and `native` is this machine, {platform.machine()}"
        raise _error("E0803", message, f"name the other one: --march {_BASELINES.get(machine, 'NAME')}")
    if done.returncode != 0:
        message = f"{toolchain.compiler} does not know the machine `{march}`"
        raise _error("E0803", message, "--march takes `native` or what the compiler's -march= takes", done.stderr)
    return frozenset(line.split()[1] for line in done.stdout.splitlines() if line.startswith("#define "))


def _native_flags(macros: frozenset[str]) -> tuple[str, ...]:
    if "__aarch64__" in macros:
        extensions = "".join(f"+{name}" for macro, name in _ARM_FEATURES if macro in macros)
        return (f"-march=armv8-a{extensions}",)
    if "__x86_64__" not in macros:
        raise _error("E0803", f"this machine ({platform.machine()}) is neither x86-64 nor aarch64", "name one with --march")
    level = next(name for name, needs in _X86_LEVELS if macros.issuperset(needs))
    return (f"-march={level}", *(option for macro, option in _X86_FEATURES if macro in macros))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder, and be the only one who compiles into it: others wait, threads of this process too. Who holds it does not do so twice.

    The lock is of the folder itself, so it leaves nothing there and ends with the process; a program started by exec does not have it.
    Where a file system has no locks nobody waits.
    raises: E0804 the folder cannot be made
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as problem:
        raise unwritable(folder, problem) from problem
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # also of what was forked meanwhile, and has the descriptor still
        yield


def write_files(folder: Path, files: tuple[tuple[str, str], ...]) -> None:
    """Write text files under `folder`, scripts as executable. A file that already has its text is not touched, so that make does
    nothing for it. A link in the place of a file, or another name of one, is replaced, not followed; what is no file stays.

    raises: E0804 a file cannot be written
    """
    for relative, text in files:
        path = folder / relative
        data = text.encode()
        try:
            if not _holds(path, data):
                _make_way(path)
                write_file(path, data)
            if data.startswith(b"#!"):
                path.chmod(path.stat().st_mode | 0o111)
        except OSError as problem:
            raise unwritable(path, problem) from problem


def _holds(path: Path, data: bytes) -> bool:
    """Whether a regular file has these bytes."""
    found = _found(path)
    return found is not None and stat.S_ISREG(found.st_mode) and found.st_size == len(data) and path.read_bytes() == data


def _make_way(path: Path) -> None:
    """Remove a name through which another file would be written. raises: E0804 where a FIFO, a device or a socket is"""
    try:
        there = path.lstat()
    except (OSError, ValueError):
        return
    if stat.S_ISLNK(there.st_mode) or (stat.S_ISREG(there.st_mode) and there.st_nlink > 1):
        path.unlink()
    elif not (stat.S_ISREG(there.st_mode) or stat.S_ISDIR(there.st_mode)):
        raise _error("E0804", f"cannot write {path}: what is there is no file", "name another folder, or move it away")


def write_dump(path: Path, text: str, starts: tuple[str, ...]) -> None:
    """Write one file of a folder of dumps, all of which begin with one of `starts`. raises: E0804, also for a file that is no dump"""
    made = any(_begins(path, start.encode()) for start in starts)
    if not made and path.is_file() and path.stat().st_size:
        raise _error("E0804", f"cannot write {path}: a file that mlc did not make is there", "name another folder, or move it away")
    write_files(path.parent, ((path.name, text),))


def write_file(path: Path, data: bytes) -> None:
    """Write a file, making its folder: what was there before stays until all is written, as on a disk that is full.

    raises: E0804
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and (path.is_file() or not path.exists()):
            path = path.resolve()
        if not _replaced(path, data):
            path.write_bytes(data)
    except (OSError, RuntimeError, ValueError) as problem:
        raise unwritable(path, problem) from problem


def _replaced(path: Path, data: bytes) -> bool:
    """Put a new file in the place of `path`; False where it must be written as it is: a device, a file with several names or of
    another owner, one in a folder that takes no new ones. raises: OSError, of a disk that is full among others"""
    there = path.stat() if path.exists() else None
    if there is not None and not (stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and there.st_uid == os.geteuid()):
        return False
    if there is not None and not os.access(path, os.W_OK):
        return False
    part = path.with_name(f".mlc-{os.urandom(8).hex()}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except PermissionError:
        return False
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        if there is not None:
            part.chmod(stat.S_IMODE(there.st_mode))
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return True


def check_outputs(folder: Path, names: Iterable[str], sources: Iterable[Path]) -> None:
    """Whether files may be written under `folder`: none is a source, and none is a file that another than mlc made.

    A folder is known by the first line of its Makefile, or by its plan; only the Makefile speaks for what lies in src.
    raises: E0804
    """
    makefile = _begins(folder / "src" / "Makefile", MADE)
    plan = makefile or _begins(folder / "plan.json", PLAN)
    read = _read(sources)
    there = {name: _unread(folder / name, read) for name in names}
    for name, found in there.items():
        made = makefile if name.startswith("src/") else plan
        if not made and found is not None and found.st_size:
            message = f"cannot write {folder / name}: a file that mlc did not make is there"
            raise _error("E0804", message, "name another folder, or move it away")


def check_sources(paths: Iterable[Path], sources: Iterable[Path]) -> None:
    """Whether files may be written: none of them is read, by whatever name. raises: E0804"""
    read = _read(sources)
    for path in paths:
        _unread(path, read)


def _read(sources: Iterable[Path]) -> list[os.stat_result]:
    """What lies where sources are read from."""
    return [found for path in sources if (found := _found(path)) is not None]


def _unread(path: Path, read: Sequence[os.stat_result]) -> os.stat_result | None:
    """What lies where a file is to be written, if anything. raises: E0804 when it is read as a source"""
    found = _found(path)
    if found is not None and any(os.path.samestat(found, source) for source in read):
        raise _error("E0804", f"cannot write {path}: it is read as a source", "name another place, or rename the source")
    return found


def _found(path: Path) -> os.stat_result | None:
    """What lies there, if anything; a name that cannot be is an error when it is written."""
    try:
        return path.stat()
    except (OSError, RuntimeError, ValueError):
        return None


def _begins(path: Path, start: bytes) -> bool:
    """Whether a regular file begins so."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(len(start)) == start
    except OSError:
        return False


def unwritable(path: Path, problem: OSError | RuntimeError | ValueError) -> MlcError:
    """E0804, of a file."""
    reason = getattr(problem, "strerror", None) or problem
    return _error("E0804", f"cannot write {path}: {reason}", _WAYS_OUT.get(getattr(problem, "errno", None) or 0, "name another place"))


def make(toolchain: Toolchain, folder: Path, *targets: str) -> None:
    """Run make in `folder` for the targets (default: its first), on all processors. Its output is shown only when it fails.

    raises: E0805 the build fails
    """
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    done = run([toolchain.make, "-C", str(folder), f"-j{jobs}", "--no-print-directory", "--silent", *targets])
    if done.returncode != 0:
        message = f"make -C {folder} failed with {toolchain.version}"
        raise _error("E0805", message, "the sources are kept there: `make` shows the whole output", done.stdout + done.stderr)


def run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a tool on `text`, in no language but English and as no part of a make around mlc."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFILES", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment["LC_ALL"] = "C"
    return subprocess.run(command, input=text, capture_output=True, text=True, errors="replace", check=False, env=environment)


def _error(code: str, message: str, help: str, output: str = "") -> MlcError:
    notes = tuple(Note(line[:_SHOWN_COLUMNS]) for line in output.splitlines()[:_SHOWN_LINES] if line.strip())
    return MlcError([Diagnostic(code, message, NO_SPAN, notes, help)])
