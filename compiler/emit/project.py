"""The emitted directory around the model's sources: a copy of the runtime and a Makefile that needs neither Python nor mlc.

<name>  lib<name>.so  <name>.h  plan.json        made by make, or written beside src/
<name>.mpirun.sh  <name>.sbatch                  of several ranks: start them under Open MPI, under Slurm
src/Makefile  src/*.c  src/*.h                   the model
src/runtime/{include,kernels,src,transports}/    the runtime, from which libmlcrt.a is built
libmlc_mpi.so                                    the transport `mpi`, made where mpicc is found
src/libmlcrt.a  src/settings                     the runtime, built here or taken from the user's cache, and what it was built with
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlc.build import Toolchain
from mlc.frozen import frozen

_RUNTIME_PARTS = ("include", "kernels", "src", "transports")

#: The transport that is a shared object of its own.
_MPI = "runtime/transports/mpi.c"

#: What make leaves of the runtime in an emitted directory, and a file with the command that compiles: when that changes, all is stale.
LIBRARY = "src/libmlcrt.a"
MPI_LIBRARY = "libmlc_mpi.so"
SETTINGS = "src/settings"
RUNTIME_OBJECTS = "src/objects/runtime"

_MAKEFILE = """\
# Builds ../{name} and ../lib{name}.so; ../libmlc_mpi.so, with which it runs under mpirun, where mpicc is found.
#
#   make                                  the program and the shared library
#   make CC=clang                         with another compiler
#   make CC="gcc -static"                 a program that needs nothing of the machine it runs on; the shared library stays one
#   make MPICC=                           without the transport mpi
#   make OPTIMIZE=-O1 EXTRA=-fsanitize=address,undefined
#   make HARDEN= SEALED=                  without protection from overruns and overwritten addresses
#
# Emitted for {version}.

CC = {compiler}
TARGET = {target}
OPTIMIZE = -O3
WARNINGS = -Wall -Wextra
EXTRA =
MPICC := $(shell command -v mpicc 2>/dev/null)
MPI_SHOWN = OMPI_CC=cc MPICH_CC=cc $(MPICC) -show

# A guard below each frame that has arrays; checked forms of what copies and prints, which sanitizers replace and -O0 has not.
CHECKED = $(if $(filter -O0,$(OPTIMIZE)),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
# Sanitizers watch the stack themselves, and GCC 12 misplaces vectors of 64 bytes where it does both.
HARDEN = $(if $(findstring -fsanitize,$(EXTRA)),,-fstack-protector-strong $(CHECKED))
# All addresses of functions are found at the start and sealed; no stack is executable.
SEALED = -Wl,-z,relro,-z,now,-z,noexecstack

FLAGS = -std=c11 -D_GNU_SOURCE $(TARGET) $(OPTIMIZE) $(WARNINGS) -g0 -fPIC -pthread -fopenmp-simd \\
        -ffp-contract=off -fno-math-errno -fno-trapping-math -Iruntime/include -Iruntime/kernels -Iruntime/src -Iruntime/transports \\
        $(HARDEN) $(EXTRA)
{device}
# A static program is at a fixed address, and has no shared objects beside it that it could open.
STATIC = $(filter -static -static-pie,$(CC) $(EXTRA))
LINK = $(CC) $(FLAGS) $(SEALED) $(if $(STATIC),,-pie)
SHARE = $(filter-out -static -static-pie,$(CC) $(FLAGS)) $(SEALED) -shared
LIBRARIES = -lm -ldl{libraries}

MODEL = {model}
RUNTIME = {runtime}

MODEL_OBJECTS = {model_objects}
RUNTIME_OBJECTS = {runtime_objects}

# The transport mpi is made where mpicc compiles for the processor and the C library that CC compiles for.
abi = $(shell {{ $(1) -dumpmachine | sed 's/-.*//'; $(1) -E -dM -include features.h -x c /dev/null | grep -c __GLIBC__; }} 2>/dev/null)
MODULE := $(if $(MPICC),$(if $(STATIC),,$(if $(filter-out "$(call abi,$(MPICC))","$(call abi,$(CC))"),,../libmlc_mpi.so)))

# A file gets its name when it is whole: what is killed half way leaves nothing that the next make takes for made.
all: ../{name} ../lib{name}.so $(MODULE)

runtime: libmlcrt.a $(MODULE)

../{name}: $(MODEL_OBJECTS) libmlcrt.a
	$(LINK) -o $@.part $^ $(LIBRARIES)
	@mv -f $@.part $@

../lib{name}.so: $(MODEL_OBJECTS) libmlcrt.a
	$(SHARE) -Wl,-Bsymbolic -o $@.part $(MODEL_OBJECTS) -Wl,--whole-archive libmlcrt.a -Wl,--no-whole-archive $(LIBRARIES)
	@mv -f $@.part $@

../libmlc_mpi.so: {mpi} runtime/src/system/error.c Makefile settings
	$(SHARE) -fvisibility=hidden -o $@.part {mpi} runtime/src/system/error.c $$($(MPI_SHOWN) | sed 's/^cc //')
	@mv -f $@.part $@

libmlcrt.a: $(RUNTIME_OBJECTS)
	rm -f $@ $@.part
	$(AR) rcs $@.part $^
	@mv -f $@.part $@

objects/%.o: %.c Makefile settings
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -MMD -MP -MT $@ -MF $@.d -c -o $@.part $<
	@mv -f $@.d $(@:.o=.d)
	@mv -f $@.part $@

# The library stands for its objects while no source is newer: mlc may have put it here without them, and so without their lists of headers.
.SECONDARY: $(RUNTIME_OBJECTS)
$(RUNTIME_OBJECTS): $(wildcard runtime/*/*.h runtime/*/*/*.h)
$(filter %_f64.o,$(RUNTIME_OBJECTS)): objects/%_f64.o: %.c
$(filter %/tile_bf16.o,$(RUNTIME_OBJECTS)): objects/%_bf16.o: %.c

# The command that links, whose words are those of the one that compiles too: when it changes, all that was made otherwise is made again.
SETTING = $(subst ','\\'',$(LINK){setting})
settings: always
	@[ "$$(cat $@ 2>/dev/null)" = '$(SETTING)' ] || printf '%s\\n' '$(SETTING)' > $@

clean:
	rm -rf objects settings libmlcrt.a ../{name} ../lib{name}.so ../libmlc_mpi.so

.PHONY: all runtime always clean
.DELETE_ON_ERROR:

-include $(MODEL_OBJECTS:.o=.d)
"""


@frozen
class Device:
    """What a Makefile has for sources that another compiler than CC compiles.

    rules:     settings and a rule for objects/%.o
    setting:   the command that compiles them
    libraries: what programs link beside libm
    suffix:    of those sources
    """

    rules: str
    setting: str
    libraries: str
    suffix: str


@frozen
class SourceTree:
    """Text files by path relative to the emitted directory, in the order they were made."""

    files: tuple[tuple[str, str], ...]

    def text(self, path: str) -> str:
        """The text of one file."""
        return dict(self.files)[path]


def add_project(model: SourceTree, name: str, runtime: Path, toolchain: Toolchain, target: tuple[str, ...]) -> SourceTree:
    """The model's files with the runtime's sources and the Makefile.

    model:     files, of which src/*.c are compiled
    runtime:   the folder with include/, kernels/, src/ and transports/
    toolchain: whose compiler the Makefile names
    target:    the options that name the machine
    """
    return with_makefile(model, runtime_files(runtime, _RUNTIME_PARTS), name, toolchain, target, None)


def runtime_files(folder: Path, parts: Sequence[str]) -> dict[str, str]:
    """Sources of the runtime below some folders, by their path in an emitted directory."""
    paths = [path for part in parts for path in sorted((folder / part).rglob("*")) if path.suffix in (".c", ".h", ".cu")]
    return {f"src/runtime/{path.relative_to(folder).as_posix()}": path.read_text(encoding="utf-8") for path in paths}


def with_makefile(
    model: SourceTree, runtime: Mapping[str, str], name: str, toolchain: Toolchain, target: tuple[str, ...], device: Device | None
) -> SourceTree:
    """The model's files, those of the runtime and the Makefile that builds them. device: of a target that has one"""
    copied = tuple(runtime.items())
    suffixes = (".c",) if device is None else (".c", device.suffix)
    sources = [path.removeprefix("src/") for path, _ in (*model.files, *copied) if path.endswith(suffixes) and path != f"src/{_MPI}"]
    objects = {of: f"$({of}:%.c=objects/%.o)" for of in ("MODEL", "RUNTIME")}
    if device is not None:
        objects = {of: f"$(patsubst %{device.suffix},objects/%.o,{text})" for of, text in objects.items()}
    makefile = _MAKEFILE.format(
        name=name,
        mpi=_MPI,
        compiler=toolchain.compiler.replace("$", "$$").replace("#", "\\#"),
        version=toolchain.version.rstrip("\\") or "a compiler that does not say its version",
        target=" ".join(target),
        model=_listed([s for s in sources if not s.startswith("runtime/")]),
        runtime=_listed([s for s in sources if s.startswith("runtime/")]),
        device="" if device is None else f"\n{device.rules}",
        setting="" if device is None else f" {device.setting}",
        libraries="" if device is None else f" {device.libraries}",
        model_objects=objects["MODEL"],
        runtime_objects=objects["RUNTIME"],
    )
    return SourceTree((("src/Makefile", makefile), *model.files, *copied))


def _listed(names: list[str]) -> str:
    return " \\\n    ".join(names)
