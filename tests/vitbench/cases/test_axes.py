"""The table of axes: an entry is all that an axis needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.vitbench.examples import ROOT, case
from vitbench.cases.axes import AXES
from vitbench.cases.case import Resolution
from vitbench.errors import BadInput

TOY = """
from vitbench.cases import axes
axes.AXES["layout"] = axes.Axis(
    name="layout",
    help="Memory layout of the input",
    meaning="memory layout of the input",
    default="nchw",
    choices=("nchw", "nhwc"),
    title="memory",
)
from pathlib import Path
from vitbench.__main__ import run
from vitbench.analysis.compare import IDENTITY
from vitbench.cases.row import case_of, options_of, row_of
from vitbench.cases.sweep import Sweep
from vitbench.cli import complete
from vitbench.render.charts import SETTING
from vitbench.render.tables import SETTING_COLUMNS
from vitbench.results import frame

for command in ("run", "ab"):
    print(command)
    run([command, "--help"])
print("suite")
Path("mine.toml").write_text('title = "t"\\n[axes]\\nattention = "msa"\\nlayout = ["nchw", "nhwc"]')
run(["run", "mine.toml", "--device", "cpu", "--dry-run"])
print("option")
run(["run", "--layout", "nhwc", "--attention", "hilo", "--device", "cpu", "--dry-run"])
print("mistake")
run(["run", "--layout", "nhcw"])
print("columns")
run(["columns"])
print("others")
usual, one = Sweep(attention=("msa",), layout=("nchw", "nhwc")).expand()
assert "layout" in IDENTITY and "layout" in SETTING
assert ("layout", "memory") in SETTING_COLUMNS
assert usual == Sweep(attention=("msa",)).expand()[0]
assert row_of(usual)["layout"] == "nchw" and row_of(one)["layout"] == "nhwc"
assert case_of(row_of(one)) == one != usual and one.id != usual.id
assert "--layout nhwc" in options_of(row_of(one))
assert list(complete.values(axes.AXES["layout"])("nchw,nh")) == ["nchw,nhwc"]
older = frame.records(frame.read(Path("older")))
assert {row["layout"] for row in older} == {"nchw"}
assert [case_of(row).id for row in older] == [row["case"] for row in older]
print("done")
"""


def test_a_new_axis_is_one_entry(tmp_path: Path) -> None:
    """A toy axis is in the help of both commands, suites, names, columns, identity, completion;
    rows of older files have its default.
    """
    (tmp_path / "older").symlink_to(ROOT / "reports/cpu-quick")
    done = subprocess.run(
        [sys.executable, "-c", TOY],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "done" in done.stdout, done.stderr
    parts: dict[str, str] = {}
    for line in done.stdout.splitlines():
        if line in ("run", "ab", "suite", "option", "mistake", "columns", "others"):
            title = line
        parts[title] = parts.get(title, "") + line + "\n"
    for command in ("run", "ab"):
        assert "--layout" in parts[command]
        assert "Memory layout of the input: nchw, nhwc." in parts[command]
    assert parts["suite"].count("msa 224px") == 2
    assert parts["suite"].count(" nhwc ") == 1
    assert "hilo 224px float32 batch 4 nhwc " in parts["option"]
    assert "vitbench: no layout is called 'nhcw'; nearest: nhwc, nchw" in done.stderr
    assert "memory layout of the input" in parts["columns"]


@pytest.mark.parametrize("name", AXES)
def test_options_and_suites_mean_the_same(name: str) -> None:
    """Any value as text and as TOML has it."""
    axis = AXES[name]
    texts: dict[str, tuple[str, object]] = {
        "attention": ("msa,hilo", ["msa", "hilo"]),
        "backbone": ("a[b=1,c=2],d", ["a[b=1,c=2]", "d"]),
        "resolution": ("64,800x1280", [64, "800x1280"]),
        "dtype": ("bf16,float32", ["bf16", "float32"]),
        "cold": ("true,no", [True, False]),
    }
    usual = (",".join(axis.choices), list(axis.choices)) if axis.choices else ("4,8", [4, 8])
    text, data = texts.get(name, usual)
    values = axis.parse(text)
    assert values == axis.read(data)
    assert axis.read(data[0] if isinstance(data, list) else data) == values[:1]
    axis.check(values)


def test_defaults_are_values() -> None:
    """Each passes its own check, and examples of cases have a field or a column of it."""
    for axis in AXES.values():
        axis.check(axis.defaults)
        assert axis.default is None or hasattr(case(), axis.name) or axis.name == "task"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("dim", "64"),
        ("dim", True),
        ("cold", "true"),
        ("impl", 3),
        ("resolution", 9.5),
        ("resolution", "0"),
        ("attention", [["msa"]]),
    ],
)
def test_a_suite_keeps_toml_types(name: str, data: object) -> None:
    """A number is no text, and the reverse."""
    with pytest.raises(ValueError, match="got"):
        AXES[name].read(data)


def test_all_is_every_mechanism_once() -> None:
    """And short names of dtypes become long."""
    names = AXES["attention"].parse("hilo,all")
    assert names[0] == "hilo"
    assert len(names) == len(set(names)) > 20
    assert AXES["dtype"].parse("fp16,fp64") == ("float16", "float64")
    assert AXES["resolution"].parse("32") == (Resolution(32, 32),)
    with pytest.raises(BadInput, match="cold is true or false"):
        AXES["cold"].check(("yes",))
