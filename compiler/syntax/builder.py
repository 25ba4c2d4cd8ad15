"""Builds the tree: one method for each alternative of grammar.lark. Faults that the grammar cannot see are reported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lark import Token

from mlc.diagnostics import Diagnostic, Span
from mlc.syntax import tree
from mlc.syntax.format_strings import string_body, unescape
from mlc.syntax.tokens import Place


class Builder:
    """make_<name>(children, place) -> node. Children are all that an alternative has: nodes, words, None for an optional one left out."""

    def __init__(self, file: str, reports: list[Diagnostic]):
        self.name_of_file = file
        self.reports = reports

    def methods(self) -> dict[str, Callable[[list[Any], Place], Any]]:
        return {name.removeprefix("make_"): getattr(self, name) for name in dir(self) if name.startswith("make_")}

    def span(self, place: Place) -> Span:
        return Span(self.name_of_file, *place)

    def token_span(self, token: Any) -> Span:
        """The span of a word; its place is whole, which Lark does not ask of its tokens."""
        return Span(self.name_of_file, token.line, token.column, token.end_line, token.end_column)

    def report(self, code: str, message: str, span: Span, help: str | None = None) -> None:
        self.reports.append(Diagnostic(code, message, span, help=help))

    # ---------------------------------------------------------------------------------------------- top level

    def make_file(self, children: list[Any], place: Place) -> list[Any]:
        return nodes(children)

    def make_docstring(self, children: list[Token], place: Place) -> tree.String:
        return self.string(children[0])

    def make_import_from(self, children: list[Any], place: Place) -> tree.Import:
        _, module, *names = children
        return tree.Import(module, tuple(nodes(names)), self.span(place))

    def make_imported(self, children: list[Any], place: Place) -> tree.Imported:
        name, _, alias = children
        return tree.Imported(name.value, (alias or name).value, self.span(place))

    def make_dotted(self, children: list[Token], place: Place) -> str:
        return "".join(word.value for word in children)

    def make_constant(self, children: list[Any], place: Place) -> tree.Constant:
        name, _, annotation, _, value = children
        return tree.Constant(name.value, annotation, value, self.span(place))

    def make_function(self, children: list[Any], place: Place) -> tree.FunctionDef:
        decorators, _, name, _, parameters, _, _, returns, _, block = children
        docstring = None
        if isinstance(block[0], tree.ExpressionStatement) and isinstance(block[0].value, tree.String):
            docstring, block = block[0].value, block[1:]
        return tree.FunctionDef(name.value, decorators, parameters, returns, docstring, block, self.token_span(name))

    def make_decorators(self, children: list[tree.Decorator], place: Place) -> tuple[tree.Decorator, ...]:
        return tuple(children)

    def make_decorator(self, children: list[Any], place: Place) -> tree.Decorator:
        _, name, call, _ = children
        arguments, keywords = call or ((), ())
        return tree.Decorator(name, arguments, keywords, self.span(place))

    def make_parameters(self, children: list[Any], place: Place) -> tuple[tree.Parameter, ...]:
        parameters: list[tree.Parameter] = []
        star: Token | None = None
        written = [child for child in children if child is not None and child != ","]
        for child in written:
            if isinstance(child, Token):
                if star is not None:
                    self.report("E0119", "`*` twice in the parameters", self.token_span(child))
                star = child
            else:
                parameters.append(self.parameter(child, parameters, star is not None))
        if star is not None and isinstance(written[-1], Token):
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
        name, _, annotation, _, default = children
        return tree.Parameter(name.value, annotation, default, False, self.span(place))

    def make_keyword_only(self, children: list[Token], place: Place) -> Token:
        return children[0]

    # --------------------------------------------------------------------------------------------- statements

    def make_block(self, children: list[Any], place: Place) -> tuple[tree.Statement, ...]:
        return tuple(nodes(children))

    def make_expression_statement(self, children: list[tree.Expression], place: Place) -> tree.ExpressionStatement:
        return tree.ExpressionStatement(children[0], self.span(place))

    def make_assign(self, children: list[tree.Expression], place: Place) -> tree.Assign:
        target, _, value = children
        return tree.Assign(self.target(target), value, self.span(place))

    def make_augment(self, children: list[Any], place: Place) -> tree.Augment:
        target, operator, value = children
        return tree.Augment(self.name_target(target, "augmented"), operator.value[0], value, self.span(place))

    def make_annotate(self, children: list[tree.Expression], place: Place) -> tree.Annotate:
        target, _, annotation, _, value = children
        return tree.Annotate(self.name_target(target, "annotated"), annotation, value, self.span(place))

    def make_return_(self, children: list[tree.Expression], place: Place) -> tree.Return:
        return tree.Return(children[1], self.span(place))

    def make_assert_(self, children: list[Any], place: Place) -> tree.Assert:
        _, condition, _, message = children
        return tree.Assert(condition, message, self.span(place))

    def make_branch(self, children: list[Any], place: Place) -> tree.Branch:
        _, condition, _, then, *rest = children
        otherwise = rest[-1] if rest else ()
        if isinstance(otherwise, tree.Branch):
            otherwise = (otherwise,)
        return tree.Branch(condition, then, otherwise, self.header(place, condition))

    def make_loop(self, children: list[Any], place: Place) -> tree.Loop:
        _, target, _, values, _, body = children
        return tree.Loop(target, values, body, self.header(place, values))

    def header(self, place: Place, last: tree.Expression) -> Span:
        """The span of a compound statement's first line."""
        return Span(self.name_of_file, place.line, place.column, last.span.end_line, last.span.end_column)

    def make_loop_target(self, children: list[Any], place: Place) -> tree.Target:
        names: list[tree.Name] = nodes(children)
        return names[0] if len(names) == 1 else tree.Tuple(tuple(names), self.span(place))

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
        return tree.Name(children[0].value, self.span(place))

    def make_integer(self, children: list[Token], place: Place) -> tree.Integer:
        return tree.Integer(int(children[0].value), self.span(place))

    def make_float(self, children: list[Token], place: Place) -> tree.Float:
        return tree.Float(float(children[0].value), self.span(place))

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
        return tree.String(self.unescaped(string_body(token.value), self.token_span(token)), self.token_span(token))

    def unescaped(self, text: str, span: Span) -> str:
        try:
            return unescape(text)
        except ValueError as error:
            help = r"the escapes are \\ \" \' \n \t; write \\ for a backslash"
            self.report("E0104", f"no escape `{str(error).strip()}`", span, help)
            return text

    def make_format(self, children: list[Any], place: Place) -> tree.Format:
        parts: list[str | tree.Interpolation] = []
        for child in children[1:-1]:
            part = self.unescaped(child.value, self.token_span(child)) if isinstance(child, Token) else child
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        return tree.Format(tuple(parts), self.span(place))

    def make_interpolation(self, children: list[Any], place: Place) -> tree.Interpolation:
        _, value, *spec, _ = children
        return tree.Interpolation(value, spec[0].value if spec else "", self.span(place))

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

    def make_group(self, children: list[Any], place: Place) -> tree.Expression:
        return children[1]

    def make_empty(self, children: list[Any], place: Place) -> tree.Tuple:
        return tree.Tuple((), self.span(place))

    def make_tuple(self, children: list[Any], place: Place) -> tree.Tuple:
        return tree.Tuple(tuple(nodes(children)), self.span(place))

    def make_list(self, children: list[Any], place: Place) -> tree.List:
        return tree.List(tuple(nodes(children)), self.span(place))

    def make_record(self, children: list[Any], place: Place) -> tree.Record:
        pairs: list[tree.Pair] = nodes(children)
        for n, pair in enumerate(pairs):
            if any(p.key == pair.key for p in pairs[:n]):
                self.report("E0112", f'key "{pair.key.value}" twice in one record', pair.key.span)
        return tree.Record(tuple(pairs), self.span(place))

    def make_pair(self, children: list[Any], place: Place) -> tree.Pair:
        return tree.Pair(self.string(children[0]), children[2], self.span(place))

    def make_call_arguments(self, children: list[Any], place: Place) -> tuple[tuple[Any, ...], tuple[tree.Keyword, ...]]:
        written = nodes(children)
        arguments = [c for c in written if not isinstance(c, tree.Keyword)]
        keywords = [c for c in written if isinstance(c, tree.Keyword)]
        if keywords:
            for late in written[written.index(keywords[0]) :]:
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
        return tree.Keyword(children[0].value, children[2], self.span(place))

    def make_subscript(self, children: list[Any], place: Place) -> tree.Subscript:
        return tree.Subscript(children[0], children[2], self.span(place))

    def make_subscripts(self, children: list[Any], place: Place) -> tuple[Any, ...]:
        return tuple(nodes(children))

    def make_slice(self, children: list[Any], place: Place) -> tree.Slice:
        start, _, stop, _, step = children
        return tree.Slice(start, stop, step, self.span(place))

    def make_attribute(self, children: list[Any], place: Place) -> tree.Attribute:
        return tree.Attribute(children[0], children[2].value, self.span(place))

    def make_unary_(self, children: list[Any], place: Place) -> tree.Unary:
        return tree.Unary(children[0].value, children[1], self.span(place))

    def make_binary(self, children: list[Any], place: Place) -> tree.Binary:
        return tree.Binary(children[1].value, children[0], children[2], self.span(place))

    def make_compare(self, children: list[Any], place: Place) -> tree.Compare:
        return tree.Compare(children[1].value, children[0], children[2], self.span(place))

    def make_is_(self, children: list[Any], place: Place) -> tree.Is:
        return tree.Is(children[0], children[2], False, self.span(place))

    def make_is_not(self, children: list[Any], place: Place) -> tree.Is:
        return tree.Is(children[0], children[3], True, self.span(place))

    def make_in_(self, children: list[Any], place: Place) -> tree.In:
        return tree.In(children[0], children[2], False, self.span(place))

    def make_not_in(self, children: list[Any], place: Place) -> tree.In:
        return tree.In(children[0], children[3], True, self.span(place))

    def make_not_(self, children: list[Any], place: Place) -> tree.Not:
        return tree.Not(children[1], self.span(place))

    def make_and_(self, children: list[Any], place: Place) -> tree.And:
        return tree.And(children[0], children[2], self.span(place))

    def make_or_(self, children: list[Any], place: Place) -> tree.Or:
        return tree.Or(children[0], children[2], self.span(place))

    def make_choose(self, children: list[Any], place: Place) -> tree.Choose:
        then, _, condition, _, otherwise = children
        return tree.Choose(condition, then, otherwise, self.span(place))


def nodes(children: list[Any]) -> list[Any]:
    """The children without words and without what is absent."""
    return [child for child in children if child is not None and not isinstance(child, Token)]
