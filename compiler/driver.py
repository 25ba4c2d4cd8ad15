"""The way of the data, from a file to a program, as one readable list of stages. Prints nothing; an observer sees every stage."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mlc.bind import Model
from mlc.build import check_outputs, check_sources, find_toolchain, held, make, target_flags, write_files
from mlc.diagnostics import NO_SPAN, Diagnostic, InternalError, MlcError
from mlc.elaborate import elaborate
from mlc.elaborate.library import file_library, library_path
from mlc.emit import plan_json
from mlc.emit.project import LIBRARY, MPI_LIBRARY, SETTINGS, SourceTree
from mlc.frozen import frozen
from mlc.ir.forms import WHOLE, Axis, RankStep
from mlc.ir.function import Function
from mlc.ir.program import CHOICES, Program, Step
from mlc.ir.text import print_program
from mlc.ir.verify import verify
from mlc.lower import lower
from mlc.lower.program import Lowered
from mlc.lower.rules import Rules
from mlc.ops import OPS
from mlc.parallel.limits import check_extent
from mlc.parallel.plan_reader import load_plan
from mlc.parallel.planned import Planned
from mlc.parallel.quantities import size_texts
from mlc.parallel.shard_proof import Owed, Refused, check_ranks
from mlc.parallel.verify import Proof, prove
from mlc.passes import PASSES, differentiate
from mlc.passes.decode import with_decoding
from mlc.passes.factor import check_factors, factored_step
from mlc.passes.shard import shard
from mlc.plan import plan
from mlc.plan.choose import AUTO, LayoutOptions, choose_layout, considered, layout_in_runs, may_make_again
from mlc.plan.layout import Layout
from mlc.resources import MOST_SOURCE_BYTES, VERSION, read_text, runtime_folder
from mlc.runtime_library import install_runtime
from mlc.syntax.parser import parse
from mlc.syntax.tree import Module
from mlc.targets import TARGETS

P = ParamSpec("P")
R = TypeVar("R")

#: Sees every stage when it is done: its name, what it made, the seconds it took.
Observer = Callable[[str, Any, float], None]

#: How far a compilation goes: IR text, the plan, C sources, or the built program.
EMITS = ("ir", "plan", "c", "bin")

#: Values are followed by recursion where a model is cut into units; so deep it may go. Python's own calls take no room on C's stack.
DEPTH = 20_000

#: What lies beside a program under names of its own.
TAKEN = ("src", "plan.json", "libmlc_mpi.so")

#: What make and the cache put beside the emitted files, and the program and its library, called as the model.
BUILT = (LIBRARY, MPI_LIBRARY, SETTINGS)

#: The longest name of a program: `lib` and `.mpirun.sh` go with it, and a file's name has 255 bytes.
MOST_NAME_BYTES = 240

#: Options that are no text, and what they want.
KINDS: Mapping[str, tuple[type, str]] = {
    **dict.fromkeys(("pp", "dp", "chunks", "memory", "microbatches", "groups"), (int, "a whole number")),
    "plan": (Path, "a path"),
}

#: What a process of a 64-bit machine can map: 47 bits of address.
MAPPED_BYTES = 1 << 47


@frozen
class Options(LayoutOptions):
    """What a compilation can be asked besides its file and defines; every field is an option of `mlc compile`.

    microbatches, groups:  None: the recipe's
    plan:                  a plan.json whose mesh, cut, choices and order of actions are taken
    """

    target: str = "c"
    march: str = "native"
    microbatches: int | None = None
    groups: int | None = None
    plan: Path | None = None
    emit: str = "bin"


@frozen
class Build:
    """What a compilation left in `folder`; `sources` are the model files it read, the compiled one first; `warnings` stopped nothing.

    library_digest:  SHA-256 of the library that it built, None where it built none
    """

    folder: Path
    name: str
    sources: tuple[Path, ...]
    warnings: tuple[Diagnostic, ...] = ()
    library_digest: str | None = field(default=None, compare=False, repr=False)

    @property
    def program(self) -> Path:
        return self.folder / self.name

    @property
    def library(self) -> Path:
        return self.folder / f"lib{self.name}.so"

    @property
    def header(self) -> Path:
        return self.folder / f"{self.name}.h"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    def open(self, threads: int | None = None, seed: int = 0, steps: int = 0) -> Model:
        """The shared library in this process, with parameters initialised from `seed`. `steps`: length of the rate schedule.

        raises: E0704 also where another compilation has put its own there
        """
        model = Model(self.library, threads, seed, steps)
        if self.library_digest is not None and digest(self.library) != self.library_digest:
            model.close()
            message = f"{self.library} is no longer the one that was built: another compilation has written into {self.folder}"
            raise error("E0704", message, "give each compilation a folder of its own (out=...)")
        return model


def digest(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex; nothing where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def ignore(stage: str, made: object, seconds: float) -> None:
    """An observer that does nothing."""


def timed(observe: Observer, stage: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """function(...), shown to the observer."""
    start = time.perf_counter()
    made = function(*args, **kwargs)
    observe(stage, made, time.perf_counter() - start)
    return made


def compile_file(path: Path, out: Path | None, defines: Mapping[str, Any], options: Options, observe: Observer = ignore) -> Build:
    """Compile a .dsl file into `out` (default: build/<stem>).

    raises: MlcError for whatever the user can mend
    """
    with compiled_file(path, out, defines, options, observe) as build:
        return build


@contextmanager
def compiled_file(
    path: Path, out: Path | None, defines: Mapping[str, Any], options: Options, observe: Observer = ignore
) -> Iterator[Build]:
    """As compile_file; until the end of the block nobody else compiles into the folder, so that what lies there is what was made."""
    check_options(options)
    name = program_name(path.stem)
    if not path.name.isprintable():  # it stands in the first lines of what is emitted
        raise error("E0807", f"{path.name!r} cannot name a model", "end the file's name in .dsl")
    program, sources = load_program(path, defines, options, observe)
    with built(program, name, out or Path("build") / name, sources, options, observe) as build:
        yield build


def compile_module(module: Module, name: str, file: Path, out: Path | None, defines: Mapping[str, Any], options: Options) -> Build:
    """Compile a syntax tree that came from `file` into `out` (default: build/<name>)."""
    check_options(options)
    program, sources = load_module(module, file, defines, options)
    with built(program, program_name(name), out or Path("build") / name, sources, options, ignore) as build:
        return build


def load_program(path: Path, defines: Mapping[str, Any], options: Options, observe: Observer = ignore) -> tuple[Program, tuple[Path, ...]]:
    """A file -> Program, and the files that were read, `path` first."""
    module = timed(observe, "parse", parse, read_source(path), str(path))
    return load_module(module, path, defines, options, observe)


def load_module(
    module: Module, file: Path, defines: Mapping[str, Any], options: Options, observe: Observer = ignore
) -> tuple[Program, tuple[Path, ...]]:
    """Module -> Program, verified, with the options that override the recipe; and the files that were read, `file` first."""
    read = [file]
    library = file_library(file.parent)

    def recorded(name: str) -> Module:
        imported = library(name)
        read.append(library_path(file.parent, name))
        return imported

    texts = {name: str(value) for name, value in defines.items()}
    with deep():
        program = timed(observe, "elaborate", elaborate, module, texts, recorded)
    timed(observe, "verify", verify_all, [unit.function for unit in program.units])
    return override_recipe(program, options), tuple(read)


def differentiated(program: Program, observe: Observer = ignore, keep_slopes: bool = True) -> Step:
    """Program -> Step, verified."""
    step = timed(observe, "differentiate", differentiate, program, OPS, keep_slopes)
    timed(observe, "verify", verify_all, step.functions())
    return step


def passed(step: Step, observe: Observer = ignore) -> Step:
    """Step -> Step, through every pass; what each made is verified after it."""
    for row in PASSES:
        before = {id(function): function for function in step.functions()}  # kept, so that no other gets the id of one
        step = timed(observe, row.name, row.run, step, OPS)
        timed(observe, "verify", verify_all, [function for function in step.functions() if id(function) not in before])
    return step


def with_factors(step: Step, observe: Observer = ignore) -> Step:
    """Step -> Step in which every dim is the product of its factors, verified."""
    made = timed(observe, "factor", factored_step, step, OPS)
    timed(observe, "verify", check_factors, made, OPS)
    return made


def divided(program: Program, tp: int, strips: int, observe: Observer = ignore) -> tuple[RankStep, tuple[Owed, ...]]:
    """Program -> what each of `tp` ranks that divide its layers does, proved; and what ends of steps owe.

    strips:  over how many strips sums are taken that may be divided: bits follow from it, whatever tp is
    raises:  E0808, E1005, E1006
    """
    if strips % tp:
        raise error("E0808", f"--splits {strips}: {tp} ranks do not divide it", f"give a multiple of {tp}")
    step = with_factors(passed(differentiated(program, observe), observe), observe)
    ranks = timed(observe, "shard", shard, step, Axis("tp", tp, strips), OPS)
    if ranks is None or all(form == WHOLE for _, form in ranks.parameters):
        sizes = {f.size for p in step.program.parameters for d in p.type.dims for f in d.factors}
        fitting = [n for n in range(2, min(max(sizes, default=1), 128) + 1) if any(size % n == 0 for size in sizes)]
        help = f"{', '.join(map(str, fitting))} divide some factor" if fitting else None
        raise error("E1005", f"{program.name}: nothing that a parameter has divides into {strips} strips", help)
    try:
        return ranks, timed(observe, "prove", check_ranks, ranks, OPS)
    except Refused as problem:
        raise InternalError(f"shard: what was divided is not the model:\n{problem}") from problem


@contextmanager
def built(
    program: Program, name: str, folder: Path, sources: tuple[Path, ...], options: Options, observe: Observer
) -> Iterator[Build]:
    """Program -> files in `folder`, as far as options.emit goes; the folder is held until the end of the block."""
    build = Build(folder, name, sources, program.warnings)
    target = TARGETS[options.target]
    check_dtypes(program, target.rules)
    program = timed(observe, "decode", with_decoding, program, OPS, target.rules.kernels)
    content = None if options.plan is None else load_plan(options.plan)
    step = differentiated(program, observe, not may_make_again(options, content))
    if options.emit == "ir":
        text = print_program(with_factors(step, observe))
        with held(folder):
            check_sources([folder / f"{name}.ir"], sources)
            write_files(folder, ((f"{name}.ir", text),))
            yield build
        return
    choices = considered(options) if content is None else CHOICES
    lowered = timed(observe, "lower", lower, passed(step, observe), OPS, target.rules, choices)
    planned = laid_out(lowered, options, content, observe)
    check_limit(planned, options)
    if options.emit != "plan":
        check_memory(planned)
    timed(observe, "prove", prove_plan, planned, lowered)
    if options.emit == "plan":
        with held(folder):
            check_outputs(folder, ["plan.json"], sources)
            write_files(folder, (("plan.json", plan_json(planned)),))
            yield build
        return
    tree = timed(observe, "emit", target.emit, lowered, planned, name, sources[0].name, VERSION)
    toolchain = find_toolchain()
    flags = target_flags(toolchain, options.march)
    if options.emit == "bin":
        target.check()
    project = target.project(tree, name, runtime_folder(), toolchain, flags)
    with held(folder):
        check_outputs(folder, [*(path for path, _ in project.files), name, f"lib{name}.so", *BUILT], sources)
        timed(observe, "write", write_files, folder, project.files)
        if options.emit == "bin":
            runtime = target.project(SourceTree(()), "none", runtime_folder(), toolchain, flags)
            timed(observe, "runtime", install_runtime, toolchain, flags, runtime, folder)
            timed(observe, "build", make, toolchain, folder / "src")
            build = replace(build, library_digest=digest(build.library))
        yield build


def laid_out(lowered: Lowered, options: Options, content: Mapping[str, Any] | None, observe: Observer) -> Planned:
    """Lowered -> Planned. Where recomputation is chosen for memory, calls are given less until the whole plan fits, or nothing helps.

    content: a parsed plan.json that is taken
    """
    layout = timed(observe, "choose", choose_layout, lowered, options, content)
    planned = timed(observe, "plan", plan, lowered, layout)
    if content is not None:
        return planned
    if options.recompute == CHOICES[-1]:
        return in_longer_runs(lowered, options, layout, planned, observe)
    if options.memory is None or options.recompute != AUTO:
        return planned
    target = options.memory
    less = planned.arena_bytes - options.memory
    while planned.arena_bytes > options.memory and target > 0:
        target, less = target - less, 2 * less
        again = timed(observe, "choose", choose_layout, lowered, options, content, target)
        if again.choices != layout.choices:
            layout = again
            planned = timed(observe, "plan", plan, lowered, layout)
            less = planned.arena_bytes - options.memory
    if planned.arena_bytes <= options.memory:
        return planned
    most = timed(observe, "choose", choose_layout, lowered, options, None, 0)
    return in_longer_runs(lowered, options, most, planned, observe, options.memory)


def in_longer_runs(
    lowered: Lowered, options: Options, layout: Layout, planned: Planned, observe: Observer, enough: int | None = None
) -> Planned:
    """The plan of a layout, in which all that can is made again, with longer and longer runs of calls that keep their first arguments.

    Ends where no row of calls is that long, where a longer run holds no less than the one before, or at `enough` bytes.
    """
    before = layout
    for run in range(2, len(layout.choices)):
        longer = timed(observe, "choose", layout_in_runs, lowered, options, layout, run)
        if longer.choices == before.choices:
            break
        made = timed(observe, "plan", plan, lowered, longer)
        if made.arena_bytes >= planned.arena_bytes:
            break
        before, planned = longer, made
        if enough is not None and planned.arena_bytes <= enough:
            break
    return planned


@contextmanager
def deep() -> Iterator[None]:
    """Inside, chains of elementwise code may be as long as people write them."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def verify_all(functions: Iterable[Function]) -> None:
    for function in functions:
        verify(function, OPS)


def read_source(path: Path) -> str:
    """The text of a model file. raises: E0806"""
    try:
        return read_text(path, MOST_SOURCE_BYTES)
    except UnicodeDecodeError as problem:
        raise error("E0806", f"{path} is not UTF-8 text: byte {problem.start}") from problem
    except OSError as problem:
        raise error("E0806", f"cannot read {path}: {problem.strerror or problem}") from problem


def program_name(stem: str) -> str:
    """What the program of a file is called: the file's stem. raises: E0807"""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", stem):
        raise error("E0807", f"`{stem}` cannot name a program", "use letters, digits, `_`, `-`, `+` and `.` in the file's name")
    if len(stem) > MOST_NAME_BYTES:
        raise error("E0807", f"{stem[:20]}... is too long to name a program: {len(stem)} characters", "rename the model's file")
    headers = {path.stem for path in (runtime_folder() / "include").glob("*.h")}
    if stem in {*TAKEN, *headers}:
        raise error("E0807", f"`{stem}` cannot name a program: a file or folder beside it is called so", "rename the model's file")
    return stem


def check_kinds(options: Options) -> None:
    """raises: E0808 for a value of another kind than its option has: Python programs may give anything"""
    for option in fields(options):
        kind, said = KINDS.get(option.name, (str, "text"))
        value = getattr(options, option.name)
        absent = value is None and option.default is None
        if not absent and (isinstance(value, bool) or not isinstance(value, kind)):
            raise error("E0808", f"--{option.name} {value!r}: wants {said}")


def check_options(options: Options) -> None:
    """raises: E0808 for an option that cannot be honoured"""
    check_kinds(options)
    if options.target not in TARGETS:
        raise error("E0808", f"--target {options.target}: this version compiles for {', '.join(TARGETS)} only")
    counts = (("pp", options.pp), ("dp", options.dp), ("chunks", options.chunks), ("memory", options.memory))
    for flag, value in counts:
        if value is not None and value < 1:
            raise error("E0808", f"--{flag} {value}: at least 1")
    for flag, count in (("microbatches", options.microbatches), ("groups", options.groups)):
        if count is not None and count < 1:
            raise error("E0809", f"--{flag} {count}: at least 1")
    check_extent(options.pp, options.dp, options.chunks or 1, options.microbatches or 1)
    if options.recompute not in (*CHOICES, AUTO):
        raise error("E0808", f"--recompute {options.recompute}: one of {', '.join((*CHOICES, AUTO))}")
    if options.emit not in EMITS:
        raise error("E0808", f"--emit {options.emit}: one of {', '.join(EMITS)}")
    layout = [field.name for field in fields(LayoutOptions)]
    if options.plan is not None:
        for flag in given(options, *layout, "microbatches", "groups"):
            raise error("E0808", f"--plan and --{flag}: the plan fixes it", f"leave --{flag} out, or --plan")
    if options.emit == "ir":
        for flag in given(options, *layout, "plan"):
            raise error("E0808", f"--emit ir and --{flag}: the IR is made before the layout", f"leave --{flag} out, or use --emit plan")


def check_dtypes(program: Program, rules: Rules) -> None:
    """raises: E0815 for the first value of a dtype that the target lacks"""
    functions = [unit.function for unit in program.units] + [p.init for p in program.parameters] + [u.function for u in program.updates]
    curves = [scalar.curve for scalar in program.scalars if scalar.curve is not None]
    for function in (*functions, *curves):
        for value in (*function.parameters, *(r for i in function.instructions for r in i.results)):
            if value.type.dtype not in rules.dtypes:
                message = f"target {rules.target} has no dtype {value.type.dtype}, which {value} of {function.name} has: {value.type}"
                raise error("E0815", message, f"it has {', '.join(sorted(rules.dtypes))}")


def given(options: Options, *names: str) -> list[str]:
    """Those of the options that are not what they are by default."""
    defaults = {field.name: field.default for field in fields(options)}
    return [name for name in names if getattr(options, name) != defaults[name]]


def prove_plan(planned: Planned, lowered: Lowered) -> Proof:
    """The proof of a plan against the chain it is of. raises: InternalError, for what was planned here must hold"""
    program = lowered.step.program
    calls = tuple(call.path or program.units[call.unit].name for call in program.train.calls)
    try:
        return prove(planned, calls)
    except MlcError as problem:
        raise InternalError(f"plan: what was planned does not hold:\n{problem}") from problem


def check_limit(planned: Planned, options: Options) -> None:
    """raises: E1002 when a rank wants more than --memory: cuts are chosen by what calls hold, the plan has messages and sums beside it"""
    limit_bytes = options.memory
    fullest = max(planned.places, key=lambda place: place.arena_bytes)
    if limit_bytes is not None and fullest.arena_bytes > limit_bytes:
        wants, has = size_texts(fullest.arena_bytes, limit_bytes)
        message = f"rank {fullest.number} wants {wants} with its messages and sums of groups, and a rank has {has}"
        more = "" if options.recompute in (CHOICES[-1], AUTO) else ", or --recompute auto"
        raise error("E1002", message, f"more ranks, a smaller batch, or a schedule with fewer microbatches in flight{more}")


def check_memory(planned: Planned) -> None:
    """raises: E0812 when no process can map what was planned"""
    planned_bytes = planned.arena_bytes + planned.scratch_bytes_per_thread
    if planned_bytes > MAPPED_BYTES:
        raise error("E0812", f"the model wants {planned_bytes / 2**40:,.0f} TiB of memory; a process maps {MAPPED_BYTES >> 40} TiB at most")


def override_recipe(program: Program, options: Options) -> Program:
    """The program with --microbatches and --groups in place of the recipe's. raises: E0809 when they do not fit together"""
    recipe = program.recipe
    microbatches = options.microbatches if options.microbatches is not None else recipe.microbatches
    groups = options.groups if options.groups is not None else recipe.groups
    if groups is not None and microbatches % groups:
        nearest = max(groups, round(microbatches / groups) * groups)
        message = f"{microbatches} microbatches do not form {groups} groups of equal size"
        raise error("E0809", message, f"the nearest number of microbatches is {nearest}")
    return replace(program, recipe=replace(recipe, microbatches=microbatches, groups=groups))


def error(code: str, message: str, help: str | None = None) -> MlcError:
    """A diagnostic that speaks of no place in a file."""
    return MlcError([Diagnostic(code, message, NO_SPAN, (), help)])
