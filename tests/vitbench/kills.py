"""Runs that are killed at random moments, and resumed.

    python -m tests.vitbench.kills FOLDER COUNT runner|worker

The runner, the journal and the pipes are the real ones; the worker is a process that answers at
once, so that many kills fit into a test. Each kill is of a fresh fork of this process. Prints a
line of JSON: how many kills hit a run at work, and every difference from an undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.vitbench.examples import case, ceilings, environment, measured, plan, read_csv
from vitbench.cases.plan import Plan
from vitbench.engine import child, runner
from vitbench.engine.messages import Finished, Ready
from vitbench.results.folder import JOURNAL, RECORDS, SAMPLES

PLAN: Plan = plan(*(case(batch_size=size) for size in range(1, 7)), rounds=3)

# Answers by the protocol of the worker; what it measures follows from case and round alone.
ANSWERER = """
import json, sys, time
replies = open(int(sys.argv[2]), "w")
for line in open(int(sys.argv[1])):
    request = json.loads(line)
    if request["type"] == "set_up":
        reply = READY
    else:
        time.sleep(0.002)
        outcome = dict(OUTCOME, samples_s=[request["case"]["batch_size"] / 1000] * 10)
        if not request["with_facts"]:
            outcome["facts"] = None
        reply = {"type": "finished", "outcome": outcome}
    replies.write(json.dumps(reply) + "\\n")
    replies.flush()
"""


def answerer(folder: Path) -> Path:
    """The worker's code as a file, with what it answers written into it."""
    ready = Ready(device="cpu", environment=environment(), ceilings=ceilings())
    finished = Finished(outcome=measured(*[0.01] * 10))
    outcome = finished.model_dump(mode="json")["outcome"]
    path = folder / "answerer.py"
    path.write_text(f"READY = {ready.model_dump(mode='json')}\nOUTCOME = {outcome}\n{ANSWERER}")
    return path


def fork_run(folder: Path) -> int:
    """A run in a process of its own; returns its id."""
    pid = os.fork()
    if pid == 0:
        try:
            runner.measure(PLAN, folder)
        finally:
            os._exit(0)
    return pid


def kill_runner(folder: Path, after_s: float) -> bool:
    """Kills the run after a while; whether it was still at work."""
    pid = fork_run(folder)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if (folder / JOURNAL).exists():
        runner.resume(folder)
    else:
        runner.measure(PLAN, folder)
    return os.WIFSIGNALED(status)


def kill_worker(folder: Path, after_s: float) -> bool:
    """Kills the run's worker after a while; whether there was one."""
    pid = fork_run(folder)
    time.sleep(after_s)
    workers = psutil.Process(pid).children() if psutil.pid_exists(pid) else []
    for process in workers:
        process.kill()
    os.waitpid(pid, 0)
    return bool(workers)


def rows(folder: Path) -> Counter[str]:
    """The journal's outcomes and the rows of the CSV files; a torn line is an exception."""
    entries = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    outcomes = [entry for entry in entries if entry["event"] == "outcome"]
    written = [*outcomes, *read_csv(folder / RECORDS), *read_csv(folder / SAMPLES)]
    return Counter(json.dumps(row, sort_keys=True) for row in written)


def main(folder: Path, count: int, what: str) -> None:
    """Carries out the kills and prints what they did."""
    child.WORKER = ("-I", "-S", str(answerer(folder)))
    start = time.monotonic()
    runner.measure(PLAN, folder / "undisturbed")
    whole_s = time.monotonic() - start
    expected = rows(folder / "undisturbed")
    rng = random.Random(0)
    kill = {"runner": kill_runner, "worker": kill_worker}[what]
    hits, wrong = 0, []
    for number in range(count):
        after_s = rng.uniform(0, whole_s)
        hits += kill(folder / str(number), after_s)
        have = rows(folder / str(number))
        if have != expected:
            wrong.append(f"kill {number}: missing {expected - have}, too many {have - expected}")
    report = {"kills": count, "hits": hits, "wrong": wrong, "rows": expected.total()}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
