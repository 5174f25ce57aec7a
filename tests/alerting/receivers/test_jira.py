"""Jira: which issue a message is about, and what becomes of it. The requests are in test_as_alertmanager.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tocsin_alerting.receivers import jira
from tocsin_alerting.receivers.jira import Issue, JiraSettings
from tocsin_alerting.testing import NOW, alert, notification

FIRING = notification(alert())
RESOLVED = notification(alert(end=NOW + 10))
OPEN, DONE = Issue("OPS-7", done=False), Issue("OPS-7", done=True)


def settings(**different: object) -> JiraSettings:
    given = {"api_url": "http://jira/rest/api/2", "project": "OPS", "issue_type": "Bug", **different}
    return JiraSettings.model_validate(given)


def plain(text: str) -> str:
    """Render nothing: the templates of these tests hold no actions."""
    return text


@pytest.mark.parametrize(
    ("url", "api_type", "expected"),
    [
        ("https://team.atlassian.net/rest/api/2/", "auto", "https://team.atlassian.net/rest/api/3/search/jql"),
        ("https://team.atlassian.net/rest/api/3", "auto", "https://team.atlassian.net/rest/api/3/search/jql"),
        ("https://team.atlassian.net/rest/api/2", "datacenter", "https://team.atlassian.net/rest/api/2/search"),
        ("https://jira.example/rest/api/2", "auto", "https://jira.example/rest/api/2/search"),
        ("https://jira.example/rest/api/2", "cloud", "https://jira.example/rest/api/3/search/jql"),
    ],
)
def test_cloud_is_searched_at_an_address_of_its_own(url: str, api_type: str, expected: str) -> None:
    """Jira Cloud has given up the old one; it is known by its domain unless `api_type` says otherwise."""
    assert jira.search_url(settings(api_url=url, api_type=api_type)) == expected


@pytest.mark.parametrize(
    ("message", "different", "expected"),
    [
        (FIRING, {}, "statusCategory != Done"),
        (FIRING, {"reopen_duration": "1h"}, "statusCategory != Done"),
        (FIRING, {"reopen_transition": "Back"}, "statusCategory != Done"),
        (
            FIRING,
            {"reopen_transition": "Back", "reopen_duration": "90s"},
            "(resolutiondate is EMPTY OR resolutiondate >= -1m)",
        ),
        (RESOLVED, {"reopen_transition": "Back", "reopen_duration": "1h"}, "statusCategory != Done"),
        (
            RESOLVED,
            {"wont_fix_resolution": 'No "way"'},
            '(resolution is EMPTY or resolution != "No \\"way\\"") and statusCategory != Done',
        ),
    ],
)
def test_a_closed_issue_is_looked_for_only_to_be_reopened(message: Any, different: Any, expected: str) -> None:
    """That takes a transition, a duration and alerts that fire; what was declined is left alone."""
    jql = jira.search(message, settings(**different), plain)["jql"]
    label = f'labels="ALERT{{{message.group_hash}}}"'
    assert jql == f'{expected} and project="OPS" and {label} order by status ASC,resolutiondate DESC'


@pytest.mark.parametrize(
    ("message", "issue", "expected"),
    [(FIRING, OPEN, ""), (FIRING, DONE, "Back"), (RESOLVED, OPEN, "Done"), (RESOLVED, DONE, "")],
)
def test_an_issue_is_moved_only_where_it_is_not_already(message: Any, issue: Issue, expected: str) -> None:
    """What fires is reopened, what is resolved is closed, and nothing is moved twice."""
    given = settings(reopen_transition="Back", resolve_transition="Done")
    assert jira.transition(issue, message, given) == expected


def test_the_label_of_the_group_is_always_there() -> None:
    """Without it each message would open another issue; labels in `fields` come beside it, empty ones are left out."""
    given = settings(labels=["b", "", "b"], fields={"labels": ["own"]})
    fields = jira.payload(FIRING, given, plain, new=True)["fields"]
    assert fields["labels"] == sorted([f"ALERT{{{FIRING.group_hash}}}", "b", "own"])


def test_an_update_leaves_alone_what_shall_not_be_updated() -> None:
    """Somebody may have written into the description; a new issue has it in any case."""
    given = settings(summary="S", description={"template": "D", "enable_update": False})
    assert "description" not in jira.payload(FIRING, given, plain, new=False)["fields"]
    assert jira.payload(FIRING, given, plain, new=True)["fields"]["description"] == "D"


def test_a_description_becomes_a_document_for_version_3() -> None:
    """What is one already is taken as it is, however long; a text becomes a paragraph per line."""
    made = {"version": 1, "type": "doc", "content": [{"type": "paragraph", "content": []}] * 2000}
    assert jira.document(json.dumps(made)) == made
    assert jira.document("one\n\ntwo")["content"] == [
        {"type": "paragraph", "content": [{"type": "text", "text": "one"}]},
        {"type": "paragraph", "content": []},
        {"type": "paragraph", "content": [{"type": "text", "text": "two"}]},
    ]
    assert jira.document("12")["type"] == "doc"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"issues": []}, None),
        (None, None),
        ({"issues": [{"key": "A-1", "fields": {"status": {"statusCategory": {"key": "done"}}}}]}, Issue("A-1", True)),
        ({"issues": [{"key": "A-1", "fields": {}}, {"key": "A-2", "fields": {}}]}, Issue("A-1", False)),
    ],
)
def test_the_first_issue_of_the_answer_counts(answer: Any, expected: Issue | None) -> None:
    """The search puts open ones first, then the one that was closed last."""
    assert jira.found(answer) == expected
