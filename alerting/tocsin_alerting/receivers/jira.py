"""Jira: an issue per group, found again by a label with the hash of the group's key; updated, closed and reopened."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

import orjson
import pydantic

from tocsin_alerting.matchers import quote
from tocsin_alerting.model import Notification
from tocsin_alerting.receivers import trees
from tocsin_alerting.receivers.addresses import below
from tocsin_alerting.receivers.cutting import characters
from tocsin_alerting.receivers.fields import Text, Tree, Url
from tocsin_alerting.receivers.sending import Missing, ReceiverSettings, Sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.http import Failure, RequestError, redact_url
from tocsin_service.settings import Duration, Settings, flaw

SUMMARY_LIMIT: Final = 255
DESCRIPTION_LIMIT: Final = 32767
_RETRY: Final = frozenset({429})
_SUMMARY: Final = '{{ template "jira.default.summary" . }}'
_DESCRIPTION: Final = '{{ template "jira.default.description" . }}'


class Templated(Settings):
    """`summary` and `description`: a template, or `{template: ..., enable_update: false}`.

    Args:
        template: None is the default.
        enable_update: whether an issue that exists gets the new text.
    """

    template: Text | None = None
    enable_update: bool = True

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"template": str(data)} if isinstance(data, str | int | float) else data


class JiraSettings(ReceiverSettings):
    """`jira_configs`; who we are stands in `http_config`."""

    api_url: Url = ""
    api_type: Literal["auto", "cloud", "datacenter"] = "auto"
    project: Text = ""
    issue_type: Text = ""
    summary: Templated = Templated()
    description: Templated = Templated()
    labels: tuple[Text, ...] = ()
    priority: Text = '{{ template "jira.default.priority" . }}'
    resolve_transition: str = ""
    reopen_transition: str = ""
    reopen_duration: Duration = 0.0
    wont_fix_resolution: str = ""
    fields: dict[str, Tree] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name, example in (("project", "the key of a project"), ("issue_type", "Bug, for example")):
            if not getattr(self, name):
                raise flaw(f"{name} is missing", expected=example, fix="add it")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with the address from `global` where there is none.

        Raises:
            Missing: there is none.
        """
        url = self.api_url or shared.jira_api_url
        if not url:
            expected = "https://company.atlassian.net/rest/api/3/, for example"
            raise Missing(
                "api_url is missing, and global has no jira_api_url", expected=expected, fix="add one of them"
            )
        return super().inherit(shared).model_copy(update={"api_url": url})

    @property
    def version(self) -> int:
        """The version of the REST API that `api_url` names."""
        return 3 if urlsplit(self.api_url).path.rstrip("/").endswith("/3") else 2

    @property
    def cloud(self) -> bool:
        """Whether this is Jira Cloud, which searches at another address."""
        if self.api_type != "auto":
            return self.api_type == "cloud"
        return (urlsplit(self.api_url).hostname or "").endswith(".atlassian.net")


@dataclass(frozen=True, slots=True)
class Issue:
    """An issue that exists."""

    key: str
    done: bool


async def send(notification: Notification, settings: JiraSettings, sending: Sending) -> None:
    """Find the issue of the group; create or update it, then resolve or reopen it where settings name how.

    All of it may be repeated: an issue that was created is found next time.

    Raises:
        RequestError: a request was not taken, or the issue has no such transition.
    """

    def text(source: str) -> str:
        return sending.text(source, notification)

    async def call(method: str, url: str, body: object = None) -> Any:
        if body is None:
            headers = {"Content-Type": "application/json"}
            answer = await sending.request(method, url, settings, headers=headers, retry=_RETRY)
        else:
            answer = await sending.post_json(url, body, settings, method=method, retry=_RETRY)
        return _json(url, answer.content)

    query = search(notification, settings, text)
    issue = found(await call("POST", search_url(settings), query))
    if issue is None:
        if notification.status == "firing":
            await call("POST", below(settings.api_url, "issue"), payload(notification, settings, text, new=True))
        return
    url = below(settings.api_url, f"issue/{issue.key}")
    await call("PUT", url, payload(notification, settings, text, new=False))
    if name := transition(issue, notification, settings):
        moves = await call("GET", f"{url}/transitions")
        await call("POST", f"{url}/transitions", {"transition": {"id": _move(moves, name, issue)}})


def search_url(settings: JiraSettings) -> str:
    """Return where issues are searched for. Source: Atlassian's changelog CHANGE-2046 for Jira Cloud."""
    if settings.cloud:
        return below(re.sub(r"/2/?$", "/3", settings.api_url), "search/jql")
    return below(settings.api_url, "search")


def search(notification: Notification, settings: JiraSettings, text: Callable[[str], str]) -> dict[str, Any]:
    """Return the search for the issue of a group: an open one, or one closed so lately that it shall be reopened."""
    terms = []
    if settings.wont_fix_resolution:
        terms.append(f"(resolution is EMPTY or resolution != {quote(settings.wont_fix_resolution)})")
    reopens = bool(settings.reopen_transition) and settings.reopen_duration > 0
    if reopens and notification.status == "firing":
        minutes = int(settings.reopen_duration // 60)
        terms.append(f"(resolutiondate is EMPTY OR resolutiondate >= -{minutes}m)")
    else:
        terms.append("statusCategory != Done")
    terms += [f"project={quote(text(settings.project))}", f"labels={quote(_label(notification))}"]
    jql = f"{' and '.join(terms)} order by status ASC,resolutiondate DESC"
    return {"jql": jql, "fields": ["status"], "maxResults": 2}


def found(answer: Any) -> Issue | None:
    """Return the issue of a search's answer; where there are more, the first is open or was closed last."""
    issues = answer.get("issues") if isinstance(answer, dict) else None
    if not issues:
        return None
    status = issues[0].get("fields", {}).get("status", {})
    return Issue(str(issues[0]["key"]), done=status.get("statusCategory", {}).get("key") == "done")


def transition(issue: Issue, notification: Notification, settings: JiraSettings) -> str:
    """Return the name of the transition that the issue shall go through, empty for none."""
    if notification.status == "firing":
        return settings.reopen_transition if issue.done else ""
    return "" if issue.done else settings.resolve_transition


def payload(
    notification: Notification, settings: JiraSettings, text: Callable[[str], str], *, new: bool
) -> dict[str, Any]:
    """Return what creates or updates the issue; `text` renders a template."""
    own = {name: trees.render(tree, text) for name, tree in settings.fields.items()}
    labels = own.get("labels")
    kept = [str(label) for label in labels] if isinstance(labels, list) else []
    fields: dict[str, Any] = {
        "project": {"key": text(settings.project)},
        "issuetype": {"name": text(settings.issue_type)},
    }
    if (summary := _said(settings.summary, _SUMMARY, new=new)) is not None:
        fields["summary"] = characters(text(summary), SUMMARY_LIMIT)
    if (description := _said(settings.description, _DESCRIPTION, new=new)) is not None:
        fields["description"] = (document if settings.version == 3 else _cut)(text(description))
    if priority := text(settings.priority):
        fields["priority"] = {"name": priority}
    # Without its label the issue would not be found again, and each message would open another one.
    fields |= own
    fields["labels"] = sorted({_label(notification), *kept, *(text(label) for label in settings.labels)} - {""})
    return {"fields": fields}


def document(text: str) -> Any:
    """Return a description for version 3 of the API: a document that the template made, or one that holds its text.

    Source: https://developer.atlassian.com/cloud/jira/platform/apis/document/structure/
    """
    try:
        made = orjson.loads(text)
    except orjson.JSONDecodeError:
        made = None
    if isinstance(made, dict):
        return made
    lines = [{"type": "text", "text": line} if line else None for line in _cut(text).split("\n")]
    paragraphs = [{"type": "paragraph", "content": [line] if line else []} for line in lines]
    return {"version": 1, "type": "doc", "content": paragraphs}


def _said(setting: Templated, default: str, *, new: bool) -> str | None:
    """Return the template of a field, None where an issue that exists keeps what it has."""
    if not new and not setting.enable_update:
        return None
    return default if setting.template is None else setting.template


def _cut(text: str) -> str:
    return characters(text, DESCRIPTION_LIMIT)


def _label(notification: Notification) -> str:
    return f"ALERT{{{notification.group_hash}}}"


def _move(answer: Any, name: str, issue: Issue) -> str:
    moves = answer.get("transitions", []) if isinstance(answer, dict) else []
    for move in moves:
        if move.get("name") == name:
            return str(move.get("id"))
    names = ", ".join(str(move.get("name")) for move in moves) or "none"
    message = f'the issue {issue.key} has no transition "{name}" now; it has: {names}'
    raise RequestError(message, reason=Failure.OTHER, permanent=True)


def _json(url: str, content: bytes) -> Any:
    if not content.strip():
        return None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"{redact_url(url)} answered, but not in JSON", reason=Failure.OTHER) from error
