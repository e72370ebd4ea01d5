"""MACs of modules as users write them: exact, or said to be a lower bound."""

from __future__ import annotations

import pytest

from tests.strangers.modules import AT_LEAST, EXACT, SHAPE
from vitbench.instruments import _macs


@pytest.mark.parametrize("name", EXACT)
def test_the_count_is_exact(name: str) -> None:
    """It is that which was worked out by hand, and nothing is unknown."""
    build, expected = EXACT[name]
    found = _macs.count(build().eval(), SHAPE)
    assert (found.total, found.unknown) == (expected, ())


@pytest.mark.parametrize("name", AT_LEAST)
def test_what_is_not_known_is_said(name: str) -> None:
    """What is seen is counted, and the count says that there is more."""
    build, seen = AT_LEAST[name]
    found = _macs.count(build().eval(), SHAPE)
    assert found.total >= seen
    assert found.unknown
