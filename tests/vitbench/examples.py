"""Valid cases, outcomes, plans and plugins, of which a test changes what it is about."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from vitbench.cases import plan as plans
from vitbench.cases import shard as shards
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.instruments.timing import TimingRule
from vitbench.results.csv import derive
from vitbench.results.journal import Run
from vitbench.results.outcome import Ceilings, Facts, Measured, Outcome

ROOT = Path(__file__).parents[2]

_LAYER = """\
import os, signal, subprocess, sys, time
import torch
from torch import nn
from attentions import AttentionSpec


class Identity(nn.Module):
    def __init__(self, dim, num_heads, grid{keywords}):
        super().__init__()
        self.scale = nn.Linear(dim, dim)
        {build}

    def forward(self, x):
        y = self.scale(x)
        {forward}
        return y


ATTENTION = AttentionSpec(module=Identity{spec})
"""


def layer(
    build: str = "pass",
    forward: str = "pass",
    keywords: str = ", *, strength=1.0",
    spec: str = "",
) -> str:
    """The text of a plugin: a mechanism of one linear layer, and what a test adds to it."""
    build, forward = (code.replace("\n", "\n" + 8 * " ") for code in (build, forward))
    return _LAYER.format(build=build, forward=forward, keywords=keywords, spec=spec)


PLUGIN = layer()
BACKBONE = """\
from torch import nn
from vitbench.subjects.backbones import BackboneSpec

BACKBONE = BackboneSpec(build=lambda height, width: nn.Conv2d(3, 8, 4, 4))
"""


def plugin(folder: Path, name: str, text: str = PLUGIN) -> Path:
    """A plugin file of that name."""
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


def case(**changes: Any) -> Case:
    """MSA on a small map."""
    base = Case(
        attention="msa",
        backbone="",
        params=(("qkv_bias", True),),
        impl="fused",
        runtime="eager",
        cold=False,
        mode="forward",
        device="cpu",
        dtype="float32",
        batch_size=2,
        image_height=64,
        image_width=64,
        stride=16,
        grid_height=4,
        grid_width=4,
        dim=32,
        num_heads=2,
    )
    return dataclasses.replace(base, **changes)


def backbone_case(**changes: Any) -> Case:
    """A whole model on small images."""
    nothing = {"stride": 0, "grid_height": 0, "grid_width": 0, "dim": 0, "num_heads": 0}
    return case(attention="", backbone="tiny", params=(), **nothing, **changes)


def facts(**changes: Any) -> Facts:
    """What a look at a case tells, with columns that differ."""
    columns = {
        "params": 4224,
        "macs": 81920,
        "macs_source": "closed form",
        "macs_is_lower_bound": False,
        "macs_counted": 81920,
        "uncounted_ops": "softmax:1",
        "sdpa_kernels": "",
        "fallback": "",
        "wasted_token_fraction": 0.0,
        "peak_memory_bytes": 40000,
        "activation_memory_bytes": 12288,
        "peak_rss_bytes": 300_000_000,
        "checked_against": "eager float64",
        "error_rms": 1e-7,
        "error_worst": 5e-7,
    }
    return Facts(25088, columns | changes)


def state(**changes: Any) -> dict[str, Any]:
    """A quiet machine."""
    quiet = {
        "cpu_share": 1.0,
        "involuntary_switches": 0.5,
        "neighbour_cores": 0.0,
        "contended_cores": 0.0,
        "steal_share": 0.0,
        "cgroup_throttled_s": 0.0,
    }
    return quiet | changes


def measured(*samples_s: float, **changes: Any) -> Measured:
    """One round of a case; samples of 10 ms unless given."""
    samples = samples_s or (0.010,) * 20
    base = Measured(
        samples_s=samples,
        calls_per_sample=1,
        first_call_s=0.05,
        compile_s=None,
        warmup_calls=10,
        warmup_s=0.1,
        stopped_by="noise",
        state=state(),
        facts=facts(),
        spent_s={"build": 0.1},
    )
    return dataclasses.replace(base, **changes)


def plan(*cases: Case, **changes: Any) -> Plan:
    """Two rounds of the given cases, or of one."""
    base = Plan(
        title="A test",
        suite="quick",
        device="cpu",
        cases=cases or (case(),),
        rounds=2,
        rule=TimingRule(),
    )
    return dataclasses.replace(base, **changes)


def environment(**changes: Any) -> dict[str, Any]:
    """A machine."""
    return {"device_name": "A CPU, 2 threads", "torch": {"version": "2.13", "threads": 2}} | changes


def ceilings() -> Ceilings:
    """100 GFLOP/s and 10 GB/s, in caches too."""
    return Ceilings({"float32": 100e9}, 10e9, ((2**14, 10e9),))


def run_folder(folder: Path, outcomes: Mapping[Case, Sequence[Outcome]], **changes: Any) -> Path:
    """A run's folder with its CSV files: the outcomes of each case, round by round. `changes` are
    of the environment."""
    rounds = max(map(len, outcomes.values()))
    run = Run(plan(*outcomes, rounds=rounds), environment(**changes), ceilings())
    run.outcomes = {
        (one.id, index): outcome
        for one, own in outcomes.items()
        for index, outcome in enumerate(own)
    }
    folder.mkdir(exist_ok=True)
    derive(folder, run)
    return folder


def shard_runs(whole: Plan, count: int, *, seconds: float = 0.01) -> list[Run]:
    """The runs of all shards of a plan, each on a machine of its own. The samples of a case are its
    batch size in units of `seconds`; the control case takes as long everywhere."""
    runs = []
    for number in range(1, count + 1):
        part = shards.part_of(plans.with_control(whole), number, count, lambda case: 1.0)
        run = Run(part)
        run.begin(environment(), ceilings(), f"host {number}")
        for index in range(part.rounds):
            run.nodes[f"host {number}"].controls[index] = measured()
            for one in part.cases:
                outcome = measured(*[seconds * one.batch_size] * 10)
                run.keep(one, index, outcome, f"host {number}")
        runs.append(run)
    return runs


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def vitbench(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vitbench", *words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def git(folder: Path, *words: str) -> str:
    """What git prints."""
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def commit(folder: Path, text: str, name: str) -> None:
    """Commits a file with this text, in a new repository where there is none."""
    if not (folder / ".git").exists():
        git(folder, "init", "-q", "-b", "main")
    (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a change")


# In the environment of a command that a test starts, and so of all processes that it starts.
MARK = "VITBENCH_TEST_MARK"


def left_behind(mark: str) -> list[str]:
    """Command lines of the processes that carry the mark in their environment."""
    marked = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                marked.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return marked
