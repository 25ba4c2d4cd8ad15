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
    """The toolkit of CUDA_HOME, else of PATH, else of the packages that the extra `cuda` installs.

    raises: E0816 there is none, it is too old, or not whole
    """
    for home in _homes():
        compiler = home / "bin" / "nvcc"
        if os.access(compiler, os.X_OK):
            return _found(compiler, home)
    raise _error("no CUDA compiler: looked for nvcc in CUDA_HOME, in PATH and among the packages of this Python")


def _homes() -> list[Path]:
    """The folders in which a toolkit may lie, the first ones first."""
    asked = os.environ.get("CUDA_HOME", "").strip()
    if asked:
        return [Path(asked)]
    installed = shutil.which("nvcc")
    homes = [Path(os.path.realpath(installed)).parent.parent] if installed else []
    return homes + [Path(folder) / "nvidia" / part for folder in sys.path if folder for part in ("cu13", "cuda_nvcc")]


def _found(compiler: Path, home: Path) -> Nvcc:
    release = re.search(r"release (\d+)\.(\d+)", run([str(compiler), "--version"]).stdout)
    if release is None:
        raise _error(f"{compiler} does not say its release")
    if (int(release[1]), int(release[2])) < LEAST:
        raise _error(f"{compiler} is of CUDA {release[1]}.{release[2]}, and {LEAST[0]}.{LEAST[1]} is the oldest that will do")
    folders = [home / part for part in _LIBRARIES if (home / part / "libcudart_static.a").is_file()]
    if not folders:
        raise _error(f"{home} has nvcc and no libcudart_static.a")
    return Nvcc(str(compiler), str(home), str(folders[0]), f"{release[1]}.{release[2]}")


def _error(message: str) -> MlcError:
    return MlcError([Diagnostic("E0816", message, NO_SPAN, (), f"{INSTALL} brings one; CUDA_HOME names another")])
