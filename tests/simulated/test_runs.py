"""Whole runs on a simulated accelerator, whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.simulated import VARIABLE, State, installed
from tests.vitbench.examples import layer, plugin, read_csv
from vitbench.__main__ import run

SIZE = "--resolution 64 --dim 48 --heads 6 --batch-size 2 --device accelerator"


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is there."""
    with installed(monkeypatch):
        yield


def measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, state: State, options: str, status: int = 0
) -> list[dict[str, str]]:
    """The rows of a run on a device in this state."""
    monkeypatch.setenv(VARIABLE, json.dumps(dataclasses.asdict(state)))
    assert (
        run(
            [
                "run",
                "quick",
                "--effort",
                "quick",
                *SIZE.split(),
                *options.split(),
                "--out",
                str(folder),
            ]
        )
        == status
    )
    return read_csv(folder / "records.csv")


def times(row: Mapping[str, str]) -> tuple[float, float]:
    """Steady state and the device's own, seconds."""
    return float(row["latency_s"]), float(row["device_latency_s"])


@pytest.mark.parametrize(
    ("state", "is_bound"),
    [
        (State(kernel_s=1e-6), True),
        pytest.param(State(), False, marks=pytest.mark.slow),
    ],
)
def test_a_run_tells_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State, is_bound: bool
) -> None:
    """Of a device that is slower than its host, and of one that waits for it: the steady state and
    the device's own time within 1%, and the energy; and the row is not trusted less because the
    run's own work was on the device.
    """
    (row,) = measured(
        tmp_path / "run", monkeypatch, state, "--attention msa --rounds 1 --energy-time 0.1"
    )
    operators = int(row["operator_calls"])
    latency_s, device_s = times(row)
    assert latency_s == pytest.approx(operators * max(state.kernel_s, state.launch_s), rel=0.01)
    assert device_s == pytest.approx(operators * state.kernel_s, rel=0.01)
    assert row["launch_bound"] == str(is_bound).lower()
    assert float(row["throughput_img_s"]) == pytest.approx(2 / latency_s)
    if is_bound:
        assert not row["energy_j_img"]
        assert "energy: the GPU waits for the host" in row["notes"]
    else:
        assert float(row["energy_j_img"]) == pytest.approx(100 * latency_s / 2, rel=0.01)
        assert int(row["energy_ticks"]) >= 20
    assert float(row["gpu_idle_utilisation"]) == 0
    assert "GPU" not in row["trust_reasons"]
    assert row["status"] == "measured"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "grade", "reason"),
    [
        (State(is_readable=False), "B", "the device's clock and neighbours could not be read"),
        (State(is_part=True), "B", "the device's clock and neighbours could not be read"),
        (State(neighbour=0.6), "D", "others used the GPU for 60% of the time"),
        (
            State(neighbour_bytes=2**31, neighbour_from_s=0.6),
            "C",
            "others' GPU memory moved by 2.05e+03 MiB",
        ),
        (State(slow_to_s=1e3), "C", "the GPU lowered its clock: thermal slowdown (hardware)"),
    ],
)
def test_the_state_of_the_device_is_in_the_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State, grade: str, reason: str
) -> None:
    """What was seen, and what could not be."""
    if state.is_part:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    (row,) = measured(tmp_path / "run", monkeypatch, state, "--attention msa --rounds 2")
    assert row["trust"] == grade
    assert reason in row["trust_reasons"]


_BREAKING = """
import torch
from torch import nn
from attentions import AttentionSpec
from vitbench import devices


class Breaking(nn.Module):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x):
        if len(x) == 4:
            devices.connect("accelerator").simulated.allocator.allocate(2**40)
        if len(x) == 8:
            devices.connect("accelerator").simulated.is_broken = True
        if len(x) == 32:
            devices.connect("accelerator").simulated.hangs = True
        return x.neg()


ATTENTION = AttentionSpec(module=Breaking)
"""


@pytest.mark.slow
def test_what_breaks_a_process_costs_one_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory, a fault after which every call of the process fails, and a kernel that never
    ends: the cases beside them are measured, in other processes.
    """
    path = plugin(tmp_path, "breaking", _BREAKING)
    options = f"--plugin {path} --attention breaking --batch-size 1,2,4,8,16,32"
    options += " --rounds 1 --timeout 20"
    rows = measured(tmp_path / "run", monkeypatch, State(), options, status=1)
    found = {int(row["batch_size"]): row["status"] for row in rows}
    assert found == {
        1: "measured",
        2: "measured",
        4: "out_of_memory",
        8: "error",
        16: "measured",
        32: "timeout",
    }
    # Its output, of 4 x 4 tokens of 48 channels in fp32.
    sizes = {row["batch_size"]: row["activation_memory_bytes"] for row in rows if row["macs"]}
    assert sizes == {batch: str(int(batch) * 3072) for batch in ("1", "2", "16")}


_WAITING = """
from torch import nn
from attentions import AttentionSpec


class Waiting(nn.Module):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x):
        return x * float(x.sum())


ATTENTION = AttentionSpec(module=Waiting)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_a_graph_is_what_its_row_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """On a device that waits for its host, a graph takes the device's own time of the eager call,
    and its energy can be read; its memory is that of the eager call, and its pool beside it; a
    module that waits for the device has none.
    """
    plugin = tmp_path / "waiting.py"
    plugin.write_text(_WAITING)
    rows = measured(
        tmp_path / "run",
        monkeypatch,
        State(kernel_s=1e-6),
        f"--plugin {plugin} --attention msa,waiting --runtime eager,cuda-graph --mode {mode} "
        "--rounds 1 --energy-time 0.1",
    )
    found = {(row["attention"], row["runtime"]): row for row in rows}
    eager, graph = found["msa", "eager"], found["msa", "cuda-graph"]
    assert times(graph)[0] == pytest.approx(times(eager)[1], rel=0.05)
    assert (eager["launch_bound"], graph["launch_bound"]) == ("true", "false")
    assert float(graph["energy_j_img"]) == pytest.approx(100 * times(graph)[0] / 2, rel=0.05)
    assert eager["energy_j_img"] == ""
    assert graph["peak_memory_bytes"] == eager["peak_memory_bytes"]
    assert int(graph["graph_pool_bytes"]) >= int(graph["activation_memory_bytes"]) > 0
    assert (graph["operator_calls"], eager["graph_pool_bytes"]) == ("", "")
    waiting = found["waiting", "cuda-graph"]
    assert waiting["status"] == "unsupported"
    assert "cannot be recorded as a CUDA graph: called a synchronizing" in waiting["message"]
    assert found["waiting", "eager"]["status"] == "measured"


@pytest.mark.slow
def test_the_gate_sees_a_slower_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A candidate whose operators take 1.2 times as long is a regression, itself is none."""
    options = "--attention msa,sra --rounds 5"
    slower = State(kernel_s=1.2 * State().kernel_s)
    for name, state in (("base", State()), ("slow", slower)):
        measured(tmp_path / name, monkeypatch, state, options)
    base, slow = str(tmp_path / "base"), str(tmp_path / "slow")
    assert run(["check", base, base]) == 0
    capsys.readouterr()
    assert run(["check", base, slow, "--max-slowdown", "5%"]) == 3
    assert "is slower: 1.200 times" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal cut after its first case is continued to the same rows."""
    folder = tmp_path / "run"
    whole = measured(folder, monkeypatch, State(), "--attention msa,sra --rounds 1")
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    (folder / "records.csv").unlink()
    assert run(["run", "--resume", str(folder)]) == 0
    again = read_csv(folder / "records.csv")
    exact: Any = ("case", "status", "operator_calls", "macs", "peak_memory_bytes")
    for row, before in zip(again, whole, strict=True):
        assert [row[name] for name in exact] == [before[name] for name in exact]
        assert times(row) == pytest.approx(times(before), rel=0.01)


@pytest.mark.slow
def test_an_idle_clock_is_left_before_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device whose clock rises under load is measured at its full clock."""
    state = State(idle_clock=0.2, rise_s=0.4)
    (row,) = measured(tmp_path / "run", monkeypatch, state, "--attention msa --rounds 1")
    assert times(row) == pytest.approx([int(row["operator_calls"]) * state.kernel_s] * 2, rel=0.01)


@pytest.mark.slow
def test_a_budget_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends in time, and its figures are true."""
    start = time.monotonic()
    rows = measured(tmp_path / "run", monkeypatch, State(), "--attention msa,sra --budget 60s")
    assert time.monotonic() - start < 60
    for row in rows:
        operators = int(row["operator_calls"])
        assert times(row) == pytest.approx([operators * State().kernel_s] * 2, rel=0.01)


@pytest.mark.slow
def test_the_second_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for by its index, and stands in the rows by it."""
    options = "--attention msa --rounds 1 --device accelerator:1"
    (row,) = measured(tmp_path / "run", monkeypatch, State(), options)
    assert (row["device"], row["status"]) == ("accelerator:1", "measured")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "grade", "finding"),
    [
        (State(), "A", ""),
        (State(neighbour=0.3), "C", "others used the GPU for 30% of the time"),
        (State(slow_to_s=1e3), "C", "the GPU lowers its clock: thermal slowdown (hardware)"),
        (State(is_readable=False), "B", "NVML cannot read GPU"),
    ],
)
def test_the_doctor_says_what_to_expect(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: State,
    grade: str,
    finding: str,
) -> None:
    """The findings of the device, and the trust that a run there would get at best."""
    slow = dataclasses.replace(state, kernel_s=1e-4)
    monkeypatch.setenv(VARIABLE, json.dumps(dataclasses.asdict(slow)))
    assert run(["doctor", "--device", "accelerator", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert finding in "; ".join(each["what"] for each in report["findings"])
    assert report["expected_trust"] >= grade
    assert report["noise_floor"]["noise"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("blocks", "launches", "status"),
    [
        (1, 20, 4),
        pytest.param(6, 20, 3, marks=pytest.mark.slow),
        pytest.param(6, 10, 0, marks=pytest.mark.slow),
    ],
)
def test_two_versions_are_compared_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, launches: int, status: int
) -> None:
    """The ratio of their times is that of their kernels; after enough blocks twice as many are a
    regression, and equally many are none. After one block nothing is decided."""
    monkeypatch.setenv(VARIABLE, json.dumps({"kernel_s": 1e-4}))
    for side, times in (("base", 10), ("head", launches)):
        text = layer(forward=f"for _ in range({times}):\n    y = y.neg()  # {side}", keywords="")
        (tmp_path / side).mkdir()
        plugin(tmp_path / side, "mine", text)
    monkeypatch.chdir(tmp_path)
    options = f"--plugin mine.py --attention mine --max-blocks {blocks} --json speed.json --out ab"
    assert run(["ab", "base", "head", *SIZE.split(), *options.split()]) == status
    (case,) = json.loads(Path("speed.json").read_text())["cases"]
    assert case["ratio"]["value"] == pytest.approx((1 + launches) / 11, rel=0.01)
