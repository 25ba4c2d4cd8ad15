"""Whatever a model calls its layers, values, parameters, inputs, options and rules, the emitted C compiles and means the same.

Names come from every header that the runtime includes, as each installed compiler preprocesses them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mlc.driver import Build, Options, compile_file
from mlc.lower.names import local_name, memory_name, routine_name, unique_name
from mlc.syntax.tokens import KEYWORDS, RESERVED

RUNTIME = Path(__file__).resolve().parent.parent / "runtime"
COMPILERS = [name for name in ("gcc", "clang", "musl-gcc") if shutil.which(name)]

#: So many values depend on each other in one layer.
CHAIN = 100

#: Headers that emitted code includes; the runtime includes more.
EMITTED = ("math.h", "stddef.h", "stdint.h", "mlc_kernel.h")

_WORDS_OF_C = """
auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return short
signed sizeof static struct switch typedef union unsigned void volatile while _Alignas _Alignof _Atomic _Bool _Complex _Generic
_Imaginary _Noreturn _Static_assert _Thread_local alignas alignof bool constexpr false nullptr static_assert thread_local true typeof
typeof_unqual _BitInt _Decimal32 asm class new this template namespace delete operator
"""

#: What people do call things, and what the runtime, the linker and emitted code use.
_HOSTILE = """
NULL _Bool INFINITY NAN I main errno stdin stdout assert linux unix EOF isnan signbit fpclassify HUGE_VALF M_PI int32_t int64_t uint64_t
size_t expf tanhf memset printf exit abort env at arena work range begin end item first columns row rows pitch batch total closure to
acc last best later value scalars shape i j k l n o p q m c r m0 n0 x_v x_m x_v_2 set_scalars parameters inputs roles train_columns
place0 place0_train0 place0_train0_forward mlc_attention mlc_executor mlc_main mlc_rank mlc_barrier mlc_emitted_model model tables
MLC_SIMD MLC_PRAGMA MLC_MODEL_PATH _start __init _init _fini __x _ __LINE__ __FILE__ defined __VA_ARGS__ _Pragma __func__ __builtin_expf
"""

WORDS_OF_C = _WORDS_OF_C.split()
HOSTILE = _HOSTILE.split()


#: The folders of the runtime that its files include from.
_PARTS = ("include", "kernels", "src", "transports")


@cache
def words_of(compiler: str, headers: tuple[str, ...]) -> frozenset[str]:
    """Every macro and every word that is left when the headers are preprocessed."""
    includes = [f"-I{RUNTIME / part}" for part in _PARTS]
    text = "".join(f'#if __has_include("{name}")\n#include "{name}"\n#endif\n' for name in headers)
    words: set[str] = set()
    for mode in (["-dM"], ["-P"]):
        command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-march=native", *includes, "-E", *mode, "-x", "c", "-"]
        said = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
        words.update(re.findall(r"\b[A-Za-z_]\w*", said))
    return frozenset(words)


def included() -> tuple[str, ...]:
    """The headers of the system that some file of the runtime includes, and the runtime's own."""
    files = sorted(path for part in _PARTS for path in (RUNTIME / part).rglob("*.[ch]"))
    found = {name for path in files for name in re.findall(r"#\s*include <([^>]+)>", path.read_text())}
    own = {str(path.relative_to(RUNTIME / part)) for part in _PARTS for path in (RUNTIME / part).rglob("*.h")}
    return (*sorted(found - {"mpi.h", "arm_neon.h"}), *sorted(own))


def writable(words: Sequence[str]) -> list[str]:
    """Those that the language takes as names, each once."""
    return [word for word in dict.fromkeys(words) if word not in KEYWORDS | RESERVED and word.isascii()]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_header_has_a_name_that_emitted_code_gives(compiler: str) -> None:
    """The endings of emitted names are theirs alone: with any word before them they meet nothing that a header defines or declares."""
    words = words_of(compiler, included())
    assert {"NULL", "stdin", "INFINITY", "mlc_session_open"} <= words
    made = set()
    for word in words:
        base = re.sub(r"(_[0-9]+)?(_store)?$", "", word)  # unique_name and epilogues write behind a name
        stems = (base, re.sub("_[vmf]$", "", base))
        made |= {word for stem in stems for name in (local_name, memory_name, routine_name) if name(stem) == base}
    assert made == set()


def test_names_differ_where_texts_do() -> None:
    """Values, memory and routines of one spelling have three names, and endings of counted names meet no other."""
    taken: set[str] = set()
    made = [unique_name(f(name), taken) for name in ("x", "x_v", "x_2", "x.2", "x", "x_v_2", "1", "x_m") for f in (local_name, memory_name)]
    assert len(set(made)) == len(made) and all(name.isidentifier() for name in made)
    assert routine_name("block_forward") == "block_forward"
    assert routine_name("mlc_attention_forward") == "mlc_attention_forward_f"


def model_text(values: Sequence[str], layers: Sequence[str], parameters: Sequence[str], others: Sequence[str]) -> str:
    """A model that names what can be named by these words; x + 1 for each value, x * 1 for each parameter, x for each layer."""
    lines = ["from mlc.optim import sgd", "batch: dim = 2", *(f"{word}: f32 = 1.0" for word in others)]
    for word in layers:
        lines += ["", "@layer", f"def {word}(x: real[batch, 3]):", f'    return x * param("{word}", [3], init=ones())']
    for n in range(0, len(values), CHAIN):
        lines += ["", "@layer", f"def named_{n}(x: real[batch, 3]):"]
        chain = ["x", *values[n : n + CHAIN]]
        lines += [f"    {word} = {before} + 1.0" for before, word in pairwise(chain)]
        lines.append(f"    return {chain[-1]}")
    lines += ["", "@layer", "def fed(x: real[batch, 3]):"]
    lines += [f'    x = x * param("{word}", [1], init=ones())' for word in parameters]
    lines += ["    return x", "", "@model", "def m(input_: real[batch, 3]):", "    x = fed(input_, name='fed')"]
    lines += [f"    x = named_{n}(x)" for n in range(0, len(values), CHAIN)]
    lines += [f"    x = {word}(x, name='l{n}')" for n, word in enumerate(layers)]
    lines += [f"    x = x * {word}" for word in others]
    lines += ["    return mean(x)", "", "@train()", "def recipe():", "    return sgd(rate=0.0)"]
    return "\n".join(lines) + "\n"


def compiled(text: str, folder: Path, compiler: str, monkeypatch: pytest.MonkeyPatch) -> Build:
    """The model built without optimization: what matters here is what the compiler says."""
    monkeypatch.setenv("CC", compiler)
    folder.mkdir()
    (folder / "named.dsl").write_text(text)
    build = compile_file(folder / "named.dsl", folder / "out", {}, Options(emit="c"))
    sources = build.folder / "src"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O0", "-Wall", "-Wextra", "-Werror", "-fopenmp-simd", "-march=native"]
    if compiler == "clang":
        flags.append("-Wno-pass-failed")
    for part in ("include", "kernels", "src", "transports"):
        flags.append(f"-I{sources / 'runtime' / part}")
    subprocess.run([compiler, *flags, "-c", "-o", str(folder / "model.o"), str(sources / "model.c")], check=True)
    return build


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_word_of_the_headers_names_a_value_and_a_parameter(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = writable([*HOSTILE, *WORDS_OF_C, *sorted(words_of(compiler, EMITTED))])
    assert len(words) > 500
    values = [word for word in words if word not in ("x", "batch")]
    compiled(model_text(values, [], words[:150], []), tmp_path / "values", compiler, monkeypatch)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_hostile_words_name_layers_and_options(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = writable([*HOSTILE, *WORDS_OF_C])
    taken = {"x", "m", "batch", "named", "fed", "recipe", "_", "training", "mean"}
    layers = [word for word in words if word not in taken][::2]
    others = [word for word in words if word not in taken][1::2]
    compiled(model_text(["y"], layers, ["w"], others), tmp_path / "layers", compiler, monkeypatch)


def test_a_model_of_hostile_names_computes_the_same(tmp_path: Path) -> None:
    """Inputs, curves, rules, states, metrics and the model itself."""
    text = """from mlc.rates import constant
NULL: dim = 2
EOF: f32 = 0.5


@curve
def errno(step: f32, steps: f32):
    return EOF


@init
def mlc_init(shape: shape):
    return full(shape, 2.0)


@optimizer
def pthread_mutex(p: real[...], g: real[...], step: f32, stdin: f32):
    I = state("signbit", p.shape)
    store("signbit", I + g)
    return p - stdin * g


@optimizer
def pthread_mutex_0_store(p: real[...], g: real[...], step: f32, stdin: f32):
    return pthread_mutex(stdin=stdin)


@layer
def INFINITY(_Bool: real[NULL, 3]):
    return _Bool * param("int64_t", [3], init=mlc_init())


@model
def main(linux: real[NULL, 3]):
    unix = INFINITY(linux, name="assert")
    return {"loss": mean(unix), "NAN": mean(unix * 2.0)}


@train()
def MLC_SIMD(p: parameter):
    return pthread_mutex_0_store(errno())
"""
    (tmp_path / "main.dsl").write_text(text)
    build = compile_file(tmp_path / "main.dsl", tmp_path / "out", {}, Options())
    with build.open(1) as model:
        loss = model.step(linux=np.ones((2, 3), np.float32))
        assert loss == 2.0 and model.metrics == {"NAN": 4.0}
        np.testing.assert_allclose(model.parameters["assert.int64_t"], 2.0 - 0.5 / 3, rtol=1e-6)
