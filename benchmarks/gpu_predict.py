"""What a step of GPT-2 would take on an H100, from its plan and its compiled kernels: a prediction, for nothing is run.

    python benchmarks/gpu_predict.py                       # gpt2, batch 16, context 1024, bf16, for sm_90
    python benchmarks/gpu_predict.py --batch 8 --json prediction.json

Each kernel: launches in a step, FLOPs, bytes (each buffer that it touches once; of one in which it only looks elements up, those, a sector
of memory each), registers and spills by ptxas, shared memory, blocks that a multiprocessor holds, and time, the longest of FLOPs over the
rate of its kind and bytes over that of memory.
Rates are what kernels of the same scheme reach on an H100 by public measurements, named below and where tiles are chosen. Multiprocessors
that have a tile more than others keep them waiting. Needs nvcc.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from mlc.driver import Options, differentiated, laid_out, load_program, passed
from mlc.ir.dtypes import dtype_of
from mlc.ir.program import CHOICES
from mlc.lower.expression import Read, data_of, nodes_of
from mlc.lower.loops import Call, Contract, Fold, Kernel, Let, Loop, Nest, Scatter, Select, Statement, Store, Whole
from mlc.lower.program import lower
from mlc.lower.routine import Routine
from mlc.lower.uses import kernel_uses
from mlc.ops import OPS
from mlc.parallel.planned import Place, Planned, PlannedParameter
from mlc.parallel.sweeps import KERNELS, SweepCall
from mlc.targets import TARGETS
from mlc.targets.cuda.kernels import WARP_ROW
from mlc.targets.cuda.launch import THREADS as BLOCK_THREADS
from mlc.targets.cuda.split import DEVICES, tile_seconds

ROOT = Path(__file__).resolve().parent.parent

#: FLOP/s by how a kernel makes its products, and whose measurement; of tensor copies: DEVICES of mlc.targets.cuda.split.
RATES = {
    "wgmma": (600e12, "plain CUTLASS by wgmma, 641 TF at 8192^3, less for edges"),
    "mma.sync": (330e12, "FlashAttention-2's tiles, the same instructions, 388 TF forward, less for shorter loops"),
    "attention": (333e12, "FlashAttention-3, heads of 64, forward over 512 keys, as many as a causal query at 1024 sees"),
    "attention gradients": (272e12, "the same, backward, by 5 products that share sums; these are 7 that share none"),
    "fma": (40e12, "f32 without tensor cores, of 67 TF"),
}
#: Bytes/s of memory, of 3.35e12; seconds from the end of a node of a graph to the beginning of the next.
MEMORY, GAP = 2.9e12, 1.3e-6

#: Seconds that what a thread asks memory for takes to come, and how many of its iterations' requests are under way together: the compiler
#: unrolls loops four times, and a thread waits for them before the next ones. Published latencies of an H100 are about 600 to 700 cycles.
LATENCY, TOGETHER = 0.4e-6, 4

#: An H100's multiprocessor: registers, threads, blocks, bytes of shared memory; and how many there are.
REGISTERS, THREADS, BLOCKS, SHARED, PROCESSORS = 65536, 2048, 32, 233472, 132

_PTXAS = re.compile(r"entry function '(\S+)' for.*?(\d+) bytes spill stores.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?", re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """A kernel in a step. kind: of RATES, "tensor" (copies) or "memory". products: seconds that those of a launch take, whatever memory
    does. resident: blocks that a multiprocessor holds. chain: times that a thread waits for memory, one behind the other."""

    name: str
    kind: str
    launches: int
    flops: float
    bytes: float
    registers: int
    spills: int
    shared: int
    resident: int
    products: float
    chain: float = 1

    @property
    def seconds(self) -> float:
        """Of all launches. None is over before its longest thread."""
        return self.launches * (max(self.products, self.bytes / MEMORY, self.chain * LATENCY) + GAP)


def product_seconds(kind: str, flops: float, blocks: int) -> float:
    """At the rate of their kind. They end with the multiprocessor that has the most blocks."""
    return flops / RATES[kind][0] * (-(-blocks // PROCESSORS) * PROCESSORS / blocks)


@dataclass(frozen=True)
class Compiled:
    """Of one kernel. blocks, threads: of its launch."""

    registers: int
    spills: int
    shared: int
    threads: int
    blocks: int

    @property
    def resident(self) -> int:
        registers = -(-self.registers // 8) * 8 * self.threads
        return min(REGISTERS // max(registers, 1), THREADS // self.threads, BLOCKS, SHARED // (self.shared + 1024))


def compiled_kernels(folder: Path) -> dict[str, Compiled]:
    """By name, of kernels.cu and of the runtime."""
    objects = ["objects/kernels.o", *(f"objects/runtime/kernels/{name}.o" for name in ("attention", "ending", "sweep"))]
    command = ["make", "-s", "-C", str(folder / "src"), "NVCC_EXTRA=-Xptxas -v", *objects]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    source = (folder / "src/kernels.cu").read_text()
    launch = re.compile(r"MLC_LAUNCH\((\w+), (?:mlc_tensor_blocks\()?(\d+)\)?, (\d+), (\d+),")
    launches = {m[1]: (int(m[2]), int(m[3]), int(m[4])) for m in launch.finditer(source)}
    found: dict[str, Compiled] = {}
    for name, spills, registers, shared in _PTXAS.findall(done.stderr):
        blocks, threads, dynamic = launches.get(name, (0, 128 if "tile_" in name else 256, 0))
        found[name] = Compiled(int(registers), int(spills), int(shared or 0) + dynamic, threads, blocks)
    return found


#: Threads of a warp.
LANES = 32

#: Bytes that memory moves where one element of a line is looked up.
SECTOR = 32


def looked_up(kernel: Kernel) -> dict[str, int]:
    """Elements that a kernel looks up in a buffer of which it reads nothing else."""
    if not isinstance(kernel, Nest | Whole):
        return {}
    counts, others = Counter[str](), set[str]()

    def count(statements: tuple[Statement, ...], times: int) -> None:
        for s in statements:
            if isinstance(s, Loop):
                count(s.body, times * s.counter.extent)
            elif isinstance(s, Let | Fold | Store):
                for node in nodes_of(s.value):
                    if isinstance(node, Read) and data_of(node.index):
                        counts[node.buffer] += times
                    elif isinstance(node, Read):
                        others.add(node.buffer)

    count(kernel.body, kernel.items.extent if isinstance(kernel, Nest) else 1)
    return {buffer: times for buffer, times in counts.items() if buffer not in others}


def bytes_of(routine: Routine, kernel: Kernel) -> int:
    reads, writes = kernel_uses(kernel)
    sizes = {n: routine.buffers[n].elements * dtype_of(routine.buffers[n].dtype).bytes for n in reads | writes}
    found = {n: min(sizes[n], times * SECTOR) for n, times in looked_up(kernel).items()}
    return sum(found.get(n, sizes[n]) for n in reads) + sum(sizes[n] for n in writes)


def waits(statements: Sequence[Statement], lanes: int = 1) -> float:
    """How often a thread waits for memory that does all of these, of loops its share."""
    loops = sum(max(1.0, s.counter.extent / lanes / TOGETHER) * waits(s.body) for s in statements if isinstance(s, Loop))
    values = [s.value for s in statements if isinstance(s, Let | Store | Fold)]
    return loops + any(isinstance(node, Read) for value in values for node in nodes_of(value))


def chain_of(kernel: Kernel, threads: int) -> float:
    """The same of the thread of a kernel that waits the most. threads: of its launch, by mlc.targets.cuda.kernels."""
    match kernel:
        case Nest(vector=True, items=items, body=body):
            return waits(body) * max(1.0, items.extent / threads)
        case Nest(items=items, body=body):
            width = max((s.counter.extent for s in body if isinstance(s, Loop)), default=1)
            lanes = LANES if width <= WARP_ROW else BLOCK_THREADS
            return waits(body, lanes) * max(1.0, items.extent * lanes / threads)
        case Whole(body=body):
            return waits(body, threads)
        case Scatter(along=along):  # all threads look at all indices, a line of memory at a time
            return along.extent / TOGETHER / LANES
        case Select(along=along):
            return along.extent / TOGETHER
        case _:
            return 1


def contraction_flops(kernel: Contract) -> int:
    return 2 * prod(extent for group in (kernel.batch, kernel.m, kernel.n, kernel.k) for extent, _, _ in group)


def attention_figures(kernel: Call, launches: int, size: int, compiled: dict[str, Compiled]) -> Iterator[Figure]:
    """Of heads of 64: forward 2 products, the gradients of queries 3, those of keys and values 4. What is not seen of a tile is multiplied
    too, and takes time; it is no FLOP."""
    of = {name: value for line in kernel.constants for name, value in line}
    batch, time, keys, heads, head, value = (int(str(of[n])) for n in ("batch", "time", "keys", "heads", "head", "value"))
    pairs = batch * heads * time * keys // (2 if of.get("causal") else 1)
    products = {"tile_forward": head + value}
    if kernel.function != "mlc_attention_forward":
        products = {"tile_query_gradients": 2 * head + value, "tile_key_gradients": 2 * head + 2 * value}
    for name, elements in products.items():
        kind, groups, own = ("attention", 2, 1) if name == "tile_forward" else ("attention gradients", 1, 2)
        built = next(c for mangled, c in compiled.items() if name in mangled and "ILi64E" in mangled and "Lb1E" in mangled)
        rows, line = groups * TILE, 2 * 64
        walked = walked_pairs(time, keys, rows) if of.get("causal") else time * keys
        shared = (own * rows + 4 * TILE) * line + built.shared
        resident = Compiled(built.registers, 0, shared, 128 * groups, 0).resident
        blocks = batch * heads * -(-time // rows)
        seconds = product_seconds(kind, 2 * batch * heads * walked * elements, blocks)
        yield Figure(name, "attention", launches, 2 * pairs * elements, size, built.registers, built.spills, shared, resident, seconds)


#: Rows of a warpgroup, and of a tile of the other side (mlc_attention_tiles.h).
TILE = 64


def walked_pairs(time: int, keys: int, rows: int) -> int:
    """Pairs of a query and a key in the tiles that causal blocks of so many rows walk; from the other side they are as many."""
    ends = (min(first + rows, keys) for first in range(0, time, rows))
    return sum(rows * -(-end // TILE) * TILE for end in ends)


def row_figures(routines: dict[str, Routine], counts: Counter[str], compiled: dict[str, Compiled], source: str) -> Iterator[Figure]:
    for name, launches in counts.items():
        routine = routines[name]
        for number, kernel in enumerate(routine.kernels):
            size = bytes_of(routine, kernel)
            if isinstance(kernel, Call):
                yield from attention_figures(kernel, launches, size, compiled)
                continue
            own = f"{name}_{number}"
            built = compiled[own]
            kind, flops, products = "memory", 0, 0.0
            if isinstance(kernel, Contract):
                flops = contraction_flops(kernel)
                kind, products = contraction_products(flops, source[source.index(f" {own}(") :], built.blocks)
            chain = chain_of(kernel, built.blocks * built.threads)
            yield Figure(own, kind, launches, flops, size, built.registers, built.spills, built.shared, built.resident, products, chain)


def contraction_products(flops: int, text: str, blocks: int) -> tuple[str, float]:
    """Kind and seconds of the products of a contraction, by the text of its kernel."""
    by = re.search(r"mlc_contract(\w*)<((?:\d+, )*)", text)
    if not by or by[1] not in ("_tensor", "_wgmma", "_bf16"):
        return "fma", product_seconds("fma", flops, blocks)
    if by[1] == "_tensor":
        columns, *extents = map(int, by[2].split(", ")[:5])
        batch, m, n, k = extents
        return "tensor", tile_seconds(DEVICES["sm_90"], batch, m, n, k, columns)
    kind = {"_wgmma": "wgmma", "_bf16": "mma.sync"}[by[1]]
    return kind, product_seconds(kind, flops, blocks)


def capacity(width: int) -> int:
    """Items of so many words that a batch has (mlc_batch.h)."""
    text = (ROOT / "runtime/cuda/include/mlc_batch.h").read_text()
    of = {name: int(value) for name, value in re.findall(r"#define MLC_BATCH_(\w+) (\d+)", text)}
    return min(of["ITEMS"], (of["WORDS"] - 1) // (of["HEAD"] + width))


#: What a job of a batch touches of each element that no job before it has: bytes of reads and writes of operands.
_NARROW, _WIDE = 2, 4


def job_bytes(calls: tuple[SweepCall, ...], parameter: PlannedParameter, has: set[str]) -> int:
    """Bytes of an element that all calls of a batch together touch: each tensor is read once and written once, scaled ones always so."""
    reads, writes = dict[str, int](), dict[str, int]()
    for call in calls:
        uses = [*zip(call.operands, KERNELS[call.kernel].operands, strict=True)]
        if call.kernel == "update":
            made = ["master", *(f"state {n}" for n in range(len(parameter.kind.states)))]
            reads |= {word: _WIDE for word in (*made, "gradient") if word not in writes}
            writes |= dict.fromkeys(made, _WIDE)
        elif {word for word, (_, kind) in uses if kind in ("wide", "narrow")} <= has:
            for word, (use, kind) in uses:
                size = {"wide": _WIDE, "narrow": _NARROW}.get(kind, 0)
                if use != "write" and word != "state" and word not in writes:
                    reads[word] = size
                if use != "read":
                    writes[word] = size
    return sum(reads.values()) + sum(writes.values())


def batch_words(calls: tuple[SweepCall, ...], parameter: PlannedParameter, has: set[str], reads: int) -> int:
    """Words of an item's operands."""
    words = 0
    for call in calls:
        if call.kernel == "update":
            words += 3 + 2 * len(parameter.kind.states) + reads
        elif set(call.operands) <= has | {"scale", "clip", "mean"}:
            words += len(call.operands) * (len(parameter.kind.states) if "state" in call.operands else 1)
    return words


def sweep_figures(planned: Planned, place: Place, compiled: dict[str, Compiled]) -> Iterator[Figure]:
    """Sweeps of a step: batches of parameters that the same is done to, and what is done once. Every gradient is priced as scaled."""
    copied = {held.parameter for held in place.held if held.copy is not None}
    owned = {owned.parameter: owned for owned in place.owned}
    for sweep in planned.sweeps:
        if sweep.moment in ("STATISTICS", "WEIGH", "NORM", "CLIP", "UPDATE") and sweep.over == "rank":
            yield from (Figure(f"{sweep.moment} {call.kernel}", "memory", 1, 0, 0, 0, 0, 0, 0, 0.0) for call in sweep.calls)
        if sweep.moment not in ("NORM", "UPDATE") or sweep.over != "pieces" or sweep.range == "tensor":
            continue
        batches = dict[tuple[str, int, int], list[int]]()
        for number, of in owned.items():
            parameter = planned.parameters[number]
            if {"loss": "loss", "accumulate": "accumulated"}.get(parameter.kind.fed) not in sweep.only:
                continue
            has = {"gradient", "master", "state", *["copy"] * (number in copied), *["further"] * (len(parameter.uses) > 1)}
            kernel = "mlc_sweep_squares" if sweep.moment == "NORM" else f"{planned.routines[of.update].name}_0"
            key = (kernel, batch_words(sweep.calls, parameter, has, len(of.reads)), job_bytes(sweep.calls, parameter, has))
            batches.setdefault(key, []).append(parameter.kind.elements)
        for (kernel, words, size), elements in batches.items():
            launches, built = -(-len(elements) // capacity(words)), compiled[kernel]
            yield Figure(f"{sweep.moment} {kernel}", "memory", launches, 0, size * sum(elements) / launches, built.registers, built.spills,
                         built.shared, built.resident, 0.0)  # fmt: skip


def fetch_figures(place: Place, microbatches: int) -> Iterator[Figure]:
    """Copies from the host: record, clear statistics, numbers of microbatches, inputs; and what begins what a step notes."""
    inputs = sum(len(chunk.inputs) for chunk in place.chunks["train"])
    yield Figure("copies from the host", "memory", 3 + inputs * microbatches, 0, 0, 0, 0, 0, 0, 0.0)
    yield Figure("mlc_begin_found", "memory", 1, 0, 0, 0, 0, 0, 0, 0.0)


def predict(defines: dict[str, object], folder: Path) -> tuple[list[Figure], Planned]:
    model = folder / "gpt2.dsl"
    model.write_text((ROOT / "examples/gpt2.dsl").read_text().replace("precision=f32", "precision=bf16"))
    options = Options(target="sm_90", emit="c")
    program, _ = load_program(model, defines, options)
    lowered = lower(passed(differentiated(program)), OPS, TARGETS["sm_90"].rules, CHOICES)
    planned = laid_out(lowered, options, None, lambda *_: None)
    command = [sys.executable, "-m", "mlc", "compile", str(model), "-o", str(folder / "out"), "--target", "sm_90", "--emit", "c"]
    _ = subprocess.run([*command, *(f"-D{name}={value}" for name, value in defines.items())], check=True)
    source = (folder / "out/src/kernels.cu").read_text()
    place = planned.places[0]
    counts: Counter[str] = Counter()
    for chunk in place.chunks["train"]:
        for rows in chunk.rows.values():
            counts.update(planned.routines[row.routine].name for row in rows)
    routines = {r.name: r for r in lowered.routines}
    compiled = compiled_kernels(folder / "out")
    times = planned.microbatches
    counts = Counter({name: count * times for name, count in counts.items()})
    others = (*sweep_figures(planned, place, compiled), *fetch_figures(place, times))
    return [*row_figures(routines, counts, compiled, source), *others], planned


def print_table(figures: list[Figure]) -> None:
    print("| kernel | kind | launches | GFLOP | MB | registers | shared | blocks a processor | ms |\n|---|---|---|---|---|---|---|---|---|")
    for f in sorted(figures, key=lambda f: -f.seconds):
        if f.seconds >= 2e-5:
            cells = (
                f.name,
                f.kind,
                f.launches,
                f"{f.flops * f.launches / 1e9:.0f}",
                f"{f.bytes * f.launches / 1e6:.0f}",
                f.registers or "",
            )
            print("|", " | ".join(map(str, (*cells, f.shared or "", f.resident or "", f"{f.seconds * 1e3:.3f}"))), "|")
    kinds = sorted({f.kind for f in figures})
    for kind in kinds:
        print(f"{kind}: {sum(f.seconds for f in figures if f.kind == kind) * 1e3:.2f} ms", end="; ")
    print(f"{sum(f.launches for f in figures)} nodes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--json", type=Path, help="write the figures of all kernels there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, planned = predict({"batch": arguments.batch, "vocab": arguments.vocab}, Path(folder))
    print_table(figures)
    seconds = sum(f.seconds for f in figures)
    tokens = arguments.batch * 1024 * planned.microbatches
    print(f"a step: {seconds * 1e3:.1f} ms for {tokens} tokens, {seconds * 1e3 * 8192 / tokens:.1f} ms for 8192 of them (predicted)")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(f) | {"seconds": f.seconds} for f in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()
