"""From a tree to text. A tree is turned into closures once, and they are run with the data of each message.

How fields, arguments and nil behave follows Go's text/template with `missingkey=zero`, as Alertmanager runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

from tocsin_alerting.templates import nodes, printing
from tocsin_alerting.templates.errors import Fault, Source
from tocsin_alerting.templates.values import NIL, AnyMap, Function, Parameter, Value, known, truth, type_name

MAXIMUM_DEPTH: Final = 100
"""Templates that may call one another; a template that calls itself for ever stops here."""
MAXIMUM_OUTPUT: Final = 16 << 20
"""Characters that one text may have."""
MAXIMUM_ITEMS: Final = 100_000
"""The largest number that `range` counts up to."""
_TOO_DEEP: Final = f"more than {MAXIMUM_DEPTH} templates within each other, expected an end"


class _Missing(Enum):
    """What stands for no argument, or for a variable that was never set."""

    VALUE = auto()


class _Jump(Enum):
    """How a body ended before its end."""

    BREAK = auto()
    CONTINUE = auto()


_MISSING: Final = _Missing.VALUE


@dataclass(slots=True)
class Run:
    """One rendering: what is written, and where `template` finds what it calls."""

    program: Program
    data: Value
    parts: list[str] = field(default_factory=list)
    size: int = 0
    depth: int = 0
    variables: list[Value] = field(default_factory=list)

    def write(self, text: str) -> None:
        """Add to what is written."""
        self.parts.append(text)
        self.size += len(text)
        if self.size > MAXIMUM_OUTPUT:
            raise Fault(f"more than {MAXIMUM_OUTPUT} characters, expected a text that can be sent")


Read: TypeAlias = Callable[[Run, Value], Value]
"""What evaluates something, given the dot."""
Step: TypeAlias = Callable[[Run, Value], _Jump | None]
"""What writes something."""
Argument: TypeAlias = Callable[[Run, Value, Parameter], Value]
"""What evaluates an argument, given the dot and what it is for."""
Stage: TypeAlias = Callable[[Run, Value, Value], Value]
"""What evaluates a command, given the dot and the value of the command before it."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A template that is ready to run."""

    step: Step
    variables: int


class Program:
    """Templates that can call one another."""

    def __init__(self, trees: Mapping[str, nodes.Tree], functions: Mapping[str, Function]) -> None:
        self._trees = trees
        self._functions = functions
        self._compiled: dict[str, Compiled] = {}

    def find(self, name: str) -> Compiled | None:
        """Return the template that is called `name`."""
        found = self._compiled.get(name)
        if found is None and (tree := self._trees.get(name)) is not None:
            found = self._compile(name, tree)
        return found

    def _compile(self, name: str, tree: nodes.Tree) -> Compiled:
        compiler = _Compiler(tree.source, self._functions)
        step = compiler.body(tree.body)
        found = self._compiled[name] = Compiled(step, compiler.size)
        return found

    def render(self, name: str, data: Value) -> str:
        """Return what the template `name` makes of `data`.

        Raises:
            TemplateError: it did what its data or functions do not allow.
        """
        tree = self._trees[name]
        try:
            found = self.find(name) or self._compile(name, tree)
            run = Run(self, data, variables=[data, *[_MISSING] * (found.variables - 1)])
            found.step(run, data)
        except RecursionError:
            raise tree.source.error(0, _TOO_DEEP) from None
        return "".join(run.parts)


def get(value: Value, name: str) -> Value:
    """Return the field `name` of a value, or what its method of that name returns without arguments.

    Raises:
        Fault: there is none, or the method fails.
    """
    members = getattr(value, "members", None)
    if members is not None and (member := members.get(name)) is not None:
        if isinstance(member, str):
            return getattr(value, member)
        _check_count(member, 0)
        return member.call(value)
    if isinstance(value, dict):
        return value.get(name, NIL if isinstance(value, AnyMap) else "")
    return _no_field(value, name)


def _no_field(value: Value, name: str) -> Value:
    if value is None:
        return None
    if value is NIL:
        raise Fault(f".{name} of nothing, expected a value")
    known_names = ", ".join(getattr(value, "members", ()))
    expected = f"expected one of {known_names}" if known_names else "expected a value that has fields"
    raise Fault(f"no field or method {name} in {type_name(value)}, {expected}")


def _check_count(function: Function, count: int) -> None:
    wanted = len(function.parameters) - function.variadic
    if count < wanted or (count > wanted and not function.variadic):
        least = "at least " if function.variadic else ""
        raise Fault(f"{count} arguments for {function.name}, expected {least}{wanted}")
    if function.results != 1:
        raise Fault(f"{function.name} returns {function.results} values, expected a method that returns one")


def checked(value: Value, parameter: Parameter) -> Value:
    """Return `value` as an argument for `parameter`.

    Raises:
        Fault: it is of another type.
    """
    if value is NIL and parameter.constant == "any":
        return None
    if value is None:
        if parameter.nullable:
            return parameter.zero()
        raise Fault(f"no value, expected {parameter.name}")
    if not parameter.accepts(value):
        raise Fault(f"{type_name(value)}, expected {parameter.name}")
    return value


class _Compiler:
    """One template; variables become places in a list, as they are known before it runs."""

    def __init__(self, source: Source, functions: Mapping[str, Function]) -> None:
        self._source = source
        self._functions = functions
        self._scope: list[tuple[str, int]] = [("$", 0)]
        self.size = 1

    # ---- nodes

    def body(self, body: nodes.Body) -> Step:
        """Return what writes the nodes of `body`, up to a jump."""
        kept = len(self._scope)
        steps = [self._node(node) for node in body.nodes]
        del self._scope[kept:]
        if len(steps) == 1:
            return steps[0]

        def run(state: Run, dot: Value) -> _Jump | None:
            for step in steps:
                jump = step(state, dot)
                if jump is not None:
                    return jump
            return None

        return run

    def _node(self, node: nodes.Node) -> Step:
        if isinstance(node, nodes.Text):
            text = node.text
            return self._located(node, lambda state, dot: state.write(text))
        if isinstance(node, nodes.Action):
            return self._action(node)
        if isinstance(node, nodes.If | nodes.With):
            return self._branch(node)
        if isinstance(node, nodes.Range):
            return self._range(node)
        return self._call(node) if isinstance(node, nodes.Call) else self._jump(node)

    @staticmethod
    def _jump(node: nodes.Node) -> Step:
        jump = _Jump.BREAK if isinstance(node, nodes.Break) else _Jump.CONTINUE
        return lambda state, dot: jump

    def _located(self, node: nodes.Node, step: Callable[[Run, Value], None]) -> Step:
        source, at = self._source, node.at

        def run(state: Run, dot: Value) -> None:
            try:
                step(state, dot)
            except Fault as fault:
                raise source.error(at, str(fault)) from None

        return run

    def _action(self, node: nodes.Action) -> Step:
        read = self._pipe(node.pipe)
        if node.pipe.variables:

            def keep(state: Run, dot: Value) -> None:
                read(state, dot)

            return keep

        def show(state: Run, dot: Value) -> None:
            value = read(state, dot)
            if type(value) is str:
                state.write(value)
            else:
                state.write("<no value>" if value is None else printing.show(value))

        return self._located(node, show)

    def _branch(self, node: nodes.If | nodes.With) -> Step:
        kept = len(self._scope)
        read = self._pipe(node.pipe)
        body = self.body(node.body)
        other = self.body(node.other) if node.other is not None else None
        del self._scope[kept:]
        keeps_dot = isinstance(node, nodes.If)

        def run(state: Run, dot: Value) -> _Jump | None:
            value = read(state, dot)
            if truth(value):
                return body(state, dot if keeps_dot else value)
            return other(state, dot) if other is not None else None

        return run

    def _range(self, node: nodes.Range) -> Step:
        kept = len(self._scope)
        read = self._pipe(node.pipe, loop=True)
        places = [self._place(variable.name) for variable in node.pipe.variables]
        body = self.body(node.body)
        other = self.body(node.other) if node.other is not None else None
        del self._scope[kept:]
        source, at = self._source, node.pipe.at

        def run(state: Run, dot: Value) -> _Jump | None:
            try:
                pairs = _items(read(state, dot), len(places))
            except Fault as fault:
                raise source.error(at, str(fault)) from None
            if not pairs:
                return other(state, dot) if other is not None else None
            for key, item in pairs:
                if places:
                    state.variables[places[-1]] = item
                    if len(places) > 1:
                        state.variables[places[0]] = key
                if body(state, item) is _Jump.BREAK:
                    break
            return None

        return run

    def _call(self, node: nodes.Call) -> Step:
        read = self._pipe(node.pipe) if node.pipe is not None else None
        name, source, at = node.name, self._source, node.at

        def run(state: Run, dot: Value) -> None:
            found = state.program.find(name)
            if found is None:
                raise source.error(at, f'no template "{name}", expected the name of one that is defined')
            if state.depth >= MAXIMUM_DEPTH:
                raise source.error(at, _TOO_DEEP)
            inner = read(state, dot) if read is not None else None
            outer = state.variables
            state.variables = [inner, *[_MISSING] * (found.variables - 1)]
            state.depth += 1
            found.step(state, inner)
            state.depth -= 1
            state.variables = outer

        return run

    # ---- pipelines

    def _find(self, name: str) -> int | None:
        """Return where a variable is kept; the parser lets some pass that no way through the template sets."""
        return next((place for known_name, place in reversed(self._scope) if known_name == name), None)

    def _place(self, name: str) -> int:
        """Return where a variable is kept that is set here."""
        place = self._find(name)
        if place is None:
            self._scope.append((name, self.size))
            place, self.size = self.size, self.size + 1
        return place

    def _pipe(self, pipe: nodes.Pipe, *, loop: bool = False) -> Read:
        """Return what evaluates `pipe` and keeps its value; a loop keeps its items itself."""
        first, *rest = [self._command(command) for command in pipe.commands]
        if not pipe.assigns:
            for variable in pipe.variables:
                self._scope.append((variable.name, self.size))
                self.size += 1
        keeps = [] if loop else [self._place(variable.name) for variable in pipe.variables]
        if not rest and not keeps:
            return lambda state, dot: known(first(state, dot, _MISSING))

        def run(state: Run, dot: Value) -> Value:
            value = known(first(state, dot, _MISSING))
            for stage in rest:
                value = known(stage(state, dot, value))
            for place in keeps:
                state.variables[place] = value
            return value

        return run

    def _command(self, command: nodes.Command) -> Stage:
        first, arguments = command.args[0], command.args[1:]
        stage = self._stage(first, arguments) or self._plain(first, arguments)
        source, at = self._source, command.at

        def run(state: Run, dot: Value, final: Value) -> Value:
            try:
                return stage(state, dot, final)
            except Fault as fault:
                raise source.error(at, str(fault)) from None

        return run

    def _stage(self, node: nodes.Node, arguments: Sequence[nodes.Node]) -> Stage | None:
        """Return what calls a function or reads fields, or None where `node` is neither."""
        if isinstance(node, nodes.Identifier):
            return self._function_call(self._functions[node.name], arguments)
        if isinstance(node, nodes.Field):
            return self._fields(lambda state, dot: dot, node.names, arguments)
        if isinstance(node, nodes.Chain):
            return self._fields(self._read(node.node), node.names, arguments)
        if isinstance(node, nodes.Variable) and node.names:
            return self._fields(self._variable(node), node.names, arguments)
        return None

    def _plain(self, node: nodes.Node, arguments: Sequence[nodes.Node]) -> Stage:
        read = self._read(node)
        nothing = isinstance(node, nodes.Nil)

        def run(state: Run, dot: Value, final: Value) -> Value:
            if arguments or final is not _MISSING:
                raise Fault("arguments for a value, expected a function or a method before them")
            if nothing:
                raise Fault("nil alone, expected a value")
            return read(state, dot)

        return run

    def _read(self, node: nodes.Node) -> Read:
        """Return what evaluates a node by itself, where any type will do."""
        if isinstance(node, nodes.Dot):
            return lambda state, dot: dot
        if isinstance(node, nodes.Pipe):
            return self._pipe(node)
        if isinstance(node, nodes.Variable) and not node.names:
            return self._variable(node)
        stage = self._stage(node, ())
        if stage is not None:
            return lambda state, dot: stage(state, dot, _MISSING)
        value = _constant(node)
        if value is _MISSING:
            return _raiser("a number that is too large for int, expected a smaller one")
        return lambda state, dot: value

    def _variable(self, node: nodes.Variable) -> Read:
        place, name = self._find(node.name), node.name

        def run(state: Run, dot: Value) -> Value:
            value = _MISSING if place is None else state.variables[place]
            if value is _MISSING:
                raise Fault(f"{name} has no value here, expected one to be set before")
            return value

        return run

    def _fields(self, read: Read, names: Sequence[str], arguments: Sequence[nodes.Node]) -> Stage:
        """Return what follows a chain of fields; arguments belong to the last one, which must be a method then."""
        *path, last = names
        prepared = [self._argument(node) for node in arguments]

        def run(state: Run, dot: Value, final: Value) -> Value:
            value = read(state, dot)
            for name in path:
                value = get(value, name)
            if final is _MISSING and not prepared:
                return get(value, last)
            method = getattr(value, "members", {}).get(last)
            if isinstance(method, Function):
                return _invoke(method, (value,), prepared, state, dot, final)
            get(value, last)
            raise Fault(f"arguments for {last}, which is no method")

        return run

    # ---- calls

    def _function_call(self, function: Function, arguments: Sequence[nodes.Node]) -> Stage:
        prepared = [self._argument(node) for node in arguments]
        if function.name in {"and", "or"}:
            return _deciding(function, prepared, stops_at=function.name == "or")
        if function.wants_data:
            return lambda state, dot, final: _invoke(function, (state.data,), prepared, state, dot, final)
        return lambda state, dot, final: _invoke(function, (), prepared, state, dot, final)

    def _argument(self, node: nodes.Node) -> Argument:
        if isinstance(node, nodes.Nil):
            return lambda state, dot, parameter: checked(None, parameter)
        if isinstance(node, nodes.Bool | nodes.Number | nodes.String):
            return lambda state, dot, parameter: _as_constant(node, parameter)
        read = self._read(node)
        return lambda state, dot, parameter: checked(read(state, dot), parameter)


def _invoke(
    function: Function, leading: tuple[Value, ...], arguments: Sequence[Argument], state: Run, dot: Value, final: Value
) -> Value:
    """Call a function or method; the value of the command before, if any, is its last argument."""
    count = len(arguments)
    _check_count(function, count + (final is not _MISSING))
    parameters = function.parameters
    last = len(parameters) - 1
    values = [argument(state, dot, parameters[min(index, last)]) for index, argument in enumerate(arguments)]
    if final is not _MISSING:
        values.append(checked(final, parameters[min(count, last)]))
    return function.call(*leading, *values)


def _deciding(function: Function, arguments: Sequence[Argument], *, stops_at: bool) -> Stage:
    """Return `and` or `or`, which do not look at what comes after the value that decides."""
    parameter = function.parameters[0]

    def run(state: Run, dot: Value, final: Value) -> Value:
        _check_count(function, len(arguments) + (final is not _MISSING))
        value: Value = None
        for argument in arguments:
            value = argument(state, dot, parameter)
            if truth(value) == stops_at:
                return value
        return value if final is _MISSING else final

    return run


def _as_constant(node: nodes.Bool | nodes.Number | nodes.String, parameter: Parameter) -> Value:
    value: Value = _MISSING
    if parameter.constant == "any":
        value = _constant(node)
    elif isinstance(node, nodes.String):
        value = node.value if parameter.constant == "string" else _MISSING
    elif isinstance(node, nodes.Bool):
        value = node.value if parameter.constant == "bool" else _MISSING
    elif parameter.constant == "float":
        value = node.floating
    elif parameter.constant == "int" and node.integer is not None:
        value = node.integer
    if value is _MISSING:
        raise Fault(f"a constant of another type, expected {parameter.name}")
    return value


def _constant(node: nodes.Node) -> Value:
    if isinstance(node, nodes.Number):
        return _MISSING if node.value is None else node.value
    return node.value if isinstance(node, nodes.Bool | nodes.String) else None


def _raiser(what: str) -> Read:
    def run(state: Run, dot: Value) -> Value:
        raise Fault(what)

    return run


def _items(value: Value, variables: int) -> Sequence[tuple[Value, Value]]:
    """Return what a range goes over, as keys and items."""
    if isinstance(value, dict):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        if variables > 1:
            raise Fault("two variables for a range over a number, expected one")
        if value > MAXIMUM_ITEMS:
            raise Fault(f"a range over {int(value)}, expected at most {MAXIMUM_ITEMS}")
        return [(index, type(value)(index)) for index in range(value)]
    if value is None:
        return ()
    raise Fault(f"a range over {type_name(value)}, expected a list, a map or a whole number")
