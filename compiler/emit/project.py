"""The emitted directory around the model's sources: a copy of the runtime and a Makefile that needs neither Python nor mlc.

<name>  lib<name>.so  <name>.h  plan.json        made by make, or written beside src/
src/Makefile  src/*.c  src/*.h                   the model
src/runtime/{include,kernels,src}/               the runtime, from which libmlcrt.a is built
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_RUNTIME_PARTS = ("include", "kernels", "src")

_MAKEFILE = """\
# Builds ../{name} and ../lib{name}.so.
#
#   make                                  the program and the shared library
#   make CC=clang                         with another compiler
#   make OPTIMIZE=-O1 EXTRA=-fsanitize=address,undefined

CC = {compiler}
TARGET = {target}
OPTIMIZE = -O3
WARNINGS = -Wall -Wextra
EXTRA =

FLAGS = -std=c11 -D_GNU_SOURCE $(TARGET) $(OPTIMIZE) $(WARNINGS) -g0 -fPIC -pthread -fopenmp-simd \\
        -ffp-contract=off -fno-math-errno -fno-trapping-math -Iruntime/include -Iruntime/kernels -MMD -MP $(EXTRA)

MODEL = {model}
RUNTIME = {runtime}

MODEL_OBJECTS = $(MODEL:%.c=objects/%.o)
RUNTIME_OBJECTS = $(RUNTIME:%.c=objects/%.o)

all: ../{name} ../lib{name}.so

../{name}: $(MODEL_OBJECTS) libmlcrt.a
	$(CC) $(FLAGS) -o $@ $^ -lm

../lib{name}.so: $(MODEL_OBJECTS) libmlcrt.a
	$(CC) $(FLAGS) -shared -Wl,-Bsymbolic -o $@ $(MODEL_OBJECTS) -Wl,--whole-archive libmlcrt.a -Wl,--no-whole-archive -lm

libmlcrt.a: $(RUNTIME_OBJECTS)
	rm -f $@
	$(AR) rcs $@ $^

objects/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -c -o $@ $<

clean:
	rm -rf objects libmlcrt.a ../{name} ../lib{name}.so

.PHONY: all clean

-include $(MODEL_OBJECTS:.o=.d) $(RUNTIME_OBJECTS:.o=.d)
"""


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Text files by path relative to the emitted directory, in the order they were made."""

    files: tuple[tuple[str, str], ...]

    def text(self, path: str) -> str:
        """The text of one file."""
        return dict(self.files)[path]


def add_project(model: SourceTree, name: str, runtime: Path, compiler: str, target: tuple[str, ...]) -> SourceTree:
    """The model's files with the runtime's sources and the Makefile.

    model:     files, of which src/*.c are compiled
    runtime:   the folder with include/, kernels/ and src/
    compiler:  as the Makefile names it
    target:    the options that name the machine
    """
    copied = tuple(
        (f"src/runtime/{part}/{path.name}", path.read_text(encoding="utf-8"))
        for part in _RUNTIME_PARTS
        for path in sorted((runtime / part).glob("*.[ch]"))
    )
    sources = [path.removeprefix("src/") for path, _ in (*model.files, *copied) if path.endswith(".c")]
    makefile = _MAKEFILE.format(
        name=name,
        compiler=compiler,
        target=" ".join(target),
        model=_listed([s for s in sources if not s.startswith("runtime/")]),
        runtime=_listed([s for s in sources if s.startswith("runtime/")]),
    )
    return SourceTree((*model.files, ("src/Makefile", makefile), *copied))


def _listed(names: list[str]) -> str:
    return " \\\n    ".join(names)
