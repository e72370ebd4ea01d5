"""Machines compared by their control case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitbench.analysis import nodes


@given(st.lists(st.floats(0.99, 1.01), min_size=3, max_size=20), st.sampled_from([0.5, 1.5, 3.0]))
def test_one_that_differs_is_found(others: list[float], factor: float) -> None:
    """Among machines within 1% of each other, a slow or a fast one, and it alone."""
    controls = {f"n{index}": seconds for index, seconds in enumerate(others)} | {"odd": factor}
    found = nodes.unlike(controls, 0.1)
    assert list(found) == ["odd"]
    assert found["odd"] == pytest.approx(factor - 1, abs=0.05)


def test_without_a_majority_none_is_at_fault() -> None:
    """Of two, either may be the slow one; what differs shows in the spread alone."""
    assert nodes.unlike({"a": 1.0, "b": 2.0}, 0.1) == {}
    assert nodes.unlike({"a": 1.0, "b": 1.0, "c": 2.0, "d": 2.0}, 0.1) == {}
    assert nodes.spread([{"a": 1.0, "b": 2.0}]) == pytest.approx(1.0)


def test_what_was_not_measured_is_unknown() -> None:
    """Not alike: one machine without a control makes the spread unknown; a single machine has
    nothing to differ from."""
    assert nodes.unlike({"a": None, "b": 1.0, "c": 1.0, "d": 2.0}, 0.1) == {"d": 1.0}
    assert nodes.unlike({"a": None}, 0.1) == {}
    assert nodes.spread([{"a": 1.0, "b": 1.1}, {"a": 1.0, "b": None}]) is None
    assert nodes.spread([{"a": 1.0, "b": 1.1}, {"a": None}]) == pytest.approx(0.1)
