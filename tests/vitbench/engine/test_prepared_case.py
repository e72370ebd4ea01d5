"""A case kept ready and timed in turns, in this process."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.vitbench.examples import case, layer, plugin
from vitbench.engine.prepared_case import PreparedCase, prepare
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Failed, Measured

RULE = TimingRule(warmup_calls=1, warmup_s=0, warmup_agree=1.0, sample_s=0.0005)


def test_what_turns_found_is_what_is_released() -> None:
    """Every sample of every turn in order, one at least however short the turn is, the facts once,
    and the state while turns ran."""
    ready = prepare(case(), RULE, {}, with_facts=True)
    assert isinstance(ready, PreparedCase)
    assert not gc.isenabled()
    taken: list[float] = []
    for seconds in (0.002, 0.002, 0.0):
        samples = ready.sample(seconds)
        assert isinstance(samples, list)
        taken += samples
        assert seconds or len(samples) == 1
    outcome = ready.finish()
    assert isinstance(outcome, Measured)
    assert gc.isenabled()
    assert outcome.samples_s == tuple(taken)
    assert outcome.facts is not None
    assert outcome.facts.columns["sdpa_kernels"] == "flash:1"
    assert outcome.state["cpu_share"] > 0


def test_a_case_that_cannot_run() -> None:
    """Data, not an exception, and garbage is collected as before."""
    found = prepare(case(dim=30, num_heads=4), RULE, {}, with_facts=False)
    assert isinstance(found, Failed)
    assert found.kind == "unsupported"
    assert "divisible" in found.message
    assert gc.isenabled()


def test_an_end_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time that is no call's is data too, and garbage is collected as before."""
    ready = prepare(case(), RULE, {}, with_facts=False)
    assert isinstance(ready, PreparedCase)
    ready.sample(0.0)
    monkeypatch.setattr(ready._ready.prepared, "fault", lambda: "compiled again")
    assert ready.finish() == Failed("error", "RuntimeError: compiled again")
    assert gc.isenabled()


def test_a_turn_that_fails(tmp_path: Path) -> None:
    """Its failure is the turn's answer."""
    text = layer("self.calls = 20", "self.calls -= 1\nassert self.calls, 'out of breath'")
    rule = TimingRule(warmup_calls=1, warmup_s=0, warmup_agree=1.0, sample_s=0)
    tired = case(attention="tired", params=(), impl="eager")
    ready = prepare(tired, rule, {"tired": plugin(tmp_path, "tired", text)}, with_facts=False)
    assert isinstance(ready, PreparedCase)
    assert ready.sample(0.05) == Failed("error", "AssertionError: out of breath")
    ready.discard()
