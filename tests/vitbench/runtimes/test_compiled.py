"""torch.compile: what it compiled anew, and what it found in its caches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitbench.runtimes import compiled

COMPILE = """
import torch
from tests.vitbench.examples import case
from vitbench.runtimes import compiled
from vitbench.subjects import build

with torch.inference_mode():
    print(compiled.prepare(build.build(case(), {}), None).is_cached)
"""


@pytest.mark.parametrize(
    ("inductor", "autograd", "expected"),
    [
        ({"fxgraph_cache_miss": 1}, {"autograd_cache_miss": 1}, False),
        ({"fxgraph_cache_hit": 1}, {"autograd_cache_hit": 1}, True),
        ({"fxgraph_cache_hit": 1}, {"autograd_cache_miss": 1}, True),
        # Twelve equal blocks of a model, of which the first was compiled.
        ({"fxgraph_cache_miss": 1, "fxgraph_cache_hit": 11}, {}, False),
        ({"fxgraph_cache_bypass": 1, "fxgraph_cache_hit": 1}, {}, False),
        ({}, {}, False),  # the caches are switched off
    ],
)
def test_what_was_cached(
    inductor: dict[str, int], autograd: dict[str, int], expected: bool
) -> None:
    """All of it: a first compilation may find some of its own."""
    assert compiled._are_cached(inductor, autograd) == expected


@pytest.mark.slow
def test_the_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    """By torch's own counters."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    words = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        words += done.stdout.split()
    assert words == ["False", "True"]
