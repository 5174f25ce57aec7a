"""HTML templates: behind each action the functions are put that make its value safe where it stands.

The place of every action is found before anything is rendered, as Go's html/template does; a template that is called
from several kinds of places is made anew for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tocsin_alerting.templates import nodes, printing
from tocsin_alerting.templates.contexts import (
    COMMENTS,
    SCRIPT_LITERALS,
    Context,
    Delimiter,
    Slash,
    State,
    UrlPart,
    settle,
)
from tocsin_alerting.templates.errors import Fault, Source
from tocsin_alerting.templates.escapers import ESCAPERS
from tocsin_alerting.templates.transitions import after_text
from tocsin_alerting.templates.values import ANY, Function, Value

_ENOUGH: Final = {"_text": "html", "_title": "html", "_attribute": "html", "_url_part": "urlquery"}
"""Escapers that a function of the template's author stands for."""
_OWN: Final = frozenset({"html", "urlquery"})
_FIRST: Final = "_first"
_SIMPLE: Final = {
    State.TEXT: "_text",
    State.TITLE: "_title",
    State.NAME: "_name",
    State.SRCSET: "_srcset",
    State.JS: "_js_value",
    State.JS_DOUBLE: "_js_string",
    State.JS_SINGLE: "_js_string",
    State.JS_TEMPLATE: "_js_template",
    State.JS_REGEX: "_js_regex",
    State.CSS: "_css_value",
}
_URLS: Final = frozenset(
    {
        *(State.URL, State.CSS_DOUBLE, State.CSS_SINGLE),
        *(State.CSS_DOUBLE_URL, State.CSS_SINGLE_URL, State.CSS_URL),
    }
)
_DEAD: Final = Context(State.DEAD)
_DOCTYPE: Final = "<!doctype"
_SCRIPT_TAG: Final = re.compile("<(?=!--|/?script)", re.IGNORECASE)


def escape(
    trees: Mapping[str, nodes.Tree], name: str, functions: Mapping[str, Function]
) -> tuple[dict[str, nodes.Tree], dict[str, Function]]:
    """Return the templates that `name` reaches, with escaping, and the functions that they need besides.

    Raises:
        TemplateError: the place of a value is not the same on all ways through a template.
    """
    escaper = _Escaper(trees)
    tree = trees[name]
    try:
        context, _ = escaper.template(name, Context())
    except RecursionError:
        raise tree.source.error(0, "more levels than can be escaped, expected a flatter template") from None
    if context.state not in {State.TEXT, State.DEAD}:
        raise tree.source.error(len(tree.source.text), "the end within a tag, an attribute, a script or a style sheet")
    first = Function(_FIRST, lambda *values: values[0] if len(values) == 1 else _joined(values), (ANY,), variadic=True)
    return escaper.made, {**ESCAPERS, _FIRST: first}


def _joined(values: tuple[Value, ...]) -> Value:
    return printing.sprint(values)


@dataclass(slots=True)
class _Loop:
    """A range whose body is being read: where its jumps leave."""

    jumps: list[Context] = field(default_factory=list)


class _Escaper:
    """The templates made so far, and where each ends."""

    def __init__(self, trees: Mapping[str, nodes.Tree]) -> None:
        self.made: dict[str, nodes.Tree] = {}
        self._trees = trees
        self._ends: dict[str, Context] = {}
        self._called: set[str] = set()
        self._loops: list[_Loop] = []
        self._source = Source("", "")

    def template(self, name: str, context: Context) -> tuple[Context, str]:
        """Return where the template `name` ends if it begins at `context`, and the name of the one for that place."""
        made = name if context == Context() else f"{name}${context}"
        self._called.add(made)
        if made in self._ends:
            return self._ends[made], made
        outer = self._source, self._loops
        tree = self._trees[name]
        self._source, self._loops = tree.source, []
        ends, sure = self._attempt(tree, made, context, context)
        if not sure:
            ends, sure = self._attempt(tree, made, context, ends)
        if not sure:
            raise tree.source.error(tree.body.at, f'"{name}" calls itself and ends elsewhere each time')
        self._source, self._loops = outer
        return ends, made

    def _attempt(self, tree: nodes.Tree, made: str, context: Context, assumed: Context) -> tuple[Context, bool]:
        """Escape `tree`, assuming that it ends at `assumed` where it calls itself; return whether that holds."""
        self._ends[made] = assumed
        before, self._called = self._called, set()
        body, ends = self._body(tree.body, context)
        again = made in self._called
        self._called |= before
        self._ends[made] = ends
        self.made[made] = replace(tree, name=made, body=body)
        return ends, not again or ends == assumed

    # ---- nodes

    def _body(self, body: nodes.Body, context: Context) -> tuple[nodes.Body, Context]:
        made: list[nodes.Node] = []
        for node in body.nodes:
            try:
                escaped, context = self._node(node, context)
            except Fault as fault:
                raise self._source.error(node.at, str(fault)) from None
            made.append(escaped)
            if context.state is State.DEAD:
                break
        return replace(body, nodes=tuple(made)), context

    def _node(self, node: nodes.Node, context: Context) -> tuple[nodes.Node, Context]:
        if isinstance(node, nodes.Text):
            return _text(node, context)
        if isinstance(node, nodes.Action):
            return _action(node, context)
        if isinstance(node, nodes.If | nodes.With):
            return self._branch(node, context)
        if isinstance(node, nodes.Range):
            return self._range(node, context)
        return self._call(node, context) if isinstance(node, nodes.Call) else self._jump(node, context)

    def _call(self, node: nodes.Call, context: Context) -> tuple[nodes.Node, Context]:
        if node.name not in self._trees:
            return node, context  # an error when it is reached, and only then
        context, name = self.template(node.name, context)
        return replace(node, name=name), context

    def _jump(self, node: nodes.Node, context: Context) -> tuple[nodes.Node, Context]:
        self._loops[-1].jumps.append(context)
        return node, _DEAD

    def _branch(self, node: nodes.If | nodes.With, context: Context) -> tuple[nodes.Node, Context]:
        body, first = self._body(node.body, context)
        if node.other is None:
            return replace(node, body=body), _join(first, context)
        other, second = self._body(node.other, context)
        return replace(node, body=body, other=other), _join(first, second)

    def _range(self, node: nodes.Range, context: Context) -> tuple[nodes.Node, Context]:
        body, ends = self._loop(node.body, context)
        # A second turn must end where the first did.
        _, again = self._loop(node.body, ends)
        ends = _join(ends, again)
        if node.other is None:
            return replace(node, body=body), _join(ends, context)
        other, second = self._body(node.other, context)
        return replace(node, body=body, other=other), _join(ends, second)

    def _loop(self, body: nodes.Body, context: Context) -> tuple[nodes.Body, Context]:
        self._loops.append(_Loop())
        made, ends = self._body(body, context)
        for jump in self._loops.pop().jumps:
            ends = _join(ends, jump)
        return made, ends


def _join(first: Context, second: Context) -> Context:
    """Return where a template is after one way or another.

    Raises:
        Fault: the ways end at places that need different escaping.
    """
    if first == second or second.state is State.DEAD:
        return first
    if first.state is State.DEAD:
        return second
    if replace(first, url=second.url) == second:
        return replace(first, url=UrlPart.UNKNOWN)
    if replace(first, slash=second.slash) == second:
        return replace(first, slash=Slash.UNKNOWN)
    settled = settle(first), settle(second)
    if settled != (first, second):
        return _join(*settled)
    raise Fault(
        f"branches that end in {_place(first)} and in {_place(second)}, expected the same kind of place after both"
    )


def _place(context: Context) -> str:
    name = context.state.name.lower().replace("_", " ")
    return f"{name} {context.delimiter.name.lower()}" if context.delimiter is not Delimiter.NONE else name


# ---- text


def _text(node: nodes.Text, context: Context) -> tuple[nodes.Text, Context]:
    """Return the text as it is written: without comments, and with every `<` that begins no tag escaped."""
    text, at, parts = node.text, 0, []
    while at < len(text):
        after, read = after_text(context, text[at:])
        piece = text[at : at + read]
        in_comment = context.state in COMMENTS and context.delimiter is Delimiter.NONE
        if in_comment:
            piece = _comment_as_space(context, piece)
        elif after.state is not context.state and after.state in COMMENTS and after.delimiter is Delimiter.NONE:
            piece = piece[: -len(_OPENERS.get(after.state, "//"))]
            piece = _lone_signs(piece) if context.state in {State.TEXT, State.TITLE} else piece
        elif context.state in {State.TEXT, State.TITLE}:
            last = piece.rfind("<") if after.state is not context.state else -1
            piece = _lone_signs(piece) if last < 0 else _lone_signs(piece[:last]) + piece[last:]
        elif context.state in SCRIPT_LITERALS:
            piece = _SCRIPT_TAG.sub(r"\\x3C", piece)
        parts.append(piece)
        context, at = after, at + read
    return replace(node, text="".join(parts)), context


_OPENERS: Final = {State.COMMENT: "<!--", State.JS_HTML_OPEN: "<!--", State.JS_HTML_CLOSE: "-->"}


def _comment_as_space(context: Context, piece: str) -> str:
    if context.state is State.JS_BLOCK_COMMENT:
        return "\n" if re.search("[\n\r\u2028\u2029]", piece) else " "
    return " " if context.state is State.CSS_BLOCK_COMMENT else ""


def _lone_signs(text: str) -> str:
    return re.sub(f"<(?!{_DOCTYPE[1:]})", "&lt;", text, flags=re.IGNORECASE)


# ---- actions


def _action(node: nodes.Action, context: Context) -> tuple[nodes.Action, Context]:
    pipe = node.pipe
    if pipe.variables or context.state is State.DEAD:
        return node, context
    context = settle(context)
    for index, command in enumerate(pipe.commands):
        own = command.args[0].name if isinstance(command.args[0], nodes.Identifier) else ""
        unquoted = context.state is State.ATTRIBUTE and context.delimiter is Delimiter.SPACE and own == "html"
        if own in _OWN and (index + 1 < len(pipe.commands) or unquoted):
            raise Fault(
                f"{own} where it does not help, expected it at the end of a pipeline and out of bare attributes"
            )
    names = _escapers(context)
    if context.state is State.JS:
        context = replace(context, slash=Slash.DIVISION)
    return replace(node, pipe=_with_escapers(pipe, names)), context


def _escapers(context: Context) -> list[str]:
    names: list[str] = []
    if context.state in COMMENTS:
        names.append("_comment")
    elif context.state in _URLS:
        if context.url is UrlPart.UNKNOWN:
            raise Fault("a value whose part of the URL depends on a branch, expected the same part after both")
        if context.url is UrlPart.NONE:
            names.append("_filter_url")
        if context.url is UrlPart.QUERY:
            names.append("_url_part")
        else:
            quoted = context.state in {State.CSS_DOUBLE, State.CSS_SINGLE}
            names.append("_css_string" if quoted else "_normal_url")
    elif context.state is not State.ATTRIBUTE:
        names.append(_SIMPLE[context.state])
    if context.delimiter is Delimiter.SPACE:
        names.append("_unquoted")
    elif context.delimiter is not Delimiter.NONE:
        names.append("_attribute")
    return names


def _with_escapers(pipe: nodes.Pipe, names: list[str]) -> nodes.Pipe:
    commands = list(pipe.commands)
    last = commands[-1]
    function = last.args[0]
    if isinstance(function, nodes.Identifier) and function.name in _OWN:
        if len(commands) == 1 and len(last.args) > 1:
            # {{ html a b }} is {{ a b | html }}.
            first = nodes.Identifier(function.at, _FIRST)
            commands = [replace(last, args=(first, *last.args[1:])), nodes.Command(last.at, (function,))]
        stands_for = {name for name in names if function.name in {_ENOUGH.get(name), _looser(name)}}
        if stands_for:
            names = [function.name if name in stands_for else name for name in names]
            del commands[-1]
    commands += [nodes.Command(pipe.at, (nodes.Identifier(pipe.at, name),)) for name in names]
    return replace(pipe, commands=tuple(commands))


def _looser(name: str) -> str:
    """Return the function that is stricter than an escaper and replaces it."""
    return "urlquery" if name == "_normal_url" else ""
