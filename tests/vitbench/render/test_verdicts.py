"""Verdicts as a table: what a terminal shows of many."""

from __future__ import annotations

from tests import synthetic_records as synthetic
from vitbench.analysis.compare import compare
from vitbench.render import verdicts


def test_of_many_the_gravest_are_shown() -> None:
    """Slower before undecided before the same, in the order in which they were compared."""
    planned = synthetic.cases(attention=("msa",), batch_size=tuple(range(1, 31)))
    base = [synthetic.record(case, [1.0, 1.001, 1.002, 1.003, 1.004, 1.005]) for case in planned]
    slow = [2.0, 2.001, 2.002, 2.003, 2.004, 2.005, 2.006, 2.007]
    candidate = [*base[:20], synthetic.record(planned[20], slow), *base[21:-1]]
    candidate.append(synthetic.record(planned[-1], [0.5, 1.0, 2.0, 1.0, 1.7, 0.7]))
    found = compare(base, candidate)
    slower, undecided = verdicts.foremost(found, 2)
    assert slower.word == "slower"
    assert undecided.word == "undecided"
    assert [" batch 21 " in slower.describe, " batch 30 " in undecided.describe] == [True, True]
    assert verdicts.foremost(found, 30) == found
