"""Runs compiled routines on NumPy arrays: a lowered function as C, built once, called with one or several threads."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from mlc.emit import tree as c
from mlc.emit.printer import c_text
from mlc.emit.routines import routine_function
from mlc.ir.dtypes import DTYPES
from mlc.ir.function import Function
from mlc.ir.op import Keys, Op
from mlc.ir.types import Value
from mlc.lower.routine import Routine, lower_function
from mlc.lower.rules import Rules
from mlc.ops import OPS
from mlc.passes.expand import expand
from mlc.targets.c import C

RUNTIME = Path(__file__).resolve().parent.parent / "runtime"

#: Bytes of scratch a thread gets: more than any kernel of the tests needs.
SCRATCH_BYTES = 1 << 24

NO_KEYS = Keys()

FLAGS = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O2",
    "-march=native",
    "-fPIC",
    "-pthread",
    "-fopenmp-simd",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Werror",
]

INCLUDES = [f"-I{RUNTIME / 'include'}", f"-I{RUNTIME / 'kernels'}"]

_TEAM = """\
#include <pthread.h>
#include <stdlib.h>
#define MLC_MODEL_PATH 0xcbf29ce484222325u
struct mlc_team { pthread_barrier_t barrier; };
void mlc_barrier(const mlc_env *env) { pthread_barrier_wait(&env->team->barrier); }
struct job { mlc_env env; const uint64_t *at; mlc_function run; };
static void *work(void *argument)
{
    struct job *job = argument;
    job->run(&job->env, job->at);
    return NULL;
}
static void run(mlc_function function, char *arena, char *scratch, int64_t scratch_bytes, const mlc_record *record, const uint64_t *at,
                uint64_t path, int threads, int fold)
{
    struct mlc_team team;
    pthread_barrier_init(&team.barrier, NULL, (unsigned)threads);
    struct job jobs[16];
    pthread_t ids[16];
    for (int t = 0; t < threads; t++) {
        jobs[t].env = (mlc_env){.arena = arena, .scratch = scratch + t * scratch_bytes, .team = &team, .record = record,
            .microbatch = &record->microbatch, .path = path, .thread = t, .threads = threads, .fold = fold};
        jobs[t].at = at;
        jobs[t].run = function;
        pthread_create(&ids[t], NULL, work, &jobs[t]);
    }
    for (int t = 0; t < threads; t++)
        pthread_join(ids[t], NULL);
    pthread_barrier_destroy(&team.barrier);
}
"""

_STORED = {name: np.uint8 if dtype.kind == "bool" else dtype.word for name, dtype in DTYPES.items()}


def to_stored(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array of the interpreter as it lies in memory."""
    if dtype == "bf16":
        return (np.array(array, np.float32, order="C").view(np.uint32) >> 16).astype(np.uint16)
    return np.array(array, _STORED[dtype], order="C")


def from_stored(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array that lies in memory as the interpreter holds it."""
    if dtype == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(bool) if dtype == "bool" else array.astype(np.float32) if dtype == "f16" else array


def source_text(routines: Sequence[Routine]) -> str:
    """C that defines run_0, run_1 ...: each runs one routine on a team of threads."""
    nodes: list[c.Node] = []
    for n, routine in enumerate(routines):
        call = c.Do(f"run(routine_{n}, arena, scratch, scratch_bytes, record, at, path, threads, fold)")
        head = f"void run_{n}(char *arena, char *scratch, int64_t scratch_bytes, const mlc_record *record, const uint64_t *at,"
        nodes += routine_function(routine, f"routine_{n}")
        nodes.append(c.Function((head, "    uint64_t path, int threads, int fold)"), (call,)))
    includes = [c.Directive(f"include {name}") for name in ("<math.h>", "<stddef.h>", '"mlc_kernel.h"')]
    return c_text(includes) + _TEAM + c_text(nodes)


@cache
def compiled_kernels() -> list[str]:
    """The kernels of the runtime as objects, compiled once for all libraries of this process."""
    folder = Path(tempfile.mkdtemp(prefix="kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(["gcc", *FLAGS, *INCLUDES, "-c", *sorted((RUNTIME / "kernels").glob("*.c"))], cwd=folder, check=True)
    return sorted(map(str, folder.glob("*.o")))


class Library:
    """Several routines compiled into one shared object."""

    def __init__(
        self,
        functions: Sequence[Function],
        folder: Path,
        folds: frozenset[str] = frozenset(),
        rules: Rules = C.rules,
        ops: Mapping[str, Op] = OPS,
        words: Sequence[str] = (),
    ):
        """words: more for the compiler, of kernels that the runtime does not have."""
        self.routines: list[Routine] = [lower_function(expand(f, ops), ops, rules, folds) for f in functions]
        source = folder / "routines.c"
        source.write_text(source_text(self.routines))
        library = folder / "routines.so"
        objects = compiled_kernels()
        subprocess.run(["gcc", *FLAGS, "-shared", *INCLUDES, "-o", str(library), str(source), *words, *objects, "-lm"], check=True)
        self.library = ctypes.CDLL(str(library))

    def run(
        self,
        number: int,
        arguments: Sequence[np.ndarray],
        keys: Keys = NO_KEYS,
        threads: int = 1,
        fold: Sequence[np.ndarray] | None = None,
        shift: int = 0,
    ) -> tuple[np.ndarray, ...]:
        """Results of one routine; with `fold`, results are added to these arrays. `shift` moves the arena by bytes."""
        routine = self.routines[number]
        parameters, results = routine.function.parameters, routine.function.results
        offsets, total = side_by_side([v.type.bytes for v in (*parameters, *results)] + [routine.work_bytes])
        memory = np.full(total + 8192, 0xA5, np.uint8)
        arena = memory[-memory.ctypes.data % 64 + 64 + shift :]
        for value, argument, offset in zip(parameters, arguments, offsets, strict=False):
            write_value(arena, offset, value, np.broadcast_to(argument, value.type.shape))
        places = offsets[len(parameters) : -1]
        for value, before, offset in zip(results, fold or (), places, strict=False):
            write_value(arena, offset, value, before)
        self._call(number, arena, np.array(offsets, np.uint64), keys, threads, fold is not None)
        return tuple(read_value(arena, offset, value) for value, offset in zip(results, places, strict=True))

    def _call(self, number: int, arena: np.ndarray, at: np.ndarray, keys: Keys, threads: int, fold: bool) -> None:
        scratch = np.zeros(SCRATCH_BYTES * threads + 64, np.uint8)
        record = np.zeros(16, np.int64)
        record[:4] = [keys.seed, keys.step, 1000, keys.microbatch]
        getattr(self.library, f"run_{number}")(
            ctypes.c_void_p(arena.ctypes.data),
            ctypes.c_void_p(scratch.ctypes.data + -scratch.ctypes.data % 64),
            ctypes.c_int64(SCRATCH_BYTES),
            ctypes.c_void_p(record.ctypes.data),
            ctypes.c_void_p(at.ctypes.data),
            ctypes.c_uint64(keys.path),
            threads,
            int(fold),
        )


def side_by_side(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Offsets of buffers of these sizes, each on a cache line, and the bytes of all."""
    offsets, total = [], 0
    for size in sizes:
        offsets.append(total)
        total += -(-size // 64) * 64
    return offsets, total


def write_value(arena: np.ndarray, offset: int, value: Value, array: np.ndarray) -> None:
    stored = to_stored(array, value.type.dtype).reshape(-1).view(np.uint8)
    arena[offset : offset + stored.size] = stored


def read_value(arena: np.ndarray, offset: int, value: Value) -> np.ndarray:
    raw = arena[offset : offset + value.type.bytes].view(_STORED[value.type.dtype]).reshape(value.type.shape)
    return from_stored(raw.copy(), value.type.dtype)
