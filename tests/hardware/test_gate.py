"""The gate on a real GPU: equal code is not called slower."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.vitbench.examples import ROOT
from vitbench.__main__ import run


@pytest.mark.cuda
def test_equal_code_is_no_regression(tmp_path: Path) -> None:
    """The mechanisms of this tree against a copy of them."""
    shutil.copytree(ROOT / "attentions", tmp_path / "base" / "attentions")
    sides = [str(tmp_path / "base"), str(ROOT)]
    options = "--attention msa --resolution 224 --batch-size 8 --device cuda --max-blocks 6"
    assert run(["ab", *sides, *options.split(), "--out", str(tmp_path / "ab")]) == 0
