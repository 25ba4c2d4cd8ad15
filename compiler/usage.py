"""What is said to who types a command, or an option, that `mlc` does not have: what it is called here.

A program has a table of its own, runtime/src/command/advice.c: what trains is asked of the program, what shapes it of the compiler.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from mlc.diagnostics import nearest

#: What people type for a command -> what does it here.
VERBS: dict[str, str] = {
    **dict.fromkeys(("train", "fit", "start", "exec"), "`mlc run FILE -- --data PATTERN --steps N` compiles and trains"),
    **dict.fromkeys(("build", "make", "cc", "c", "emit"), "`mlc compile FILE` builds the program"),
    **dict.fromkeys(("eval", "evaluate", "test", "validate"), "`mlc run FILE -- --evaluate PATTERN` compiles and evaluates"),
    **dict.fromkeys(("sample", "generate", "infer", "predict"), "`mlc run FILE -- --weights FILE --sample N` compiles and samples"),
    **dict.fromkeys(("lint", "typecheck", "verify-model"), "`mlc check FILE` looks for errors"),
    **dict.fromkeys(("format", "prettify"), "`mlc fmt FILE` formats"),
    **dict.fromkeys(("profile", "benchmark", "time"), "`mlc bench FILE` times a step; the program itself has --profile and --trace"),
    **dict.fromkeys(("prepare", "preprocess", "data", "tokenizer"), "`mlc tokenize TEXT -o FOLDER` writes tokens"),
    **dict.fromkeys(("plan", "show", "inspect"), "`mlc compile FILE --emit plan` writes plan.json, `mlc explain plan.json` shows it"),
    **dict.fromkeys(("info", "env", "diagnose"), "`mlc doctor` shows what is found on this machine"),
    "help": "`mlc --help` lists the commands",
    "version": "`mlc --version` writes it",
}

_CONSTANT = "constants of the model are set by -D NAME=VALUE"

#: What people type for an option of the compiler -> what does it here; program's own options are below.
OPTIONS: dict[str, str] = {
    **dict.fromkeys(("batch-size", "batch", "bs", "micro-batch-size"), "the batch is a constant of the model: -D batch=N"),
    **dict.fromkeys(("context", "block-size", "seq-len", "depth", "width", "heads", "layers", "vocab-size", "n-layer"), _CONSTANT),
    **dict.fromkeys(("set", "const", "config", "param"), _CONSTANT),
    **dict.fromkeys(("output", "output-dir", "out-dir", "outdir", "build-dir", "dest"), "the output folder is -o FOLDER"),
    **dict.fromkeys(("grad-accum", "gradient-accumulation-steps", "accumulate", "accumulation-steps"), "that is --microbatches N"),
    **dict.fromkeys(("tp", "tensor-parallel"), "layers are not cut across ranks: --pp N cuts the model into stages, --dp N replicates it"),
    **dict.fromkeys(("pipeline-parallel", "stages", "pipeline"), "pipeline stages are --pp N"),
    **dict.fromkeys(("data-parallel", "replicas", "ddp", "nproc-per-node", "nproc", "ranks", "world-size"), "replicas are --dp N"),
    **dict.fromkeys(("arch", "mcpu", "mtune", "cpu", "machine"), "the machine is --march NAME"),
    **dict.fromkeys(("device", "gpu", "cuda", "backend"), "programs are C for CPUs: --target c, --march NAME"),
    **dict.fromkeys(("cc", "compiler"), "the C compiler is named by the variable CC: CC=clang mlc compile ..."),
    **dict.fromkeys(("emit-c", "emit-ir", "emit-plan", "dump-ir", "print-ir", "S", "c"), "that is --emit ir, plan or c"),
    **dict.fromkeys(("O", "g", "debug", "release"), "there are no levels; the flags of the C compiler stand in OUT/src/Makefile"),
    **dict.fromkeys(("dtype", "precision", "bf16", "fp16"), "dtypes stand in the model"),
    **dict.fromkeys(("json",), "errors as JSON are --error-format json"),
}

#: Options of a program, and what people type for them. They stand behind --.
PROGRAM: tuple[str, ...] = (
    "data", "steps", "seed", "order", "threads", "log", "checkpoint", "every", "keep", "fresh", "resume", "allow", "weights", "fit",
    "evaluate", "evaluate-batches", "sample", "prompt", "temperature", "top-k", "top-p", "hash", "profile", "profile-json",
    "trace", "timeout", "start-timeout", "grace", "transport", "print-plan", "print-launches", "dry-run", "completion",
    "lr", "learning-rate", "rate", "warmup", "epochs", "max-steps", "iterations", "train", "dataset", "save", "workers",
)  # fmt: skip


def advise_verb(name: str, verbs: Collection[str]) -> str:
    """One sentence for a command that is not there."""
    if name.endswith(".dsl"):
        return f"name what to do with the file: mlc compile {shlex.quote(name)}"
    near = nearest(name, verbs)
    return VERBS.get(name.lower()) or (f"did you mean `mlc {near}`?" if near else "`mlc --help` lists the commands")


def advise_option(word: str, verb: str, arguments: Sequence[str], taking: Collection[str], flags: Collection[str]) -> str:
    """One sentence for an option that a command lacks.

    arguments: what stands after `mlc`, the verb first. taking, flags: the options of the verb that take a value, and those that do not.
    """
    name = word.lstrip("-").partition("=")[0].replace("_", "-")
    known = [option for option in (*taking, *flags) if option.startswith("--")]
    near = nearest(f"--{name}", known) if len(name) > 1 else None
    if near is not None and name not in OPTIONS and name not in PROGRAM:
        return f"did you mean {near}?"
    if verb == "run" and name not in OPTIONS:
        return f"options of the program stand behind --: {mended(arguments, taking, flags)}"
    if verb in ("compile", "bench", "check") and name in PROGRAM:
        return "that is asked of the program, when it runs: mlc run FILE -- OPTIONS, or the program itself"
    return OPTIONS.get(name) or f"`mlc {verb} --help` lists the options"


def mended(arguments: Sequence[str], taking: Collection[str], flags: Collection[str]) -> str:
    """A command line of `mlc run` with what belongs to the program behind `--`."""
    own, program, words = [arguments[0]], [], list(arguments[1:])
    end = words.index("--") if "--" in words else len(words)
    words, behind = words[:end], words[end + 1 :]
    named = False
    while words:
        word = words.pop(0)
        if word in flags or word.partition("=")[0] in taking or word[:2] in taking:
            own.append(word)
            if word in taking and words:
                own.append(words.pop(0))
        elif word.startswith("-") or named:
            program.append(word)
            if word.startswith("-") and "=" not in word and words and not words[0].startswith("-"):
                program.append(words.pop(0))
        else:
            own.append(word)
            named = True
    return shlex.join(["mlc", *own, "--", *program, *behind])
