"""Other tools on the layers and trees of the gate's benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.gate_record import BATCH, NAMES

_LAYERS = """
import sys

import torch

sys.path.insert(0, {root!r})
import attentions
from attentions import Grid

torch.set_num_threads({threads})
torch.set_grad_enabled(False)


def layer(name):
    spec = attentions.load(name)
    module = spec.build(384, 12, Grid(14, 14), impl="fused", **spec.settings_at(16)).eval()
    return module, torch.randn({batch}, 14, 14, 384)


"""
_PYTEST = """
import pytest


@pytest.mark.parametrize("name", {names!r})
def test_layer(benchmark, name):
    benchmark(*layer(name))
"""
_PYPERF = """
import pyperf

runner = pyperf.Runner()
for name in {names!r}:
    runner.bench_func(name, *layer(name))
"""


def _script(path: Path, text: str, root: Path, threads: int) -> Path:
    """The layers of a tree in a tool's own form."""
    filled = (_LAYERS + text).format(root=str(root), threads=threads, names=NAMES, batch=BATCH)
    path.write_text(filled, encoding="utf-8")
    return path


def _output(arguments: Sequence[str], *, check: bool = True) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=check)
    return done.stdout + done.stderr


def pytest_benchmark(folder: Path, base: Path, heads: Sequence[Path], threads: int) -> list[bool]:
    """Whether `--benchmark-compare-fail=median:5%` fails each head."""
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={folder}"]
    command = ["-P", "-m", "pytest", *options, f"--benchmark-storage={folder}/saved"]
    test = _script(folder / "test_speed.py", _PYTEST, base, threads)
    _output([*command, str(test), "--benchmark-save=base"])
    failed = []
    for head in heads:
        _script(test, _PYTEST, head, threads)
        compare = ["--benchmark-compare", "--benchmark-compare-fail=median:5%"]
        output = _output([*command, str(test), *compare], check=False)
        failed.append("Performance has regressed" in output)
    return failed


def pyperf_compare(folder: Path, base: Path, heads: Sequence[Path], threads: int) -> list[bool]:
    """Whether `pyperf compare_to` calls a benchmark of each head slower by 5% or more."""
    results = []
    for number, root in enumerate((base, *heads)):
        script = _script(folder / f"side{number}.py", _PYPERF, root, threads)
        results.append(str(script.with_suffix(".json")))
        _output([str(script), "--processes=3", "--values=3", "--quiet", "-o", results[-1]])
    compare = ["-m", "pyperf", "compare_to", "--min-speed=5", results[0]]
    return ["slower" in _output([*compare, result]) for result in results[1:]]


@dataclass(frozen=True, slots=True)
class Tool:
    """Another tool, and how many comparisons of each kind it makes."""

    name: str
    fails: Callable[[Path, Path, Sequence[Path], int], list[bool]]
    comparisons: int

    def judge(self, base: Path, same: Path, slower: Path, threads: int) -> dict[str, int]:
        """Its number of comparisons, its alarms on identical code, and the slowdowns it found."""
        counts = {"n": self.comparisons, "alarms": 0, "found": 0}
        for _ in range(self.comparisons):
            with tempfile.TemporaryDirectory() as folder:
                alarm, found = self.fails(Path(folder), base, (same, slower), threads)
            counts["alarms"] += alarm
            counts["found"] += found
        return counts


TOOLS = {
    "pytest-benchmark": Tool("pytest-benchmark, median:5%", pytest_benchmark, 8),
    "pyperf": Tool("pyperf compare_to --min-speed 5, 3 processes", pyperf_compare, 2),
}
