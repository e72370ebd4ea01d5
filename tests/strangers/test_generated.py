"""Command lines and suites that nobody thought of: no traceback, and one sentence for a mistake.

The options, their number and their order are drawn from the commands themselves, so that a new
option is tried without a change here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from tests.vitbench.examples import case, measured, run_folder
from vitbench.__main__ import run
from vitbench.cli import app

# `run` and `ab` are drawn with --dry-run; these would measure all the same, or change the shell.
LEFT_OUT = {"doctor", "--install-completion", "--show-completion", "--resume"}
STATUSES = {0, 1, 2, 3, 4, 5}
_WORDS = """
    msa hilo hilo,msa hylo quick fused eager,fused compile float32 bf16 cpu cuda cuda:1 auto 224
    224x320 224x 32,64 0 1 2 -1 1.5 0.05 5% 105% -3% nan inf 1e400 99999999999999999999 abc é , 1,,2
    a=b hilo.alpha=0.5 hilo.alpha=2 hilo.alpha hilo.beta=1 msa.qkv_bias=maybe 8GiB 1KB none 10m 0s
    true no forward forward_backward litv2_s litv2_s:task=detection resnet5O dim:latency_s
    ./run run/records.csv missing.csv text.txt . /dev/null --- [x] [bold] {0} %s $HOME
"""
WORDS = st.sampled_from(_WORDS.split()) | st.text(max_size=6)


def commands() -> dict[tuple[str, ...], list[str]]:
    """The options of every command, by the words that call it."""

    def walk(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*words, name))
            elif name not in LEFT_OUT:
                yield (*words, name), command

    found = walk(get_command(app), ())
    return {
        words: [option for parameter in command.params for option in parameter.opts]
        for words, command in found
    }


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command, some of its arguments and options with values that may fit, and slips."""
    words, options = draw(st.sampled_from(sorted(COMMANDS.items())))
    line = [*words, *draw(st.lists(WORDS, max_size=2))]
    known = [option for option in options if option.startswith("-") and option not in LEFT_OUT]
    for option in draw(st.lists(st.sampled_from([*known, "--dims", "-x"]), max_size=3)):
        line += [option, *draw(st.lists(WORDS, max_size=1))]
    return [*line, "--dry-run"] if words[0] in ("run", "ab") else line


COMMANDS = commands()


def answer(line: list[str]) -> tuple[int, str]:
    """Exit status and stderr of a line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(line)
    return status, err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a file that is no CSV."""
    folder = tmp_path_factory.mktemp("stranger")
    run_folder(folder / "run", {case(): [measured()]})
    (folder / "text.txt").write_text("Dear all,\n")
    return folder


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=lines())
@example(line=["check", "a\nb\x1b[2J", "run"])
def test_a_command_line(line: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that is documented; status 2 comes with one sentence."""
    monkeypatch.chdir(folder)
    status, err = answer(line)
    assert status in STATUSES
    assert "Traceback" not in err
    if status == 2:
        assert err.startswith("vitbench: ")
        assert err.count("\n") == 1


VALUES = st.recursive(
    st.sampled_from(["msa", "hylo", "224x320", "5%", "fused", "", "é"])
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner),
    max_leaves=5,
)
_AXES = """
    attention backbone resolution dim batch_size runtime impl dtype compiled mode cold
    num_heads dims
"""
AXES = st.dictionaries(st.sampled_from(_AXES.split()), VALUES, max_size=4)
SUITES = st.fixed_dictionaries(
    {"title": st.just("a title") | VALUES, "axes": AXES | VALUES},
    optional={
        "params": st.just({"hilo": {"alpha": [0.5, 2]}}) | VALUES,
        "cuda": AXES,
        "cpu": AXES,
        "effort": st.just("quick") | VALUES,
        "reference": VALUES,
        "axis": VALUES,
    },
)


def toml(table: dict[str, Any]) -> str:
    """The table as TOML."""

    def value(one: Any) -> str:
        if isinstance(one, dict):
            return "{" + ", ".join(f'"{key}" = {value(inner)}' for key, inner in one.items()) + "}"
        if isinstance(one, list):
            return "[" + ", ".join(map(value, one)) + "]"
        if isinstance(one, bool):
            return str(one).lower()
        return f'"{one}"' if isinstance(one, str) else repr(one)

    return "\n".join(f'"{key}" = {value(one)}' for key, one in table.items())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suite=SUITES)
def test_a_suite(suite: dict[str, Any], folder: Path) -> None:
    """It is planned, or refused in one sentence."""
    path = folder / "suite.toml"
    path.write_text(toml(suite), encoding="utf-8")
    status, err = answer(["run", str(path), "--device", "cpu", "--dry-run"])
    assert status in (0, 2), err
    if status == 2:
        assert err.startswith("vitbench: ")
        assert err.count("\n") == 1
