import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_service import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("5s", 5), ("1h30m", 5400), ("500ms", 0.5), ("1d", 86_400), ("2w", 1_209_600), ("1m500ms", 60.5)],
)
def test_prometheus_notation_is_read(text: str, seconds: float) -> None:
    """Durations mean what they mean in a Prometheus configuration."""
    assert durations.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1.5h", "-1s", "1m1h", "1 h", "s", "1h1h", "9" * 400 + "s"])
def test_anything_else_is_refused(text: str) -> None:
    """Fractions, signs, bare numbers and units out of order are errors, as in Prometheus."""
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_rendering_loses_nothing(milliseconds: int) -> None:
    """What is written parses back to the same number of milliseconds."""
    assert round(durations.parse(durations.render(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.35, "350 ms"),
        (42, "42 s"),
        (180, "3 min"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (4 * 86_400 + 3 * 3600, "4 d 3 h"),
    ],
)
def test_people_read_rounded_lengths(seconds: float, text: str) -> None:
    """A person at 3 a.m. needs two units at most."""
    assert durations.human(seconds) == text
