from __future__ import annotations

from dataclasses import replace

from tocsin_alerting.alerts import Entry
from tocsin_alerting.grouping import GroupId, Groups
from tocsin_alerting.look import look
from tocsin_alerting.model import Alert
from tocsin_alerting.routing import Route, match
from tocsin_alerting.testing import NOW, Timeline, Unmuted, alert, config, entry

FIRST, NEW = "first notification", "new alerts added"
SOME, ALL, REPEAT = "some alerts resolved", "all alerts resolved", "repeat interval elapsed"


def _route(**members: object) -> Route:
    plain = Route("0", "{}", "team", frozenset({"service"}), 30.0, 300.0, 14_400.0)
    return replace(plain, **members)  # type: ignore[arg-type]  # names and types are the test's business


def test_a_group_waits_for_its_first_message_and_gathers_alerts() -> None:
    """Alerts of the first group_wait come in one message."""
    line = Timeline(_route())
    line.at(0, alert("A"))
    line.at(20, alert("B", start=NOW + 20))
    assert line.run(40) == [(30, FIRST, 2, 0)]


def test_a_new_alert_of_a_known_group_waits_for_the_next_tick() -> None:
    """Ticks come every group_interval after the first."""
    line = Timeline(_route())
    line.at(0, alert("A", end=NOW + 9999))
    line.at(31, alert("B", start=NOW + 31, end=NOW + 9999))
    assert line.run(700) == [(30, FIRST, 1, 0), (330, NEW, 2, 0)]


def test_an_alert_that_is_older_than_group_wait_is_sent_at_once() -> None:
    """After a restart nobody waits twice."""
    line = Timeline(_route())
    line.at(0, alert("A", start=NOW - 31))
    assert line.run(1) == [(0, FIRST, 1, 0)]


def test_an_old_alert_makes_a_waiting_group_due() -> None:
    """Also when it is not the first of its group."""
    line = Timeline(_route())
    line.at(0, alert("A"))
    line.at(5, alert("B", start=NOW - 60))
    assert line.run(10) == [(5, FIRST, 2, 0)]


def test_an_alert_whose_end_passes_is_resolved_at_the_next_tick() -> None:
    """Nobody needs to send anything."""
    line = Timeline(_route())
    line.at(0, alert("A", end=NOW + 100))
    assert line.run(1000) == [(30, FIRST, 1, 0), (330, ALL, 0, 1)]
    assert len(line.groups) == 0


def test_an_alert_that_ends_before_the_first_message_is_never_told() -> None:
    """Nor is its end."""
    line = Timeline(_route())
    line.at(0, alert("A", end=NOW + 20))
    assert line.run(1000) == []
    assert len(line.groups) == 0


def test_one_of_two_resolving_is_told_once() -> None:
    """With send_resolved each end is a message, and the ended alert leaves the group."""
    line = Timeline(_route())
    line.at(0, alert("A", end=NOW + 100), alert("B", end=NOW + 99_999))
    assert line.run(2000) == [(30, FIRST, 2, 0), (330, SOME, 1, 1)]


def test_without_send_resolved_an_end_is_silent_and_the_next_alert_is_a_first() -> None:
    """An all-resolved message counts as sent."""
    line = Timeline(_route(), send_resolved=False)
    line.at(0, alert("A", end=NOW + 100))
    line.at(400, alert("A", start=NOW + 400, end=NOW + 9999))
    assert line.run(1000) == [(30, FIRST, 1, 0), (430, FIRST, 1, 0)]


def test_repeats_come_at_the_first_tick_not_before_repeat_interval() -> None:
    """repeat_interval is rounded up to a multiple of group_interval."""
    line = Timeline(_route(group_interval=60.0, repeat_interval=150.0))
    line.at(0, alert("A", end=NOW + 99_999))
    assert line.run(400) == [(30, FIRST, 1, 0), (210, REPEAT, 1, 0), (390, REPEAT, 1, 0)]


def test_an_exact_multiple_repeats_at_that_tick() -> None:
    """4 h at ticks of 5 min is 4 h, not 4 h 5 min."""
    line = Timeline(_route(group_interval=60.0, repeat_interval=120.0))
    line.at(0, alert("A", end=NOW + 99_999))
    assert line.run(200) == [(30, FIRST, 1, 0), (150, REPEAT, 1, 0)]


def test_resolving_and_firing_again_between_two_ticks_is_invisible() -> None:
    """The group is compared with what was told, not with every step between."""
    line = Timeline(_route())
    line.at(0, alert("A", end=NOW + 9999))
    line.at(100, alert("A", end=NOW + 100))
    line.at(200, alert("A", start=NOW + 200, end=NOW + 9999))
    assert line.run(1000) == [(30, FIRST, 1, 0)]


def test_services_do_not_share_a_group() -> None:
    """Group labels keep them apart; labels that are not grouped by do not."""
    line = Timeline(_route())
    line.at(0, alert("A", service="shop"), alert("B", service="shop"), alert("A", service="blog"))
    assert sorted(line.run(40)) == [(30, FIRST, 1, 0), (30, FIRST, 2, 0)]


def test_a_resolution_under_a_mute_is_told_when_the_mute_ends() -> None:
    """Alertmanager forgets it, and PagerDuty stays open (prometheus/alertmanager#226)."""
    line = Timeline(_route())
    line.at(0, alert("A", end=NOW + 400))
    line.run(40)
    line.mutes.silenced = {"A"}
    assert line.run(1000) == [(30, FIRST, 1, 0)]
    line.mutes.silenced = set()
    assert line.run(2000) == [(30, FIRST, 1, 0), (1230, ALL, 0, 1)]
    assert len(line.groups) == 0


def test_a_resolution_in_a_muted_time_is_told_when_it_ends() -> None:
    """The same for time intervals."""
    line = Timeline(_route())
    line.at(0, alert("A", end=NOW + 400))
    line.run(40)
    line.mutes.night = True
    line.run(1000)
    line.mutes.night = False
    assert line.run(2000)[1:] == [(1230, ALL, 0, 1)]


def test_a_resolution_under_a_mute_is_told_at_once_where_that_is_wanted() -> None:
    """For receivers that keep something open, such as PagerDuty."""
    line = Timeline(_route(), at_once=True)
    line.at(0, alert("A", end=NOW + 400))
    line.run(40)
    line.mutes.silenced = {"A"}
    assert line.run(2000) == [(30, FIRST, 1, 0), (630, ALL, 0, 1)]


def test_an_alert_muted_from_beginning_to_end_never_shows() -> None:
    """Neither it nor its end."""
    line = Timeline(_route())
    line.mutes.silenced = {"A"}
    line.at(0, alert("A", end=NOW + 400))
    line.run(1000)
    line.mutes.silenced = set()
    assert line.run(3000) == []
    assert len(line.groups) == 0


def test_an_unmuted_alert_is_told_at_the_next_tick() -> None:
    """Not at once; and it is a first notification if nothing else was told."""
    line = Timeline(_route())
    line.mutes.silenced = {"A"}
    line.at(0, alert("A", end=NOW + 9999))
    line.run(100)
    line.mutes.silenced = set()
    assert line.run(400) == [(330, FIRST, 1, 0)]


def test_an_acknowledged_group_is_not_repeated() -> None:
    """New alerts and the end are told all the same."""
    line = Timeline(_route(repeat_interval=300.0))
    line.at(0, alert("A", end=NOW + 1500))
    line.mutes.acked = {"A"}
    line.at(700, alert("B", start=NOW + 700, end=NOW + 1500))
    assert line.run(3000) == [(30, FIRST, 1, 0), (930, NEW, 2, 0), (1230, REPEAT, 2, 0), (1530, ALL, 0, 2)]


def test_ticks_keep_their_rhythm() -> None:
    """A look that comes late does not put off the next one."""
    groups = Groups()
    groups.insert(entry(alert(), _route()), NOW)
    (group,) = groups.due(NOW + 30)
    groups.ticked(group, [], NOW + 30)
    groups.ticked(group, [], NOW + 335)
    assert groups.next_due == NOW + 630


def test_a_resolved_alert_opens_no_group() -> None:
    """There is nobody who was told that it fired."""
    groups = Groups()
    groups.insert(entry(alert(end=NOW - 1, start=NOW - 10), _route()), NOW)
    assert len(groups) == 0
    assert groups.next_due is None


def test_a_group_stays_due_until_it_was_dealt_with() -> None:
    """A tick that could not be written down is not lost."""
    groups = Groups()
    groups.insert(entry(alert(), _route()), NOW)
    assert groups.due(NOW + 29) == []
    (group,) = groups.due(NOW + 30)
    assert groups.due(NOW + 31) == [group]
    groups.ticked(group, [], NOW + 31)
    assert groups.due(NOW + 31) == []
    assert groups.next_due == NOW + 331


def test_resolved_alerts_stay_until_receivers_were_told() -> None:
    """A message that failed is tried again at the next tick with all it was about."""
    groups = Groups()
    ended = entry(alert(end=NOW + 10), _route())
    groups.insert(ended, NOW)
    (group,) = groups.due(NOW + 30)
    groups.ticked(group, [ended.alert.fingerprint], NOW + 30)
    groups.settled(group.id, told=False)
    assert list(group.alerts.values()) == [ended]
    groups.ticked(group, [ended.alert.fingerprint], NOW + 330)
    groups.settled(group.id, told=True)
    assert len(groups) == 0


def test_an_alert_that_came_back_meanwhile_stays() -> None:
    """Only what was told resolved leaves."""
    groups = Groups()
    ended = entry(alert(end=NOW + 10), _route())
    groups.insert(ended, NOW)
    (group,) = groups.due(NOW + 30)
    groups.ticked(group, [ended.alert.fingerprint], NOW + 30)
    ended.alert = alert(start=NOW + 31, end=NOW + 999)
    groups.settled(group.id, told=True)
    assert list(group.alerts.values()) == [ended]


_BEFORE = """
route: {receiver: a, group_by: [service], routes: [{matchers: ['service="shop"'], receiver: a, group_interval: 10m}]}
receivers: [{name: a}, {name: b}]
"""
_AFTER = """
route: {receiver: b, group_by: [service], routes: [{matchers: ['service="shop"'], receiver: b, group_interval: 10m}]}
receivers: [{name: b}]
"""


def _routed(root: Route, item: Alert, known: Entry | None = None) -> Entry:
    cell = known or entry(item)
    cell.routes = tuple(match(root, item.labels))
    return cell


def test_a_reload_keeps_the_timers_of_groups_whose_key_survives() -> None:
    """Neither a repeat nor an early message comes of reading the file again."""
    groups = Groups()
    before, later = config(_BEFORE).root, config(_AFTER).root
    cells = [_routed(before, alert(service=name)) for name in ("shop", "blog")]
    for cell in cells:
        groups.insert(cell, NOW)
    for group in groups.due(NOW + 30):
        groups.ticked(group, [], NOW + 30)
    cells.append(_routed(before, alert("Late", service="shop", start=NOW + 40)))
    groups.insert(cells[-1], NOW + 40)
    for cell in cells:
        _routed(later, cell.alert, cell)
    after = groups.rebuilt(cells, {}, NOW + 50)
    found = {group.labels["service"]: (group.route.receiver, group.due, len(group.alerts)) for group in after}
    assert found == {"shop": ("b", NOW + 630, 2), "blog": ("b", NOW + 330, 1)}


def test_who_was_told_is_told_the_end_though_the_route_has_gone() -> None:
    """The old group lives on beside the tree, tells nothing new, and ends with what it was told of."""
    groups = Groups()
    cell = _routed(config(_BEFORE).root, alert(service="shop", end=NOW + 9999))
    groups.insert(cell, NOW)
    (group,) = groups.due(NOW + 30)
    groups.ticked(group, [], NOW + 30)
    _routed(config(_AFTER).root, cell.alert, cell)
    owed = {group.id: {cell.alert.fingerprint}}
    after = groups.rebuilt([cell], owed, NOW + 50).rebuilt([cell], owed, NOW + 60)
    new, old = sorted(after, key=lambda each: each.route.receiver == "a")
    assert (new.route.receiver, len(new.alerts), len(new.strays)) == ("b", 1, 0)
    assert (old.id, len(old.alerts), len(old.strays), old.due) == (group.id, 0, 1, NOW + 630)
    found = look(old, Unmuted(), NOW + 630)
    assert (found.firing, found.muted) == ((), {cell.alert.fingerprint})
    cell.alert = alert(service="shop", end=NOW + 640)
    found = look(old, Unmuted(), NOW + 1230)
    assert found.resolved == (cell.alert,)
    after.ticked(old, found.ended, NOW + 1230)
    assert after.settled(old.id, told=True) == [old]


def test_a_reload_brings_ticks_nearer_but_puts_none_off() -> None:
    """A shorter group_interval counts from the reload on."""
    groups = Groups()
    cell = entry(alert(), _route(group_interval=3600.0))
    groups.insert(cell, NOW)
    (group,) = groups.due(NOW + 30)
    groups.ticked(group, [], NOW + 30)
    for interval, due in ((60.0, 100), (7200.0, 3630)):
        cell.routes = (_route(group_interval=interval),)
        assert groups.rebuilt([cell], {}, NOW + 40).next_due == NOW + due


def test_a_reload_sends_no_first_message_early() -> None:
    """A group that still waits for more alerts goes on waiting."""
    groups = Groups()
    slow_to_come = entry(alert(start=NOW), _route())
    groups.insert(slow_to_come, NOW + 20)
    assert groups.rebuilt([slow_to_come], {}, NOW + 40).next_due == NOW + 50


def test_a_restored_group_keeps_the_rhythm_of_its_ticks() -> None:
    """A restart shifts nothing; a group that was not looked at yet waits from its first alert on."""
    groups = Groups()
    groups.insert(entry(alert(service="shop"), _route()), NOW)
    groups.insert(entry(alert(service="blog", start=NOW + 690), _route()), NOW + 690)
    groups.resume({GroupId('{}:{service="shop"}', "team"): NOW}, NOW + 700)
    assert sorted(group.due - NOW for group in groups) == [720, 900]
