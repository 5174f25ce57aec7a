"""Which file is which: decided from facts alone."""

from __future__ import annotations

import pytest

from tocsin_ship.identity import Follow, Found, Ignore, Position, decide, fingerprint

A = "a" * 24


def position(offset: int, *, truncated: bool = False) -> Position:
    return Position("/app.log", offset, 10, "mark", truncated)


def found(**facts: object) -> Found:
    return Found(**{"fingerprint": A, "size": 500, "live": True, "recent": True, **facts})  # type: ignore[arg-type]


def test_the_first_line_is_the_fingerprint() -> None:
    """What follows it does not matter, and neither does its place."""
    assert fingerprint(b"one\n", salt="s") == fingerprint(b"one\ntwo\n", salt="s") != fingerprint(b"other\n", salt="s")


def test_logs_of_other_hosts_and_paths_are_others() -> None:
    """The same first line in two logs must not make the same ids."""
    assert fingerprint(b"one\n", salt="a") != fingerprint(b"one\n", salt="b")


@pytest.mark.parametrize("head", [b"", b"half a line", b"x" * 1023])
def test_an_incomplete_first_line_is_no_fingerprint(head: bytes) -> None:
    """It would change with the next byte; the file is looked at again later."""
    assert fingerprint(head, salt="s") is None
    assert decide(found(fingerprint=None), {}, set()) == Ignore("its first line is not complete", forever=False)


def test_a_first_line_longer_than_a_kibibyte_is_known_by_its_beginning() -> None:
    """So that a file of one endless line can be followed."""
    assert fingerprint(b"x" * 1024, salt="s") == fingerprint(b"x" * 1024 + b"y\n", salt="s")


def test_a_known_file_goes_on_where_it_was_left() -> None:
    """Under whatever name it is found."""
    known = {A: position(300)}
    assert decide(found(matches=frozenset({A}), live=False, recent=False), known, set()) == Follow(A, 300)


def test_a_new_live_file_is_read_from_its_start() -> None:
    """However old it is."""
    assert decide(found(recent=False), {}, set()) == Follow(A, 0)


def test_a_rotated_file_from_before_our_time_is_left_alone() -> None:
    """Nobody asked for the history of a log when adding it."""
    assert decide(found(live=False, recent=False), {}, set()) == Ignore(
        "it was finished before this log was first followed", forever=True
    )


def test_a_file_rotated_twice_between_two_looks_is_read() -> None:
    """It was never seen live, but it was written since the log is followed."""
    assert decide(found(live=False), {}, set()) == Follow(A, 0)


def test_a_copy_of_a_followed_file_is_not_read() -> None:
    """Not now; once the original is cut off, it may be what is left of it."""
    decision = decide(found(live=False, same_as=frozenset({A}), matches=frozenset({A})), {A: position(300)}, {A})
    assert isinstance(decision, Ignore)
    assert not decision.forever


def test_a_copy_takes_the_place_of_a_file_that_was_cut_off() -> None:
    """Nobody owns the position any more, and the copy fits it."""
    known = {A: position(300, truncated=True)}
    assert decide(found(live=False, matches=frozenset({A})), known, set()) == Follow(A, 300)


def test_a_copy_that_ends_before_the_position_is_done() -> None:
    """The original was read beyond it before it was cut off."""
    known = {A: position(600, truncated=True)}
    assert decide(found(live=False, size=500), known, set()) == Follow(A, 500)


def test_the_same_header_in_a_new_file_makes_another_identity() -> None:
    """Otherwise its lines would have the ids of the old file's, and count as delivered."""
    assert decide(found(), {A: position(300)}, set()) == Follow(f"{A}-1", 0)
    assert decide(found(), {A: position(300), f"{A}-1": position(9)}, {A}) == Follow(f"{A}-2", 0)


def test_of_two_files_that_fit_one_position_one_gets_it() -> None:
    """The other one is a copy."""
    known = {A: position(300)}
    assert decide(found(matches=frozenset({A})), known, set()) == Follow(A, 300)
    again = decide(found(live=False, matches=frozenset({A}), same_as=frozenset({A})), known, {A})
    assert isinstance(again, Ignore)
