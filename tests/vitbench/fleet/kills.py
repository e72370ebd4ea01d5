"""Fleets that are killed at random moments, and go on.

    python -m tests.vitbench.fleet.kills FOLDER COUNT

The head, the nodes, their actors and Ray are real; workers answer after a known time. Each kill is
kill -9 of a node of Ray, of an actor or of the head, in turns. Prints a line of JSON: how many
kills hit a run at work, and every difference from an undisturbed run.
"""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.vitbench.examples import ROOT, case, plan
from tests.vitbench.fleet.machines import Host, KnownWorker
from vitbench.cases import plan as plans
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.fleet import cluster, runs
from vitbench.fleet.cluster import RayCluster
from vitbench.results import journal
from vitbench.results.folder import JOURNAL
from vitbench.results.outcome import Outcome

PLAN: Plan = plans.with_control(plan(*(case(batch_size=size) for size in range(1, 9)), rounds=3))
TARGETS = ("node", "actor", "head")
_CASE_S = 0.1


def slowly(one: Case) -> Outcome | None:
    """What takes the time of a case."""
    time.sleep(_CASE_S)
    return None


def carry_out(address: str, folder: Path) -> None:
    """A head: begins the run in the folder, or continues it."""
    with cluster.connected(address, "cpu", []):
        worker = functools.partial(KnownWorker, host=Host("any", script=slowly))
        fleet = RayCluster(address, "cpu", ["torch"], worker)
        fleet.survey()
        if (folder / JOURNAL).exists():
            runs.resume(folder, fleet)
        else:
            runs.measure(PLAN, folder, fleet)


def start_head(address: str, folder: Path) -> subprocess.Popen[bytes]:
    """The same as a process."""
    words = ["-m", "tests.vitbench.fleet.kills", "head", address, str(folder)]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=log, stderr=log)


def said(folder: Path) -> str:
    """The end of what the heads of a run printed."""
    return folder.with_suffix(".log").read_text(errors="replace")[-800:]


def wait_until_begun(folder: Path, head: subprocess.Popen[bytes]) -> None:
    """A moment of the run is one after its first line."""
    while not (folder / JOURNAL).exists() and head.poll() is None:
        time.sleep(0.02)


def actors_below(raylet: psutil.Process) -> list[psutil.Process]:
    """The processes of our actors on a node."""
    below = raylet.children(recursive=True)
    return [process for process in below if any("Node" in word for word in process.cmdline())]


def kill(target: str, head: subprocess.Popen[bytes], started: Any, nodes: list[Any]) -> bool:
    """Kills one of them; whether there was one."""
    number = random.randrange(len(nodes))
    if target == "head":
        head.kill()
    elif target == "node":
        started.remove_node(nodes[number], allow_graceful=False)
        nodes[number] = started.add_node(num_cpus=1, object_store_memory=2**27)
    else:
        raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
        actors = [one for pid in raylets for one in actors_below(psutil.Process(pid))]
        for process in actors[:1]:
            process.kill()
        return bool(actors)
    return True


def outcomes(folder: Path) -> dict[tuple[str, int], Outcome]:
    """What the journal has. A line that is torn, or an outcome that is there twice, is an
    exception."""
    run = journal.read(folder)
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    keys = [(e["case"], e["round"]) for e in lines if e["event"] == "outcome"]
    assert len(keys) == len({*keys})
    return run.outcomes


def main(folder: Path, count: int) -> None:
    """Carries out the kills and prints what they did."""
    os.environ["PYTHONPATH"] = str(ROOT)
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 2**27}
    started: Any = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        nodes = [started.add_node(num_cpus=1, object_store_memory=2**27) for _ in range(2)]
        head = start_head(started.address, folder / "undisturbed")
        wait_until_begun(folder / "undisturbed", head)
        begun_s = time.monotonic()
        assert head.wait() == 0, said(folder / "undisturbed")
        whole_s = time.monotonic() - begun_s
        expected = outcomes(folder / "undisturbed")
        random.seed(0)
        hits, wrong = dict.fromkeys(TARGETS, 0), []
        for number in range(count):
            target, place = TARGETS[number % len(TARGETS)], folder / str(number)
            head = start_head(started.address, place)
            wait_until_begun(place, head)
            time.sleep(random.uniform(0, 0.9 * whole_s))
            is_running = head.poll() is None
            hits[target] += kill(target, head, started, nodes) and is_running
            head.wait()
            if target == "head":
                head = start_head(started.address, place)
            status = head.wait()
            if status or outcomes(place) != expected:
                wrong.append(f"kill {number} of the {target}: status {status}: {said(place)}")
    finally:
        started.shutdown()
    report = {"kills": count, "hits": hits, "wrong": wrong, "outcomes": len(expected)}
    print(json.dumps(report))


if __name__ == "__main__":
    if sys.argv[1] == "head":
        carry_out(sys.argv[2], Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]))
