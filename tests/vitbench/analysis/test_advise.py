"""Advice: the fastest that keeps to the limits by its unfavourable end, and ties as ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import synthetic_records as synthetic
from vitbench.analysis import advise as advising
from vitbench.analysis.advise import Advice, Samples, advise, settled
from vitbench.cases.limits import Limits
from vitbench.errors import BadInput
from vitbench.results.record import Record

NAMES = ("msa", "hilo", "window", "sra")
CASES = dict(zip(NAMES, synthetic.cases(attention=NAMES), strict=True))


def row(name: str, latency_s: float, **columns: Any) -> Record:
    """A quiet row of three rounds."""
    medians = [latency_s * (1 + 0.002 * k) for k in (-1, 0, 1)]
    return synthetic.record(CASES[name], medians, **columns)


def names(records: tuple[Record, ...]) -> list[str]:
    return [str(record["attention"]) for record in records]


def pick(advice: Advice) -> str:
    """The mechanism that is picked."""
    assert advice.pick is not None
    return str(advice.pick["attention"])


def why(advice: Advice) -> dict[str, str]:
    """By mechanism, why it is not the pick."""
    return {str(one.record["attention"]): one.cause for one in advice.lost}


def test_the_fastest_wins_and_each_rival_has_its_reason() -> None:
    """With how many times as long it takes."""
    found = advise([row("msa", 0.03), row("hilo", 0.01), row("window", 0.02)], Limits())
    assert pick(found) == "hilo"
    assert found.runner_up is not None
    assert found.runner_up["attention"] == "window"
    assert [(one.cause, round(one.times or 0, 2)) for one in found.lost] == [
        ("slower", 2.0),
        ("slower", 3.0),
    ]
    assert found.near == found.level == ()


def test_a_tie_goes_to_the_least_memory() -> None:
    """Where the memory of all that are level compares; else to the shortest time."""
    rows = [
        row("msa", 0.0100, peak_memory_bytes=200),
        row("hilo", 0.01001, peak_memory_bytes=100),
        row("window", 0.05),
    ]
    found = advise(rows, Limits())
    assert (pick(found), names(found.level), found.is_least) == ("hilo", ["msa"], True)
    assert names(found.near) == ["msa"]
    rows[1]["memory_source"] = "resident"
    found = advise(rows, Limits())
    assert (pick(found), names(found.level), found.is_least) == ("msa", ["hilo"], False)


def test_limits_hold_for_the_unfavourable_end() -> None:
    """The upper end of the interval; memory is exact; what is not known keeps no limit."""
    rows = [
        row("msa", 0.0100, latency_high_s=0.0130, peak_memory_bytes=100),
        row("hilo", 0.0110, latency_high_s=0.0115, peak_memory_bytes=200),
        row("window", 0.0118, latency_high_s=0.0119, peak_memory_bytes=None),
    ]
    assert pick(advise(rows, Limits(latency_s=0.012))) == "hilo"
    assert pick(advise(rows, Limits(memory_bytes=150))) == "msa"
    both = advise(rows, Limits(latency_s=0.012, memory_bytes=150))
    assert both.pick is None
    assert why(both) == {"msa": "limit", "hilo": "limit", "window": "unknown"}
    assert both.nearest is not None
    assert both.nearest.record["attention"] == "msa"


def test_a_percentile_is_that_of_the_worst_round() -> None:
    """From the samples; without them, or with too few in a round, it is not known."""
    rows = [row("msa", 0.010), row("hilo", 0.020)]
    quick = [0.010] * 30
    rounds = {CASES["msa"].id: [quick, [0.010] * 20 + [0.1] * 10], CASES["hilo"].id: [[0.02] * 30]}
    limits = Limits(latency_s=0.05, percentile=95)
    found = advise(rows, limits, Samples(rounds))
    assert (pick(found), why(found)) == ("hilo", {"msa": "limit"})
    few = Samples(rounds | {CASES["hilo"].id: [[0.02] * 10]})
    assert why(advise(rows, limits, few)) == {"msa": "limit", "hilo": "unknown"}
    assert why(advise(rows, limits)) == {"msa": "unknown", "hilo": "unknown"}


def test_published_top1() -> None:
    """A layer has none; of models those below the limit are out."""
    layers = advise([row("msa", 0.01)], Limits(top1=1))
    assert (layers.pick, why(layers)) == (None, {"msa": "unknown"})
    models = [
        synthetic.record(one, [0.01 if one.backbone == "litv2_s" else 0.03] * 3)
        for one in synthetic.cases(backbone=("litv2_s", "litv2_b"))
    ]
    assert [
        (advise(models, Limits(top1=least)).pick or {}).get("backbone") for least in (80, 83, 99)
    ] == ["litv2_s", "litv2_b", None]


def test_what_is_not_trusted_or_failed_is_left_out() -> None:
    """Trust D always, C where there is better; wrong outputs and other failures."""
    wrong = synthetic.failed(CASES["sra"], "wrong_output", "off by one")
    rows = [row("msa", 0.03), row("hilo", 0.01, trust="D"), row("window", 0.01, trust="C"), wrong]
    found = advise(rows, Limits())
    assert pick(found) == "msa"
    assert why(found) == {"hilo": "untrusted", "window": "untrusted", "sra": "failed"}
    assert pick(advise(rows[1:], Limits())) == "window"
    nothing = advise([rows[1], wrong], Limits())
    assert (nothing.pick, nothing.nearest) == (None, None)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equals_are_a_tie(count: int) -> None:
    """Of 100 pairs, one process in twenty of which is far slower, at most 2 are told apart."""
    rng, called = np.random.default_rng(count), 0
    for _ in range(100):
        pair = [
            synthetic.record(CASES[name], synthetic.rounds(rng, 0.01, count))
            for name in ("msa", "hilo")
        ]
        called += not advise(pair, Limits()).level
    assert called <= 2


def test_one_question_at_a_time() -> None:
    """Rows of several sizes, batches or machines are no rivals: what has to be chosen is said."""
    sizes = [
        synthetic.record(one, [1.0])
        for one in synthetic.cases(attention="msa", resolution=(64, 96))
    ]
    with pytest.raises(BadInput, match="2 resolutions: 64, 96; choose one with --resolution"):
        advising.ask(sizes)
    batches = [
        synthetic.record(one, [1.0]) for one in synthetic.cases(attention="msa", batch_size=(1, 2))
    ]
    with pytest.raises(
        BadInput, match="2 values of batch_size: 1, 2; choose one with --batch-size"
    ):
        advising.ask(batches)
    with pytest.raises(BadInput, match="2 values of device_name: A CPU, 2 threads, another"):
        advising.ask([row("msa", 1.0), row("hilo", 1.0, device_name="another")])
    model = synthetic.record(synthetic.cases(backbone="litv2_s")[0], [1.0])
    with pytest.raises(BadInput, match="of layers and of whole models; choose with --attention"):
        advising.ask([row("msa", 1.0), model])
    advising.ask([row("msa", 1.0), row("hilo", 1.0)])


def test_turns_settle_a_tie() -> None:
    """What is slower in turns lost, what is faster takes the place of the pick, and what turns do
    not tell apart stays level."""
    rows = [row("msa", 0.0100), row("hilo", 0.0101), row("window", 0.0102), row("sra", 0.05)]
    before = advise(rows, Limits())
    assert (pick(before), names(before.near)) == ("msa", ["hilo", "window"])
    hilo, window = CASES["hilo"].id, CASES["window"].id
    after = settled(before, {hilo: ("slower", 1.05), window: ("undecided", 1.0)})
    assert (pick(after), names(after.level)) == ("msa", ["window"])
    assert why(after) == {"window": "level", "hilo": "slower", "sra": "slower"}
    after = settled(before, {hilo: ("faster", 0.8), window: ("same", 1.0)})
    assert (pick(after), after.level) == ("hilo", ())
    assert {str(one.record["attention"]): round(one.times or 0, 2) for one in after.lost} == {
        "msa": 1.25,
        "window": 1.25,
        "sra": 6.25,
    }
