"""What the commands print to: streams that take ASCII only, that are full or that nobody reads, and
narrow terminals. tests/strangers/environments has the same with real processes."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.vitbench.examples import ROOT
from vitbench import devices
from vitbench.__main__ import run
from vitbench.cli import app, terminal
from vitbench.errors import StorageFull
from vitbench.render import history

RUN = str(ROOT / "reports" / "cpu-quick")


def printed_as(encoding: str, monkeypatch: pytest.MonkeyPatch, *words: str, status: int = 0) -> str:
    """What a command prints where standard output has this encoding."""
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding=encoding))
    assert run(list(words)) == status
    sys.stdout.flush()
    return content.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", r"+/- x >= <= deg C \u4e2d \udcff"),
        ("latin-1", "± \N{MULTIPLICATION SIGN} >= <= °C \\u4e2d \\udcff"),
        ("utf-8", "± \N{MULTIPLICATION SIGN} ≥ ≤ °C 中 \\udcff"),
    ],
)
def test_what_an_encoding_lacks(monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str) -> None:
    """Signs have their ASCII form, and any other character its escape: also what is left of the
    name of a file that is no text. What the encoding has stays as it is.
    """
    terminal.prepare()
    text = "± \N{MULTIPLICATION SIGN} ≥ ≤ °C 中 \udcff"
    assert text.encode(encoding, "degraded").decode(encoding) == shown


@pytest.mark.parametrize(
    "words", [["table", RUN], ["table", RUN, "--markdown"], ["columns"], ["list"], ["--help"]]
)
def test_a_terminal_of_ascii(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """Tables, lists and the boxes of help."""
    text = printed_as("ascii", monkeypatch, *words)
    assert text.isascii()
    assert "\\u" not in text
    assert ("+/-" in text) == (words[0] == "table")


def test_json_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads as the same data in every encoding."""
    for encoding in ("ascii", "utf-8"):
        content = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding=encoding))
        terminal.prepare()
        terminal.echo_json({"name": "± é \udcff"})
        sys.stdout.flush()
        assert json.loads(content.getvalue()) == {"name": "± é \udcff"}


def test_a_full_stream() -> None:
    """The first write raises a sentence; what comes later goes nowhere, and raises no more."""
    with io.TextIOWrapper(io.BufferedWriter(terminal._Stdout("/dev/full", "w"))) as stream:
        stream.write("text")
        with pytest.raises(StorageFull, match="standard output cannot be written: No space left"):
            stream.flush()
        stream.write("more")


def test_a_reader_that_has_left() -> None:
    """What is written goes nowhere, and the command goes on."""
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(io.BufferedWriter(terminal._Stdout(writing, "w"))) as stream:
        print("text", file=stream, flush=True)
        print("more", file=stream, flush=True)


def test_a_closed_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, status 1."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert run(["list"]) == 1
    assert capsys.readouterr().err == (
        "vitbench: standard output cannot be written: it is closed\n"
    )


@pytest.mark.parametrize("columns", ["0", "1", "20", "wide"])
@pytest.mark.parametrize("words", [["table", RUN], ["compare", RUN, RUN], ["run", "--help"]])
def test_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: str,
    words: list[str],
) -> None:
    """Every width ends well."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)
    assert run(words) == 0
    captured = capsys.readouterr()
    assert captured.out
    assert not captured.err


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    """Where they are not wanted, or not to be had; in any other terminal there are."""
    colour = re.compile(r"\x1b\[[\d;]*3\d")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert run(["table", RUN]) == 0
    assert colour.search(capsys.readouterr().out)
    monkeypatch.setenv(name, value)
    assert run(["table", RUN]) == 0
    assert not colour.search(capsys.readouterr().out)


def commands(group: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command by its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *words, name)
        else:
            yield (*words, name), command


@pytest.mark.parametrize(
    ("words", "command"),
    [pytest.param(*pair, id=" ".join(pair[0])) for pair in commands(get_command(app))],
)
def test_help_is_shown_whole(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    command: Any,
) -> None:
    """Square brackets too, which rich takes for markup; and the devices are those that exist."""
    monkeypatch.setenv("COLUMNS", "250")
    assert run([*words, "--help"]) == 0
    shown = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    options = [option for option in command.params if getattr(option, "help", None)]
    for text in (command.help, *(option.help for option in options)):
        plain = " ".join(text.replace(r"\[", "[").split())
        assert plain in shown
    if any("--device" in option.opts for option in options):
        assert f"{', '.join(devices.choices())}." in shown


def test_brackets_in_names(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is printed as it is."""
    terminal.console().print("litv2_s[attention=sra] [bold] timm:b:c")
    assert capsys.readouterr().out == "litv2_s[attention=sra] [bold] timm:b:c\n"


def test_a_path_stands_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long it is: it is there to be copied."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(history, "save", lambda _, __, folder: folder / "history.png")
    deep = "/".join(["a" * 60] * 4)
    assert run(["trend", RUN, RUN, "--out", deep]) == 0
    assert f"{deep}/history.png" in capsys.readouterr().out.splitlines()
