"""The trust grade: A unless something lowers it, and each reason in words."""

from __future__ import annotations

from typing import Any

import pytest

from vitbench.analysis import doctor, trust
from vitbench.instruments import _cores, host

GOOD: dict[str, Any] = {
    "device": "cpu",
    "noise": 0.01,
    "round_spread": 0.02,
    "neighbour_cores": 0.0,
    "contended_cores": 0.0,
    "steal_share": 0.0,
    "cgroup_throttled_s": 0.0,
    "roofline_fraction": 0.6,
    "rounds": 3,
    "throttle_reasons": "",
    "cpu_share": 0.99,
    "macs": 100,
    "macs_counted": 100,
}


def test_a_quiet_row_is_an_a() -> None:
    """Without a reason."""
    assert trust.grade(GOOD) == ("A", [])


@pytest.mark.parametrize("busy_s", [0.59, 0.67, 1.0])
@pytest.mark.parametrize("wall_s", [0.25, 5.0])
def test_one_of_two_cores_is_taken(
    monkeypatch: pytest.MonkeyPatch, busy_s: float, wall_s: float
) -> None:
    """By another process, which gets more or less of it: no row of a worker with two threads is
    above C, and the doctor says so. The kernel's counters tick 100 times a second."""
    monkeypatch.setattr(_cores, "current", lambda: {0, 1})
    start = host.HostReading(0.0, 0.0, 0, 100.0, 100.0, 0.0, 200.0, 0.0)
    own_s = wall_s * (2 - busy_s)
    both_s = 100 + int(100 * (own_s + wall_s * busy_s) - 2) / 100
    end = host.HostReading(wall_s, own_s, 0, both_s, both_s, 0.0, 200 + 2 * wall_s, 0.0)
    state = host.between(start, end, threads=2)
    assert trust.grade(GOOD | state)[0] == "C"
    snapshot = host.HostSnapshot(
        neighbour_cores=state["neighbour_cores"],
        contended_cores=state["contended_cores"],
        steal_share=0.0,
        load=3.0,
        available_memory_bytes=2**34,
        swap_used_bytes=0,
        disk_free_bytes=2**40,
    )
    cpu = {"cores_usable": 2, "cgroup_quota_cores": None, "cores_physical": 2, "cores_logical": 2}
    cpu |= {"fast_cores": None, "governor": None, "hypervisor": False}
    machine = {"cpu": cpu, "torch": {"threads": 2}, "code": None, "unused_devices": []}
    findings = doctor.findings(machine, snapshot)
    assert doctor.expected_grade(findings, {"trust": "A"}) == "C"
    assert "exceed the cores by" in " ".join(finding.what for finding in findings)


@pytest.mark.parametrize(
    ("column", "value", "grade", "words"),
    [
        ("noise", 0.03, "B", "noise 3% (over 2%)"),
        ("noise", 0.06, "C", "noise 6% (over 5%)"),
        ("noise", 0.30, "D", "noise 30% (over 25%)"),
        ("round_spread", 0.2, "C", "medians of the rounds differ by 20% (over 15%)"),
        ("round_spread", 1.7, "D", "170% (over 100%)"),
        ("neighbour_cores", 0.2, "B", "other processes kept busy 0.2 cores"),
        ("neighbour_cores", 40.0, "C", "40 cores (over 0.5 cores)"),
        ("contended_cores", 0.3, "B", "exceed the cores by 0.3 cores"),
        (
            "contended_cores",
            1.0,
            "C",
            "contention: threads and other processes exceed the cores by 1 cores",
        ),
        ("steal_share", 0.02, "B", "share of the time that the hypervisor took: 2%"),
        ("cgroup_throttled_s", 0.01, "B", "the CPU quota stopped the process for 0.01 s"),
        ("roofline_fraction", 1.3, "D", "faster than the measured ceilings: 130%"),
        ("gpu_processes", 2, "B", "other processes on the GPU: 2"),
        ("sm_clock_spread", 0.4, "C", "the GPU's clock moved by 40%"),
        ("throttled_share", 0.05, "B", "heat held the GPU's clock down for 5% of the time"),
        ("rounds", 1, "B", "one round only"),
        ("throttle_reasons", "power cap", "C", "the GPU lowered its clock: power cap"),
        ("cpu_share", 0.5, "B", "the process had the CPU for 50% of the time"),
        ("macs_counted", 120, "C", "the closed form gives 100 MACs, counted are 120"),
    ],
)
def test_one_flaw(column: str, value: object, grade: str, words: str) -> None:
    """Each lowers the grade by itself and says by how much, and what the limit is."""
    found, reasons = trust.grade(GOOD | {column: value})
    assert found == grade
    assert len(reasons) == 1
    assert words in reasons[0]


@pytest.mark.parametrize("limit", trust.LIMITS, ids=lambda limit: limit.column)
def test_a_limit_itself_is_still_good(limit: trust.Limit) -> None:
    """The grade falls above a limit, not at it; limits grow."""
    assert limit.fall(limit.b) == 0
    steps = [limit.b, *(step for step in (limit.c, limit.d) if step is not None)]
    assert [limit.fall(step) for step in steps] == list(range(len(steps)))
    assert steps == sorted(set(steps))


def test_the_worst_flaw_is_the_grade() -> None:
    """Flaws do not add up; every one is told."""
    grade, reasons = trust.grade(GOOD | {"noise": 0.03, "round_spread": 0.2, "rounds": 1})
    assert grade == "C"
    assert len(reasons) == 3


GPU = GOOD | {"device": "cuda", "sm_clock_hz": 1.4e9, "gpu_idle_utilisation": 0.0}


def test_a_host_that_tells_nothing() -> None:
    """No reason."""
    assert trust.grade(dict.fromkeys(GOOD)) == ("A", [])
    assert trust.grade({}) == ("A", [])


@pytest.mark.parametrize(
    ("unread", "words"),
    [
        (["sm_clock_hz"], "the device's clock could not be read"),
        (["gpu_idle_utilisation"], "the device's neighbours could not be read"),
        (["sm_clock_hz", "gpu_idle_utilisation"], "clock and neighbours could not be read"),
    ],
)
def test_an_accelerator_that_tells_nothing_is_not_trusted(unread: list[str], words: str) -> None:
    """What could not be seen is not fine: no row is an A."""
    grade, (reason,) = trust.grade(GPU | dict.fromkeys(unread))
    assert grade == "B"
    assert words in reason


def test_a_gpu_may_leave_the_cpu_idle() -> None:
    """A process that waits for its GPU has little of the CPU, which is no flaw."""
    assert trust.grade(GPU | {"cpu_share": 0.1}) == ("A", [])


@pytest.mark.parametrize("column", trust._OF_HOST)
def test_the_hosts_neighbours_disturb_what_waits_for_the_host(column: str) -> None:
    """A GPU that is never idle does not wait; one that is launch-bound does, and where it is not
    known it may.
    """
    for is_bound, grade in ((False, "A"), (True, "C"), (None, "C")):
        row = GPU | {"launch_bound": is_bound, column: 0.9}
        assert trust.grade(row)[0] in (grade, "D" if grade == "C" else "A")


def test_summary() -> None:
    """Rows by grade, best first; grades that none has are left out."""
    assert trust.summary({"C": 3, "A": 12}) == "A 12, C 3"
    assert trust.summary({}) == ""
