"""CPU energy from RAPL's counters: a tree of powercap written here, which the calls advance."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.vitbench.examples import case
from vitbench import devices
from vitbench.devices import _powercap
from vitbench.engine import passes
from vitbench.instruments import Counts, Workload, energy, memory
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Measured

RANGE_UJ = 262_143_328_850
SECONDS = 0.04

Tree = Callable[..., Path]


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tree:
    """Writes zones, `intel-rapl:0` to its name, and returns their folder."""
    monkeypatch.setattr(_powercap, "ROOT", tmp_path)

    def write(zones: Mapping[str, str], start_uj: int = 1000, range_uj: int = RANGE_UJ) -> Path:
        for zone, name in zones.items():
            folder = tmp_path / zone
            folder.mkdir()
            (folder / "name").write_text(f"{name}\n")
            (folder / "energy_uj").write_text(f"{start_uj}\n")
            (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        return tmp_path

    return write


def advance(root: Path, uj: Mapping[str, int], range_uj: int = RANGE_UJ) -> None:
    """Each zone's counter goes on by so much, and begins again at its range."""
    for zone, passed in uj.items():
        file = root / zone / "energy_uj"
        file.write_text(f"{(int(file.read_text()) + passed) % range_uj}\n")


SERVER = {
    "intel-rapl": "",
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:1:0": "dram",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
    "dtpm:0": "package-9",
}
AMD = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core"}
DIES = {"intel-rapl:0": "package-0-die-0", "intel-rapl:1": "package-0-die-1"}


@pytest.mark.parametrize(
    ("zones", "labels"),
    [
        (SERVER, {"package-0", "package-0 dram", "package-1", "package-1 dram"}),
        (AMD, {"package-0"}),
        (DIES, {"package-0-die-0", "package-0-die-1"}),
        ({"intel-rapl-mmio:0": "package-0"}, {"package-0"}),
        ({"intel-rapl:0": "psys"}, set()),
        ({}, set()),
    ],
)
def test_what_counts(tree: Tree, zones: dict[str, str], labels: set[str]) -> None:
    """Every package and its memory once: neither parts of a package, nor the whole platform, nor
    the second driver of the same counter."""
    tree(zones)
    found = _powercap.zones()
    assert {zone.label for zone in found} == labels
    assert len(found) == len(labels)
    assert not (zones == SERVER and any("mmio" in zone.folder.name for zone in found))


def test_one_call_by_hand(tree: Tree) -> None:
    """Two packages and the memory of one add up, over as many calls as were made: 5 mJ a call,
    however many there were."""
    root = tree(SERVER)
    uj = {"intel-rapl:0": 3000, "intel-rapl:0:0": 2500, "intel-rapl:0:1": 500, "intel-rapl:1": 1500}

    def call() -> None:
        advance(root, uj | {"intel-rapl:2": 9000, "intel-rapl-mmio:0": 3000})

    joules = _powercap.energy_j(call, SECONDS, _powercap.zones())
    assert joules == pytest.approx(5e-3)


def test_a_counter_that_wraps_around(tree: Tree) -> None:
    """It begins again at its range, here after every third call: nothing is lost, and nothing is
    negative."""
    root = tree(AMD, start_uj=9_999, range_uj=10_000)
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        advance(root, {"intel-rapl:0": 3_333}, range_uj=10_000)

    meter = _powercap.Meter(_powercap.zones())
    for _ in range(30):
        call()
        meter.read()
    assert meter.uj == 30 * 3_333
    assert calls == 30


def test_a_call_that_outlasts_the_reading(tree: Tree) -> None:
    """Is made once to warm up, and once read."""
    root = tree(AMD, start_uj=0)
    uj = {"intel-rapl:0": 7_000_000}
    assert _powercap.energy_j(lambda: advance(root, uj), 1e-9, _powercap.zones()) == 7.0
    assert (root / "intel-rapl:0" / "energy_uj").read_text() == "14000000\n"


def test_a_counter_that_stands_still(tree: Tree) -> None:
    """Says nothing of the call, and neither does one that moves once in a while: no figure."""
    root, made = tree(AMD), list[int]()
    with pytest.raises(devices.Unreadable, match=r"moved 0 times in 0\.04 s"):
        _powercap.energy_j(lambda: None, SECONDS, _powercap.zones())

    def call() -> None:
        made.append(1)
        if len(made) == 100:
            advance(root, {"intel-rapl:0": 1_000_000})

    with pytest.raises(devices.Unreadable, match=r"moved [01] times"):
        _powercap.energy_j(call, SECONDS, _powercap.zones())


def test_why_none_can_be_read(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """No counters, root's alone, or odd ones: one sentence, which names no path."""
    assert "no energy counters" in _powercap.reason_against(_powercap.zones())
    root = tree(SERVER)
    assert _powercap.reason_against(_powercap.zones()) == ""
    dram = root / "intel-rapl:1:0"
    (dram / "energy_uj").write_text("unknown\n")
    assert _powercap.reason_against(_powercap.zones()) == (
        "energy_uj of package-1 dram cannot be read: ValueError"
    )
    (dram / "energy_uj").write_text("1\n")
    (dram / "max_energy_range_uj").unlink()
    assert "max_energy_range_uj of package-1 dram" in _powercap.reason_against(_powercap.zones())

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", os.fspath(path))

    found = _powercap.zones()
    monkeypatch.setattr(Path, "read_text", refuse)
    assert _powercap.reason_against(found) == "only root may read the energy counters (RAPL) here"


def test_the_environment_says_which_counters(tree: Tree) -> None:
    """Once for a run; without any, why there are none."""
    device = devices.connect("cpu")
    reason = "this system shows no energy counters (RAPL)"
    assert device.facts() == {"energy": {"counters": [], "unreadable": reason}}
    tree(AMD)
    assert device.facts() == {"energy": {"counters": ["package-0"], "unreadable": ""}}


def workload(call: Callable[[], None], energy_s: float) -> Workload:
    """Two images a call, whose energy may be read for so long."""
    return Workload(
        device=devices.connect("cpu"),
        module=torch.nn.Identity(),
        x=torch.zeros(2),
        call=call,
        images=2,
        is_dispatched=True,
        kept_bytes=0,
        memory_source=memory.ALLOCATOR,
        resident_held_bytes=0,
        energy_s=energy_s,
        counts=Counts(parts=dict, closed_form=int, formula=int),
    )


def test_the_energy_of_an_image(tree: Tree) -> None:
    """Half of a call's, whose batch is two. Empty without counters, and where it is not asked
    for."""
    assert energy.read(workload(lambda: None, SECONDS))["energy_j_img"] is None
    root = tree(AMD)
    thirsty = partial(advance, root, {"intel-rapl:0": 8_000_000})
    assert energy.read(workload(thirsty, SECONDS))["energy_j_img"] == pytest.approx(4.0)
    assert energy.read(workload(thirsty, 0.0))["energy_j_img"] is None


def test_a_counter_that_fails_is_a_note(tree: Tree) -> None:
    """In the row, which is timed all the same."""
    tree(AMD)
    rule = TimingRule(warmup_s=0, min_samples=2, min_s=0, cap_s=0.01, energy_s=SECONDS)
    outcome = passes.measure(case(), rule, {}, with_facts=True)
    assert isinstance(outcome, Measured)
    assert outcome.facts is not None
    assert outcome.facts.columns.get("energy_j_img") is None
    notes = str(outcome.facts.columns["notes"])
    assert notes.startswith("energy: the energy counters moved 0 times")
