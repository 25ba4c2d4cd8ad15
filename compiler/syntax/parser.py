"""Text -> Module.

parse(text, file)             a .dsl file
parse_items(sources, file)    the module made of pieces of a file
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlc.diagnostics import Diagnostic, MlcError, Span
from mlc.syntax import tree
from mlc.syntax.format_strings import expand, string_body, unescape
from mlc.syntax.lalr import DEPTH, REPORTS, Place, run
from mlc.syntax.mistakes import Situation, explain
from mlc.syntax.tokens import Source, Token, read_text, scan

_DEEP = f"more than {DEPTH} operators, brackets or blocks inside one another"


def parse(text: str | bytes, file: str) -> tree.Module:
    """The tree of a file. Raises MlcError with up to 20 diagnostics, in the order of the text; never anything else."""
    text = read_text(text, file)
    return parse_items([Source(text, file)], file, text.split("\n"))


def parse_items(sources: list[Source], file: str, lines: list[str]) -> tree.Module:
    """The module made of the items of several pieces of one file; `lines` are those of the whole file."""
    reports: list[Diagnostic] = []
    items = [item for source in sources for item in _parse_source(source, reports)]
    if reports:
        raise MlcError(_in_order(reports))
    return _module(items, file, lines)


def _parse_source(source: Source, reports: list[Diagnostic]) -> list[Any]:
    words: list[Token] = []
    for token in scan(source):
        if token.kind == "FORMAT":
            words.extend(expand(token, source.file))
        elif token.kind != "COMMENT":
            words.append(token)
    reports.extend(t.error for t in words if t.error is not None)
    words = [t for t in words if t.error is None or not _harmless(t.error)]
    tree_ = run(words, _Builder(source.file, reports).methods(), _Reporter(source.file, reports))
    return tree_ or []


def _harmless(error: Diagnostic) -> bool:
    """The rest of the line can be read as if the error were not there."""
    return error.code == "E0105" or error.message.endswith("closes nothing")


def _in_order(reports: list[Diagnostic]) -> list[Diagnostic]:
    """One a place: a second message at the same place is a consequence."""
    first: dict[tuple[int, int], Diagnostic] = {}
    for report in reports:
        first.setdefault((report.span.line, report.span.column), report)
    return [first[place] for place in sorted(first)][:REPORTS]


def _module(items: list[Any], file: str, lines: list[str]) -> tree.Module:
    texts = [i for i in items if isinstance(i, tree.String)]
    return tree.Module(
        docstring=texts[0] if texts else None,
        imports=tuple(i for i in items if isinstance(i, tree.Import)),
        constants=tuple(i for i in items if isinstance(i, tree.Constant)),
        functions=tuple(i for i in items if isinstance(i, tree.FunctionDef)),
        file=file,
        lines=tuple(lines),
    )


class _Reporter:
    """Turns what the automaton cannot read into diagnostics."""

    def __init__(self, file: str, reports: list[Diagnostic]):
        self.file = file
        self.reports = reports

    def unexpected(self, tokens: list[Token], at: int, start: int, level: int, expected: frozenset[str]) -> None:
        if not _follows_error(tokens, at):
            line = tokens[_line_start(tokens, at, start) : at]
            self.reports.append(explain(Situation(tokens[at], line, level == 0, expected), self.file))

    def too_deep(self, place: Place) -> None:
        self.reports.append(Diagnostic("E0107", _DEEP, Span(self.file, *place), help="name a part of it"))


def _follows_error(tokens: list[Token], at: int) -> bool:
    """The words of this line contain one that could not be read: what the grammar says of it is a consequence."""
    start = _line_start(tokens, at, 0)
    end = at
    while tokens[end].kind not in ("NEWLINE", "END"):
        end += 1
    return any(t.kind == "ERROR" for t in tokens[start:end])


def _line_start(tokens: list[Token], at: int, least: int) -> int:
    while at > least and tokens[at - 1].kind not in ("NEWLINE", "INDENT", "DEDENT"):
        at -= 1
    return at


class _Builder:
    """One method a rule of the grammar: children and place -> node. Faults the grammar cannot see are reported here."""

    def __init__(self, file: str, reports: list[Diagnostic]):
        self.name_of_file = file
        self.reports = reports

    def methods(self) -> dict[str, Callable[[list[Any], Place], Any]]:
        return {name.removeprefix("make_"): getattr(self, name) for name in dir(self) if name.startswith("make_")}

    def span(self, place: Place) -> Span:
        return Span(self.name_of_file, *place)

    def token_span(self, token: Token) -> Span:
        return Span(self.name_of_file, token.line, token.column, token.end_line, token.end_column)

    def report(self, code: str, message: str, span: Span, help: str | None = None) -> None:
        self.reports.append(Diagnostic(code, message, span, help=help))

    # ---------------------------------------------------------------------------------------------- top level

    def make_file(self, children: list[Any], place: Place) -> list[Any]:
        return children

    def make_docstring(self, children: list[Token], place: Place) -> tree.String:
        return self.string(children[0])

    def make_import_from(self, children: list[Any], place: Place) -> tree.Import:
        module, *names = children
        return tree.Import(module, tuple(names), self.span(place))

    def make_imported(self, children: list[Any], place: Place) -> tree.Imported:
        name, alias = children
        return tree.Imported(name.text, (alias or name).text, self.span(place))

    def make_dotted(self, children: list[Token], place: Place) -> str:
        return ".".join(t.text for t in children)

    def make_constant(self, children: list[Any], place: Place) -> tree.Constant:
        name, annotation, value = children
        return tree.Constant(name.text, annotation, value, self.span(place))

    def make_function(self, children: list[Any], place: Place) -> tree.FunctionDef:
        decorators, name, parameters, returns, block = children
        docstring = None
        if isinstance(block[0], tree.ExpressionStatement) and isinstance(block[0].value, tree.String):
            docstring, block = block[0].value, block[1:]
        return tree.FunctionDef(name.text, decorators, parameters, returns, docstring, block, self.token_span(name))

    def make_decorators(self, children: list[tree.Decorator], place: Place) -> tuple[tree.Decorator, ...]:
        return tuple(children)

    def make_decorator(self, children: list[Any], place: Place) -> tree.Decorator:
        name, call = children
        arguments, keywords = call or ((), ())
        return tree.Decorator(name, arguments, keywords, self.span(place))

    def make_parameters(self, children: list[Any], place: Place) -> tuple[tree.Parameter, ...]:
        parameters: list[tree.Parameter] = []
        star: Token | None = None
        for child in children:
            if isinstance(child, Token):
                if star is not None:
                    self.report("E0119", "`*` twice in the parameters", self.token_span(child))
                star = child
            elif child is not None:
                parameters.append(self.parameter(child, parameters, star is not None))
        if star is not None and isinstance(children[-1], Token):
            self.report("E0119", "no parameter after `*`", self.token_span(star))
        return tuple(parameters)

    def parameter(self, child: tree.Parameter, before: list[tree.Parameter], keyword_only: bool) -> tree.Parameter:
        if any(p.name == child.name for p in before):
            self.report("E0119", f"parameter `{child.name}` twice", child.span)
        if not keyword_only and child.default is None and any(p.default is not None for p in before):
            help = "parameters without a default come first; after a bare `*` any order will do"
            self.report("E0119", f"parameter `{child.name}` has no default but follows one that has", child.span, help)
        return tree.Parameter(child.name, child.annotation, child.default, keyword_only, child.span)

    def make_parameter(self, children: list[Any], place: Place) -> tree.Parameter:
        name, annotation, default = children
        return tree.Parameter(name.text, annotation, default, False, self.span(place))

    def make_keyword_only(self, children: list[Token], place: Place) -> Token:
        return children[0]

    # --------------------------------------------------------------------------------------------- statements

    def make_block(self, children: list[tree.Statement], place: Place) -> tuple[tree.Statement, ...]:
        return tuple(children)

    def make_expression_statement(self, children: list[tree.Expression], place: Place) -> tree.ExpressionStatement:
        return tree.ExpressionStatement(children[0], self.span(place))

    def make_assign(self, children: list[tree.Expression], place: Place) -> tree.Assign:
        target, value = children
        return tree.Assign(self.target(target), value, self.span(place))

    def make_augment(self, children: list[Any], place: Place) -> tree.Augment:
        target, operator, value = children
        return tree.Augment(self.name_target(target, "augmented"), operator.text[0], value, self.span(place))

    def make_annotate(self, children: list[tree.Expression], place: Place) -> tree.Annotate:
        target, annotation, value = children
        return tree.Annotate(self.name_target(target, "annotated"), annotation, value, self.span(place))

    def make_return_(self, children: list[tree.Expression], place: Place) -> tree.Return:
        return tree.Return(children[0], self.span(place))

    def make_assert_(self, children: list[Any], place: Place) -> tree.Assert:
        return tree.Assert(children[0], children[1], self.span(place))

    def make_branch(self, children: list[Any], place: Place) -> tree.Branch:
        condition, then, *rest = children
        otherwise = rest[0] if rest else ()
        if isinstance(otherwise, tree.Branch):
            otherwise = (otherwise,)
        return tree.Branch(condition, then, otherwise, self.header(place, condition))

    def make_loop(self, children: list[Any], place: Place) -> tree.Loop:
        target, values, body = children
        return tree.Loop(target, values, body, self.header(place, values))

    def header(self, place: Place, last: tree.Expression) -> Span:
        """The span of a compound statement's first line."""
        return Span(self.name_of_file, place.line, place.column, last.span.end_line, last.span.end_column)

    def make_loop_target(self, children: list[tree.Name], place: Place) -> tree.Target:
        return children[0] if len(children) == 1 else tree.Tuple(tuple(children), self.span(place))

    def target(self, target: tree.Expression) -> tree.Target:
        if isinstance(target, tree.Tuple) and target.items:
            return tree.Tuple(tuple(self.name_target(t, "assigned") for t in target.items), target.span)
        return self.name_target(target, "assigned")

    def name_target(self, target: tree.Expression, verb: str) -> tree.Name:
        if isinstance(target, tree.Name):
            return target
        help = None
        match target:
            case tree.Subscript():
                what, help = "an element", "tensors and lists do not change: build a new one (`select`, `concat`, `xs + [x]`)"
            case tree.Attribute():
                what = "an attribute"
            case tree.Call():
                what = "a call"
            case tree.Boolean() | tree.NoneValue():
                what = "a constant"
            case _:
                what = "this expression"
        self.report("E0111", f"{what} cannot be {verb}, only a name can", target.span, help)
        return tree.Name("_", target.span)

    # -------------------------------------------------------------------------------------------- expressions

    def make_name(self, children: list[Token], place: Place) -> tree.Name:
        return tree.Name(children[0].text, self.span(place))

    def make_integer(self, children: list[Token], place: Place) -> tree.Integer:
        return tree.Integer(int(children[0].text), self.span(place))

    def make_float(self, children: list[Token], place: Place) -> tree.Float:
        return tree.Float(float(children[0].text), self.span(place))

    def make_true(self, children: list[Token], place: Place) -> tree.Boolean:
        return tree.Boolean(True, self.span(place))

    def make_false(self, children: list[Token], place: Place) -> tree.Boolean:
        return tree.Boolean(False, self.span(place))

    def make_none(self, children: list[Token], place: Place) -> tree.NoneValue:
        return tree.NoneValue(self.span(place))

    def make_dots(self, children: list[Token], place: Place) -> tree.Dots:
        return tree.Dots(self.span(place))

    def make_string(self, children: list[Token], place: Place) -> tree.String:
        return self.string(children[0])

    def string(self, token: Token) -> tree.String:
        return tree.String(self.unescaped(string_body(token.text), self.token_span(token)), self.token_span(token))

    def unescaped(self, text: str, span: Span) -> str:
        try:
            return unescape(text)
        except ValueError as error:
            help = r"the escapes are \\ \" \' \n \t; write \\ for a backslash"
            self.report("E0104", f"no escape `{str(error).strip()}`", span, help)
            return text

    def make_format(self, children: list[Any], place: Place) -> tree.Format:
        parts: list[str | tree.Interpolation] = []
        for child in children:
            part = self.unescaped(child.text, self.token_span(child)) if isinstance(child, Token) else child
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        return tree.Format(tuple(parts), self.span(place))

    def make_interpolation(self, children: list[Any], place: Place) -> tree.Interpolation:
        spec = children[1].text if len(children) > 1 else ""
        return tree.Interpolation(children[0], spec, self.span(place))

    def make_texts(self, children: list[tree.String | tree.Format], place: Place) -> tree.Expression:
        if len(children) == 1:
            return children[0]
        if all(isinstance(c, tree.String) for c in children):
            return tree.String("".join(c.value for c in children if isinstance(c, tree.String)), self.span(place))
        parts: list[str | tree.Interpolation] = []
        for child in children:
            for part in child.parts if isinstance(child, tree.Format) else (child.value,):
                if isinstance(part, str) and parts and isinstance(parts[-1], str):
                    parts[-1] += part
                else:
                    parts.append(part)
        return tree.Format(tuple(parts), self.span(place))

    def make_group(self, children: list[tree.Expression], place: Place) -> tree.Expression:
        return children[0]

    def make_empty(self, children: list[Any], place: Place) -> tree.Tuple:
        return tree.Tuple((), self.span(place))

    def make_tuple(self, children: list[tree.Expression], place: Place) -> tree.Tuple:
        return tree.Tuple(tuple(children), self.span(place))

    def make_list(self, children: list[Any], place: Place) -> tree.List:
        return tree.List(tuple(c for c in children if c is not None), self.span(place))

    def make_record(self, children: list[tree.Pair], place: Place) -> tree.Record:
        for n, pair in enumerate(children):
            if any(p.key == pair.key for p in children[:n]):
                self.report("E0112", f'key "{pair.key.value}" twice in one record', pair.key.span)
        return tree.Record(tuple(children), self.span(place))

    def make_pair(self, children: list[Any], place: Place) -> tree.Pair:
        return tree.Pair(self.string(children[0]), children[1], self.span(place))

    def make_call_arguments(self, children: list[Any], place: Place) -> tuple[tuple[Any, ...], tuple[tree.Keyword, ...]]:
        arguments = [c for c in children if c is not None and not isinstance(c, tree.Keyword)]
        keywords = [c for c in children if isinstance(c, tree.Keyword)]
        if keywords:
            for late in children[children.index(keywords[0]) :]:
                if not isinstance(late, tree.Keyword):
                    self.report("E0112", f"an argument without a name after `{keywords[0].name}=`", late.span)
        for n, keyword in enumerate(keywords):
            if any(k.name == keyword.name for k in keywords[:n]):
                self.report("E0112", f"argument `{keyword.name}` twice", keyword.span)
        return tuple(arguments), tuple(keywords)

    def make_call(self, children: list[Any], place: Place) -> tree.Call:
        function, (arguments, keywords) = children
        return tree.Call(function, arguments, keywords, self.span(place))

    def make_keyword(self, children: list[Any], place: Place) -> tree.Keyword:
        return tree.Keyword(children[0].text, children[1], self.span(place))

    def make_subscript(self, children: list[Any], place: Place) -> tree.Subscript:
        return tree.Subscript(children[0], children[1], self.span(place))

    def make_subscripts(self, children: list[Any], place: Place) -> tuple[Any, ...]:
        return tuple(children)

    def make_slice(self, children: list[Any], place: Place) -> tree.Slice:
        start, stop, step = children
        return tree.Slice(start, stop, step, self.span(place))

    def make_attribute(self, children: list[Any], place: Place) -> tree.Attribute:
        return tree.Attribute(children[0], children[1].text, self.span(place))

    def make_unary_(self, children: list[Any], place: Place) -> tree.Unary:
        return tree.Unary(children[0].text, children[1], self.span(place))

    def make_binary(self, children: list[Any], place: Place) -> tree.Binary:
        return tree.Binary(children[1].text, children[0], children[2], self.span(place))

    def make_compare(self, children: list[Any], place: Place) -> tree.Compare:
        return tree.Compare(children[1].text, children[0], children[2], self.span(place))

    def make_is_(self, children: list[Any], place: Place) -> tree.Is:
        return tree.Is(children[0], children[1], False, self.span(place))

    def make_is_not(self, children: list[Any], place: Place) -> tree.Is:
        return tree.Is(children[0], children[1], True, self.span(place))

    def make_in_(self, children: list[Any], place: Place) -> tree.In:
        return tree.In(children[0], children[1], False, self.span(place))

    def make_not_in(self, children: list[Any], place: Place) -> tree.In:
        return tree.In(children[0], children[1], True, self.span(place))

    def make_not_(self, children: list[Any], place: Place) -> tree.Not:
        return tree.Not(children[0], self.span(place))

    def make_and_(self, children: list[Any], place: Place) -> tree.And:
        return tree.And(children[0], children[1], self.span(place))

    def make_or_(self, children: list[Any], place: Place) -> tree.Or:
        return tree.Or(children[0], children[1], self.span(place))

    def make_choose(self, children: list[Any], place: Place) -> tree.Choose:
        then, condition, otherwise = children
        return tree.Choose(condition, then, otherwise, self.span(place))
