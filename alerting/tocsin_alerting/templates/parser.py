"""From tokens to a tree. What a template names must be there: variables, functions and the loop to break out of."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final, Literal

from tocsin_alerting.templates import constants, nodes
from tocsin_alerting.templates.errors import Fault, Source, TemplateError
from tocsin_alerting.templates.lexer import Kind, Token, tokens

_NOT_CALLABLE: Final = (nodes.Bool, nodes.Dot, nodes.Nil, nodes.Number, nodes.String)
_STRINGS: Final = frozenset({Kind.STRING, Kind.RAW_STRING})


def parse(source: Source, functions: Container[str]) -> dict[str, nodes.Tree]:
    """Return the templates of `source` by name; what is outside of all definitions has the name `""`.

    Args:
        functions: the names that may be called.

    Raises:
        TemplateError: it does not follow the grammar, or names what is not there.
    """
    parser = _Parser(source, functions)
    try:
        parser.file()
    except RecursionError:
        raise parser.error("more levels than can be read, expected a flatter template") from None
    return parser.trees


class _Parser:
    def __init__(self, source: Source, functions: Container[str]) -> None:
        self.trees: dict[str, nodes.Tree] = {}
        self._source = source
        self._functions = functions
        # Tokens are made before parsing begins, so that an unfinished action is told as such.
        self._tokens = list(tokens(source))
        self._next = 0
        self._variables = ["$"]
        self._loops = 0
        self._controls: dict[str, Callable[[Token], nodes.Node]] = {
            "if": lambda token: self._branch(token, nodes.If),
            "with": lambda token: self._branch(token, nodes.With),
            "range": lambda token: self._branch(token, nodes.Range),
            "template": self._call,
            "block": self._block,
            "break": lambda token: self._jump(token, nodes.Break),
            "continue": lambda token: self._jump(token, nodes.Continue),
        }

    # ---- tokens

    @property
    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind is not Kind.END:
            self._next += 1
        return token

    def _skip(self) -> Token:
        """Skip white space and return what comes, without taking it."""
        while self._peek.kind is Kind.SPACE:
            self._next += 1
        return self._peek

    def _expect(self, kind: Kind, what: str) -> Token:
        token = self._skip()
        if token.kind is not kind:
            raise self.error(f"{_shown(token)}, expected {what}")
        return self._take()

    def error(self, what: str, token: Token | None = None) -> TemplateError:
        """Return the error that `what` is at `token`, or else at what comes next."""
        return self._source.error((token or self._peek).at, what)

    # ---- nodes

    def file(self) -> None:
        found: list[nodes.Node] = []
        while self._peek.kind is not Kind.END:
            if (node := self._node(top=True)) is not None:
                found.append(node)
        self._define("", nodes.Body(0, tuple(found)), None)

    def _define(self, name: str, body: nodes.Body, at: Token | None) -> None:
        old = self.trees.get(name)
        if old is not None and not old.body.empty:
            if body.empty:
                return
            raise self.error(f'"{name}" is defined twice in {self._source.name}, expected one definition', at)
        self.trees[name] = nodes.Tree(name, self._source, body)

    def _node(self, *, top: bool = False) -> nodes.Node | None:
        """Return the next node, or None after a definition."""
        token = self._take()
        if token.kind is Kind.TEXT:
            return nodes.Text(token.at, token.text)
        word = self._skip()
        if word.kind is Kind.KEYWORD:
            if control := self._controls.get(word.text):
                self._take()
                return control(word)
            if word.text == "define" and top:
                self._take()
                self._definition(word)
                return None
            if word.text != "nil":
                inside = "definitions stand outside of all else" if word.text == "define" else "a block to belong to"
                raise self.error(f"{{{{ {word.text} }}}}, expected {inside}", word)
        pipe = self._pipe("an action")
        self._expect(Kind.CLOSE, "}}")
        return nodes.Action(token.at, pipe)

    def _body(self, opened: Token) -> tuple[nodes.Body, Literal["end", "else"]]:
        """Return what stands up to `{{ end }}` or `{{ else`, and which of them it was."""
        found: list[nodes.Node] = []
        at = self._peek.at
        while self._peek.kind is not Kind.END:
            if (closes := self._closing()) is not None:
                return nodes.Body(at, tuple(found)), closes
            node = self._node()
            if node is not None:
                found.append(node)
        raise self.error(f"{{{{ {opened.text} }}}} without end, expected {{{{ end }}}}", opened)

    def _closing(self) -> Literal["end", "else"] | None:
        if self._peek.kind is not Kind.OPEN:
            return None
        start = self._next
        self._take()
        word = self._skip()
        if word.kind is Kind.KEYWORD and word.text == "end":
            self._take()
            self._expect(Kind.CLOSE, "}} after end")
            return "end"
        if word.kind is Kind.KEYWORD and word.text == "else":
            self._take()
            return "else"
        self._next = start
        return None

    def _branch(self, word: Token, kind: type[nodes.If] | type[nodes.With] | type[nodes.Range]) -> nodes.Node:
        kept = len(self._variables)
        loop = kind is nodes.Range
        pipe = self._pipe(f"{word.text}", loop=loop)
        self._expect(Kind.CLOSE, "}}")
        self._loops += loop
        body, closes = self._body(word)
        self._loops -= loop
        other: nodes.Body | None = None
        if closes == "else":
            other = self._else(word, chained=not loop)
        del self._variables[kept:]
        return kind(word.at, pipe, body, other)

    def _else(self, word: Token, *, chained: bool) -> nodes.Body:
        again = self._skip()
        if chained and again.kind is Kind.KEYWORD and again.text == word.text:
            # {{ else if }} is an if of its own within the else, and both share one end.
            self._take()
            return nodes.Body(again.at, (self._controls[word.text](again),))
        self._expect(Kind.CLOSE, f"}}}} after else, or {word.text}" if chained else "}} after else")
        other, closes = self._body(word)
        if closes == "else":
            raise self.error("a second else, expected {{ end }}")
        return other

    def _jump(self, word: Token, kind: type[nodes.Break] | type[nodes.Continue]) -> nodes.Node:
        if not self._loops:
            raise self.error(f"{word.text} outside of a range, expected a loop around it", word)
        self._expect(Kind.CLOSE, f"}}}} after {word.text}")
        return kind(word.at)

    def _name(self, word: Token) -> str:
        token = self._skip()
        if token.kind not in _STRINGS:
            raise self.error(f"{_shown(token)}, expected the name of a template in quotation marks after {word.text}")
        return self._string(self._take()).value

    def _call(self, word: Token) -> nodes.Node:
        name = self._name(word)
        pipe = None
        if self._skip().kind is not Kind.CLOSE:
            pipe = self._pipe("template")
        self._expect(Kind.CLOSE, "}}")
        return nodes.Call(word.at, name, pipe)

    def _block(self, word: Token) -> nodes.Node:
        name = self._name(word)
        pipe = self._pipe("block")
        self._expect(Kind.CLOSE, "}}")
        self._define(name, self._apart(word), word)
        return nodes.Call(word.at, name, pipe)

    def _definition(self, word: Token) -> None:
        name = self._name(word)
        self._expect(Kind.CLOSE, "}}")
        self._define(name, self._apart(word), word)

    def _apart(self, word: Token) -> nodes.Body:
        """Return a body that sees no variable and no loop around it."""
        variables, loops = self._variables, self._loops
        self._variables, self._loops = ["$"], 0
        body, closes = self._body(word)
        if closes == "else":
            raise self.error(f"else within {word.text}, expected {{{{ end }}}}")
        self._variables, self._loops = variables, loops
        return body

    # ---- pipelines

    def _pipe(self, where: str, *, loop: bool = False, ends: Kind = Kind.CLOSE) -> nodes.Pipe:
        at = self._skip().at
        variables, assigns = self._declarations(loop=loop)
        commands: list[nodes.Command] = []
        while self._skip().kind not in {Kind.CLOSE, Kind.RIGHT_PAREN}:
            commands.append(self._command())
        if commands and self._peek.kind is not ends:
            raise self.error(f"{self._peek.text}, expected {')' if ends is Kind.RIGHT_PAREN else '}}'}")
        if not commands:
            raise self.error(f"nothing, expected a value for {where}")
        for command in commands[1:]:
            if isinstance(command.args[0], _NOT_CALLABLE):
                raise self._source.error(command.at, "a value after |, expected a function or a method")
        return nodes.Pipe(at, tuple(commands), variables, assigns)

    def _declarations(self, *, loop: bool) -> tuple[tuple[nodes.Variable, ...], bool]:
        start = self._next
        found: list[nodes.Variable] = []
        while self._skip().kind is Kind.VARIABLE:
            token = self._take()
            found.append(nodes.Variable(token.at, token.text))
            sign = self._skip()
            if sign.kind in {Kind.DECLARE, Kind.ASSIGN}:
                self._take()
                for variable in found:
                    if sign.kind is Kind.DECLARE:
                        self._variables.append(variable.name)
                    else:
                        self._check_variable(token, variable.name)
                return tuple(found), sign.kind is Kind.ASSIGN
            if sign.kind is Kind.SIGN and sign.text == "," and loop and len(found) == 1:
                self._take()
                continue
            break
        if len(found) > 1:
            raise self.error(f"{_shown(self._peek)}, expected := or =")
        self._next = start
        return (), False

    def _command(self) -> nodes.Command:
        at = self._skip().at
        args: list[nodes.Node] = []
        while True:
            self._skip()
            operand = self._operand()
            if operand is not None:
                args.append(operand)
            token = self._peek
            if token.kind is Kind.SPACE:
                continue
            if token.kind is Kind.PIPE:
                # Nothing has to come after the sign; Go lets that be.
                self._take()
            elif token.kind not in {Kind.CLOSE, Kind.RIGHT_PAREN}:
                raise self.error(f"{_shown(token)}, expected a blank, | or }}}}")
            elif operand is None and token.kind is Kind.RIGHT_PAREN and not args:
                raise self.error("), expected a value")
            break
        if not args:
            raise self.error(f"{_shown(self._peek)}, expected a value")
        return nodes.Command(at, tuple(args))

    def _operand(self) -> nodes.Node | None:
        node = self._term()
        if node is None or self._peek.kind is not Kind.FIELD:
            return node
        names: list[str] = []
        while self._peek.kind is Kind.FIELD:
            names.append(self._take().text[1:])
        if isinstance(node, nodes.Field):
            return nodes.Field(node.at, (*node.names, *names))
        if isinstance(node, nodes.Variable):
            return nodes.Variable(node.at, node.name, tuple(names))
        if isinstance(node, _NOT_CALLABLE):
            raise self._source.error(node.at, f".{names[0]} of a constant, expected a field of a value")
        return nodes.Chain(node.at, node, tuple(names))

    def _term(self) -> nodes.Node | None:
        token = self._peek
        if token.kind is Kind.KEYWORD and token.text == "nil":
            return nodes.Nil(self._take().at)
        make = self._TERMS.get(token.kind)
        return None if make is None else make(self, self._take())

    def _identifier(self, token: Token) -> nodes.Node:
        if token.text not in self._functions:
            raise self.error(f"{token.text}, expected the name of a function", token)
        return nodes.Identifier(token.at, token.text)

    def _variable(self, token: Token) -> nodes.Node:
        self._check_variable(token, token.text)
        return nodes.Variable(token.at, token.text)

    def _check_variable(self, token: Token, name: str) -> None:
        if name not in self._variables:
            raise self.error(f"{name} is not defined here, expected {name} := before", token)

    def _parenthesis(self, token: Token) -> nodes.Node:
        pipe = self._pipe("the parentheses", ends=Kind.RIGHT_PAREN)
        self._expect(Kind.RIGHT_PAREN, ")")
        return pipe

    def _string(self, token: Token) -> nodes.String:
        if token.kind is Kind.RAW_STRING:
            # As in Go's source code, carriage returns are no part of a raw string.
            return nodes.String(token.at, token.text[1:-1].replace("\r", ""))
        try:
            return nodes.String(token.at, constants.unquote(token.text))
        except Fault as fault:
            raise self.error(str(fault), token) from None

    def _number(self, token: Token) -> nodes.Node:
        read = constants.number if token.kind is Kind.NUMBER else constants.character
        try:
            return read(token.at, token.text)
        except Fault as fault:
            raise self.error(str(fault), token) from None

    _TERMS: Final[dict[Kind, Callable[[_Parser, Token], nodes.Node]]] = {
        Kind.IDENTIFIER: _identifier,
        Kind.DOT: lambda _, token: nodes.Dot(token.at),
        Kind.VARIABLE: _variable,
        Kind.FIELD: lambda _, token: nodes.Field(token.at, (token.text[1:],)),
        Kind.BOOL: lambda _, token: nodes.Bool(token.at, token.text == "true"),
        Kind.NUMBER: _number,
        Kind.CHAR: _number,
        Kind.STRING: _string,
        Kind.RAW_STRING: _string,
        Kind.LEFT_PAREN: _parenthesis,
    }


def _shown(token: Token) -> str:
    if token.kind is Kind.END:
        return "the end"
    return token.text if token.kind is not Kind.TEXT else "text"
