"""The doctor: each flaw of a machine is found with its number, its limit and a remedy."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import operator
from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.examples import case, measured
from vitbench.__main__ import run
from vitbench.analysis import doctor
from vitbench.instruments import host
from vitbench.instruments.host import HostSnapshot
from vitbench.results.record import Record, build_record

QUIET = HostSnapshot(
    neighbour_cores=0.0,
    contended_cores=0.0,
    steal_share=0.0,
    load=0.1,
    available_memory_bytes=16 * 2**30,
    swap_used_bytes=0,
    disk_free_bytes=2**40,
)
BUSY = dataclasses.replace(QUIET, neighbour_cores=0.3)
GOOD: dict[str, Any] = {
    "device_name": "A GPU",
    "cpu": {
        "cores_usable": 8,
        "cores_physical": 8,
        "cores_logical": 16,
        "cgroup_quota_cores": None,
        "governor": "performance",
        "hypervisor": False,
        "fast_cores": 8,
        "slow_cores": 0,
        "sockets": 1,
        "int8_instructions": ["avx512_vnni"],
    },
    "torch": {"version": "2.14", "threads": 8},
    "unused_devices": [],
    "energy": {"counters": ["package-0"], "unreadable": ""},
    "code": {"commit": "0123456789abcdef", "dirty": False},
    "gpu": {
        "memory_bytes": 80 * 2**30,
        "persistence_mode": 1,
        "power_limit_w": 700.0,
        "power_default_w": 700.0,
        "mig_mode": 0,
        "idle": {"utilisation": 0.0, "free_bytes": 79 * 2**30, "bad_reasons": []},
    },
}


GOOD_CPU: dict[str, Any] = GOOD["cpu"]
HYBRID = {"fast_cores": 4, "slow_cores": 4}


def changed(place: str, value: object) -> dict[str, Any]:
    """The good environment with one fact replaced: `gpu.idle.utilisation`."""
    environment = copy.deepcopy(GOOD)
    *path, last = place.split(".")
    functools.reduce(operator.getitem, path, environment)[last] = value
    return environment


def test_a_good_machine_has_no_finding() -> None:
    """Nor one that has no GPU, or does not tell."""
    assert doctor.findings(GOOD, QUIET) == []
    assert doctor.findings(changed("gpu", None), QUIET) == []
    untold = dict.fromkeys(("fast_cores", "slow_cores", "sockets"))
    assert doctor.findings(changed("cpu", GOOD_CPU | untold), QUIET) == []
    fewer = changed("cpu", GOOD_CPU | HYBRID) | {"torch": GOOD["torch"] | {"threads": 4}}
    assert doctor.findings(fewer, QUIET) == []
    assert doctor.findings(changed("cpu.governor", None) | {"code": None}, QUIET) == []
    none = {"counters": [], "unreadable": "this system shows no energy counters"}
    assert doctor.findings(changed("energy", none), QUIET) == []
    silent = {"power_limit_w": None, "persistence_mode": None, "mig_mode": None}
    assert doctor.findings(changed("gpu", GOOD["gpu"] | silent), QUIET) == []


@pytest.mark.parametrize(
    ("place", "value", "grade", "words"),
    [
        ("torch.threads", 12, "C", ["12 threads on 8 usable cores", "--threads 8"]),
        ("cpu.cgroup_quota_cores", 1.5, "C", ["allows 1.5 cores to 8 threads"]),
        ("cpu.cores_physical", 4, "", ["8 threads on 4 physical cores", "--threads 4"]),
        ("cpu.sockets", 2, "", ["8 threads on 2 sockets", "--threads 4"]),
        ("cpu", GOOD_CPU | HYBRID, "", ["4 fast and 4 slow cores", "--threads 4"]),
        ("cpu.governor", "powersave", "", ["powersave", "performance", "cpupower"]),
        ("cpu.hypervisor", True, "", ["virtual machine"]),
        ("code.dirty", True, "", ["0123456789", "git commit"]),
        ("unused_devices", ["built without CUDA"], "", ["without CUDA", "--device cpu"]),
        ("gpu.idle.utilisation", 0.3, "C", ["30% of the time", "at most 2%"]),
        ("gpu.idle.free_bytes", 40 * 2**30, "", ["50% of the GPU's memory", "90%"]),
        ("gpu.idle.bad_reasons", ["power cap"], "C", ["power cap"]),
        ("gpu.persistence_mode", 0, "", ["persistence", "nvidia-smi"]),
        ("gpu.power_limit_w", 350.0, "", ["350 W", "700 W"]),
        ("gpu.mig_mode", 1, "", ["MIG"]),
        ("gpu.compute_mode", "exclusive", "", ["exclusive", "vitbench ab", "nvidia-smi"]),
        ("gpu", {"unreadable": "NVML cannot read GPU x"}, "B", ["NVML cannot read GPU x"]),
        ("energy.unreadable", "only root may read", "", ["only root may read", "chmod a+r"]),
        ("neighbour_cores", 1.25, "C", ["other processes kept busy 1.25 cores"]),
        ("contended_cores", 0.3, "B", ["contention", "--threads 7"]),
        ("contended_cores", 1.5, "C", ["exceed the cores by 1.5 cores", "--threads 6"]),
        ("contended_cores", 9.0, "C", ["--threads 1"]),
        ("steal_share", 0.02, "B", ["2%"]),
        ("available_memory_bytes", 2**30, "C", ["1.0 GiB"]),
        ("swap_used_bytes", 2**30, "", ["1.0 GiB are swapped out"]),
        ("disk_free_bytes", 2**20, "", ["1 MiB are free"]),
    ],
)
def test_flaws(place: str, value: Any, grade: str, words: list[str]) -> None:
    """Each flaw of the environment or of the moment gives by itself one finding that says what,
    what would be good, and the remedy."""
    if place in HostSnapshot.__dataclass_fields__:
        (found,) = doctor.findings(GOOD, dataclasses.replace(QUIET, **{place: value}))
    else:
        (found,) = doctor.findings(changed(place, value), QUIET)
    assert found.grade == grade
    for word in words:
        assert word in f"{found.what} | {found.limit} | {found.remedy}"


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (["avx_vnni", "amx_int8"], ["AVX-VNNI, AMX-INT8", "8 bits", "twice"]),
        (["asimddp", "i8mm"], ["dotprod, i8mm"]),
        ([], ["no instructions", "VNNI", "7 bits", "gains little"]),
        (None, ["does not name", "7 bits", "only a run"]),
    ],
)
def test_what_the_cpu_means_for_int8(instructions: list[str] | None, words: list[str]) -> None:
    """One sentence: what the CPU has, what weights keep, and what int8 may gain."""
    sentence = doctor.int8(changed("cpu.int8_instructions", instructions))
    for word in words:
        assert word in sentence


def test_int8_is_not_told_of_other_devices_and_older_runs() -> None:
    """A GPU does not use the CPU's instructions, and an older file does not list them."""
    assert doctor.int8(GOOD | {"device": "cuda"}) == ""
    assert doctor.int8({"cpu": {"cores_usable": 2}}) == ""
    assert doctor.int8({}) == ""


def test_the_driver_library_of_wsl() -> None:
    """It lies where a loader may not look, and the remedy names the folder."""
    platform = "Linux-5.15.167.4-microsoft-standard-WSL2-x86_64-with-glibc2.39"
    environment = changed("gpu", {"unreadable": "NVML cannot read GPU x"}) | {"platform": platform}
    (found,) = doctor.findings(environment, QUIET)
    assert "/usr/lib/wsl/lib" in found.remedy


def test_the_worst_comes_first_and_decides() -> None:
    """Findings are sorted; the grade to expect is no better than any of them, nor than the row."""
    found = doctor.findings(changed("gpu.idle.bad_reasons", ["power cap"]), BUSY)
    assert [finding.grade for finding in found] == ["C", "B"]
    row = build_record(case(), [measured(), measured()])
    assert row["trust"] == "A"
    assert doctor.expected_grade(found, row) == "C"
    assert doctor.expected_grade([], row) == "A"
    assert doctor.expected_grade([], row | {"trust": None}) == "D"


def test_watching_this_machine(tmp_path: Path) -> None:
    """Readings of a real moment; the folder for reports need not exist yet."""
    snapshot = host.watch(tmp_path / "not" / "yet", threads=1, seconds=0.25)
    assert snapshot.available_memory_bytes > 0
    assert snapshot.disk_free_bytes > 0
    assert snapshot.neighbour_cores is None or snapshot.neighbour_cores >= 0


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Record:
    """A quiet machine in the place of this one."""
    row = build_record(case(), [measured(), measured()])
    monkeypatch.setattr("vitbench.cli.doctor.examine", lambda device, threads: (GOOD, row))
    monkeypatch.setattr(host, "watch", lambda *_: QUIET)
    return row


@pytest.mark.usefixtures("examined")
def test_what_it_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device, the findings, the noise floor, and the trust to expect."""
    assert run(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "nothing found that costs precision" in output
    assert "int8: the CPU sums 8-bit products exactly in one instruction (AVX512-VNNI)" in output
    assert "expected trust of a row: A" in output
    monkeypatch.setattr(host, "watch", lambda *_: BUSY)
    assert run(["doctor"]) == 0
    assert "other processes kept busy 0.3 cores" in capsys.readouterr().out


def test_as_json(examined: Record, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for a program."""
    assert run(["doctor", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["expected_trust"] == "A"
    assert output["findings"] == []
    assert "AVX512-VNNI" in output["int8"]
    assert output["environment"]["torch"]["threads"] == 8
    assert output["noise_floor"]["noise"] == examined["noise"]


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Is bad input."""
    assert run(["doctor", "--device", "gpu"]) == 2
    assert "nearest: xpu, cpu" in capsys.readouterr().err
