"""The answer of a tuning run in words and as a table."""

from __future__ import annotations

from tests import synthetic_records as synthetic
from tests.vitbench.analysis.test_tuning import SPACE, planned
from vitbench.analysis.tuning import Outcome, outcomes
from vitbench.cases.limits import Limits
from vitbench.cases.tuning import Tuning
from vitbench.render import tuning as rendered


def answer(drawn: int = 0, **columns: object) -> tuple[Outcome, Tuning]:
    """Of a run of two rounds in which each setting takes longer than the next."""
    cases, defaults = planned()
    tuning = Tuning(space=SPACE, limits=Limits(), defaults=defaults, drawn=drawn)
    times = {case.id: 1 / (index + 1) for index, case in enumerate(cases)}
    rows = [synthetic.record(case, [times[case.id]] * 2, **columns) for case in cases]
    medians = {case_id: {0: seconds, 1: seconds} for case_id, seconds in times.items()}
    (outcome,) = outcomes(rows, medians, tuning)
    return outcome, tuning


def test_the_table_has_the_authors_setting() -> None:
    """Also where it is slower than all that are shown."""
    outcome, tuning = answer()
    names = list(rendered.table(outcome, tuning, most=5).columns[0].cells)
    assert len(names) == 5
    assert str(names[-1]) == "alpha=0.9 window_size=2"


def test_macs_that_are_not_known_choose_nothing() -> None:
    """Neither another setting nor the pick; a lower bound is not known."""
    for columns in ({"macs": None}, {"macs_is_lower_bound": True}):
        outcome, tuning = answer(**columns)
        lines = rendered.sentences(outcome, tuning)
        assert any(line.startswith("what MACs would choose is not known") for line in lines)
        assert not any(line.startswith("MACs would choose") for line in lines)
        assert rendered.summary(outcome)["fewest_macs"] is None


def test_equal_macs_choose_the_pick() -> None:
    """Where all settings have as many, nobody would choose another one by them."""
    outcome, tuning = answer(macs=1000)
    assert "MACs would choose the same" in rendered.sentences(outcome, tuning)


def test_what_was_drawn_is_told() -> None:
    """Beside the size of the space, and what was wanted."""
    outcome, tuning = answer(drawn=60)
    lines = rendered.sentences(outcome, tuning)
    drawn = len(outcome.rows) - 1
    assert f"of the 44 settings of the space {drawn} were drawn, of 60 that were wanted" in lines
