"""Templated trees: YAML whose texts are Go templates, as `payload` of webhooks and `details` of PagerDuty are.

Alertmanager 0.34 renders each text, reads the result once as YAML, and takes what is no string for what it is. So
`{{ .Alerts | toJson }}` becomes a list; but an annotation that says 1 becomes a number too, `Error: disk full` an
object, and `[FIRING:1] Down` a list. Here a text becomes something else only where its author can have meant it:

- An object or a list: the whole text is one, and every text in it is quoted (JSON, with a comma too many forgiven).
- A number, true, false or null: the template does more than print texts of its data. `{{ len .Alerts }}` is a number,
  `{{ if eq .Status "firing" }}5{{ else }}0{{ end }}` too; `{{ .CommonAnnotations.code }}` is the text "1".
- What holds no template is taken as it stands in the file, unless it is an object or a list.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson
import yaml

_ACTION: Final = re.compile(r"\{\{-?\s*(?:/\*.*?\*/|(.*?))\s*-?\}\}", re.DOTALL)
_SCALAR: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null")
_PRECISE: Final = 2**53
"""The greatest number that every reader of JSON keeps exactly."""

# Of an action: words that print nothing, a chain of fields that ends in a text, and functions that return texts.
_SILENT: Final = re.compile(r"(?:if|else|with|range|end|break|continue)\b|\$\w*(?:\s*,\s*\$\w+)?\s*:?=")
_FIELDS: Final = re.compile(r"\$?\w*(?:\.\w+)+|\.")
_NUMERIC: Final = re.compile(r"\b(?:StartsAt|EndsAt)\.")
_TEXTS: Final = frozenset(
    {
        *("toUpper", "toLower", "title", "trimSpace", "join", "reReplaceAll", "index", "safeHtml", "safeUrl", "html"),
        *("js", "urlquery", "urlUnescape", "date", "base64encode", "base64decode", "humanizeDuration"),
    }
)


def render(tree: Any, text: Callable[[str], str]) -> Any:
    """Return `tree` with its texts, and the keys of its mappings, rendered by `text`."""
    if isinstance(tree, str):
        return typed(tree, text(tree))
    if isinstance(tree, dict):
        return {text(key): render(value, text) for key, value in tree.items()}
    if isinstance(tree, list):
        return [render(item, text) for item in tree]
    return tree


def typed(source: str, rendered: str) -> Any:
    """Return what `rendered`, made from the template `source`, stands for: see the module."""
    found = rendered.strip()
    if found[:1] in {"{", "["} and found[-1:] in {"}", "]"}:
        return _structure(found, rendered)
    if "{{" in source and _SCALAR.fullmatch(found) and not prints_texts(source):
        value = orjson.loads(found)
        return rendered if isinstance(value, int) and abs(value) > _PRECISE else value
    return rendered


def prints_texts(source: str) -> bool:
    """Return whether all that a template prints is texts of its data, none of its own."""
    if _ACTION.sub("", source).strip():
        return False
    return all(_prints_text(match[1] or "") for match in _ACTION.finditer(source))


def _prints_text(action: str) -> bool:
    if not action or _SILENT.match(action):
        return True
    last = action.rpartition("|")[2].strip()
    if last.partition(" ")[0] in _TEXTS:
        return True
    return _FIELDS.fullmatch(last) is not None and _NUMERIC.search(last) is None


def _structure(found: str, otherwise: str) -> Any:
    try:
        return orjson.loads(found)
    except orjson.JSONDecodeError:
        pass
    try:
        node = yaml.compose(found, Loader=yaml.SafeLoader)
        return yaml.safe_load(found) if node is not None and _quoted(node) else otherwise
    except (yaml.YAMLError, ValueError, RecursionError):
        return otherwise


def _quoted(node: yaml.Node) -> bool:
    if isinstance(node, yaml.MappingNode):
        return all(_quoted(key) and _quoted(value) for key, value in node.value)
    if isinstance(node, yaml.SequenceNode):
        return all(map(_quoted, node.value))
    if not isinstance(node, yaml.ScalarNode):
        return False
    # A bare word or a date is text that nobody wrote as JSON, and 1:30 no number.
    return node.tag.endswith(":str") if node.style is not None else _SCALAR.fullmatch(node.value) is not None
