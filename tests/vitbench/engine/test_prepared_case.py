"""A case kept ready and timed in turns, in this process."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.vitbench.examples import case, plugin
from vitbench.engine.prepared_case import PreparedCase, prepare
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Failed

RULE = TimingRule(warmup_calls=1, warmup_s=0, warmup_agree=1.0, sample_s=0.0005)


def test_what_turns_found_is_what_is_released() -> None:
    """Every sample of every turn in order, the facts once, and the state while turns ran."""
    one = prepare(case(), RULE, {}, with_facts=True)
    assert isinstance(one, PreparedCase)
    assert not gc.isenabled()
    taken = []
    for _ in range(3):
        samples = one.sample(0.002)
        assert isinstance(samples, list)
        taken += samples
    outcome = one.finish()
    assert gc.isenabled()
    assert outcome.samples_s == outcome.wall_samples_s == tuple(taken)
    assert outcome.facts is not None
    assert outcome.facts.columns["sdpa_kernels"] == "flash:1"
    assert outcome.state["cpu_share"] > 0


def test_a_turn_has_at_least_one_sample() -> None:
    """However short it is."""
    one = prepare(case(), RULE, {}, with_facts=False)
    assert isinstance(one, PreparedCase)
    samples = one.sample(0.0)
    assert isinstance(samples, list)
    assert len(samples) == 1
    one.discard()


def test_a_case_that_cannot_run() -> None:
    """Data, not an exception, and garbage is collected as before."""
    found = prepare(case(dim=30, num_heads=4), RULE, {}, with_facts=False)
    assert isinstance(found, Failed)
    assert found.kind == "unsupported"
    assert gc.isenabled()


BREAKS = '''
"""Works for a while."""
from torch import nn
from attentions import AttentionSpec


class Tired(nn.Module):
    def __init__(self, dim, num_heads, grid):
        super().__init__()
        self.left = 20

    def forward(self, x):
        self.left -= 1
        if not self.left:
            raise RuntimeError("out of breath")
        return x + 0


ATTENTION = AttentionSpec(module=Tired)
'''


@pytest.mark.parametrize("seconds", [0.05])
def test_a_turn_that_fails(tmp_path: Path, seconds: float) -> None:
    """Its failure is the turn's answer."""
    path = plugin(tmp_path, "tired", BREAKS)
    one = case(attention="tired", params=(), impl="eager")
    rule = TimingRule(warmup_calls=1, warmup_s=0, warmup_agree=1.0, sample_s=0)
    kept = prepare(one, rule, {"tired": path}, with_facts=False)
    assert isinstance(kept, PreparedCase)
    assert kept.sample(seconds) == Failed("error", "RuntimeError: out of breath")
    kept.discard()
