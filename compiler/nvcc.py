"""The CUDA toolkit: finds nvcc and the static runtime library, of an installation or of packages from the package index."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from mlc.build import run
from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError
from mlc.frozen import frozen

#: The oldest release that compiles for every target: sm_103a came with 12.9.
LEAST = (12, 9)

#: What brings a toolkit where none is installed.
INSTALL = "pip install 'mlc[cuda]'"

#: Where its own installer puts one.
USUAL = "/usr/local/cuda"

#: Where a toolkit keeps its libraries, below its folder.
_LIBRARIES = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")


@frozen
class Nvcc:
    """A toolkit. compiler: the path of nvcc; home: its folder; libraries: the folder of libcudart_static.a; release: as 13.0."""

    compiler: str
    home: str
    libraries: str
    release: str


def find_nvcc() -> Nvcc:
    """The toolkit of CUDA_HOME, else of PATH, else of the packages that the extra `cuda` installs, else the usual one.

    raises: E0816 there is none, it is too old, or not whole
    """
    for compiler in _compilers():
        if os.access(compiler, os.X_OK):
            return _found(compiler)
    raise _error(f"no CUDA compiler: looked for nvcc in CUDA_HOME, in PATH, among the packages of this Python and in {USUAL}")


def find_tool(nvcc: Nvcc, name: str) -> str | None:
    """Another program of a toolkit: beside its compiler, else of PATH, else of the packages that the extra `cuda` installs."""
    beside = shutil.which(name, path=str(Path(nvcc.home) / "bin")) or shutil.which(name)
    return beside or shutil.which(name, path=os.pathsep.join(map(str, _packages())))


def _packages() -> list[Path]:
    """Folders of programs that packages of this Python have brought."""
    return [Path(folder) / "nvidia" / "cu13" / "bin" for folder in sys.path if folder]


def _compilers() -> list[Path]:
    """Where nvcc may lie, the first ones first."""
    asked = os.environ.get("CUDA_HOME", "").strip()
    if asked:
        return [Path(asked) / "bin" / "nvcc"]
    installed = shutil.which("nvcc")
    packages = [folder / "nvcc" for folder in _packages()]
    return [*([Path(installed)] if installed else []), *packages, Path(USUAL) / "bin" / "nvcc"]


def _found(compiler: Path) -> Nvcc:
    release = re.search(r"release (\d+)\.(\d+)", run([str(compiler), "--version"]).stdout)
    if release is None:
        raise _error(f"{compiler} does not say its release")
    if (int(release[1]), int(release[2])) < LEAST:
        raise _error(f"{compiler} is of CUDA {release[1]}.{release[2]}, and {LEAST[0]}.{LEAST[1]} is the oldest that will do")
    home = _home(compiler)
    folders = [home / part for part in _LIBRARIES if (home / part / "libcudart_static.a").is_file()]
    if not folders:
        raise _error(f"{home} has nvcc and no libcudart_static.a")
    return Nvcc(str(home / "bin" / "nvcc"), str(home), str(folders[0]), f"{release[1]}.{release[2]}")


def _home(compiler: Path) -> Path:
    """The folder of a toolkit, as its compiler says it: what PATH has may be a script or a link."""
    said = re.search(r"^#\$ TOP=(.*)$", run([str(compiler), "--dryrun", "-x", "cu", os.devnull]).stderr, re.MULTILINE)
    return Path(os.path.realpath(said[1].strip())) if said else Path(os.path.realpath(compiler)).parent.parent


def _error(message: str) -> MlcError:
    return MlcError([Diagnostic("E0816", message, NO_SPAN, (), f"{INSTALL} brings one; CUDA_HOME names another")])
