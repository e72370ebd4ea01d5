"""A case kept ready in its worker and timed in turns, while its rival waits in another."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch

from vitbench.cases.case import Case
from vitbench.engine import passes as measurement
from vitbench.instruments import host, timing
from vitbench.results.outcome import Failed, Measured
from vitbench.subjects import build as subjects


class Held:
    """A case that was built, checked and warmed up; `turn` times it for a while, `release` tells
    what all turns found. Garbage is not collected meanwhile.
    """

    def __init__(
        self,
        case: Case,
        rule: timing.TimingRule,
        plugins: subjects.Plugins,
        *,
        with_facts: bool,
        weights: Path | None = None,
    ) -> None:
        """Raises whatever the mechanism raises; `hold` gives that as data."""
        self._case = case
        with measurement.gradients_of(case):
            self._ready = measurement.prepare(
                case, plugins, with_facts=with_facts, timed=True, weights=weights
            )
            self._call = measurement.timed_call(case, self._ready.subject)
            self._clock = self._ready.subject.device.clock(cold=case.cold)
            most = measurement.most_calls(case)
            self._timing = timing.warmed(self._call, self._clock, rule, max_calls=most)
        self._watch = self._ready.subject.device.watch()
        self._graphs = measurement.compiled_graphs()
        self._spans: list[tuple[host.HostReading, host.HostReading]] = []
        gc.collect()
        gc.disable()

    def turn(self, seconds: float) -> list[float] | Failed:
        """Samples of so many seconds, at least one: seconds of one call."""
        return measurement.guarded(lambda: self._turn(seconds))

    def _turn(self, seconds: float) -> list[float]:
        start = host.read()
        with measurement.gradients_of(self._case):
            samples_s = timing.turn(self._call, self._clock, self._timing, seconds)
        self._spans.append((start, host.read()))
        if self._watch.read is not None:
            self._timing.chunks.append(self._watch.read())
        if measurement.compiled_graphs() != self._graphs:
            raise RuntimeError(measurement.COMPILED_AGAIN)
        return samples_s

    def drop(self) -> None:
        """Ends it without an outcome."""
        gc.enable()

    def release(self) -> Measured:
        """Every sample of every turn."""
        self.drop()
        self._ready.spent["timing"] = sum(end.wall_s - start.wall_s for start, end in self._spans)
        state: dict[str, Any] = host.between(*host.apart(self._spans), torch.get_num_threads())
        state |= self._watch.columns(self._timing.chunks)
        return measurement.measured(self._ready, self._timing, state)


def hold(
    case: Case,
    rule: timing.TimingRule,
    plugins: subjects.Plugins,
    *,
    with_facts: bool,
    weights: Path | None = None,
) -> Held | Failed:
    """The case, ready; or why it is not."""
    return measurement.guarded(
        lambda: Held(case, rule, plugins, with_facts=with_facts, weights=weights)
    )
