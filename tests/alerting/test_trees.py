from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_alerting.receivers import trees


@pytest.mark.parametrize(
    ("source", "rendered", "expected"),
    [
        # What toJson writes is what it was made of; nothing in it is read a second time.
        (
            "{{ .Alerts | toJson }}",
            '[{"labels":{"code":"1","note":"value:"}}]',
            [{"labels": {"code": "1", "note": "value:"}}],
        ),
        ('{{ template "card" . }}', '\n[\n  {"a": 1},\n]\n', [{"a": 1}]),
        ('{"a": "{{ .Status }}"}', '{"a": "firing"}', {"a": "firing"}),
        (
            "{'a': {{ len .Alerts }}, 'b': null, 'c': true}",
            "{'a': 2, 'b': null, 'c': true}",
            {"a": 2, "b": None, "c": True},
        ),
        # Numbers that the template makes are numbers.
        ("{{ .Alerts.Firing | len }}", "2", 2),
        ("{{ len .Alerts }}", "0", 0),
        ('{{ if eq .Status "firing" }}5{{ else }}0{{ end }}', "5", 5),
        ('{{ if eq .Status "firing" }}true{{ else }}false{{ end }}', "true", True),
        ("{{ (index .Alerts 0).StartsAt.Unix }}", "1763856000", 1763856000),
        # Texts of the data stay texts, whatever they look like.
        ("{{ .CommonAnnotations.code }}", "1", "1"),
        ("{{- .CommonLabels.on -}}", "true", "true"),
        ("{{ .CommonAnnotations.none }}", "", ""),
        ("{{ with .CommonAnnotations.code }}{{ . }}{{ end }}", "1.50", "1.50"),
        ("{{ .CommonLabels.code | toUpper }}", "007", "007"),
        ('{{ index .CommonLabels "code" }}', "12", "12"),
        ("{{ .CommonAnnotations.quoted }}", '"1"', '"1"'),
        # So does what is no JSON, though YAML would see something in it.
        ("[{{ .Status | toUpper }}:1] {{ .CommonLabels.alertname }}", "[FIRING:1] Down", "[FIRING:1] Down"),
        ("[{{ .Status | toUpper }}]", "[FIRING]", "[FIRING]"),
        ("{{ .CommonLabels.alertname }}: broken", "Down: broken", "Down: broken"),
        ("{{ .ExternalURL }}:{{ len .Alerts }}", "1:30", "1:30"),
        ("{{ `{time}` }}", "{10:30}", "{10:30}"),
        # What holds no template is what the file says.
        ("5", "5", "5"),
        ("", "", ""),
        ('{"a": [1]}', '{"a": [1]}', {"a": [1]}),
        # No reader of JSON would keep all its digits.
        ("{{ len .Alerts }}{{ len .Alerts }}", "90071992547409930", "90071992547409930"),
    ],
)
def test_a_rendered_text_becomes_what_its_author_meant(source: str, rendered: str, expected: Any) -> None:
    """Objects, lists and numbers that a template makes; a text of an alert never changes its type."""
    found = trees.typed(source, rendered)
    assert (found, type(found)) == (expected, type(expected))


def test_a_tree_is_rendered_leaf_by_leaf_with_its_keys() -> None:
    """What is no text is taken as it is."""
    tree = {"{{ k }}": ["{{ a }}", 1, None, {"deep": "{{ b }}"}], "flag": True}
    assert trees.render(tree, lambda text: text.strip("{} ").upper()) == {
        "K": ["A", 1, None, {"DEEP": "B"}],
        "FLAG": True,
    }


@given(st.text())
def test_a_text_of_an_alert_is_never_a_scalar_of_another_type(value: str) -> None:
    """Only an object or a list can come of it, and only if it is one from end to end."""
    found = trees.typed("{{ .CommonAnnotations.x }}", value)
    assert found == value or isinstance(found, dict | list)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(-9, 9),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_written_as_json_comes_back(value: Any) -> None:
    """An object or a list that toJson has written is the same again."""
    wrapped = [value]
    assert trees.typed("{{ . | toJson }}", json.dumps(wrapped)) == wrapped
