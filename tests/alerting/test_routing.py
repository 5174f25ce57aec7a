from __future__ import annotations

import pytest

from tocsin_alerting.routing import match
from tocsin_alerting.testing import config

_TREE = """
route:
  receiver: root
  group_by: [alertname, dc]
  routes:
    - receiver: db
      matchers: ['team="db"']
      group_wait: 1s
      routes:
        - receiver: db-page
          matchers: ['severity="page"']
          group_by: ["..."]
        - receiver: db-night
          matchers: ['night="yes"']
          group_by: []
    - receiver: audit
      match_re: {dc: eu|us}
      continue: true
    - matchers: ['team=~"web|app"']
      receiver: web
receivers: [{name: root}, {name: db}, {name: db-page}, {name: db-night}, {name: audit}, {name: web}]
"""


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ({}, ["root"]),
        ({"team": "db"}, ["db"]),
        ({"team": "db", "severity": "page", "night": "yes"}, ["db-page"]),
        ({"team": "web"}, ["web"]),
        ({"team": "web", "dc": "eu"}, ["audit", "web"]),
        ({"dc": "us"}, ["audit"]),
        ({"dc": "europe"}, ["root"]),
    ],
)
def test_the_tree_is_walked_depth_first_and_continue_goes_on(labels: dict[str, str], receivers: list[str]) -> None:
    """A node with a matching child never handles the alert itself."""
    assert [route.receiver for route in match(config(_TREE).root, labels)] == receivers


def test_children_inherit_what_they_do_not_say() -> None:
    """Receiver, group_by and timers come from above; an empty group_by is something said."""
    root = config(_TREE).root
    db, audit, _ = root.routes
    page, night = db.routes
    assert (page.group_wait, page.group_interval, page.repeat_interval) == (1.0, 300.0, 14_400.0)
    assert (page.group_by, night.group_by, audit.group_by) == (None, frozenset(), {"alertname", "dc"})


def test_group_keys_are_alertmanagers() -> None:
    """The notification log and PagerDuty's dedup_key hang on this text."""
    root = config(_TREE).root
    (page,) = match(root, {"team": "db", "severity": "page"})
    labels = page.group_labels({"b": 'x"\n', "a": "1"})
    assert page.group_key(labels) == '{}/{team="db"}/{severity="page"}:{a="1", b="x\\"\\n"}'
    assert root.group_key(root.group_labels({"alertname": "A", "x": "y"})) == '{}:{alertname="A"}'
    assert root.routes[1].key == '{}/{dc=~"^(?:eu|us)$"}'
