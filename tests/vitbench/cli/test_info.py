"""vitbench info: what a mechanism is, and its counts at a size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import attentions
from tests.vitbench.examples import plugin
from vitbench.__main__ import run


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The answer as JSON."""
    assert run(["info", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", attentions.names())
def test_every_mechanism(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Has a paper, a family, an equation, a cost, traps, and counts at stage 3, or a reason against
    them."""
    found = told(capsys, name)
    for key in ("summary", "family", "equation", "cost", "traps", "paper"):
        assert found[key], key
    assert found["paper"]["link"].startswith("https://arxiv.org/abs/")
    assert found["counts"]["macs"] >= 0


def test_counts_at_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    """HiLo's two exact counts, and what padding makes of the grid."""
    found = told(capsys, "hilo", "--dim", "768", "--param", "alpha=0.9")
    assert found["counts"] == {
        "macs": 298_296_320,
        "params": 2_198_528,
        "computed_grid": [14, 14],
    }
    half = told(capsys, "hilo", "--param", "alpha=0.5")
    assert half["counts"]["macs"] == 83_467_776
    padded = told(capsys, "hilo", "--resolution", "208x240")
    assert padded["at"]["grid"] == [13, 15]
    assert padded["counts"]["computed_grid"] == [14, 16]


def test_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The same in lines; what stands in square brackets is not taken for a style."""
    assert run(["info", "hilo", "--resolution", "208x240"]) == 0
    text = capsys.readouterr().out
    assert "reduced: every token attends to fewer keys" in text
    for words in ("NeurIPS 2022", "https://arxiv.org/abs/2205.13213", "[attention inside", "trap"):
        assert words in text
    assert "13 x 15 tokens" in text
    assert "14 x 16" in text


def test_a_size_that_is_unsupported(capsys: pytest.CaptureFixture[str]) -> None:
    """Is answered with the reason in the place of counts."""
    found = told(capsys, "quadtree", "--resolution", "240")
    assert found["counts"] is None
    assert found["unsupported"]
    assert run(["info", "quadtree", "--resolution", "240"]) == 0
    assert found["unsupported"][:40] in " ".join(capsys.readouterr().out.split())


def test_a_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of which only the module is known."""
    path = plugin(tmp_path, "mine")
    found = told(capsys, "mine", "--plugin", str(path), "--param", "strength=2.0")
    assert found["paper"] is None
    assert found["counts"]["macs"] is None
    assert found["at"]["params"] == {"strength": 2.0}
    assert run(["info", "mine", "--plugin", str(path)]) == 0
    assert "no closed form" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["info", "run --quiet --out out --attention", "run --dry-run --attention"]
)
def test_a_plugin_that_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    """Ends a worker, not the command; what it prints or writes is not the command's output."""
    monkeypatch.chdir(tmp_path)
    plugin(tmp_path, "mine", "import os\nos.write(1, b'bye\\n')\nos._exit(0)")
    assert run([*command.split(), "mine", "--plugin", "mine.py"]) == 2
    answer = capfd.readouterr()
    assert "bye" not in answer.out
    sentence = "the worker ended with exit status 0; last output: bye"
    assert answer.err == f"vitbench: plugin mine.py cannot be imported: {sentence}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hillo", "nearest: hilo"),
        ("hilo --dim 385", "divisible"),
        ("hilo --resolution 8", "stride 16"),
        ("hilo --resolution 224,384", "a resolution is pixels like 224"),
        ("hilo --param alpha", "KEY=VALUE"),
        ("hilo --param beta=1", "no parameter 'beta'"),
        ("hilo --param alpha=yes", "alpha"),
        ("hilo --stride 0", "stride"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], words: str, expected: str) -> None:
    """One sentence, exit status 2."""
    assert run(["info", *words.split()]) == 2
    answer = capsys.readouterr()
    assert expected in answer.err
    assert answer.out == ""
    assert len(answer.err.strip().splitlines()) == 1


def test_a_plugin_that_cannot_be_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Says what it raised."""
    path = tmp_path / "bad.py"
    path.write_text(
        "from attentions import AttentionSpec\n"
        "def make(dim, num_heads, grid):\n    raise RuntimeError('no')\n"
        "ATTENTION = AttentionSpec(module=make)\n"
    )
    assert run(["info", "bad", "--plugin", str(path)]) == 2
    assert "bad cannot be built: RuntimeError: no" in capsys.readouterr().err
