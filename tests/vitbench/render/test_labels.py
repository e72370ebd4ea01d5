"""Labels: what tells rows apart, in words."""

from __future__ import annotations

import pandas as pd

from tests.vitbench.examples import case
from vitbench.cases.case import Case
from vitbench.cases.row import row_of
from vitbench.render import labels


def frame(*cases: Case) -> pd.DataFrame:
    """The columns of cases."""
    rows = pd.DataFrame([row_of(one) for one in cases])
    return rows.assign(subject=rows["attention"])


def test_variants() -> None:
    """What tells a row from others of its mechanism, in words; nothing where it is alone."""
    hilo = [
        case(attention="hilo", params=(("alpha", alpha), ("window_size", 2)), impl=impl)
        for alpha in (0.5, 0.9)
        for impl in ("eager", "fused")
    ]
    rows = frame(*hilo, case())
    named = [f"{impl} alpha={alpha}" for alpha in (0.5, 0.9) for impl in ("eager", "fused")]
    assert labels.variants(rows).tolist() == [*named, ""]


def test_settings_that_follow_the_stride_are_no_variant() -> None:
    """SRA's ratio changes with the stride by itself."""
    cases = [
        case(attention="sra", stride=stride, params=(("sr_ratio", ratio),))
        for stride, ratio in ((4, 8), (8, 4))
    ]
    rows = frame(*cases)
    assert labels.variants(rows).tolist() == ["", ""]


def test_resolutions_are_named_as_on_the_command_line() -> None:
    """A square by its side."""
    rows = frame(case(), case(image_width=96))
    assert [labels.resolution(row) for _, row in rows.iterrows()] == ["64", "64x96"]
