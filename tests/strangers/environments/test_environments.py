"""The command in the environments of table.toml, each in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.examples import ROOT

TABLE = tomllib.loads((Path(__file__).parent / "table.toml").read_text(encoding="utf-8"))
ENVIRONMENTS: list[dict[str, Any]] = TABLE["environment"]
KEYS = {"name", "line", "status", "out", "err", "quick"}
_START = """\
set -o pipefail
vitbench() { "$PYTHON" -m vitbench "$@"; }
export -f vitbench
"""
_VARIABLES = {
    "PYTHON": sys.executable,
    "PYTHONPATH": str(ROOT),
    "RUN": str(ROOT / "reports" / "cpu-quick"),
    "PLAN": "run --device cpu --attention msa --resolution 224 --dry-run",
}


def test_the_table() -> None:
    """Is of twenty environments at least, each with a name of its own and no key misspelt."""
    assert len({environment["name"] for environment in ENVIRONMENTS}) == len(ENVIRONMENTS) >= 20
    assert {key for environment in ENVIRONMENTS for key in environment} == KEYS


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(each, id=each["name"], marks=[] if "quick" in each else pytest.mark.slow)
        for each in ENVIRONMENTS
    ],
)
def test_an_environment(tmp_path: Path, environment: Mapping[str, Any]) -> None:
    """Ends as the table says, with one sentence at most and no traceback."""
    done = subprocess.run(
        ["bash", "-c", _START + environment["line"]],
        cwd=tmp_path,
        env=os.environ | _VARIABLES,
        capture_output=True,
        check=False,
    )
    out, err = (text.decode(errors="backslashreplace") for text in (done.stdout, done.stderr))
    assert done.returncode == environment.get("status", 0), out + err
    assert environment["out"] in out
    assert environment["out"] or not out
    assert environment.get("err", "") in err
    assert err.count("\n") == ("err" in environment), err
    assert "Traceback" not in out + err
