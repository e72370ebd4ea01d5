"""What a fleet gains from nodes, and how many the head can serve: real Ray, known workers."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import Options, Section, verdict
from tests.vitbench.examples import ROOT, case, ceilings, environment, plan
from tests.vitbench.fleet.machines import HERE, Host, KnownWorker, known_outcome
from vitbench.cases import plan as plans
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.fleet import cluster, runs
from vitbench.fleet.cluster import RayCluster
from vitbench.fleet.head import Offer
from vitbench.fleet.node import Done, Joined, Work
from vitbench.render import tables
from vitbench.results.folder import JOURNAL
from vitbench.results.outcome import Outcome

GOAL_TIMES = 3.6
GOAL_PER_S = 200.0
_ACTORS = 4  # processes that stand for all simulated nodes


def known_plan(count: int, rounds: int) -> Plan:
    """So many cases."""
    cases = (case(batch_size=size) for size in range(1, count + 1))
    return plans.with_control(plan(*cases, rounds=rounds))


def asleep(seconds: float, one: Case) -> Outcome | None:
    """What takes the time of a case, and no CPU."""
    time.sleep(seconds)
    return None


def outcomes_per_hour(nodes: int, chosen: Plan, case_s: float, folder: Path) -> float:
    """From the moment that the first node is ready: nodes start side by side, and take as long
    however many they are."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 2**27}
    started: Any = Cluster(initialize_head=True, head_node_args=arguments)
    begun_s: list[float] = []
    try:
        for _ in range(nodes):
            started.add_node(num_cpus=1, object_store_memory=2**27)
        with cluster.connected(started.address, "cpu", []):
            host = Host("any", script=functools.partial(asleep, case_s))
            worker = functools.partial(KnownWorker, host=host)
            fleet = RayCluster(started.address, "cpu", ["torch"], worker)
            fleet.survey()
            runs.measure(
                chosen, folder, fleet, on_progress=lambda _: begun_s.append(time.monotonic())
            )
    finally:
        started.shutdown()
    count = len(chosen.cases) * chosen.rounds
    return 3600 * count / (begun_s[-1] - begun_s[0])


class Simulated:
    """Many nodes in one process: each request is answered after the time of a case."""

    def __init__(self, case_s: float) -> None:
        self._case_s = case_s

    async def answer(self, node: int, method: str, *arguments: Any) -> Any:
        if method == "lacking":
            return []
        if method == "join":
            return Joined(environment(), ceilings())
        (work,) = arguments
        assert isinstance(work, Work)
        await asyncio.sleep(self._case_s)
        return Done(known_outcome(work.case, 1.0, with_facts=work.with_facts))


class SimulatedCluster(RayCluster):
    """Nodes that are not there, behind actors that are."""

    def __init__(self, count: int, case_s: float) -> None:
        import ray

        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 1000}
        actors = [ray.remote(**options)(Simulated).remote(case_s) for _ in range(_ACTORS)]
        self._actors = list(itertools.islice(itertools.cycle(actors), count))
        self._count = count

    def offers(self) -> Sequence[Offer]:
        return [Offer(f"n{index}", str(index), "cpu", HERE) for index in range(self._count)]

    def hire(self, offer: Offer) -> Any:
        return int(offer.machine)

    def ask(self, member: Any, method: str, *arguments: Any) -> Any:
        return self._actors[member].answer.remote(member, method, *arguments)

    def end(self, members: Any) -> None:
        """They end with Ray."""


def head_load(nodes: int, chosen: Plan, case_s: float, folder: Path) -> Mapping[str, Any]:
    """Outcomes a second that the head takes from so many nodes, and its CPU and memory."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init("local", num_cpus=2, include_dashboard=False, **quiet)
    process = psutil.Process()
    try:
        fleet = SimulatedCluster(nodes, case_s)
        before_bytes, times = process.memory_info().rss, process.cpu_times()
        at_s: list[float] = []
        done = runs.measure(
            chosen,
            folder,
            fleet,
            on_progress=lambda step: at_s.append(time.monotonic()) if step.outcome else None,
            on_note=print,
        )
        used = process.cpu_times()
        grown_bytes = process.memory_info().rss - before_bytes
    finally:
        ray.shutdown()
    run = done[folder]
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    keys = [(e["case"], e["round"]) for e in lines if e["event"] == "outcome"]
    wanted = len(chosen.cases) * chosen.rounds
    return {
        "nodes": nodes,
        "case_s": case_s,
        "outcomes": wanted,
        "per_s": len(keys) / (at_s[-1] - at_s[0]),
        "head_cpu_ms": 1000 * (used.user + used.system - times.user - times.system) / wanted,
        "head_mb": grown_bytes / 1e6,
        "journal_mb": (folder / JOURNAL).stat().st_size / 1e6,
        "exact": len(keys) == len({*keys}) == len(run.outcomes) == wanted,
    }


def run(options: Options) -> Section:
    """One node and four; then 200 simulated nodes at the rate of the goal, and as fast as they
    can."""
    os.environ |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    few, many = (40, 200) if options.quick else (100, 10_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rates = {
            nodes: outcomes_per_hour(nodes, known_plan(few, 2), 0.25, folder / f"nodes-{nodes}")
            for nodes in (1, 4)
        }
        loads = [
            head_load(200, known_plan(many, 2), case_s, folder / f"head-{case_s}")
            for case_s in (1.0, 0.0)
        ]
    times = rates[4] / rates[1]
    lines = [
        (
            f"{load['nodes']}",
            f"{load['case_s']:g} s",
            f"{load['outcomes']:,}",
            f"{load['per_s']:.0f}",
            f"{load['head_cpu_ms']:.1f} ms",
            f"{load['head_mb']:.0f} MB",
            f"{load['journal_mb']:.0f} MB",
            "yes" if load["exact"] else "no",
        )
        for load in loads
    ]
    header = ["nodes", "a case takes", "outcomes", "a second", "head's CPU for each"]
    header += ["head's memory", "journal", "each once"]
    exact = all(load["exact"] for load in loads)
    fast = max(load["per_s"] for load in loads)
    rows = [{"nodes": nodes, "outcomes_per_hour": rate} for nodes, rate in rates.items()]
    parts = [
        f"{few} cases of 0.25 s in 2 rounds on nodes of Ray on this machine, whose workers sleep: "
        f"{rates[1]:,.0f} outcomes an hour with one node, {rates[4]:,.0f} with four, {times:.2f} "
        f"times as many. Goal: {GOAL_TIMES} times: {verdict(times >= GOAL_TIMES)}.",
        "The head with simulated nodes, which answer through Ray after the time of a case:",
        tables.markdown(header, lines),
        f"Goal: {GOAL_PER_S:g} outcomes a second, none lost or doubled: "
        f"{verdict(exact and fast >= GOAL_PER_S)}.",
    ]
    most = loads[-1]
    figures = {
        "times_of_4": times,
        "per_s": fast,
        "head_cpu_ms": most["head_cpu_ms"],
        "head_kb": 1000 * most["head_mb"] / most["outcomes"],
        "journal_kb": 1000 * most["journal_mb"] / most["outcomes"],
    }
    return Section("A fleet", parts, [*rows, *loads], figures)
