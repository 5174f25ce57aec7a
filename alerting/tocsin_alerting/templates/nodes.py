"""What a template is made of, once it is parsed. `at` is the offset in its source."""

from __future__ import annotations

from dataclasses import dataclass

from tocsin_alerting.templates.errors import Source


@dataclass(frozen=True, slots=True)
class Node:
    """Anything that stands in a template."""

    at: int


@dataclass(frozen=True, slots=True)
class Dot(Node):
    """`.`."""


@dataclass(frozen=True, slots=True)
class Nil(Node):
    """`nil`."""


@dataclass(frozen=True, slots=True)
class Bool(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A number or character constant.

    Args:
        integer: its value where it is whole and fits 64 bits.
        floating: its value as a fraction.
        value: what it is where any type will do; None for a whole number that does not fit.
    """

    text: str
    integer: int | None
    floating: float
    value: int | float | None


@dataclass(frozen=True, slots=True)
class String(Node):
    """A string constant without its quotation marks."""

    value: str


@dataclass(frozen=True, slots=True)
class Identifier(Node):
    """The name of a function."""

    name: str


@dataclass(frozen=True, slots=True)
class Field(Node):
    """`.Labels.job`: fields of the dot, or methods."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """`$alert` or `$alert.Labels.job`."""

    name: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain(Node):
    """Fields of something else: `(index .Alerts 0).Labels`."""

    node: Node
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Command(Node):
    """One stage of a pipeline: a function or method with arguments, or a value."""

    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Pipe(Node):
    """Commands that hand their value on, and the variables that keep the last one."""

    commands: tuple[Command, ...]
    variables: tuple[Variable, ...] = ()
    assigns: bool = False


@dataclass(frozen=True, slots=True)
class Text(Node):
    """What is shown as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Action(Node):
    """`{{ pipeline }}`."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Body(Node):
    """Nodes one after the other."""

    nodes: tuple[Node, ...]

    @property
    def empty(self) -> bool:
        """Whether it has nothing but white space."""
        return all(isinstance(node, Text) and not node.text.strip() for node in self.nodes)


@dataclass(frozen=True, slots=True)
class If(Node):
    """`{{ if }}`."""

    pipe: Pipe
    body: Body
    other: Body | None


@dataclass(frozen=True, slots=True)
class With(Node):
    """`{{ with }}`."""

    pipe: Pipe
    body: Body
    other: Body | None


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`{{ range }}`."""

    pipe: Pipe
    body: Body
    other: Body | None


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`{{ template "name" pipeline }}`."""

    name: str
    pipe: Pipe | None


@dataclass(frozen=True, slots=True)
class Break(Node):
    """`{{ break }}`."""


@dataclass(frozen=True, slots=True)
class Continue(Node):
    """`{{ continue }}`."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One template: its name, its body and the text that offsets count in."""

    name: str
    source: Source
    body: Body
