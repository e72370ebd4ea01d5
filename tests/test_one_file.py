"""A mechanism, a runtime, a device and an instrument are one file each: those of CONTRIBUTING.md
and docs/plugins.md, each put in its room of a copy of the code, with no other file touched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.docs import ROOT

FILES = {
    "attentions/relu_attention.py": ("docs/plugins.md", "class ReluAttention"),
    "vitbench/runtimes/exported.py": ("CONTRIBUTING.md", "class Exported"),
    "vitbench/devices/twin.py": ("CONTRIBUTING.md", "class Device"),
    "vitbench/instruments/output_size.py": ("CONTRIBUTING.md", "output_bytes"),
}
TABLES = ("mechanisms", "runtimes", "devices", "columns")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with the four files."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("attentions", "vitbench", "reports/published"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "tests").mkdir()
    for name in ("tests/__init__.py", "tests/docs.py", "tests/docs_runtimes.py"):
        shutil.copy(ROOT / name, tree / name)
    for path, (page, mark) in FILES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        (code,) = (block for block in blocks if mark in block)
        (tree / path).write_text(code, encoding="utf-8")
    return tree


def python(tree: Path, *arguments: str) -> str:
    """What Python prints in the tree."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lists_and_tables(tree: Path) -> None:
    """All four are in the tables of the documentation, and the mechanism is in `vitbench list`."""
    code = f"from tests.docs import BLOCKS; print(*(BLOCKS[name]() for name in {TABLES}))"
    tables = python(tree, "-c", code)
    for name in ("relu_attention", "exported", "twin", "output_bytes", "graph_nodes"):
        assert f"`{name}`" in tables
    assert "relu_attention" in python(tree, "-m", "vitbench", "list")
    assert "twin" in python(tree, "-m", "vitbench", "list", "--devices")
    assert "exported" in python(tree, "-m", "vitbench", "list", "--runtimes")


def test_run(tree: Path) -> None:
    """All four take part in one measured case."""
    words = "--attention relu_attention --runtime exported --device twin --resolution 64 --dim 32"
    short = "--heads 2 --batch-size 1 --rounds 1 --cap 0.1 --threads 1 --quiet --out run"
    python(tree, "-m", "vitbench", "run", *words.split(), *short.split())
    (row,) = pd.read_csv(tree / "run" / "records.csv").to_dict("records")
    assert (row["status"], row["device"], row["runtime"]) == ("measured", "twin", "exported")
    assert row["attention"] == "relu_attention"
    assert row["output_bytes"] == 4 * 4 * 32 * 4
    assert row["graph_nodes"] > 0
