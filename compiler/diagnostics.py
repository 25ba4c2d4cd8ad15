"""Spans, error codes and diagnostics: what the compiler says to its user.

A diagnostic is data. Nothing here prints or exits; `cli.py` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mlc.frozen import frozen


@frozen
class Span:
    """A half-open range of source text. Lines and columns count from 1; `caller` is the call site this code was reached from."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    caller: Span | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


#: The span of what the compiler itself makes (the driver's own functions, tests).
NO_SPAN = Span("<mlc>", 0, 0, 0, 0)


@frozen
class Note:
    """An additional sentence under a diagnostic, with the place it speaks of where there is one."""

    message: str
    span: Span | None = None


@frozen
class Diagnostic:
    """One message to the user: `code` is a key of `CODES`; `help` says what to do."""

    code: str
    message: str
    span: Span
    notes: tuple[Note, ...] = ()
    help: str | None = None
    severity: str = "error"

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span.line else ""
        return f"{place}{self.severity}[{self.code}]: {self.message}"


class MlcError(Exception):
    """The user can mend this: one or more diagnostics."""

    def __init__(self, diagnostics: list[Diagnostic] | tuple[Diagnostic, ...]):
        super().__init__("\n".join(map(str, diagnostics)))
        self.diagnostics = tuple(diagnostics)


class OpError(Exception):
    """A type rule refuses its operands. Carries no position: whoever emits the instruction adds the span."""

    def __init__(self, code: str, message: str, help: str | None = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.help = help


class InternalError(Exception):
    """A fault of the compiler itself: names the pass, the instruction and its neighbours."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` is most likely a misspelling of, None where none is near. Ties: the first in sorted order.

    A third of the letters may be wrong. In up to three letters none is replaced: `sub` is a name of its own and no misspelt `sum`.
    """
    limit = max(len(name) // 3, min(1, len(name) - 1))
    close = [c for c in sorted(set(candidates)) if abs(len(c) - len(name)) <= limit]
    if len(name) <= 3:
        close = [c for c in close if len(c) != len(name) or sorted(c.lower()) == sorted(name.lower())]
    scored = [(_edits(name.lower(), c.lower()), c) for c in close]
    best = min(scored, default=(limit + 1, ""))
    return best[1] if best[0] <= limit else None


def _edits(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that make b of a (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        following = [i]
        for j, y in enumerate(b, 1):
            cost = min(row[j] + 1, following[j - 1] + 1, row[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            following.append(cost)
        before, row = row, following
    return row[-1]


class CodeText(NamedTuple):
    """What `mlc explain` says of a code: a title of a few words, and a text with an example where one helps."""

    title: str
    text: str


#: Every error code. E01 syntax, E02 shapes, dtypes and ops, E03 names, imports and scopes, E04 types, annotations and
#: compile-time values, E05 parameters, effects, recipe and model, E06 options, E07 data and the running program,
#: E08 files and toolchains, E10 cuts into stages, E11 schedules.
#: W is a warning: it is printed and stops nothing.
#: Sorted; a code is never reused. To add an error: one row here, raise it, one file in tests/errors/.
CODES: dict[str, CodeText] = {
    "E0101": CodeText(
        "unexpected word",
        """
        The text does not follow the grammar at the marked place; the message says what could stand there. Often something is missing
        just before: an operator, a comma, a closing bracket. `else if` is written `elif`; `=` assigns, `==` compares; one statement
        stands on a line and assigns once.
        """,
    ),
    "E0102": CodeText(
        "string without end",
        """
        A string in one pair of quotes ends on the line where it starts; one in three double quotes ends anywhere in the file.
        """,
    ),
    "E0103": CodeText(
        "character that is not allowed",
        """
        Names and operators are ASCII. Other characters may stand in strings and comments, except control characters and marks that
        reorder text on the screen. Curly quotes, long dashes and multiplication signs often come from a word processor.
        """,
    ),
    "E0104": CodeText(
        "malformed number or string",
        """
        Numbers are decimal (`12`, `1_000`, `0.5`, `3e-4`), whole ones below 2 ** 63 and without leading zeros. Strings have no prefix
        but `f`, and the escapes are \\\\ \\" \\' \\n \\t.
        """,
    ),
    "E0105": CodeText(
        "indentation",
        """
        A block is indented further than its header and all its lines alike, with spaces; it starts on a line of its own.

            if bias:
                y = y + b
        """,
    ),
    "E0106": CodeText(
        "the file is not UTF-8 text",
        """
        Source files are UTF-8, with or without byte order mark. The message gives the first byte that is not.
        """,
    ),
    "E0107": CodeText(
        "nested too deeply",
        """
        Operators, brackets and blocks stand at most 100 deep inside one another. Name a part of the expression.
        """,
    ),
    "E0108": CodeText(
        "a part of Python that the language leaves out",
        """
        There is no while, lambda, class, try, with, pass, break, continue, comprehension, nested function, star argument, `import x`
        or relative import. The help under the error says what to write in its place.

            xs = [f(x) for x in ys]          # error; instead:
            xs = []
            for y in ys:
                xs = xs + [f(y)]
        """,
    ),
    "E0109": CodeText(
        "an operator that the language leaves out",
        """
        The operators are + - * / // % @ ** for numbers and tensors, & | ~ for masks, `and`, `or`, `not` for compile-time values,
        == != < <= > >=, `is`, `is not`, `in`, `not in`, and = += -= *= /= to assign.
        """,
    ),
    "E0110": CodeText(
        "chained comparison",
        """
        A comparison has two operands: `a < b and b < c` between compile-time values, `(a < b) & (b < c)` between tensors.
        """,
    ),
    "E0111": CodeText(
        "assignment to something that is not a name",
        """
        Left of `=` stands a name, or several with commas between them. Values do not change: in place of an assignment to an
        element, build a new value with `select`, `concat`, `scatter_add`, or `xs + [x]` for a list.
        """,
    ),
    "E0112": CodeText(
        "arguments of a call, or keys of a record",
        """
        Arguments without a name come first, and each name occurs once. A record has at least one pair, its keys are strings, each
        once: `{"loss": loss, "logits": logits}`.
        """,
    ),
    "E0113": CodeText(
        "parameter without annotation",
        """
        Every parameter of a function says what it takes: a tensor (`x: real[batch, n]`), or a compile-time kind (dim, int, float,
        bool, str, shape, init, dtype).
        """,
    ),
    "E0114": CodeText(
        "code at the top level of a file",
        """
        A file holds a docstring, imports, constants with a type (`width: dim = 768`) and functions. Everything else stands in a
        function.
        """,
    ),
    "E0115": CodeText(
        "brackets that do not match",
        """
        Every ( [ { has its ) ] }. The message points at the bracket that is left over.
        """,
    ),
    "E0116": CodeText(
        "colon missing",
        """
        The line of `def`, `if`, `elif`, `else` and `for` ends with a colon.
        """,
    ),
    "E0117": CodeText(
        "malformed f-string",
        """
        `f"h.{i}"` holds expressions in braces, with a format behind a colon where wanted (`{x:.3f}`); `{{` and `}}` stand for braces.
        It stands on one line; an expression in it contains neither its quotes nor a backslash.
        """,
    ),
    "E0118": CodeText(
        "conditional expression without else",
        """
        `a if condition else b` has both values. The condition is known at compile time; between tensors use `select`.
        """,
    ),
    "E0119": CodeText(
        "parameters of a function",
        """
        Each name occurs once; parameters without a default come before those that have one. After a bare `*` parameters are given
        by name and stand in any order; at least one follows it.
        """,
    ),
    "E0120": CodeText(
        "a Python function that cannot be read as a model",
        """
        `@mlc.model` reads the source text of a Python function: it must be in a file (or a notebook cell), not made by `exec`.
        """,
    ),
    "E0201": CodeText(
        "shapes differ in an elementwise operation",
        """
        Operands of `+`, `*`, `<`, `select` and the like must have the same shape, or shapes that broadcast: aligned at the
        right, missing leading dims are added, and a literal 1 stretches. A named dim that happens to be 1 does not stretch.

            x: f32[batch, 8] + y: f32[4]          # error: 8 is not 4
            x: f32[batch, 8] + y[:, None]         # a new dim of 1 (None) stretches
        """,
    ),
    "E0202": CodeText(
        "dtypes differ",
        """
        Tensors are never promoted: `f32 + bf16` is an error. Cast one of them, `cast(x, f32)` or `cast(y, x.dtype)`.
        A number known at compile time takes the dtype of the tensor it meets, but a float does not meet an i32 tensor.
        """,
    ),
    "E0203": CodeText(
        "inner dimensions of a contraction differ",
        """
        `x @ w` sums over the last dim of x and the second to last of w (in `einsum`, over a letter): they must be equal.

            x: f32[8, 64, width] @ w: f32[4 * width, width]       # error
            x @ transpose(w)                                      # [8, 64, width] @ [width, 4 * width]
        """,
    ),
    "E0204": CodeText(
        "an axis does not exist",
        """
        An axis counts from 0, or from the end with negative numbers: a tensor with three dims has the axes 0, 1, 2 and -3, -2, -1.
        Where several are given, each may occur once.
        """,
    ),
    "E0205": CodeText(
        "reshape to another number of elements",
        """
        `reshape(x, shape)` keeps every element in order: the sizes before and after must have the same product.
        """,
    ),
    "E0206": CodeText(
        "slice or index out of range",
        """
        Unlike in Python, an index or a slice that reaches beyond a dim is an error, not clamped. Negative numbers count from the
        end, steps are at least 1, and an empty slice is an error too.
        """,
    ),
    "E0207": CodeText(
        "sizes of a concat or split do not fit",
        """
        `concat` joins tensors that are equal in every dim but the joined one. `split(x, n, axis)` needs a dim that n divides;
        `split(x, [a, b], axis)` needs sizes whose sum is the dim.
        """,
    ),
    "E0208": CodeText(
        "dtype not allowed here",
        """
        Some operations are defined for some dtypes only: `/`, `exp`, `mean` for floats, `//` and `%` for i32, `&`, `|` and `~`
        for masks (bool). Cast the operand.
        """,
    ),
    "E0209": CodeText(
        "einsum specification",
        """
        `einsum("btd,de->bte", x, w)`: one letter a dim and operand, `->`, the letters of the result. Each letter stands for one
        size, each letter of the result occurs in an operand once, and there are as many operands as groups of letters.
        """,
    ),
    "E0210": CodeText(
        "broadcast to a shape it does not fit",
        """
        `broadcast(x, shape)` aligns at the right: each dim of x is equal to the one below it or a literal 1, and leading dims
        are added.
        """,
    ),
    "E0211": CodeText(
        "too many elements",
        """
        A tensor has 2**48 elements at most. What is numbered by i32 (`arange`, the results of `argmax` and `top_k`, the classes of
        `one_hot` and `cross_entropy`) has 2**31 positions at most, and one draw of random numbers 2**34 of them.
        """,
    ),
    "E0301": CodeText(
        "unknown name",
        """
        A name is a variable or parameter of the function, a constant, function or import of the file, or one the language knows
        (spec/language.md lists them). In an annotation a single letter that is not
        otherwise known is a dim bound by the argument; a longer name must be declared.
        """,
    ),
    "E0302": CodeText(
        "no such module",
        """
        `from mlc.nn import linear` reads the standard library, `from blocks import block` reads blocks.dsl beside the importing
        file. Nothing else can be imported.
        """,
    ),
    "E0303": CodeText(
        "the module has no such name", "\n        Functions and constants of a file can be imported, by their names.\n        "
    ),
    "E0304": CodeText(
        "circular import",
        """
        The file imports itself, at once or through others; the message shows the way round. Move what both need into a third file.
        """,
    ),
    "E0305": CodeText(
        "a name without a value",
        """
        The function assigns this name, but not on the way that was taken: `if` is decided at compile time and only the taken
        branch is elaborated.

            if training:
                h = dropout(x, 0.1)
            return h                 # error in evaluation: write `h = x` before the if
        """,
    ),
    "E0306": CodeText(
        "not a function",
        """
        Only functions are called. A variable may hide a function or an op of the same name from here on: rename the variable.

            sum = x + y
            return sum(x)            # error: `sum` is a tensor now
        """,
    ),
    "E0307": CodeText("a name is defined twice", "\n        Imports, constants and functions of a file share one set of names.\n        "),
    "E0308": CodeText(
        "no such attribute",
        """
        A tensor has `shape` and `dtype`; in a recipe a parameter has `name` and `shape`. Everything else is a function: `transpose(x)`.
        """,
    ),
    "E0309": CodeText(
        "an option that the program cannot have",
        """
        A run-time constant (`rate: f32 = 3e-4`) is an option of the program, --rate, under its bare name. That name may not be one
        that every program has (--seed, --temperature, the step), nor the name of such a constant of another file that the model reads,
        nor that of an input which follows a curve.
        """,
    ),
    "E0401": CodeText(
        "wrong arguments",
        """
        Too many or too few arguments, a keyword that the function does not have, or one that is given twice. Parameters behind a
        bare `*` are given by keyword. Any call of a function of a file also takes `name=` or `share=`, which opens a scope.
        """,
    ),
    "E0402": CodeText(
        "a value does not fit its annotation",
        """
        Parameters, annotated variables and returns are checked: dtype, number of dims and sizes. `real` is any float dtype, `_` any
        size, a leading `...` any number of dims, and a single letter that is not otherwise known takes its size from the argument,
        from left to right: `x: real[b, t, n], mask: bool[b, t]` wants a mask of x's first two sizes.
        """,
    ),
    "E0403": CodeText(
        "wrong kind of value",
        """
        The place wants another kind of value, such as a tensor, an int, a shape or an init. Values known at compile time (ints,
        floats, strings, tuples, None) and tensors are two worlds: a tensor is never a size, an axis or a name.
        """,
    ),
    "E0404": CodeText(
        "a decision on a tensor",
        """
        `if`, `and`, `or`, `not` and `assert` are decided at compile time; a tensor has a value only when the program runs. Write
        `select(condition, a, b)` to choose elements, `&`, `|` and `~` to combine masks.
        """,
    ),
    "E0405": CodeText(
        "assertion failed",
        """
        A function states what it needs with `assert condition, message`. It is checked at compile time, and reported at the call
        where the function belongs to the standard library.
        """,
    ),
    "E0406": CodeText("operands of the wrong kind", "\n        The operator does not take values of these kinds.\n        "),
    "E0407": CodeText("unpacking", "\n        `a, b = f(x)` wants as many values as names.\n        "),
    "E0408": CodeText(
        "index of a tuple out of range", "\n        A tuple of n items has the indices 0 to n - 1, and -n to -1 from the end.\n        "
    ),
    "E0409": CodeText(
        "recursion",
        """
        A function may not call itself, at once or through others: calls are inlined. Write a loop. A hundred calls in each other
        are too many too.
        """,
    ),
    "E0410": CodeText(
        "not a type",
        """
        Tensors: `f32[batch, width]`, also bf16, f16, f64, i32, bool and `real` (the recipe's precision); `f32` alone is a scalar of the
        running program. Compile time: dim, int, float, bool, str, shape, init, dtype, tuples of these.
        """,
    ),
    "E0411": CodeText(
        "not a number",
        """
        A computation at compile time divides by zero, leaves the domain of its function or is too large; or a number does not fit
        the dtype of the tensor it meets.
        """,
    ),
    "E0412": CodeText("a loop over something else", "\n        `for` runs over range(n), lists, tuples, shapes and zip(a, b).\n        "),
    "E0413": CodeText(
        "a constant of another type",
        """
        A constant of a file is a dim (an int from 1), int, float, bool or str, fixed at compile time; or f32, an option of the
        program: `rate: f32 = 3e-4` gives `--rate`.
        """,
    ),
    "E0414": CodeText(
        "more work or memory than a model takes at compile time",
        """
        Loops are unrolled and calls inlined when a model is compiled, so a program can ask for any amount of work. It ends after some
        millions of evaluated expressions, 200,000 instructions in one layer, lists or texts of more than 100,000 items, or tensors of
        more than 32 dims. The marked place is where it was when the budget ran out, most often in a loop that runs too often.

            for i in range(1000):
                for j in range(1000):
                    x = x + 1.0      # a million instructions: write x + 1000000.0, or an op over a whole tensor
        """,
    ),
    "E0501": CodeText(
        "a parameter is made twice",
        """
        The path of a parameter is made of the scopes opened by name= and its own name; nothing is numbered automatically.

            x = linear(x, width) + linear(x, width)                          # error: "weight" twice
            x = linear(x, width, name="a") + linear(x, width, name="b")      # a.weight, b.weight

        To use the same parameters again, give both calls `share="a"`.
        """,
    ),
    "E0502": CodeText(
        "a shared parameter has two shapes", "\n        Calls that share a scope must make parameters of equal shape and dtype.\n        "
    ),
    "E0503": CodeText(
        "a parameter that training does not have",
        """
        The model is elaborated once with `training` true and once with it false. Training decides which parameters exist;
        evaluation may use fewer of them, and with the same shapes.
        """,
    ),
    "E0504": CodeText(
        "effect",
        """
        `add_loss(name, value)` and `report(name, value)` take an f32 scalar, once a name; `accumulate(p, value)` takes a parameter
        itself and an f32 value of its shape. A report is not named as what each line of a log holds (loss, rate, tokens, ...).
        """,
    ),
    "E0505": CodeText(
        "two gradients for one parameter",
        """
        A parameter that is fed by `accumulate` gets no gradient of the loss: where the loss reads it, write `stop_gradient(p)`.
        """,
    ),
    "E0506": CodeText(
        "@model and @train",
        "\n        A compiled file has one function decorated @model and one decorated @train; only the compiler calls them.\n        ",
    ),
    "E0507": CodeText(
        "what a model returns",
        """
        The loss, an f32 scalar; or a record {"loss": l, "weight": n, "logits": z, "accuracy": a} whose values, but for the logits,
        are f32 scalars. Those behind the logits are not named as what each line of a log holds (rate, tokens, ...), nor as a report.
        """,
    ),
    "E0508": CodeText(
        "the weight depends on parameters",
        """
        The weight of a microbatch may depend on inputs and random numbers only, so that every stage can compute it.
        """,
    ),
    "E0509": CodeText(
        "recipe",
        """
        `@train(clip=1.0, precision=bf16, microbatches=8, groups=8)`. The function is called once for each parameter and returns the
        call of an @optimizer, or None to freeze it. An optimizer returns the new p; an init returns a value of the given shape.
        """,
    ),
    "E0510": CodeText("a kernel with effects", "\n        A @kernel only computes: no parameters, no effects.\n        "),
    "E0511": CodeText(
        "optimizer state",
        """
        Inside an @optimizer `state(name, shape)` reads what the last step stored, zero at first, and `store(name, value)` sets it
        for the next step, once a name and in f32 of the same shape.
        """,
    ),
    "E0512": CodeText(
        "input of a model",
        """
        An input is a tensor whose first dim counts the records. Its default says where it comes from when the data does not hold it
        by name: `targets: i32[batch, context] = following("tokens")`, or a curve for a scalar, `beta: f32 = ramp(1.0, over=1000.0)`.
        """,
    ),
    "E0513": CodeText("outside the model", "\n        Parameters and effects belong into the model and the functions it calls.\n        "),
    "E0514": CodeText("random numbers here", "\n        Recipes, rates and optimizers draw no random numbers.\n        "),
    "E0515": CodeText(
        "a name that is no path",
        '\n        Letters, digits, `_`, `-` and `*`, joined by dots: "attn.c_attn". A `*` stands for the leading dim.\n        ',
    ),
    "E0601": CodeText(
        "-D of an unknown name",
        """
        `-D name=value` sets a constant of the compiled file, not of its imports.
        """,
    ),
    "E0602": CodeText(
        "-D of another type",
        """
        The text after `=` must read as the type of the constant; a dim is at least 1 and at most 2147483647, an f32 one that is
        neither infinite nor rounded to 0.
        """,
    ),
    "E0603": CodeText("a constant has no value", "\n        A constant that is written without a value must be given with -D.\n        "),
    "E0701": CodeText(
        "an input does not fit the model",
        """
        `model.step(**inputs)` and `model.gradient(**inputs)` take every input by name. The
        first dim of each is the rows of a whole step: microbatches times batch. Index inputs (i32) take any integer array whose
        values are in range, float inputs any float array.
        """,
    ),
    "E0702": CodeText(
        "the model is closed",
        """
        A model opened with `build.open()` owns the memory that its parameters are views of. After `model.close()`, or the end of
        its `with` block, it computes nothing more. Views taken before stay readable as long as they are kept.
        """,
    ),
    "E0703": CodeText(
        "the running model reports an error",
        """
        The message is that of the runtime: a checkpoint that is damaged or of another model, a value out of range, a loss that
        is not finite.
        """,
    ),
    "E0704": CodeText(
        "the shared library does not fit this compiler",
        """
        The library was built by another version of mlc, or is not a library of mlc. Compile the model again.

        In Python, what `mlc.compile` returned opens the library that this call built. Where another compilation has put its own in
        the same folder, it is refused: give each a folder with `out=`.
        """,
    ),
    "E0705": CodeText(
        "a model that cannot take this call now",
        """
        A model serves one call at a time: while a thread is in `model.step`, another one that calls is refused, not queued. Use a lock
        around the calls, or open a model for each thread.

        A process forked from the one that opened the model has a copy of its memory and none of its threads. Tensors can be looked at
        there; to compute, open the model in that process, or let `multiprocessing` start processes by spawn or forkserver.
        """,
    ),
    "E0801": CodeText(
        "no C compiler",
        """
        The compiler named by the environment variable CC is used; without it, the first of cc, gcc and clang that is installed.
        `mlc doctor` shows what was found.
        """,
    ),
    "E0802": CodeText("make is missing", "\n        The emitted directory is built by make: GNU make, as `make` or `gmake`.\n        "),
    "E0803": CodeText(
        "machine not known",
        """
        `--march native` (the default) resolves to the features of this machine, which the Makefile then names. Anything else must
        be a name the C compiler's -march= takes, such as x86-64-v3.
        """,
    ),
    "E0804": CodeText(
        "a file cannot be written",
        """
        The output directory (`-o DIR`, default build/<stem>) must be writable, and so must a file named with -MF. Nothing is
        written over what was read, or over a file in the output directory that mlc did not make: its own directories are known by
        the first line of their src/Makefile, or by their plan.json.
        """,
    ),
    "E0805": CodeText(
        "the emitted sources do not build",
        """
        The notes show what the C compiler said. The sources are kept: run `make` in DIR/src to see everything. With a compiler of
        this decade this is a fault of mlc: please report it.
        """,
    ),
    "E0806": CodeText("a file cannot be read", "\n        A model is a text file in UTF-8.\n        "),
    "E0807": CodeText(
        "a file name that cannot name a program",
        """
        The program is called as the model's file without its suffix, and is named in a Makefile: letters, digits, `_`, `-`, `+`
        and `.` only. `src`, `plan.json`, `libmlc_mpi.so` and the headers of the runtime (`mlc`, ...) lie beside it and are taken.
        """,
    ),
    "E0808": CodeText(
        "an option that cannot be honoured",
        """
        What this version cannot do is refused, never ignored: it compiles for the targets that it has a record of, with the kernels
        that those have. Options that contradict each other are refused too.
        """,
    ),
    "E0809": CodeText(
        "microbatches and groups do not fit together",
        """
        The microbatches of a step are folded in `groups` groups of equal size: groups must divide microbatches, and both are at
        least 1.
        """,
    ),
    "E0810": CodeText(
        "nothing to tokenize",
        """
        `mlc tokenize` wants text: at least one byte; and with `--level characters` UTF-8 text of at most 65536 different characters.
        """,
    ),
    "E0811": CodeText(
        "not a code, and not a plan",
        """
        `mlc explain` takes an error code such as E0203, or the plan.json of a compiled model.
        """,
    ),
    "E0812": CodeText(
        "more memory than can be addressed",
        """
        The plan places every tensor of a step in one mapping, and this model's is larger than any process can map. Make the
        batch, the context or the widths smaller; `mlc compile --emit plan` and then `mlc explain plan.json` show where memory goes.
        """,
    ),
    "E0813": CodeText(
        "replicas do not divide the microbatches",
        """
        Each replica takes an equal share of the microbatches of a step, whole groups of them: dp must divide both the number of
        microbatches and the number of groups. A layout never changes either, for both decide the bits of the result.
        """,
    ),
    "E0814": CodeText(
        "a plan of another model",
        """
        `--plan` takes mesh, cut and order of actions from a plan.json of the same model: the same calls in order. Other widths are fine.
        """,
    ),
    "E0815": CodeText(
        "a dtype that the target lacks",
        """
        Each target states the dtypes that its programs and its kernels may have. The message names the dtype, the target and the
        first value of that dtype, or the kernel; another precision of the recipe, or a cast, does without it.
        """,
    ),
    "E0816": CodeText(
        "no CUDA toolkit",
        """
        Programs for GPUs are built by nvcc, of CUDA 12.9 or newer, and linked with libcudart_static.a. Both are looked for
        where CUDA_HOME says, beside the nvcc of PATH, among the packages of this Python and in /usr/local/cuda: `pip install 'mlc[cuda]'`
        brings them. Nothing else of NVIDIA is needed to build, and a driver to run. `--emit c` writes the sources without.
        """,
    ),
    "E1001": CodeText(
        "a call that no rank can hold",
        """
        A stage holds whole calls of layer functions. This one needs more memory than a rank has, all by itself: its parameters with
        gradients and optimizer state, and what it keeps from forward to backward of each microbatch in flight. A smaller batch or
        context helps, or a schedule that has fewer microbatches in flight.
        """,
    ),
    "E1002": CodeText(
        "no cut fits the memory",
        """
        The chain of calls does not fit on so many ranks of this memory under this schedule. The message names the fullest rank of the
        cut that comes nearest. More ranks, a smaller batch or fewer microbatches in flight help.
        """,
    ),
    "E1003": CodeText(
        "not a split",
        """
        `--split "embed block*5 | block*7 head"` lists the calls of the chain in order, stages divided by `|`. A word is the name of a
        layer function or part of a call path; `name*5` stands for five calls in a row, `name*` for all that follow. There are as many
        parts as stages; a part may be empty.
        """,
    ),
    "E1004": CodeText(
        "a split that does not follow the chain",
        """
        The words of `--split` name every call of the chain once, in order. The message says which call stands at the marked word.
        `mlc explain plan.json` lists the calls of a plan.
        """,
    ),
    "E1005": CodeText(
        "no layer that divides",
        """
        Ranks of an axis divide layers along factors of their dims: heads, hidden features, the vocabulary, tokens. Each factor that is
        divided must have as many equal runs as there are strips (`--splits`, by default as many as ranks). Here nothing that a parameter
        has can be divided so; the message names the numbers that divide some factor.
        """,
    ),
    "E1006": CodeText(
        "forms too many to search",
        """
        How a layer is divided among ranks is found by an exact search over the forms of all its values. For this layer function it would
        not end in reasonable time and memory. A layer function of fewer instructions helps: divide it into two.
        """,
    ),
    "E1101": CodeText(
        "no such schedule",
        """
        `mlc schedule --help` names them, `mlc schedule --compare` shows what each costs.
        """,
    ),
    "E1102": CodeText(
        "chunks that a schedule does not take",
        """
        gpipe, 1f1b, zb-h1 and zb-h2 have one stage a rank, zb-v and dualpipe-v two; interleaved, bfs and auto take any number.
        """,
    ),
    "E1103": CodeText(
        "no ranks or no microbatches",
        "\n        A pipeline has at least one rank, and a step at least one microbatch for each replica.\n        ",
    ),
    "E1104": CodeText(
        "lists that are not those of a step",
        """
        Every stage is on one rank and runs every microbatch once: its forward F, then its input gradient I, then its weight gradient
        W, or B, which is I and W. Where gradients are summed, each kind takes the microbatches of a stage in ascending order.
        """,
    ),
    "E1105": CodeText(
        "a schedule that cannot run to its end",
        """
        Ranks execute their lists in order. The message says which action each waiting rank has reached, and what that action needs
        from another rank: somewhere in this circle an action must come earlier.
        """,
    ),
    "E1106": CodeText(
        "not a schedule's CSV",
        """
        One line a rank, one cell an action: `0F0,0F1,,0I0,0W0`; an empty cell is idle time. Kinds are F, I, W and B; cells such as
        `(0F8;7B0)OVERLAP_F_B` hold several. It is the compute_only form of torch.distributed.pipelining.
        """,
    ),
    "E1107": CodeText(
        "too little memory for any order",
        """
        Every rank must hold at least what one microbatch leaves on each of its chunks at once.
        """,
    ),
    "E1108": CodeText(
        "more than a plan is made for",
        """
        Every action of every rank is planned, simulated and proved before a program is written. There are limits on ranks, replicas,
        chunks, microbatches and the product of stages and microbatches that lie far beyond what runs; a zero too many is told at once.
        """,
    ),
    "E1201": CodeText(
        "not a plan",
        """
        `mlc verify` and `mlc explain` read the plan.json that this version of mlc wrote beside a program. Compile the model again.
        """,
    ),
    "E1202": CodeText(
        "the lists deadlock",
        """
        Every rank waits for another: no order of events lets them go on. The message names each rank, the action it stands at and
        whom it waits for. The slots of a channel count: a sender waits until the receiver has freed one.
        """,
    ),
    "E1203": CodeText(
        "messages do not match",
        """
        Each message of a channel is sent once by its sender and received once by its receiver, both in ascending order.
        """,
    ),
    "E1204": CodeText(
        "something is done twice, or not at all",
        """
        Each microbatch of each stage is forwarded once and differentiated once (I and W, or B), in ascending order in each phase; each
        use of a parameter is summed once; each element of each parameter is updated by one replica of its owner.
        """,
    ),
    "E1205": CodeText(
        "a buffer is read too early or overwritten too soon",
        """
        A slot holds one live microbatch: it is written before it is read, and nothing else is put there until its last reader is done
        and, if it is a message, until it has left.
        """,
    ),
    "E1206": CodeText(
        "buffers overlap",
        """
        Buffers that are in use at once share no byte, lie in the arena of their rank, and have room for what is put there.
        """,
    ),
    "W0501": CodeText(
        "a parameter that reaches no loss",
        """
        Nothing that leaves the model depends on this parameter: no loss, metric or logits of training or evaluation, and no
        `accumulate` feeds it. It is made, stored in every checkpoint and never trained. Often the result of its layer was forgotten.

            h = linear(x, width, name="dead")       # warning: nothing reads h
            y = linear(x, width, name="live")
            return mean(y * y)
        """,
    ),
    "W0502": CodeText(
        "a masked loss without a weight",
        """
        The step's loss is the mean over microbatches weighted by the record's "weight", which is 1 where the model returns none. A loss
        that is a mean over the targets that count (`ignore=`, or a sum divided by the number of places that a mask keeps) then depends
        on how records fall into microbatches: the same data under another batch or number of microbatches trains another model.
        Return the number of targets that count; then the step's loss is the mean over all of them.

            loss = cross_entropy(logits, targets, ignore=-100)
            return {"loss": loss, "weight": sum(cast(targets != -100, f32))}
        """,
    ),
    "W0503": CodeText(
        "a model that reads no data",
        """
        Neither the loss nor a metric nor the logits depends on an input of the model, so that every record of the data gives the same.
        Often a name was assigned again, or the result of a layer was forgotten.

            def m(x: real[batch, 8], y: real[batch, 8]):
                x = full([batch, 8], 1.0)           # warning: x and y are read nowhere
                return mean(linear(x, 1) ** 2.0)
        """,
    ),
}
