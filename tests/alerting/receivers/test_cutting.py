"""Cutting texts to what a service takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tocsin_alerting.receivers.addresses import below
from tocsin_alerting.receivers.cutting import characters, octets


@given(st.text(), st.integers(min_value=4, max_value=40))
def test_what_is_cut_fits_and_ends_with_a_mark(text: str, limit: int) -> None:
    """The mark counts; what fits is not touched; no character is torn."""
    for cut, size in ((characters(text, limit), len), (octets(text, limit), _bytes)):
        assert size(cut) <= limit
        if size(text) <= limit:
            assert cut == text
        else:
            assert cut.endswith("…")
            assert text.startswith(cut[:-1])


@given(st.text(), st.integers(min_value=0, max_value=40))
def test_without_a_mark_the_beginning_is_what_is_left(text: str, limit: int) -> None:
    """As many whole characters as there is room for."""
    cut = octets(text, limit, mark="")
    assert text.startswith(cut)
    assert _bytes(cut) <= limit
    assert cut == text or _bytes(text[: len(cut) + 1]) > limit


def _bytes(text: str) -> int:
    return len(text.encode())


def test_an_address_keeps_the_path_and_query_of_its_base() -> None:
    """With one slash between, and what a path cannot hold escaped."""
    assert below("https://x/base/", "a/b") == "https://x/base/a/b"
    assert below("https://x", "a b/ü?", q="1 2") == "https://x/a%20b/%C3%BC%3F?q=1+2"
    assert below("https://x/?a=b", "c", d="e") == "https://x/c?a=b&d=e"
