"""Cases of one tree in turns: who is slower is told from who is alike, whatever processes do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vitbench.engine.test_ab import Workers
from tests.vitbench.examples import case, read_csv
from vitbench.cases.row import name_of
from vitbench.engine import pool, turns

TIMES = {"msa": 1.0, "hilo": 1.0, "window": 1.15, "sra": 0.85}
PICK, *RIVALS = (case(attention=name) for name in TIMES)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Processes of a small machine, one in twenty of which is 2.7 times slower."""
    made = Workers()
    made.latency = lambda _, one: 0.01 * TIMES[one.attention]
    monkeypatch.setattr(pool, "Child", made.make)
    return made


def test_rivals_are_judged_against_the_pick(workers: Workers, tmp_path: Path) -> None:
    """15% either way is told, and equals are not; every block has the pick beside each rival."""
    folder = tmp_path / "turns"
    folder.mkdir()
    verdicts = turns.measure(PICK, RIVALS, folder)
    words = {verdict.describe: verdict.word for verdict in verdicts}
    hilo, window, sra = (words[name_of(rival)] for rival in RIVALS)
    assert (window, sra) == ("slower", "faster")
    assert hilo in ("same", "undecided")
    ratios = [verdict.ratio for verdict in verdicts]
    assert all(ratio is not None for ratio in ratios)
    names = [name for _, name in workers.asked]
    assert names.count("msa") == len(names) / 2
    assert {row["attention"] for row in read_csv(folder / "base.csv")} == {"msa"}
    assert {row["attention"] for row in read_csv(folder / "head.csv")} == {"hilo", "window", "sra"}


def test_each_side_converts_what_it_runs(workers: Workers, tmp_path: Path) -> None:
    """A pick in one runtime and rivals in others: a case is converted if its own runtime does."""
    pick = case(runtime="openvino")
    rivals = [case(), case(runtime="onnxruntime")]
    folder = tmp_path / "turns"
    folder.mkdir()
    turns.measure(pick, rivals, folder)
    converted = [one.runtime for _, _, kind, one in workers.served if kind == "convert"]
    assert converted == ["openvino", "openvino", "onnxruntime"]


def test_equals_are_not_told_apart(workers: Workers, tmp_path: Path) -> None:
    """Of 4 comparisons with three equals at most one calls a rival faster or slower."""
    workers.latency = lambda _, __: 0.01
    called = 0
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        words = {verdict.word for verdict in turns.measure(PICK, RIVALS, folder)}
        called += bool(words & {"slower", "faster"})
    assert called <= 1


@pytest.mark.parametrize("blocks", [0, 2])
def test_interrupted(workers: Workers, tmp_path: Path, blocks: int) -> None:
    """In the third block, or in the first: the folder has every whole block and the rows that
    follow from them, and no process is left."""

    def whole_blocks() -> int:
        return len({row["block"] for row in read_csv(tmp_path / "readings.csv")})

    workers.fault = lambda *_: KeyboardInterrupt() if whole_blocks() >= blocks else None
    with pytest.raises(KeyboardInterrupt):
        turns.measure(PICK, RIVALS, tmp_path)
    assert whole_blocks() == blocks
    statuses = {row["status"] for row in read_csv(tmp_path / "head.csv")}
    assert statuses == {"measured" if blocks else "not_measured"}
    assert workers.alive == 0
