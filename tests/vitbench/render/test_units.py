"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitbench.render import units


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1240, "1240"), (123456, "123000"), (12.44, "12.4"), (1.0, "1.00"), (99.96, "100")],
)
def test_significant(value: float, text: str) -> None:
    """Three digits that say something, never an exponent."""
    assert units.significant(value) == text


@given(st.floats(1e-6, 1e12))
def test_significant_is_near(value: float) -> None:
    """What is printed is the value to within half of its third digit."""
    text = units.significant(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "text"),
    [(512, "512"), (4224, "4.22 k"), (521_430_000, "521 M"), (12.3e9, "12.3 G"), (1e12, "1.00 T")],
)
def test_si(value: float, text: str) -> None:
    """A decimal prefix, as MACs and parameters are printed."""
    assert units.si(value) == text


@pytest.mark.parametrize(("value", "text"), [(200.0, "200"), (5e9, "5 G"), (0.5, "0.5")])
def test_ticks_say_no_more_than_they_must(value: float, text: str) -> None:
    """An axis has no zeros behind the point."""
    assert units.tick(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.1, "2.10 s"), (0.00123, "1.23 ms"), (45.6e-6, "45.6 µs"), (3e-9, "3.00 ns")],
)
def test_seconds(value: float, text: str) -> None:
    """The unit that keeps the number between 1 and 1000."""
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.2, "8 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_duration(value: float, text: str) -> None:
    """For people who wait."""
    assert units.duration(value) == text


def test_mebibytes() -> None:
    """2 to the 20th."""
    assert units.mebibytes(3 * 2**20) == "3.00"
