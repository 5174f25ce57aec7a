"""What a template calls and which labels it reads, found without running it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

from tocsin_alerting.templates import nodes
from tocsin_alerting.templates.data import KV, KV_FIELDS


def called(trees: Mapping[str, nodes.Tree], name: str) -> set[str]:
    """Return the names of templates that `name` calls, itself or through others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        tree = trees.get(waiting.pop())
        names = {node.name for node in _nodes(tree.body) if isinstance(node, nodes.Call)} if tree else set()
        waiting += names - found
        found |= names
    return found


def labels_read(trees: Mapping[str, nodes.Tree], name: str) -> set[tuple[str, str]]:
    """Return (field, label) for each label that `name` reads by its name, itself or through others."""
    found: set[tuple[str, str]] = set()
    for reached in {name, *called(trees, name)} & set(trees):
        _labels(trees[reached].body, "", lambda field, label: found.add((field, label)))
    return found


def _labels(node: nodes.Node, dot: str, note: Callable[[str, str], None]) -> None:
    """Tell `note` of the labels read in `node`; `dot` is the name of the field that the dot is, if it is one."""
    names: tuple[str, ...] = ()
    if isinstance(node, nodes.Field):
        names = (dot, *node.names) if dot else node.names
    elif isinstance(node, nodes.Variable | nodes.Chain):
        names = node.names
    elif isinstance(node, nodes.Command):
        _index(node, note)
    for field, label in itertools.pairwise(names):
        if field in KV_FIELDS and label not in KV.members:
            note(field, label)
    if isinstance(node, nodes.With):
        _labels(node.pipe, dot, note)
        _labels(node.body, _field(node.pipe), note)
        if node.other is not None:
            _labels(node.other, dot, note)
    elif isinstance(node, nodes.Range):
        _labels(node.pipe, dot, note)
        _labels(node.body, "", note)
        if node.other is not None:
            _labels(node.other, dot, note)
    else:
        for child in _children(node):
            _labels(child, dot, note)


def _field(pipe: nodes.Pipe) -> str:
    """Return the field of labels that a pipeline is, or nothing."""
    if len(pipe.commands) != 1 or len(pipe.commands[0].args) != 1:
        return ""
    return _last(pipe.commands[0].args[0])


def _last(node: nodes.Node) -> str:
    if isinstance(node, nodes.Pipe):
        return _field(node)
    names = node.names if isinstance(node, nodes.Field | nodes.Variable | nodes.Chain) else ()
    return names[-1] if names and names[-1] in KV_FIELDS else ""


def _index(command: nodes.Command, note: Callable[[str, str], None]) -> None:
    """Tell of `index .Labels "name"`."""
    if len(command.args) < 3:
        return
    function, labels, key = command.args[:3]
    if isinstance(function, nodes.Identifier) and function.name == "index" and isinstance(key, nodes.String):
        field = _last(labels)
        if field:
            note(field, key.value)


def _nodes(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in _children(node):
        yield from _nodes(child)


def _children(node: nodes.Node) -> list[nodes.Node]:
    if isinstance(node, nodes.Body):
        return list(node.nodes)
    if isinstance(node, nodes.If | nodes.With | nodes.Range):
        return [node.pipe, node.body, *([node.other] if node.other is not None else [])]
    if isinstance(node, nodes.Action | nodes.Call):
        return [node.pipe] if node.pipe is not None else []
    if isinstance(node, nodes.Pipe):
        return list(node.commands)
    if isinstance(node, nodes.Command):
        return list(node.args)
    return [node.node] if isinstance(node, nodes.Chain) else []
