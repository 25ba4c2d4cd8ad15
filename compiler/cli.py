"""The command `mlc`: parses options, calls the API, prints. Nothing else in the package prints or exits.

Exit codes: 0 success, 1 the input is wrong, 2 usage, 70 a fault of mlc itself; `mlc run` ends with the program's own.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import platform
import re
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mlc import corpus
from mlc.bench import measure
from mlc.build import check_sources, find_toolchain, target_flags, write_dump, write_file
from mlc.cache import find_cache
from mlc.diagnostics import CODES, Diagnostic, MlcError, nearest
from mlc.driver import EMITS, Build, Options, compiled_file, differentiated, divided, error, load_program, read_source, with_factors
from mlc.ir.program import CHOICES
from mlc.ir.text import print_function, print_program
from mlc.nvcc import find_nvcc, find_tool
from mlc.parallel.actions import Schedule
from mlc.parallel.csv import read_csv, write_csv
from mlc.parallel.draw import draw_svg, draw_text
from mlc.parallel.limits import check_extent, counted
from mlc.parallel.plan_reader import load_plan
from mlc.parallel.report import Times, compared, comparison
from mlc.parallel.schedules import SCHEDULES, chunks_of, schedule
from mlc.parallel.shard_report import explain_ranks
from mlc.parallel.simulate import Simulation
from mlc.parallel.split import SPLIT
from mlc.parallel.verify import explain_proof, verify
from mlc.passes import PASSES
from mlc.plan.choose import AUTO
from mlc.plan.report import explain_plan
from mlc.render import Sources, as_json, explain, human
from mlc.resources import VERSION
from mlc.runtime_library import describe_cache
from mlc.syntax.formatter import format_text
from mlc.usage import advise_option, advise_verb

F = TypeVar("F", bound=Callable[..., Any])

INTERNAL_ERROR = 70
INTERRUPTED = 130
#: Where --error-format stands in what click keeps for a command.
FORMAT = "mlc.error_format"
STAGES = ("forward", "input_gradient", "weight_gradient")
PRINTED = ("elaborate", "differentiate")
#: What --dump-passes writes: the step as differentiation makes it, then after each pass; one word where a pass changes nothing.
DUMPED = ("differentiate", *(row.name for row in PASSES))
UNCHANGED = "unchanged"


def main() -> None:
    """The entry point of the command. It runs for seconds and makes no cycles worth collecting: the collector costs a tenth of that."""
    gc.disable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # paths are bytes: what is no text in this encoding is shown all the same
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "backslashreplace")
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        return commands.main(args=arguments, prog_name="mlc", standalone_mode=False) or 0
    except click.ClickException as problem:
        advice = advise(problem, arguments)
        without_guesses(problem, arguments).show()
        if advice is not None:
            click.echo(f"Help: {advice}", err=True)
        return problem.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception:  # noqa: BLE001 (whatever it is, it is a fault of ours)
        print_fault(arguments)
        return INTERNAL_ERROR


def advise(problem: click.ClickException, arguments: list[str]) -> str | None:
    """What an unknown command or option is called here."""
    match problem:
        case click.NoSuchOption() if problem.ctx is not None and problem.ctx.info_name in commands.commands:
            options = [option for option in problem.ctx.command.params if isinstance(option, click.Option)]
            taking = [name for option in options if not option.is_flag for name in option.opts]
            flags = [name for option in options if option.is_flag for name in option.opts]
            return advise_option(problem.option_name, str(problem.ctx.info_name), arguments, taking, [*flags, "--help", "-h"])
        case click.UsageError() if arguments and arguments[0] not in commands.commands and not arguments[0].startswith("-"):
            return advise_verb(arguments[0], commands.commands)
    return None


def without_guesses(problem: click.ClickException, arguments: list[str]) -> click.ClickException:
    """The same problem without the names that look alike to click."""
    match problem:
        case click.NoSuchOption():
            return click.NoSuchOption(problem.option_name, ctx=problem.ctx)
        case click.UsageError() if arguments and problem.message.startswith(f"No such command {arguments[0]!r}"):
            return click.UsageError(f"No such command {arguments[0]!r}.", ctx=problem.ctx)
    return problem


def print_fault(arguments: list[str]) -> None:
    """What a report of a fault of the compiler needs, in one piece."""
    click.echo(traceback.format_exc(), err=True)
    click.echo("internal error: this is a fault of mlc, not of your model. Please report it with the text above and these lines:", err=True)
    click.echo(f"  mlc {VERSION}, Python {platform.python_version()}, {platform.system()} {platform.machine()}", err=True)
    click.echo(f"  mlc {' '.join(arguments)}", err=True)


def diagnosed(function: Callable[..., int | None]) -> Callable[..., int]:
    """Adds --error-format; an MlcError is printed by it, and the exit code is 1."""

    @click.option(
        "--error-format", type=click.Choice(["human", "json"]), default="human", show_default=True, help="How errors are printed."
    )
    @functools.wraps(function)
    def wrapped(error_format: str, **arguments: Any) -> int:
        click.get_current_context().meta[FORMAT] = error_format
        try:
            return function(**arguments) or 0
        except MlcError as problem:
            split = arguments.get("split")
            print_diagnostics(problem.diagnostics, {SPLIT: split} if split else {})
            return 1

    return wrapped


def print_diagnostics(diagnostics: tuple[Diagnostic, ...], sources: Sources) -> None:
    """Errors, or warnings, as --error-format wants them. sources: texts that spans speak of and that are not files."""
    as_text = as_json if click.get_current_context().meta.get(FORMAT) == "json" else human
    for diagnostic in diagnostics:
        click.echo(as_text(diagnostic, sources), err=True)
    if as_text is human and len(diagnostics) > 1:
        click.echo(f"{len(diagnostics)} {diagnostics[0].severity}s", err=True)


def parse_defines(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """-D name=value, repeated."""
    defines: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"`{text}` is not name=value", context, parameter)
        if name in defines:
            raise click.BadParameter(f"`{name}` is given twice", context, parameter)
        defines[name] = value
    return defines


FILE = click.argument("file", type=click.Path(path_type=Path))
DEFINE = click.option(
    "-D", "--define", "defines", multiple=True, callback=parse_defines, metavar="NAME=VALUE", help="Set a constant of the file."
)
OUT = click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Output folder.  [default: build/<stem>]")
MARCH = click.option("--march", default="native", show_default=True, help="Machine to compile for, as the C compiler's -march= names it.")


def compile_options(function: F) -> F:
    """The fields of driver.Options."""
    count = click.IntRange(min=1)
    options = (
        click.option("--target", default="c", show_default=True, help="What to compile for."),
        MARCH,
        click.option("--pp", type=count, default=1, show_default=True, help="Pipeline stages."),
        click.option("--dp", type=count, default=1, show_default=True, help="Replicas."),
        click.option("--schedule", metavar="NAME", help="Order of actions; `mlc schedule --compare` lists them.  [default: auto]"),
        click.option("--chunks", type=count, help="Stages a rank.  [default: the schedule's]"),
        click.option("--microbatches", type=count, help="Microbatches of a step, over all replicas.  [default: the recipe's]"),
        click.option("--groups", type=count, help="Groups in which microbatches are summed.  [default: the recipe's]"),
        click.option("--split", metavar="SPEC", help='Calls of each stage: "begin block*5 | block*7 end".  [default: balanced]'),
        click.option("--memory", type=count, metavar="BYTES", help="What a rank has for its arena.  [default: no limit]"),
        click.option(
            "--recompute",
            type=click.Choice((*CHOICES, AUTO)),
            default=AUTO,
            show_default=True,
            help="What backward passes make again instead of keeping it; auto: what --memory demands.",
        ),
        click.option("--plan", type=click.Path(path_type=Path, dir_okay=False), help="Take mesh, cut and order from this plan.json."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(VERSION, prog_name="mlc")
def commands() -> None:
    """An ahead-of-time compiler for training: a model in, a standalone C program that trains it out."""


@commands.command("compile")
@FILE
@OUT
@DEFINE
@compile_options
@click.option("--emit", type=click.Choice(EMITS), default="bin", show_default=True, help="How far to go.")
@click.option("-MD", "depfile_wanted", is_flag=True, help="Write the files read as a Makefile rule.")
@click.option("-MF", "depfile", type=click.Path(path_type=Path, dir_okay=False), help="Where -MD writes.  [default: OUT/<stem>.d]")
@click.option("-v", "--verbose", is_flag=True, help="Print every stage with its time.")
@click.option("--print-ir-after", type=click.Choice(PRINTED), multiple=True, help="Print the IR after a stage.")
@click.option("--dump-passes", type=click.Path(path_type=Path, file_okay=False), help="Write the IR after each pass into this folder.")
@diagnosed
def compile_verb(
    file: Path,
    out: Path | None,
    defines: dict[str, str],
    depfile_wanted: bool,
    depfile: Path | None,
    verbose: bool,
    print_ir_after: tuple[str, ...],
    dump_passes: Path | None,
    **options: Any,
) -> None:
    """Compile FILE into a program, a shared library, a header and their sources."""
    if depfile is not None and not depfile_wanted:
        raise click.UsageError("-MF names the file that -MD writes: give both")
    with compiled_file(file, out, defines, Options(**options), observer(verbose, print_ir_after, dump_passes)) as build:
        if depfile_wanted:
            write_depfile(build, depfile or build.folder / f"{build.name}.d")
    path = str(made(build, options["emit"]))
    click.echo(path if path.isprintable() else os.fsencode(path))  # as it is called, whatever the language of the terminal


def made(build: Build, emit: str) -> Path:
    """The file that a compilation was asked for."""
    match emit:
        case "ir":
            return build.folder / f"{build.name}.ir"
        case "plan":
            return build.plan
        case "c":
            return build.folder / "src"
        case _:
            return build.program


def observer(
    verbose: bool = False, print_ir_after: tuple[str, ...] = (), dump_passes: Path | None = None
) -> Callable[[str, Any, float], None]:
    """Shows warnings, and on request the stages of a compilation, on stderr; IR on stdout, or after each pass in a file."""
    dumped: list[str] = []

    def show(stage: str, value: Any, seconds: float) -> None:
        if stage == "elaborate":
            print_diagnostics(value.warnings, {})
        if verbose:
            click.echo(f"{stage:>14} {seconds * 1e3:9.1f} ms", err=True)
        if stage in print_ir_after:
            click.echo(print_program(value))
        if dump_passes is not None and stage in DUMPED:
            text = print_program(value)
            said = UNCHANGED if text in dumped[-1:] else text
            write_dump(dump_passes / f"{len(dumped):02}-{stage}.ir", f"{said}\n", (f"{type(value).__name__} {{\n", f"{UNCHANGED}\n"))
            dumped.append(text)

    return show


def write_depfile(build: Build, path: Path) -> None:
    """A Makefile rule: what was made depends on what was read, with an empty rule for each file so that its removal is no error."""
    check_sources([path], build.sources)
    targets = " ".join(make_name(made, True) for made in (build.program, build.library, build.header, build.plan))
    sources = " ".join(make_name(source, False) for source in build.sources)
    rules = "".join(f"\n{make_name(source, True)}:\n" for source in build.sources[1:])
    write_file(path, os.fsencode(f"{targets}: {sources}\n{rules}"))


def make_name(path: Path, target: bool) -> str:
    """A name as make and ninja read it, as a target or behind the colon. raises: E0804 for one that no Makefile can hold"""
    text = os.path.join(".", path) if str(path).startswith("~") else str(path)
    bad = re.search(r"[\x00-\x1f\x7f;=|\\]", text)
    if bad:
        message = f"a dependency file cannot hold the name {text!r}: make gives {bad.group()!r} another meaning"
        raise error("E0804", message, "rename the file or the folder, or leave -MD out")
    return re.sub(r"[ #:*?\[%]" if target else r"[ #:*?\[]", r"\\\g<0>", text).replace("$", "$$")


@commands.command("run", epilog="What stands after -- goes to the program: mlc run examples/gpt.dsl -- --data book.txt --steps 300")
@FILE
@OUT
@DEFINE
@compile_options
@click.option("-v", "--verbose", is_flag=True, help="Print every stage with its time.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@diagnosed
def run_verb(file: Path, out: Path | None, defines: dict[str, str], verbose: bool, arguments: tuple[str, ...], **options: Any) -> None:
    """Compile FILE and run its program with ARGUMENTS."""
    with compiled_file(file, out, defines, Options(**options), observer(verbose)) as build:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(build.program, [str(build.program), *arguments])


@commands.command("check")
@FILE
@DEFINE
@diagnosed
def check_verb(file: Path, defines: dict[str, str]) -> None:
    """Look for errors in FILE without compiling it."""
    differentiated(load_program(file, defines, Options(), observer())[0])


@commands.command("fmt")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--check", is_flag=True, help="Change nothing; exit 1 when a file would change.")
@diagnosed
def format_verb(files: tuple[Path, ...], check: bool) -> int:
    """Format FILES in place; `-` formats standard input."""
    changed = [file for file in files if not format_file(file, check)]
    if check:
        for file in changed:
            click.echo(f"{file} would be formatted", err=True)
    return 1 if check and changed else 0


def format_file(file: Path, check: bool) -> bool:
    """Format one file; returns whether it was formatted already."""
    if str(file) == "-":
        text = sys.stdin.read()
        formatted = format_text(text, "<stdin>")
        if not check:
            click.echo(formatted, nl=False)
        return text == formatted
    text = read_source(file)
    formatted = format_text(text, str(file))
    if text != formatted and not check:
        write_file(file, formatted.encode())
    return text == formatted


@commands.command("ir")
@FILE
@DEFINE
@click.option("--unit", help="Print the functions of one unit only.")
@click.option("--stage", type=click.Choice(STAGES), help="Print these functions of the derivative.")
@click.option("--tp", type=click.IntRange(min=1), help="Say how so many ranks can divide layers; as IR with --unit or --stage.")
@click.option("--splits", type=click.IntRange(min=1), help="Strips over which divided sums are taken; --tp divides it.  [default: --tp]")
@diagnosed
def ir_verb(file: Path, defines: dict[str, str], unit: str | None, stage: str | None, tp: int | None, splits: int | None) -> None:
    """Print the typed tensor IR of FILE, with the factors of all dims."""
    if splits is not None and tp is None:
        raise click.UsageError("--splits: strips are those of --tp ranks")
    program, _ = load_program(file, defines, Options(), observer())
    names = [u.name for u in program.units]
    if unit is not None and unit not in names:
        near = nearest(unit, names)
        raise click.UsageError(f"no unit `{unit}`; " + (f"did you mean `{near}`?" if near else f"there are {', '.join(names)}"))
    if tp is not None:
        ranks, owed = divided(program, tp, splits or tp)
        if unit is None and stage is None:
            click.echo(explain_ranks(ranks, owed))
            return
        of = [(names[n], getattr(v, s)) for n, v in enumerate(ranks.variants) if v is not None for s in STAGES if stage in (None, s)]
        click.echo("\n".join(print_function(one.function) for name, one in of if unit in (None, name)))
        return
    step = with_factors(differentiated(program))
    if unit is None and stage is None:
        click.echo(print_program(step.program))
        return
    functions = [(u.name, u.function) for u in step.program.units]
    if stage is not None:
        functions = [(names[v.unit], getattr(v, stage)) for of in step.variants for v in of]
    click.echo("\n".join(print_function(function) for name, function in functions if unit in (None, name)))


@commands.command("explain")
@click.argument("subjects", nargs=-1, required=True, metavar="CODE|plan.json...")
@diagnosed
def explain_verb(subjects: tuple[str, ...]) -> None:
    """Explain an error code, or the plan of a compiled model."""
    click.echo("\n".join(explanation(subject) for subject in subjects), nl=False)


def explanation(subject: str) -> str:
    if subject.upper() in CODES:
        return explain(subject.upper())
    if subject.endswith(".json"):
        said = explain_plan(load_plan(Path(subject)))
        return "".join(character if character.isprintable() or character == "\n" else "?" for character in said)  # terminals obey others
    near = nearest(subject.upper(), CODES)
    raise error("E0811", f"`{subject}` is neither an error code nor a plan", f"did you mean {near}?" if near else None)


@commands.command("verify")
@click.argument("path", metavar="plan.json", type=click.Path(path_type=Path))
@diagnosed
def verify_verb(path: Path) -> None:
    """Prove a plan: no deadlock, each message received, everything done once, no buffer overwritten too soon."""
    click.echo(explain_proof(verify(load_plan(path))))


def described_cuda() -> str:
    """What programs for GPUs are built with, or what brings it."""
    try:
        found = find_nvcc()
    except MlcError as problem:
        (said,) = problem.diagnostics
        return f"none ({said.message}): {said.help}"
    disassembler = find_tool(found, "cuobjdump") or "no cuobjdump"
    return f"{found.compiler}: release {found.release}, {found.libraries}/libcudart_static.a, {disassembler}"


@commands.command("doctor")
@MARCH
def doctor_verb(march: str) -> int:
    """Show what mlc finds on this machine, and what is missing."""
    click.echo(f"mlc       {VERSION}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    click.echo(f"cpus      {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}")
    try:
        toolchain = find_toolchain()
        click.echo(f"compiler  {toolchain.compiler}: {toolchain.version}")
        click.echo(f"make      {toolchain.make}")
        click.echo(f"target    {' '.join(target_flags(toolchain, march))}")
        click.echo(f"cache     {describe_cache(find_cache())}")
        click.echo(f"cuda      {described_cuda()}")
    except MlcError as problem:
        print_diagnostics(problem.diagnostics, {})
        return 1
    return 0


@commands.command("tokenize")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for train.bin and its siblings.")
@click.option("--level", type=click.Choice(corpus.LEVELS), default="bytes", show_default=True, help="What a token is.")
@click.option(
    "--validation", type=click.FloatRange(0.0, 1.0, max_open=True), default=0.0, show_default=True, help="Part set apart, from the end."
)
@diagnosed
def tokenize_verb(sources: tuple[Path, ...], out: Path, level: str, validation: float) -> None:
    """Write text as llm.c token shards."""
    files = corpus.tokenize(sources, out, level, validation)
    click.echo(f"{files.train}: {files.train_tokens} tokens, vocabulary {files.vocabulary_size}")
    if files.validation is not None:
        click.echo(f"{files.validation}: {files.validation_tokens} tokens")


@commands.command("schedule")
@click.option("--pp", type=click.IntRange(min=1), default=4, show_default=True, help="Ranks of the pipeline.")
@click.option("--microbatches", type=click.IntRange(min=1), default=8, show_default=True, help="Microbatches of a step of one replica.")
@click.option("--chunks", type=click.IntRange(min=1), help="Stages a rank.  [default: the schedule's]")
@click.option("--schedule", "name", default="auto", show_default=True, help=f"One of {', '.join(SCHEDULES)}.")
@click.option("--forward", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Time of a microbatch on a rank.")
@click.option("--input-gradient", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Time of a microbatch on a rank.")
@click.option("--weight-gradient", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Time of a microbatch on a rank.")
@click.option("--transfer", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Time of a message between two ranks.")
@click.option("--memory", type=click.IntRange(min=1), help="Residuals auto may hold a rank.  [default: as the best other schedule]")
@click.option("--compare", is_flag=True, help="Print a table of all schedules.")
@click.option("--read", type=click.Path(path_type=Path, dir_okay=False), help="Take the schedule from this CSV file.")
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="Write the schedule to this CSV file.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw the schedule to this SVG file.")
@click.option("--width", type=click.IntRange(min=20), help="Columns of the drawing.  [default: the terminal's]")
@diagnosed
def schedule_verb(
    pp: int, microbatches: int, chunks: int | None, name: str, transfer: float, memory: int | None, compare: bool, **options: Any
) -> None:
    """Show what each rank of a pipeline executes, and what it costs.

    Residuals are what forwards leave for their backwards: each is of one microbatch on one chunk, and those of the fullest rank count.
    """
    check_extent(pp, 1, chunks or 1, microbatches)
    times = Times(options["forward"], options["input_gradient"], options["weight_gradient"], transfer)

    def made(name: str, chunks: int | None) -> tuple[Schedule, Simulation]:
        each = chunks_of(name, chunks)
        chosen = schedule(name, pp, microbatches, each, times.costs(pp, each), counted(memory, pp, each) if memory else None)
        return chosen, times.simulate(chosen)

    def read_in(path: Path) -> tuple[Schedule, Simulation]:
        chosen = read_csv(read_source(path), str(path))
        return chosen, times.simulate(chosen)

    read: Path | None = options["read"]
    check_sources([options[name] for name in ("csv", "svg") if options[name]], [read] if read else [])
    shown, found = read_in(read) if read else made(name, chunks)
    table = [made(*row) for row in compared(chunks)] if compare else []
    click.echo(comparison([*table, (shown, found)] if read or not compare else table))
    click.echo(draw_text(shown, found, options["width"] or shutil.get_terminal_size().columns), nl=False)
    if options["csv"]:
        write_file(options["csv"], write_csv(shown).encode())
    if options["svg"]:
        write_file(options["svg"], draw_svg(shown, found).encode())


@commands.command("bench")
@FILE
@OUT
@DEFINE
@compile_options
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Steps measured, after two that are not.")
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads.  [default: all CPUs]")
@diagnosed
def bench_verb(file: Path, out: Path | None, defines: dict[str, str], steps: int, threads: int | None, **options: Any) -> None:
    """Compile FILE and time its training step on random inputs; prints one JSON object."""
    with compiled_file(file, out, defines, Options(**options), observer()) as build:
        measured = measure(build, steps, threads)
    click.echo(json.dumps(measured))
