"""Templates beyond what amtool can show: where errors are, what overrides what, our own words, lint, limits, speed."""

from __future__ import annotations

import contextlib
import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin_alerting import messages
from tocsin_alerting.model import Alert, Notification, Reason
from tocsin_alerting.templates import Data, TemplateError, Templates, data

NOW = 1_795_395_600.0  # 2026-11-23 01:00:00 UTC
TEMPLATES = Templates(clock=lambda: NOW)


def notification(count: int = 2) -> Notification:
    alerts = tuple(
        Alert(
            labels={
                "alertname": "TargetDown",
                "severity": "critical",
                "job": "node",
                "instance": f"10.0.0.{index}:9100",
            },
            annotations={"summary": f"<b> & 10.0.0.{index} is down", "runbook_url": "https://runbooks.example/down"},
            starts_at=NOW - 600,
            ends_at=NOW + 300,
            updated_at=NOW,
            fingerprint=f"{index:016x}",
            generator_url="http://prometheus.example/graph?g0.expr=up&g0.tab=1",
        )
        for index in range(count)
    )
    return Notification(
        key="k",
        group_key='{}:{job="node"}',
        group_labels={"job": "node"},
        receiver="team.x",
        integration="slack",
        reason=Reason.FIRST,
        now=NOW,
        alerts=alerts,
        external_url="http://alerts.example",
        route_labels={"team": "core"},
    )


DATA = data(notification())


# ---- where errors are


@pytest.mark.parametrize(
    ("source", "line", "column", "what"),
    [
        ("a\n  {{ nope }}", 2, 6, "nope, expected the name of a function"),
        ("{{ .Status\n", 1, 1, "an action that does not end, expected }}"),
        ("{{ if true }}\nx", 1, 4, "{{ if }} without end, expected {{ end }}"),
        ("{{ $x }}", 1, 4, "$x is not defined here, expected $x := before"),
        ('{{ "a }}', 1, 4, "a string that does not end on its line, expected a closing quotation mark"),
        ("{{ (1 }}", 1, 7, "}}, expected )"),
        ("é{{ 3x }}", 1, 5, "'3x', expected a number"),
    ],
)
def test_a_text_that_cannot_be_parsed_says_where(source: str, line: int, column: int, what: str) -> None:
    """Name, line and column stand in the message and in attributes; the column counts characters."""
    with pytest.raises(TemplateError) as caught:
        TEMPLATES.check(source)
    error = caught.value
    assert (error.name, error.line, error.column, error.what) == ("template", line, column, what)
    assert str(error) == f"template:{line}:{column}: {what}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{{ .Status }}\n{{ index .Alerts 9 }}",
            "template:2:4: index 9 of 2 items, expected one from 0 to below 2",
        ),
        (
            "{{ .CommonLabels.job.x }}",
            "template:1:4: no field or method x in string, expected a value that has fields",
        ),
        ("{{ toUpper 1 }}", "template:1:4: a constant of another type, expected string"),
        ("{{ lt true false }}", "template:1:4: bool has no order, expected numbers or strings"),
        ("{{ join 1 }}", "template:1:4: 1 arguments for join, expected 2"),
        ('{{ template "x" }}', 'template:1:4: no template "x", expected the name of one that is defined'),
    ],
)
def test_a_text_that_cannot_be_rendered_says_where(source: str, message: str) -> None:
    """The place is the command that failed."""
    with pytest.raises(TemplateError) as caught:
        TEMPLATES.text(source, DATA)
    assert str(caught.value) == message


def test_an_error_in_a_file_names_the_file() -> None:
    """Both when it is read and when a text calls what it defines."""
    with pytest.raises(TemplateError) as caught:
        Templates([("a.tmpl", "{{ define `a` }}x{{ end }}"), ("b.tmpl", "\n{{ define `b` }}{{ oops }}{{ end }}")])
    assert str(caught.value).startswith("b.tmpl:2:20: oops")
    templates = Templates([("a.tmpl", "{{ define `a` }}\n{{ .Nope }}{{ end }}")])
    with pytest.raises(TemplateError) as caught:
        templates.text("{{ template `a` . }}", DATA)
    assert (caught.value.name, caught.value.line, caught.value.column) == ("a.tmpl", 2, 4)
    assert "expected one of Receiver, Status, Alerts" in caught.value.what


# ---- what overrides what


def test_a_later_definition_overrides_an_earlier_one() -> None:
    """Built-in definitions, then files in order, then what the text itself defines; an empty one overrides nothing."""
    files = [
        ("1.tmpl", '{{ define "slack.default.title" }}first{{ end }}{{ define "__alertmanager" }}AM{{ end }}'),
        ("2.tmpl", '{{ define "slack.default.title" }}second{{ end }}{{ define "__alertmanager" }} {{ end }}'),
    ]
    templates = Templates(files)
    title = '{{ template "slack.default.title" . }}'
    assert templates.text(title, DATA) == "second"
    assert templates.text('{{ define "slack.default.title" }}third{{ end }}' + title, DATA) == "third"
    assert templates.text(title, DATA) == "second"
    assert templates.text('{{ template "slack.default.username" . }}', DATA) == "AM"
    assert templates.html("<b>" + title, DATA) == "<b>second"


def test_text_around_definitions_is_not_shown() -> None:
    """A file is its definitions."""
    templates = Templates([("a.tmpl", 'ignored {{ define "a" }}x{{ end }} and {{ .Nope }}')])
    assert templates.text('{{ template "a" . }}', DATA) == "x"


# ---- our own words and functions that amtool does not have yet


def test_our_words_are_at_hand() -> None:
    """`.Tocsin` says what `messages` says."""
    given = notification()
    assert TEMPLATES.text("{{ .Tocsin.Subject }}", DATA) == messages.subject(given)
    assert TEMPLATES.text("{{ .Tocsin.Text }}", DATA) == messages.text(given)
    assert TEMPLATES.text("{{ .Tocsin.Slack }}", DATA) == messages.slack_text(given)
    assert TEMPLATES.text("{{ .Tocsin.Block }}", DATA) == messages.block(given)
    assert TEMPLATES.text("{{ .Tocsin.Runbook }} {{ .Tocsin.Source }}", DATA) == "https://runbooks.example/down node"


def test_defaults_can_be_in_our_words() -> None:
    """The names stay; a Slack title is escaped, since a label must not ring anybody."""
    ours = Templates(words="tocsin", clock=lambda: NOW)
    subject = messages.subject(notification())
    escaped = subject.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert ours.text('{{ template "slack.default.title" . }}', DATA) == escaped
    assert "&lt;b&gt; &amp;" in escaped
    assert ours.text('{{ template "slack.default.text" . }}', DATA) == messages.slack_text(notification())
    assert ours.text('{{ template "slack.default.username" . }}', DATA) == "tocsin"
    assert ours.text('{{ template "pagerduty.default.description" . }}', DATA) == subject
    assert ours.text('{{ template "email.default.subject" . }}', DATA) == subject
    assert ours.text('{{ template "slack.default.color" . }}', DATA) == "danger"
    # Who overrides a name is heard here too.
    own = Templates([("a.tmpl", '{{ define "slack.default.title" }}mine{{ end }}')], words="tocsin")
    assert own.text('{{ template "slack.default.title" . }}', DATA) == "mine"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ('{{ routeLabels "team" }}|{{ routeLabels "x" }}|{{ .RouteLabels.team }}', "core||core"),
        ('{{ base64encode "a?>é" }} {{ base64encode "a?>é" | base64decode }}', "YT8-w6k= a?>é"),
        ('{{ toDate "2006-01-02" "2026-11-23" }}', "2026-11-23 00:00:00 +0000 UTC"),
        ('{{ toDate "2006-01-02" "yesterday" }}', "0001-01-01 00:00:00 +0000 UTC"),
        (
            '{{ (mustToDate "2006-01-02T15:04:05Z07:00" "2026-11-23T10:00:00.5+02:00").UTC }}',
            "2026-11-23 08:00:00.5 +0000 UTC",
        ),
        ('{{ mustToDate "Jan _2 2006 3:04PM" "Nov 23 2026 5:07pm" | date "2006-01-02 15:04" }}', "2026-11-23 17:07"),
        ("{{ now }} {{ since (index .Alerts 0).StartsAt }}", "2026-11-23 01:00:00 +0000 UTC 10m0s"),
        ("{{ (index .Alerts 0).EndsAt.IsZero }} {{ .NotificationReason }}", "true first notification"),
    ],
)
def test_newer_functions(source: str, shown: str) -> None:
    """What Alertmanager has learned since the amtool that the table is made with; `now` is the clock's."""
    assert TEMPLATES.text(source, DATA) == shown


@pytest.mark.parametrize(
    "source", ['{{ mustToDate "2006" "x" }}', '{{ mustToDate "2006-01-02" "2026-02-30" }}', '{{ base64decode "?" }}']
)
def test_what_has_to_parse_and_does_not_is_an_error(source: str) -> None:
    """The strict forms do not show a wrong value."""
    with pytest.raises(TemplateError):
        TEMPLATES.text(source, DATA)


# ---- e-mail


def test_the_mail_is_complete_and_escaped() -> None:
    """One page without anything from outside; labels cannot be markup, and a link cannot run a script."""
    given = notification()
    bad = dataclasses.replace(
        given,
        alerts=(
            Alert(
                labels={"alertname": "<script>x</script>"},
                annotations={"runbook_url": "javascript:alert(1)", "description": "one\ntwo"},
                starts_at=NOW - 60,
                ends_at=NOW - 1,
                updated_at=NOW,
                fingerprint="0",
            ),
            *given.alerts,
        ),
    )
    for words in ("alertmanager", "tocsin"):
        page = Templates(words=words).html('{{ template "email.default.html" . }}', data(bad))
        assert "<script" not in page
        assert "javascript:" not in page
        assert "&lt;script&gt;x&lt;/script&gt;" in page
        assert "2 firing" in page
        assert "1 resolved" in page
        assert page.count("<table") == page.count("</table>")
        assert page.count("<td") == page.count("</td>")
        assert "<link" not in page
        assert "src=" not in page


# ---- lint


def test_undefined_names_are_found_through_calls() -> None:
    """Also those that a definition calls, in whatever branch."""
    templates = Templates([("a.tmpl", '{{ define "a" }}{{ if false }}{{ template "missing.a" }}{{ end }}{{ end }}')])
    source = '{{ template "a" . }}{{ template "slack.default.title" . }}{{ range .Alerts }}{{ template "b" }}{{ end }}'
    assert templates.undefined(source) == ["b", "missing.a"]
    assert templates.undefined('{{ define "b" }}{{ end }}' + source) == ["missing.a"]
    assert templates.undefined("{{ .Status }}") == []


def test_labels_that_are_read_are_found() -> None:
    """By field access, by index, within `with`, and through templates."""
    templates = Templates(
        [("a.tmpl", '{{ define "a" }}{{ range .Alerts }}{{ .Annotations.summary }}{{ end }}{{ end }}')]
    )
    source = """
    {{ .CommonLabels.severity }}{{ $.GroupLabels.job }}{{ template "a" . }}{{ index .CommonLabels "team" }}
    {{ with .CommonAnnotations }}{{ .dashboard }}{{ end }}{{ (index .Alerts 0).Labels.pod | toUpper }}
    {{ range $i, $a := .Alerts }}{{ if eq $a.Labels.tier "1" }}x{{ end }}{{ end }}{{ .CommonLabels.SortedPairs }}
    """
    assert templates.labels_read(source) == {
        ("CommonLabels", "severity"),
        ("GroupLabels", "job"),
        ("Annotations", "summary"),
        ("CommonLabels", "team"),
        ("CommonAnnotations", "dashboard"),
        ("Labels", "pod"),
        ("Labels", "tier"),
    }


def test_check_finds_html_that_cannot_be_escaped() -> None:
    """A value whose place depends on a branch."""
    source = '{{ if .Status }}<a href="{{ else }}<b title="{{ end }}{{ .Status }}">'
    TEMPLATES.check(source)
    with pytest.raises(TemplateError, match="branches that end in"):
        TEMPLATES.check(source, html=True)


# ---- limits


@pytest.mark.parametrize(
    "source",
    [
        '{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}',
        '{{ define "a" }}{{ template "b" }}{{ end }}{{ define "b" }}{{ with 1 }}{{ template "a" }}{{ end }}{{ end }}'
        '{{ template "a" }}',
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ if true }}" * 3000 + "{{ end }}" * 3000,
        "{{ range 999999999999 }}{{ end }}",
        "{{ " + "9" * 5000 + " }}",
        '{{ range 1000 }}{{ printf "%100000s" "" }}{{ end }}',
        '{{ printf "%1000000s" "" | printf "%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s" }}' * 20,
        '{{ match "(((a{1,100}){1,100}){1,100})" "a" }}',
    ],
)
def test_what_does_not_end_is_an_error(source: str) -> None:
    """A template cannot bring the process down; rendering it fails like any other."""
    for render in (TEMPLATES.text, TEMPLATES.html):
        with pytest.raises(TemplateError):
            render(source, DATA)


def test_rendering_is_quick() -> None:
    """A hundred alerts in Slack's usual form: far from the 20 ms that a group may take."""
    source = """{{ template "slack.default.title" . }}
    {{ range .Alerts }}*{{ .Annotations.summary }}* - `{{ .Labels.severity | toUpper }}`
    {{ with .Annotations.description }}_{{ . }}_{{ end }}
    {{ if .Annotations.runbook_url }}<{{ .Annotations.runbook_url }}|Runbook>{{ end }}
    {{ range .Labels.SortedPairs }} • *{{ .Name }}:* `{{ .Value }}`
    {{ end }}{{ .StartsAt.Format "15:04:05" }}{{ end }}"""
    many = data(notification(100))
    TEMPLATES.text(source, many)
    took = []
    for _ in range(5):
        start = time.process_time()
        TEMPLATES.text(source, many)
        took.append(time.process_time() - start)
    print(f"100 alerts in {min(took) * 1000:.1f} ms")
    assert min(took) < 0.02


# ---- anything at all

_PIECES = st.sampled_from(
    [
        *(
            "{{",
            "}}",
            "{{-",
            "-}}",
            "{{/*",
            "*/}}",
            "if",
            "else",
            "end",
            "range",
            "with",
            "define",
            "template",
            "block",
        ),
        *(
            "break",
            "continue",
            "nil",
            "true",
            " ",
            "\n",
            "(",
            ")",
            "|",
            ":=",
            "=",
            ",",
            "$",
            "$x",
            ".",
            ".A",
            "..",
            '"a"',
        ),
        *(
            '"',
            "`",
            "`b`",
            "'c'",
            "'",
            "1",
            "-",
            "0x",
            "1e9",
            "1.5",
            "printf",
            "index",
            "len",
            "eq",
            "nope",
            "é",
            "\\",
            "%",
        ),
        *(
            ".Status",
            ".Alerts",
            ".CommonLabels.job",
            "<a href='",
            "'>",
            "<script>",
            "</script>",
            "<!--",
            "-->",
            "<",
            "{{ end }}",
        ),
        *(
            "{{ .Status }}",
            "{{ if true }}",
            "{{ else }}",
            "{{ range .Alerts }}",
            '{{ define "t" }}',
            '{{ template "t" . }}',
        ),
    ]
)
_TEXTS = st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=25).map("".join))


def _renders(source: str, given: Data) -> None:
    for render in (TEMPLATES.text, TEMPLATES.html):
        with contextlib.suppress(TemplateError):
            render(source, given).encode()


@settings(max_examples=600, deadline=None)
@given(source=_TEXTS)
def test_any_text_is_rendered_or_refused(source: str) -> None:
    """Nothing but `TemplateError` comes out, wherever lexer, parser, escaping or evaluation stop."""
    _renders(source, DATA)


_VALUES = st.sampled_from(
    [
        *(
            ".Status",
            ".CommonLabels",
            ".Alerts",
            "1",
            "-3",
            "2.5",
            '"a"',
            "true",
            "nil",
            "$",
            "(index .Alerts 0).StartsAt",
        ),
        *(
            "(index .Alerts 0)",
            ".CommonLabels.SortedPairs",
            '(dict "a" 1)',
            "(list 1 nil)",
            '(dict "a" 1).b',
            "(safeHtml `<`)",
        ),
        *(
            '(index "é" 0)',
            '(slice "é" 1)',
            "((index .Alerts 0).StartsAt.Sub now)",
            "now.Month",
            ".Tocsin",
            "18446744073709551615",
        ),
    ]
)
_NAMES = st.sampled_from(sorted(TEMPLATES._functions))
_FORMATS = st.text("%vdsqxXtfgeTcUb+-# 0123456789.*[]é", max_size=12).map(lambda text: f"printf `{text}`")
_CALLS = st.tuples(st.one_of(_NAMES, _FORMATS), st.lists(_VALUES, max_size=4)).map(
    lambda call: " ".join([call[0], *call[1]])
)


@settings(max_examples=400, deadline=None)
@given(calls=st.lists(_CALLS, min_size=1, max_size=3))
def test_any_call_is_rendered_or_refused(calls: list[str]) -> None:
    """Every function with whatever arguments."""
    _renders("{{ " + " | ".join(calls) + " }}", DATA)


@given(st.text())
def test_text_without_actions_stays(text: str) -> None:
    """What has no action is shown as it is."""
    if "{{" not in text:
        assert TEMPLATES.text(text, DATA) == text
