"""kill -9 of real runs with real workers, each resumed to the rows of an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import Options, Section, measured, verdict
from tests.vitbench.examples import ROOT, vitbench
from vitbench.render import tables
from vitbench.results.folder import JOURNAL

_LAYER = "--attention msa,hilo,sra --resolution 32,64 --dim 32 --heads 2 --batch-size 1"
_TIME = "--rounds 2 --effort quick --cap 0.2 --min-time 0.05 --warmup 0.02"
ARGUMENTS = ["run", "--device", "cpu", "--quiet", *_LAYER.split(), *_TIME.split()]


def keys(folder: Path) -> list[tuple[str, int]]:
    """The (case, round) pairs of a journal, sorted. A torn line is an exception."""
    lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return sorted((e["case"], e["round"]) for e in entries if e["event"] == "outcome")


def disturbed(out: Path, after_s: float, target: str) -> bool:
    """A run whose runner or worker is killed after a while; whether one was still at work."""
    command = [sys.executable, "-m", "vitbench", *ARGUMENTS, "--out", str(out)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)
    time.sleep(after_s)
    hit = process.poll() is None
    if target == "runner":
        process.send_signal(signal.SIGKILL)
    elif hit:
        workers = psutil.Process(process.pid).children()
        hit = bool(workers)
        for worker in workers:
            worker.kill()
    process.wait()
    return hit


def resumed(out: Path) -> int:
    """The exit status of what a user would do next."""
    again = ["run", "--resume", str(out), "--quiet"]
    if not (out / JOURNAL).exists():
        again = [*ARGUMENTS, "--out", str(out)]
    return vitbench(ROOT, *again).returncode


def run(options: Options) -> Section:
    """Kills at random moments, of the runner and of the worker."""
    count = 2 if options.quick else 12
    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        whole_s = measured(*ARGUMENTS, "--out", str(Path(folder) / "undisturbed"))
        wanted = keys(Path(folder) / "undisturbed")
        for target in ("runner", "worker"):
            for number in range(count):
                out = Path(folder) / f"{target}-{number}"
                after_s = rng.uniform(0, 0.9 * whole_s)
                hit = disturbed(out, after_s, target)
                same = resumed(out) == 0 and keys(out) == wanted
                rows.append({"killed": target, "after_s": after_s, "hit": hit, "same": same})
            hits, same = (sum(row[key] for row in rows[-count:]) for key in ("hit", "same"))
            lines.append((target, str(count), str(hits), str(same)))
    good = all(row["same"] for row in rows)
    parts = [
        f"`vitbench {' '.join(ARGUMENTS)}` took {whole_s:.0f} s undisturbed. It was killed at "
        "random moments and resumed. (The tests kill 40 + 40 runs of a worker that answers at "
        "once.)",
        tables.markdown(("killed", "runs", "hit at work", "same rows as undisturbed"), lines),
        f"Goal: all the same: {verdict(good)}.",
    ]
    figures = {"kills": float(len(rows)), "same": float(good)}
    return Section("kill -9 of real runs", parts, rows, figures)
