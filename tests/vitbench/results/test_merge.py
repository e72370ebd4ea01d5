"""The shards of a run as one: a function of their journals, or a sentence."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.examples import case, environment, measured, plan, read_csv, shard_runs
from vitbench.__main__ import run as command
from vitbench.cases import plan as plans
from vitbench.errors import BadInput
from vitbench.results import journal, merge
from vitbench.results.folder import RECORDS
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed, Outcome

CASES = tuple(case(batch_size=size) for size in range(1, 6))
WHOLE = plan(*CASES)


def named(runs: list[Run]) -> dict[str, Run]:
    """As the command reads them."""
    return {f"shard-{run.plan.shard.number}": run for run in runs if run.plan.shard}


def test_a_merged_run_is_the_whole_run(tmp_path: Path) -> None:
    """In any order of the shards, also when read back: the plan, the outcomes and the rows are
    those of one run of all cases, apart from the machine's columns."""
    expected: dict[tuple[str, int], Outcome] = {
        (one.id, r): measured(*[0.01 * one.batch_size] * 10) for one in CASES for r in (0, 1)
    }
    for order in itertools.permutations(shard_runs(WHOLE, 3)):
        whole = merge.merge(named(list(order)))
        assert whole.plan == plans.with_control(WHOLE)
        assert whole.outcomes == expected
        assert set(whole.node_of.values()) == set(whole.nodes) == {"host 1", "host 2", "host 3"}
        assert whole.node_spread() == 0
    merge.write(whole, tmp_path / "whole")
    assert journal.read(tmp_path / "whole") == whole
    alone = Run(WHOLE, whole.environment, whole.ceilings, expected)
    for row, single in zip(whole.records(), alone.records(), strict=True):
        assert row["node"] in whole.nodes
        assert row | {"node": "", "node_spread": None} == single


def test_what_cannot_be_merged() -> None:
    """A shard that is not complete, or of another torch, device, revision or plugin."""
    runs = named(shard_runs(WHOLE, 2))
    part = runs["shard-2"]
    lost = part.plan.cases[0]
    del part.outcomes[lost.id, 1]
    with pytest.raises(BadInput, match=r"shard-2 lacks 1 of 2 cases: continue it with"):
        merge.merge(runs)
    part.keep(lost, 1, Failed("error", "no memory"), "host 2")
    merge.merge(runs)
    torch = {"version": "2.14", "threads": 2}
    differences: list[tuple[dict[str, Any], str]] = [
        ({"torch": torch}, "another torch: 2.14, not 2.13, than shard-1"),
        ({"device_name": "B"}, "another device: B, not A CPU, 2 threads, than shard-1"),
        ({"code": {"commit": "abc"}}, "another code of vitbench: abc, not none,"),
        ({"packages": {"timm": "1"}}, "another timm: 1, not none,"),
        ({"plugins": {"mine": {"sha256": "1" * 64}}}, "another content of the plugin mine"),
    ]
    same = {"code_digest": "0123456789ab"}
    one, other = (environment(**same, code={"commit": commit}) for commit in ("abc", "def"))
    assert merge.unlike(one, other) == ""
    assert "code of vitbench" in merge.unlike(one, environment(code_digest="ba9876543210"))
    for changes, what in differences:
        part.environment = environment(**changes)
        with pytest.raises(BadInput, match=what):
            merge.merge(runs)


def test_machines_that_differ_lower_the_trust() -> None:
    """A control case that takes half as long again on one of three machines: a sentence names the
    machine, and every row says by how much they differ. Without a control the rows lose their A."""
    runs = shard_runs(WHOLE, 3)
    for index in range(WHOLE.rounds):
        runs[2].nodes["host 3"].controls[index] = measured(*[0.015] * 10)
    whole = merge.merge(named(runs))
    assert merge.warnings(whole) == [
        f"host 3 takes 1.5 times as long as the others for the same case in round {r} (limit 10%)"
        for r in (1, 2)
    ]
    for row in whole.records():
        assert row["node_spread"] == pytest.approx(0.5)
        assert (row["trust"], "control case differs" in str(row["trust_reasons"])) == ("C", True)
    del runs[2].nodes["host 3"].controls[0]
    for row in merge.merge(named(runs)).records():
        assert (row["node_spread"], row["trust"]) == (None, "B")


def test_the_command_merges_or_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`vitbench merge` of two shards leaves a run; of one, or into a run's folder, a sentence."""
    monkeypatch.chdir(tmp_path)
    for number, run in enumerate(shard_runs(WHOLE, 2), start=1):
        merge.write(run, tmp_path / f"s{number}")
    assert command(["merge", "s1", "--out", "whole"]) == 2
    assert "of 2 shards 1 are not given: 2" in capsys.readouterr().err
    assert command(["merge", "s1", "s2", "nothing", "--out", "whole"]) == 2
    assert "nothing holds no run" in capsys.readouterr().err
    assert command(["merge", "s1", "s1", "--out", "whole"]) == 2
    assert not (tmp_path / "whole").exists()
    assert command(["merge", "s2", "s1", "--out", "s1"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert command(["merge", "s2", "s1", "--out", "whole"]) == 0
    rows = read_csv(tmp_path / "whole" / RECORDS)
    assert [row["case"] for row in rows] == [one.id for one in CASES]
    assert command(["run", "--resume", "whole"]) == 2
    assert "nodes of a fleet, or shards, measured" in capsys.readouterr().err


def test_withdrawn_outcomes_are_replaced(tmp_path: Path) -> None:
    """What a machine gave in a round is forgotten, and another may give it anew; what it gave in
    other rounds stays."""
    part = plans.with_control(plan(*CASES))
    with journal.create(tmp_path / "run", part) as file:
        for name in ("a", "b"):
            file.append(journal.environment_entry(environment(), None, name))
        for index in (0, 1):
            file.append(journal.outcome_entry(CASES[0], index, measured(), "a"))
        file.append(journal.withdrawn_entry("a", 0))
        file.append(journal.outcome_entry(CASES[0], 0, measured(0.5), "b"))
    run = journal.read(tmp_path / "run")
    assert run.outcomes == {(CASES[0].id, 0): measured(0.5), (CASES[0].id, 1): measured()}
    assert run.records()[0]["node"] == "b, a"
    unknown = dataclasses.replace(part, control=None)
    with journal.create(tmp_path / "other", unknown) as file:
        file.append(journal.outcome_entry(CASES[0], 0, measured(), "a"))
    with pytest.raises(BadInput, match="no environment is there of the node a"):
        journal.read(tmp_path / "other")
