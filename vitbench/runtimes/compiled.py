"""torch.compile, with static shapes. All that is asked of its counters is asked here."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitbench.instruments import Column
from vitbench.runtimes import Prepared, Rules, Subject

RULES = Rules(
    name="compile",
    summary="torch.compile, with static shapes",
    columns=(
        Column("graph_breaks", "", "of torch.compile; empty where it was not compiled", "int"),
    ),
    conversion_s=6.0,
    loading_s=1.2,
    keeps_processes=True,
)


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It runs everywhere."""
    return None


def _counters(kind: str) -> Counter[str]:
    """What torch.compile has counted in this process since its last reset, where it ran at all."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return Counter() if dynamo is None else dynamo.counters[kind]


def _are_cached(inductor: Mapping[str, int], autograd: Mapping[str, int]) -> bool:
    """Whether every kernel came from the caches on disk. A first compilation has hits too, where
    graphs of a module are alike, but never without a miss."""
    anew = sum(inductor.get(f"fxgraph_cache_{what}", 0) for what in ("miss", "bypass"))
    hits = inductor.get("fxgraph_cache_hit", 0) + autograd.get("autograd_cache_hit", 0)
    return hits > 0 and not anew


class Watched(Prepared):
    """A call in which nothing may be compiled while it is timed, by the module itself either."""

    _graphs = 0

    def begin(self) -> None:
        self._graphs = _counters("stats")["unique_graphs"]

    def fault(self) -> str | None:
        if _counters("stats")["unique_graphs"] == self._graphs:
            return None
        return "torch.compile compiled again inside the timed region"


class Compiled(Watched):
    """A module that is compiled, with its input's shapes."""

    is_dispatched = False

    def __init__(self, subject: Subject) -> None:
        import torch

        # Graphs are kept by code, not by module: after eight cases of one mechanism torch would
        # give up and run the ninth as it is.
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        super().__init__(subject.calling(torch.compile(subject.runnable, dynamic=False)))
        start = time.perf_counter()
        self.call()
        subject.device.synchronize()
        self.compile_s = time.perf_counter() - start
        if not _counters("stats")["unique_graphs"]:
            raise RuntimeError("torch.compile compiled nothing: the call runs as it is")
        self._graph_breaks = _counters("graph_break").total()
        self.is_cached = _are_cached(_counters("inductor"), _counters("aot_autograd"))

    def columns(self) -> Mapping[str, Any]:
        return {**super().columns(), "graph_breaks": self._graph_breaks}


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """Compiles, and calls once."""
    return Compiled(subject)
