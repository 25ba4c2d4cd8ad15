"""The parser against Python's own, its diagnostics against golden files, the formatter against its promises; all of them on noise."""

from __future__ import annotations

import ast
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.diagnostics import CODES, MlcError, nearest
from mlc.render import as_json, errors_page, explain, human
from mlc.syntax import tree
from mlc.syntax.formatter import format_text
from mlc.syntax.parser import parse
from mlc.syntax.tokens import FOREIGN, KEYWORDS, OPERATORS, RESERVED, Source, read_text, scan
from mlc.syntax.tree import DEPTH

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted([*(ROOT / "examples").glob("*.dsl"), *(ROOT / "stdlib").glob("*.dsl")])
ERRORS = sorted((Path(__file__).parent / "errors").glob("E01*.dsl"))
NOISE = [
    *OPERATORS, *sorted(KEYWORDS | RESERVED), *FOREIGN, "x", "1", "1.5", '"s"', "'s'", 'f"{x}"', 'f"{x:.2f} {{"', '"""', "\n", "\n    ",
    "    ", "\t", "# c\n", "\\", "\0", "\u00e9", "\u201c", "\r", "\r\n", "1e999", "0x", "\ufeff", "\ud800", "\u202e", ",\n", "(\n",
]  # fmt: skip


def names_of(path: Path) -> str:
    return path.stem


def failure(text: str | bytes) -> tuple[str, ...]:
    """The codes that parsing ends in."""
    with pytest.raises(MlcError) as caught:
        parse(text, "a.dsl")
    return tuple(d.code for d in caught.value.diagnostics)


# --------------------------------------------------------------------------------------------- the tree, by Python


@pytest.mark.parametrize("path", MODELS, ids=names_of)
def test_models_mean_what_python_reads(path: Path) -> None:
    text = path.read_text()
    module = parse(text, path.name)
    theirs = {f.name: f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}
    assert [f.name for f in module.functions] == list(theirs)
    for function in module.functions:
        body = theirs[function.name].body[1 if function.docstring else 0 :]
        assert [dump(s) for s in function.body] == [dump_python(s) for s in body]
        arguments = theirs[function.name].args
        assert [p.name for p in function.parameters] == [a.arg for a in [*arguments.args, *arguments.kwonlyargs]]
        for parameter, argument in zip(function.parameters, [*arguments.args, *arguments.kwonlyargs]):
            assert argument.annotation is not None
            assert dump(parameter.annotation) == dump_python(argument.annotation)


def place(node: tree.Expression | tree.Slice) -> tuple[int, int, int, int]:
    return node.span.line, node.span.column, node.span.end_line, node.span.end_column


def place_python(node: ast.expr) -> tuple[int, int, int, int]:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return node.lineno, node.col_offset + 1, node.end_lineno, node.end_col_offset + 1


def dump(node: object) -> object:
    """A tree of ours as nested tuples, with the places of the leaves and calls."""
    match node:
        case tree.Name(name):
            return ("name", name, place(node))
        case tree.Integer(value) | tree.Float(value) | tree.Boolean(value) | tree.String(value):
            return ("constant", value, place(node))
        case tree.NoneValue():
            return ("constant", None, place(node))
        case tree.Dots():
            return ("constant", ..., place(node))
        case tree.Format(parts):
            return ("format", tuple(p if isinstance(p, str) else (dump(p.value)[:2], p.spec) for p in parts))  # type: ignore[index]
        case tree.Tuple(items) | tree.List(items):
            return ("sequence", tuple(map(dump, items)))
        case tree.Record(items):
            return ("record", tuple((dump(p.key), dump(p.value)) for p in items))
        case tree.Call(function, arguments, keywords):
            return ("call", dump(function), tuple(map(dump, arguments)), tuple((k.name, dump(k.value)) for k in keywords), place(node))
        case tree.Slice(start, stop, step):
            return ("slice", dump(start), dump(stop), dump(step))
        case tree.Subscript(value, items):
            return ("subscript", dump(value), tuple(map(dump, items)), place(node))
        case tree.Attribute(value, name):
            return ("attribute", dump(value), name, place(node))
        case tree.Unary(operator, value):
            return ("unary", operator, dump(value))
        case tree.Not(value):
            return ("unary", "not", dump(value))
        case tree.Binary(operator, left, right) | tree.Compare(operator, left, right):
            return ("binary", operator, dump(left), dump(right))
        case tree.Is(left, right, negated):
            return ("binary", "is not" if negated else "is", dump(left), dump(right))
        case tree.In(left, right, negated):
            return ("binary", "not in" if negated else "in", dump(left), dump(right))
        case tree.And(left, right):
            return ("binary", "and", dump(left), dump(right))
        case tree.Or(left, right):
            return ("binary", "or", dump(left), dump(right))
        case tree.Choose(condition, then, otherwise):
            return ("choose", dump(condition), dump(then), dump(otherwise))
        case tree.Assign(target, value):
            return ("assign", dump(target), dump(value))
        case tree.Augment(target, operator, value):
            return ("augment", dump(target), operator, dump(value))
        case tree.Annotate(target, annotation, value):
            return ("annotate", dump(target), dump(annotation), dump(value))
        case tree.Return(value):
            return ("return", dump(value))
        case tree.Assert(condition, message):
            return ("assert", dump(condition), dump(message))
        case tree.Branch(condition, then, otherwise):
            return ("branch", dump(condition), tuple(map(dump, then)), tuple(map(dump, otherwise)))
        case tree.Loop(target, values, body):
            return ("loop", dump(target), dump(values), tuple(map(dump, body)))
        case tree.ExpressionStatement(value):
            return ("expression", dump(value))
        case None:
            return None
    raise AssertionError(node)


OPERATOR_NAMES = {
    "Add": "+", "Sub": "-", "Mult": "*", "Div": "/", "FloorDiv": "//", "Mod": "%", "MatMult": "@", "Pow": "**", "BitAnd": "&", "BitOr": "|",
    "USub": "-", "Invert": "~", "Not": "not", "Eq": "==", "NotEq": "!=", "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Is": "is",
    "IsNot": "is not", "In": "in", "NotIn": "not in", "And": "and", "Or": "or",
}  # fmt: skip


def dump_python(node: ast.AST | None) -> object:
    """Python's tree in the same tuples."""
    match node:
        case ast.Name(name):
            return ("name", name, place_python(node))
        case ast.Constant(value):
            return ("constant", value, place_python(node))
        case ast.JoinedStr(parts):
            return ("format", tuple(_part(p) for p in parts))
        case ast.Tuple(items) | ast.List(items):
            return ("sequence", tuple(map(dump_python, items)))
        case ast.Dict(keys, values):
            return ("record", tuple((dump_python(k), dump_python(v)) for k, v in zip(keys, values)))
        case ast.Call(function, arguments, keywords):
            named = tuple((k.arg, dump_python(k.value)) for k in keywords)
            return ("call", dump_python(function), tuple(map(dump_python, arguments)), named, place_python(node))
        case ast.Slice(start, stop, step):
            return ("slice", dump_python(start), dump_python(stop), dump_python(step))
        case ast.Subscript(value, index):
            items = index.elts if isinstance(index, ast.Tuple) else [index]
            return ("subscript", dump_python(value), tuple(map(dump_python, items)), place_python(node))
        case ast.Attribute(value, name):
            return ("attribute", dump_python(value), name, place_python(node))
        case ast.UnaryOp(operator, value):
            return ("unary", OPERATOR_NAMES[type(operator).__name__], dump_python(value))
        case ast.BinOp(left, operator, right) | ast.Compare(left, [operator], [right]):
            return ("binary", OPERATOR_NAMES[type(operator).__name__], dump_python(left), dump_python(right))
        case ast.BoolOp(operator, [*before, last]):
            left = dump_python(before[0] if len(before) == 1 else ast.BoolOp(operator, before))
            return ("binary", OPERATOR_NAMES[type(operator).__name__], left, dump_python(last))
        case ast.IfExp(condition, then, otherwise):
            return ("choose", dump_python(condition), dump_python(then), dump_python(otherwise))
        case ast.Assign([target], value):
            return ("assign", dump_python(target), dump_python(value))
        case ast.AugAssign(target, operator, value):
            return ("augment", dump_python(target), OPERATOR_NAMES[type(operator).__name__], dump_python(value))
        case ast.AnnAssign(target, annotation, value):
            return ("annotate", dump_python(target), dump_python(annotation), dump_python(value))
        case ast.Return(value):
            return ("return", dump_python(value))
        case ast.Assert(condition, message):
            return ("assert", dump_python(condition), dump_python(message))
        case ast.If(condition, then, otherwise):
            return ("branch", dump_python(condition), tuple(map(dump_python, then)), tuple(map(dump_python, otherwise)))
        case ast.For(target, values, body):
            return ("loop", dump_python(target), dump_python(values), tuple(map(dump_python, body)))
        case ast.Expr(value):
            return ("expression", dump_python(value))
        case None:
            return None
    raise AssertionError(ast.dump(node))


def _part(part: ast.expr) -> object:
    if isinstance(part, ast.Constant):
        return part.value
    assert isinstance(part, ast.FormattedValue)
    spec = part.format_spec
    assert spec is None or isinstance(spec, ast.JoinedStr)
    return dump_python(part.value)[:2], "".join(v.value for v in spec.values) if spec else ""  # type: ignore[index,attr-defined]


def test_every_construct_means_what_python_reads() -> None:
    text = (
        "def f(a: real[...], *, b: int = -1, c: (f32, f32) = (1, 2)):\n"
        "    x, = a\n    x, y = (a), (a,)\n    x = a if not b else a or b and c\n    x = a is b\n    x = a is not None\n"
        "    x = a in [b, c]\n    x = a not in (b,)\n    x += a ** -b ** 2\n    x = -a ** 2 - -b * ~c @ a // b % c / a & b | c\n"
        "    x: real[..., 4 * b] = a[1:2, ::b, None, ..., :, -1:][0]\n    x = {'loss': a, \"n\": ()}\n    x = f(a, b=c,)\n"
        "    for i, j in zip(a, b):\n        x = 'a' \"b\" f'{i}c{{{j + 1:.2f}' f\"d\"\n    for (i, j) in a:\n        g(i)\n"
        "    if a:\n        return 1_000\n    elif b <= c:\n        return 1e-3, .5, 2.\n"
        "    elif c != b:\n        return None\n    else:\n        return True\n"
        '    assert a, b\n    assert a == b\n    return """a\nb""", \'it\\\'s\\n\'\n'
    )
    ours = parse(text, "a.dsl").functions[0].body
    theirs = ast.parse(text).body[0]
    assert isinstance(theirs, ast.FunctionDef)
    assert [dump(s) for s in ours] == [dump_python(s) for s in theirs.body]


def test_spans_inside_format_strings() -> None:
    (function,) = parse('def f():\n    return f"{{a}} {  b.c :>3}"\n', "a.dsl").functions
    match function.body[0]:
        case tree.Return(tree.Format(("{a} ", tree.Interpolation(value, ">3", _)), span)):
            assert (value.span.line, value.span.column, value.span.end_column) == (2, 23, 26)
            assert (span.column, span.end_column) == (12, 32)
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", '"""doc"""', "\ufeffx: int = 1", b"\xef\xbb\xbfx: int = 1", "x: int"])
def test_files_of_little(text: str | bytes) -> None:
    parse(text, "a.dsl")


def test_line_ends_do_not_matter() -> None:
    text = MODELS[0].read_text()
    module = parse(text, "a.dsl")
    for changed in (text.replace("\n", "\r\n"), text.replace("\n", "\r"), text.rstrip("\n"), text + "\n\n   \n# end"):
        assert parse(changed, "a.dsl") == module
        assert parse(changed.encode(), "a.dsl") == module


# ----------------------------------------------------------------------------------------------------- diagnostics


@pytest.mark.parametrize("path", ERRORS, ids=names_of)
def test_syntax_errors(path: Path, request: pytest.FixtureRequest) -> None:
    """Each file gives exactly the lines of the .txt beside it, its own code first among them."""
    with pytest.raises(MlcError) as caught:
        parse(path.read_bytes(), path.name)
    found = "".join(human(d, {path.name: path.read_text()}) + "\n" for d in caught.value.diagnostics)
    golden = path.with_suffix(".txt")
    if request.config.getoption("--accept"):
        golden.write_text(found)
    assert golden.exists(), f"no {golden.name}; pytest --accept writes it"
    assert found == golden.read_text()
    assert caught.value.diagnostics[0].code == path.name[:5]


def test_every_syntax_code_has_a_file() -> None:
    stated = {code for code in CODES if code.startswith("E01")}
    without_file = {"E0106", "E0107", "E0120"}  # not text; long; of Python functions: tested below and in test_python
    assert {p.name[:5] for p in ERRORS} == stated - without_file


def test_not_utf8() -> None:
    with pytest.raises(MlcError) as caught:
        parse(b"x: int = 1\ny: int = \xff\n", "a.dsl")
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, str(diagnostic.span)) == ("E0106", "a.dsl:2:10")


@pytest.mark.parametrize(
    "text",
    [
        "x: int = " + "(" * 5000 + "1" + ")" * 5000,
        "x: int = " + "-" * 5000 + "1",
        "x: int = " + " + ".join("1" * 5000),
        "x: int = " + " ** ".join("1" * 5000),
        "x: int = a" + ".b" * 5000,
        "x: int = a" + "[0]" * 5000,
        "x: int = " + "not " * 5000 + "a",
        "x: int = " + "1 if a else " * 5000 + "1",
        "def f():\n" + "".join(" " * n + "if a:\n" for n in range(1, 400)) + " " * 400 + "return 1",
        "def f():\n    if a:\n        return 1\n" + "    elif b:\n        return 1\n" * 5000,
    ],
)
def test_too_deep(text: str) -> None:
    assert failure(text)[0] == "E0107"


def test_depth_in_use() -> None:
    module = parse("x: int = " + " + ".join("1" * (DEPTH - 5)), "a.dsl")
    assert hash(module) == hash(module) and repr(module)


def test_several_errors_in_one_run() -> None:
    text = "def f(x: dim)\n    y = x +\n    if y:\n        z = = 1\n    return z z\n\n\ndef g(x):\n    return 1\n"
    assert failure(text) == ("E0116", "E0101", "E0101", "E0101", "E0113")


def test_at_most_twenty_errors() -> None:
    assert len(failure("x = 1\n" * 100)) == 20


def test_rendering_marks_the_span() -> None:
    with pytest.raises(MlcError) as caught:
        parse("def f():\n\tx = 1\n", "a.dsl")
    with pytest.raises(MlcError) as caught:
        parse("def f():\n    return \t abc lmn\n", "a.dsl")
    (diagnostic,) = caught.value.diagnostics
    shown = human(diagnostic, {"a.dsl": "def f():\n    return \t abc lmn\n"})
    assert shown.splitlines()[:3] == [
        "a.dsl:2:18: error[E0101]: unexpected `lmn`",
        "    return \t abc lmn",
        "           \t     ^~~",
    ]
    assert human(diagnostic).splitlines()[1].startswith("help:"), "without the text there is no excerpt"
    data = json.loads(as_json(diagnostic, {"a.dsl": "def f():\n    return \t abc lmn\n"}))
    assert data["code"]["code"] == "E0101" and data["level"] == "error" and data["rendered"] == shown + "\n"
    assert (data["spans"][0]["byte_start"], data["spans"][0]["byte_end"]) == (26, 29)
    assert data["children"][0]["level"] == "help"


def test_codes_are_explained() -> None:
    assert list(CODES) == sorted(CODES)
    page = errors_page()
    for code, entry in CODES.items():
        assert entry.title and entry.text.strip()
        assert explain(code).startswith(f"{code}: {entry.title}\n\n")
        assert f"## {code}: {entry.title}\n" in page


def test_nearest() -> None:
    assert nearest("wdith", ["width", "heads", "depth"]) == "width"
    assert nearest("Linear", ["linear", "lines"]) == "linear"
    assert nearest("x", ["y", "z"]) is None
    assert nearest("X", ["x", "z"]) == "x"
    assert nearest("foo", []) is None


# ------------------------------------------------------------------------------------------------------- formatter


@pytest.mark.parametrize("path", MODELS, ids=names_of)
def test_models_are_formatted(path: Path) -> None:
    assert format_text(path.read_text(), path.name) == path.read_text(), "run: mlc fmt"


def test_canonical_form(request: pytest.FixtureRequest) -> None:
    source = Path(__file__).parent / "format" / "rough.dsl"
    golden = source.with_name("canonical.dsl")
    found = format_text(source.read_text(), source.name)
    if request.config.getoption("--accept"):
        golden.write_text(found)
    assert found == golden.read_text()


def test_examples_of_the_specification() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "spec" / "language.md").read_text(), re.DOTALL)
    models = [block for block in blocks if "import mlc" not in block]
    assert models
    for block in models:
        assert format_text(block, "language.md") == block


def comments(text: str) -> list[str]:
    return sorted("".join(t.text.split()) for t in scan(Source(read_text(text, ""), "")) if t.kind == "COMMENT")


def check_format(text: str, module: tree.Module) -> None:
    once = format_text(text, "a.dsl")
    assert format_text(once, "a.dsl") == once
    assert parse(once, "a.dsl") == module
    assert comments(once) == comments(text)


# ----------------------------------------------------------------------------------------------------------- noise


def changed(text: str, choose: random.Random, changes: int) -> str:
    for _ in range(changes):
        start = choose.randrange(len(text) + 1)
        end = min(len(text), start + choose.choice([0, 0, 1, 2, 5, 20]))
        other = choose.randrange(len(text) + 1)
        text = text[:start] + choose.choice([*NOISE, "", text[other : other + 40], chr(choose.randrange(32, 127))]) + text[end:]
    return text


def rearranged(text: str, choose: random.Random) -> str:
    """New lines, comments and spaces where they do not matter (mostly)."""
    out: list[str] = []
    depth = 0
    for character in text:
        out.append(character)
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        if depth and character in "([{, " and choose.random() < 0.05:
            out.append(choose.choice(["\n", "\n   ", " # said\n", "\n  #alone\n", "  "]))
        elif not depth and character in " \n" and choose.random() < 0.03:
            out.append("  " if character == " " else choose.choice(["\n", "\n\n\n", "# said\n", "    # inside\n", "  #odd\n"]))
    return "".join(out)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODELS), st.randoms(use_true_random=False), st.integers(0, 4), st.booleans())
def test_changed_models(path: Path, choose: random.Random, changes: int, whole: bool) -> None:
    text = path.read_text()
    if not whole:
        lines = text.split("\n")
        start = choose.randrange(len(lines))
        text = "\n".join(lines[start : start + choose.randrange(1, 30)])
    text = changed(rearranged(text, choose), choose, changes)
    try:
        module = parse(text, "a.dsl")
    except MlcError as error:
        for diagnostic in error.diagnostics:
            assert diagnostic.code in CODES
            span = diagnostic.span
            assert (span.end_line, span.end_column) > (span.line, span.column) >= (1, 1)
            human(diagnostic, {"a.dsl": text})
            as_json(diagnostic, {"a.dsl": text})
    else:
        check_format(text, module)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.binary(), st.lists(st.sampled_from(NOISE)).map(" ".join)))
def test_any_text_ends_in_a_module_or_an_error(text: str | bytes) -> None:
    try:
        parse(text, "a.dsl")
    except MlcError as error:
        assert error.diagnostics
