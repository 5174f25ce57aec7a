from __future__ import annotations

import pytest

from tocsin_alerting.routing import match
from tocsin_alerting.testing import config

_TREE = """
route:
  receiver: root
  group_by: [alertname, dc]
  labels: {tier: one, org: acme}
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
      active_time_intervals: [office]
      labels: {tier: two}
      routes: [{matchers: [deep="yes"], labels: {kind: audit}}]
    - matchers: ['team=~"web|app"']
      receiver: web
receivers: [{name: root}, {name: db}, {name: db-page}, {name: db-night}, {name: audit}, {name: web}]
time_intervals: [{name: office, time_intervals: [{weekdays: ['monday:friday']}]}]
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
    assert (page.group_by, night.group_by, audit.group_by) == (None, frozenset(), frozenset({"alertname", "dc"}))


def test_labels_are_inherited_by_name_and_times_are_not() -> None:
    """A child that is to be quiet at night says so itself."""
    audit = config(_TREE).root.routes[1]
    (deep,) = audit.routes
    assert audit.labels == {"tier": "two", "org": "acme"}
    assert deep.labels == {"tier": "two", "org": "acme", "kind": "audit"}
    assert (audit.active_time_intervals, deep.active_time_intervals) == (("office",), ())


def test_a_list_of_labels_overrides_all_labels_and_the_other_way_round() -> None:
    """So does the empty list, which makes one group of everything."""
    root = config("""
route:
  receiver: a
  group_by: ['...']
  routes:
    - {matchers: [x="1"], group_by: [service], routes: [{group_by: ['...']}, {matchers: [y="2"]}]}
    - {matchers: [x="2"], group_by: []}
    - {matchers: [x="3"]}
receivers: [{name: a}]
""").root
    first, second, third = root.routes
    assert [node.group_by for node in (root, first, *first.routes)] == [None, {"service"}, None, {"service"}]
    assert (second.group_by, third.group_by) == (frozenset(), None)
    assert second.group_key(second.group_labels({"a": "b"})) == '{}/{x="2"}:{}'


def test_the_same_receiver_may_be_reached_twice() -> None:
    """By two nodes, each with groups of its own; two siblings with equal matchers differ by their place alone."""
    root = config("""
route:
  receiver: a
  routes: [{matchers: [x="1"], continue: true}, {matchers: [x="1"]}, {matchers: [x="1"]}]
receivers: [{name: a}]
""").root
    found = match(root, {"x": "1"})
    assert [(route.receiver, route.node) for route in found] == [("a", "0.0"), ("a", "0.1")]
    assert found[0].key == found[1].key


def test_group_keys_are_alertmanagers() -> None:
    """The notification log and PagerDuty's dedup_key hang on this text."""
    root = config(_TREE).root
    (page,) = match(root, {"team": "db", "severity": "page"})
    labels = page.group_labels({"b": 'x"\n', "a": "1"})
    assert page.group_key(labels) == '{}/{team="db"}/{severity="page"}:{a="1", b="x\\"\\n"}'
    assert root.group_key(root.group_labels({"alertname": "A", "x": "y"})) == '{}:{alertname="A"}'
    assert root.routes[1].key == '{}/{dc=~"^(?:eu|us)$"}'
