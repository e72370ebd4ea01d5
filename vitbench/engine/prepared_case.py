"""A case kept ready in its worker and timed in slices, while its rival waits in another."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch

from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.engine import passes
from vitbench.instruments import host, timing
from vitbench.results.outcome import Measured
from vitbench.subjects import build as subjects


class PreparedCase:
    """A case that was built, checked and warmed up; `sample` times it for a while, `finish` returns
    what all samples gave. Garbage is not collected meanwhile.
    """

    def __init__(
        self,
        case: Case,
        rule: timing.TimingRule,
        plugins: subjects.Plugins,
        *,
        with_facts: bool,
        weights: Path | None = None,
        calibration: Calibration | None = None,
        artifacts: Path | None = None,
    ) -> None:
        """Raises whatever the mechanism raises; `prepare` returns that as data."""
        self._case, self._plugins = case, plugins
        with passes.conditions(case, plugins):
            self._ready = passes.prepare(
                case,
                plugins,
                with_facts=with_facts,
                energy_s=rule.energy_s,
                weights=weights,
                calibration=calibration,
                artifacts=artifacts,
            )
            device = self._ready.subject.device
            self._ready.prepared.begin()
            self._call = self._ready.prepared.call
            self._clock = device.clock(cold=case.cold)
            most = passes.most_calls(case)
            self._timing = timing.warmed(self._call, self._clock, rule, max_calls=most)
        self._watch = device.watch()
        self._spans: list[tuple[host.HostReading, host.HostReading]] = []
        gc.collect()
        gc.disable()

    @passes.guarded
    def sample(self, seconds: float) -> list[float]:
        """Samples of so many seconds, at least one: seconds of one call."""
        self._watch.restart()
        start = host.read()
        with passes.conditions(self._case, self._plugins):
            samples_s = timing.turn(self._call, self._clock, self._timing, seconds)
        self._spans.append((start, host.read()))
        if self._watch.read is not None:
            self._timing.chunks.append(self._watch.read())
        fault = self._ready.prepared.fault()
        if fault is not None:
            raise RuntimeError(fault)
        return samples_s

    def discard(self) -> None:
        """Ends it without an outcome."""
        gc.enable()

    @passes.guarded
    def finish(self) -> Measured:
        """Every sample of every slice."""
        self.discard()
        self._ready.spent["timing"] = sum(end.wall_s - start.wall_s for start, end in self._spans)
        state: dict[str, Any] = host.between(*host.apart(self._spans), torch.get_num_threads())
        state |= self._watch.columns(self._timing.chunks)
        with passes.conditions(self._case, self._plugins):
            return self._ready.measured(self._timing, state)


prepare = passes.guarded(PreparedCase)
