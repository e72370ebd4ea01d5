"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitbench.render import units
from vitbench.render.units import duration, mebibytes, si, significant, tick


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        (significant, {0: "0", 1240: "1240", 123456: "123000", 12.44: "12.4", 1.0: "1.00"}),
        (significant, {99.96: "100", 0.01238: "0.0124", -0.5: "-0.5", -12.44: "-12.4"}),
        (si, {512: "512", 4224: "4.22 k", 521_430_000: "521 M", 12.3e9: "12.3 G", 1e12: "1.00 T"}),
        (tick, {200.0: "200", 5e9: "5 G", 0.5: "0.5"}),
        (duration, {8.2: "8 s", 59.6: "1 min", 200: "3 min 20 s", 3600: "1 h 00 min"}),
        (duration, {3900: "1 h 05 min", 360000: "100 h 00 min"}),
        (mebibytes, {3 * 2**20: "3.00"}),
    ],
)
def test_numbers(written: Callable[[float], str], texts: dict[float, str]) -> None:
    """Three digits that say something, a decimal prefix, no zeros on an axis; never an exponent."""
    assert {value: written(value) for value in texts} == texts


@given(st.floats(1e-6, 1e12))
def test_significant_is_near(value: float) -> None:
    """What is printed is the value to within half of its third digit."""
    text = units.significant(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.0051)
