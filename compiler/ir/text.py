"""The text form of the IR. Lossless: parse(print(x)) == x, for functions, programs and steps.

    func @block(%x: f32[batch=12, width=128], %w: f32[width=128]) -> (%y) {
      %y = mul %x, %b {} : f32[batch=12, width=128]  @gpt.dsl:3:7-3:12 from @gpt.dsl:20:9-20:14 via elaborate
    }

    value       %name, quoted as a JSON string where the name has other characters than letters, digits and _ . * # / -
    type        dtype[dim, ...]
    dim         factors joined by *; a factor is size or label=size; 1 is the literal 1, ""=1 an unlabelled 1 that does not stretch
    attribute   none, true, false, 3, 0.5, inf, "text", <dim>, (tuple,), [dim, ...] for a tuple of dims
    record      Name {field=value, ...}: every other part of a program, by the names of its class; values may be types,
                spans, functions and records too
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from mlc.diagnostics import Diagnostic, MlcError, Span
from mlc.ir import program as records
from mlc.ir.dtypes import DTYPES
from mlc.ir.function import Attribute, Function, Instruction
from mlc.ir.program import Program, Step
from mlc.ir.reader import Item, Reader
from mlc.ir.types import ONE, Dim, Factor, TensorType, Value

_BARE_VALUE = re.compile(r"[\w.*#/-]+\Z", re.ASCII)
_BARE_FILE = re.compile(r"[\w./<>+-]+\Z", re.ASCII)
_BARE_LABEL = re.compile(r"(?!(?:inf|nan)\Z)[A-Za-z_][\w.]*\Z", re.ASCII)

#: The classes written as records.
_RECORDS: dict[str, type] = {
    c.__name__: c
    for c in (
        records.Parameter, records.Following, records.Input, records.Bound, records.Scalar, records.Update, records.Effect, records.Unit,
        records.Call, records.Chain, records.Recipe, records.Program, records.Variant, records.Step,
    )
}  # fmt: skip


# Printing


def _name(name: str, bare: re.Pattern[str]) -> str:
    return name if bare.match(name) else json.dumps(name)


def print_value(value: Value) -> str:
    return f"%{_name(value.name, _BARE_VALUE)}"


def print_dim(d: Dim) -> str:
    return "*".join(map(_print_factor, d.factors)) if d.factors else "1"


def _print_factor(factor: Factor) -> str:
    if not factor.label:
        return str(factor.size) if factor.size != 1 else '""=1'
    return f"{_name(factor.label, _BARE_LABEL)}={factor.size}"


def print_type(t: TensorType) -> str:
    return f"{t.dtype}[{', '.join(map(print_dim, t.dims))}]"


def print_span(span: Span) -> str:
    here = f"@{_name(span.file, _BARE_FILE)}:{span.line}:{span.column}-{span.end_line}:{span.end_column}"
    return here if span.caller is None else f"{here} from {print_span(span.caller)}"


def print_attribute(value: Attribute) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value)
        case Dim():
            return f"<{print_dim(value)}>"
        case (Dim(), *_) if len(dims := [v for v in value if isinstance(v, Dim)]) == len(value):
            return f"[{', '.join(map(print_dim, dims))}]"
        case _:
            inner = ", ".join(map(print_attribute, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"


def print_instruction(i: Instruction) -> str:
    """One line without indent."""
    results = ", ".join(map(print_value, i.results))
    operands = "".join(f"{',' if n else ''} {print_value(v)}" for n, v in enumerate(i.operands))
    attributes = f" {{{', '.join(f'{k}={print_attribute(v)}' for k, v in i.attributes)}}}" if i.attributes else ""
    types = ", ".join(print_type(v.type) for v in i.results)
    return f"{results} = {i.op}{operands}{attributes} : {types}  {print_span(i.span)} via {_name(i.via, _BARE_LABEL)}"


def print_function(function: Function) -> str:
    """A block of lines, without a newline at its end."""
    parameters = ", ".join(f"{print_value(p)}: {print_type(p.type)}" for p in function.parameters)
    results = ", ".join(map(print_value, function.results))
    head = f"func @{_name(function.name, _BARE_VALUE)}({parameters}) -> ({results}) {{"
    return "\n".join([head, *(f"  {print_instruction(i)}" for i in function.instructions), "}"])


def _print_field(value: Any) -> str:
    match value:
        case Function():
            return print_function(value)
        case Span():
            return print_span(value)
        case TensorType():
            return print_type(value)
        case Dim():
            return print_attribute(value)
        case tuple() if any(_is_block(v) for v in value):
            return _block("(", [f"{_print_field(v)}," for v in value], ")")
        case tuple() if any(not isinstance(v, Dim) for v in value):
            inner = ", ".join(map(_print_field, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        case _ if is_dataclass(value):
            return _print_record(value)
        case _:
            return print_attribute(value)


def _is_block(value: Any) -> bool:
    return isinstance(value, Function) or (is_dataclass(value) and not isinstance(value, Dim | Span | TensorType))


def _print_record(record: Any) -> str:
    pairs = [f"{f.name}={_print_field(getattr(record, f.name))}" for f in fields(record)]
    if any("\n" in pair for pair in pairs):
        return _block(f"{type(record).__name__} {{", [f"{pair}," for pair in pairs], "}")
    return f"{type(record).__name__} {{{', '.join(pairs)}}}"


def _block(head: str, lines: list[str], tail: str) -> str:
    return "\n".join([head, *("  " + line.replace("\n", "\n  ") for line in lines), tail])


def print_program(program: Program | Step) -> str:
    return _print_record(program)


# Parsing

def _read_integer(r: Reader) -> int:
    text = r.text_here
    if not text.isdigit():
        raise r.fault(f"expected a size, got {text!r}")
    return int(r.take("number"))


def _read_dim(r: Reader) -> Dim:
    factors = [_read_factor(r)]
    while r.accept("*"):
        factors.append(_read_factor(r))
    return ONE if factors == [None] else Dim(tuple(f for f in factors if f is not None))


def _read_factor(r: Reader) -> Factor | None:
    """None for a bare 1."""
    if r.kind == "number":
        size = _read_integer(r)
        return None if size == 1 else Factor("", size)
    label = r.after("string" if r.kind == "string" else "word", 0)
    r.expect("=")
    return Factor(label, _read_integer(r))


def _read_type(r: Reader) -> TensorType:
    if r.text_here not in DTYPES:
        raise r.fault(f"expected a type, got {r.text_here!r}")
    dtype = r.take("word")
    r.expect("[")
    return TensorType(dtype, tuple(r.listed(lambda: _read_dim(r), "]")))


_SPAN = re.compile(r"@(?P<file>.*):(\d+):(\d+)-(\d+):(\d+)\Z", re.DOTALL)


def _read_span(r: Reader) -> Span:
    match = _SPAN.match(r.take("span"))
    assert match is not None
    file = match["file"]
    line, column, end_line, end_column = map(int, match.groups()[1:])
    caller = _read_span(r) if r.accept("from") else None
    return Span(json.loads(file) if file.startswith('"') else file, line, column, end_line, end_column, caller)


_WORDS: dict[str, Attribute] = {"none": None, "true": True, "false": False}


def _read_item(r: Reader) -> Any:
    """An attribute, or what else the field of a record holds."""
    match r.kind, r.text_here:
        case "number", text:
            r.at += 1
            return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
        case "string", text:
            r.at += 1
            return json.loads(text)
        case "span", _:
            return _read_span(r)
        case "mark", "<":
            r.expect("<")
            value = _read_dim(r)
            r.expect(">")
            return value
        case "mark", "[":
            r.expect("[")
            return tuple(r.listed(lambda: _read_dim(r), "]"))
        case "mark", "(":
            r.expect("(")
            return tuple(r.listed(lambda: _read_item(r), ")"))
        case "word", "func":
            return _read_function(r)
        case "word", word if word in _WORDS:
            r.at += 1
            return _WORDS[word]
        case "word", word if word in _RECORDS:
            return _read_record(r)
        case _:
            return _read_type(r)


def _read_pair(r: Reader) -> tuple[str, Any]:
    key = r.take("word")
    r.expect("=")
    return key, _read_item(r)


def _read_record(r: Reader) -> Any:
    name = r.take("word")
    r.expect("{")
    pairs = r.listed(lambda: _read_pair(r), "}")
    if [key for key, _ in pairs] != [f.name for f in fields(_RECORDS[name])]:
        raise r.fault(f"the fields of {name} are {', '.join(f.name for f in fields(_RECORDS[name]))}")
    return _RECORDS[name](**dict(pairs))


def _read_function(r: Reader) -> Function:
    r.expect("func")
    name = r.after("function", 1)
    values: dict[str, Value] = {}

    def parameter() -> Value:
        key = r.after("value", 1)
        r.expect(":")
        return Value(key, _read_type(r))

    def known() -> Value:
        key = r.after("value", 1)
        if key not in values:
            r.at -= 1
            raise r.fault(f"%{key} is not defined")
        return values[key]

    r.expect("(")
    parameters = tuple(r.listed(parameter, ")"))
    values.update((p.name, p) for p in parameters)
    r.expect("->")
    r.expect("(")
    results = r.at
    r.listed(lambda: r.take("value"), ")")
    r.expect("{")
    instructions: list[Instruction] = []
    while not r.accept("}"):
        instructions.append(_read_instruction(r, known))
        values.update((v.name, v) for v in instructions[-1].results)
    end, r.at = r.at, results
    returned = tuple(r.listed(known, ")"))
    r.at = end
    return Function(name, parameters, tuple(instructions), returned)


def _read_instruction(r: Reader, known: Callable[[], Value]) -> Instruction:
    names = r.listed(lambda: r.after("value", 1), "=")
    op = r.take("word")
    operands = [known()] if r.kind == "value" else []
    while r.accept(","):
        operands.append(known())
    attributes = tuple(r.listed(lambda: _read_pair(r), "}")) if r.accept("{") else ()
    r.expect(":")
    types = [_read_type(r)]
    while r.accept(","):
        types.append(_read_type(r))
    if len(types) != len(names):
        raise r.fault(f"{len(names)} results and {len(types)} types")
    span = _read_span(r)
    r.expect("via")
    via = r.after("string" if r.kind == "string" else "word", 0)
    return Instruction(op, tuple(operands), attributes, tuple(map(Value, names, types)), span, via)


def _parse(text: str, file: str, read: Callable[[Reader], Item]) -> Item:
    r = Reader(text, file)
    try:
        value = read(r)
    except ValueError as error:  # a malformed number or string
        raise r.fault(str(error)) from None
    if r.kind != "end":
        raise r.fault(f"unexpected {r.text_here!r}")
    return value


def parse_type(text: str) -> TensorType:
    """A type, "f32[batch=2, 3]"."""
    return _parse(text, "<type>", _read_type)


def parse_function(text: str, file: str = "<ir>") -> Function:
    """The function of a text; raises MlcError at the first fault. What it means is `verify`'s to judge."""
    return _parse(text, file, _read_function)


def parse_program(text: str, file: str = "<ir>") -> Program | Step:
    """The Program or Step of a text."""
    value = _parse(text, file, _read_record)
    if not isinstance(value, Program | Step):
        raise MlcError([Diagnostic("E0101", f"IR text: expected Program or Step, got {type(value).__name__}", Span(file, 1, 1, 1, 2))])
    return value
