"""Mechanisms that misbehave, through the real command: each costs its own case and nothing else."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.vitbench.examples import MARK, layer, left_behind, plugin, read_csv, vitbench
from vitbench.results.outcome import MEASURED

_LAYER = "--resolution 32 --dim 32 --heads 2 --batch-size 1 --impl eager"
_TIME = "--rounds 1 --effort quick --cap 0.05 --min-time 0.01 --warmup 0.01 --threads 1"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a mechanism does, and the row that it must get. A `variant` of another fault is a row
    of `make test-all` only: each that ends its worker costs the start of another."""

    status: str = MEASURED
    message: str = ""
    forward: str = "pass"
    build: str = "pass"
    variant: bool = False


_SLEEP = "[sys.executable, '-c', 'import time; time.sleep(600)']"
FAULTS = {
    "raises_in_build": Fault("error", "RuntimeError: no", build="raise RuntimeError('no')"),
    "raises_in_forward": Fault("error", "ValueError: no", "raise ValueError('no')"),
    "returns_nan": Fault("wrong_output", "NaN", "y = y * float('nan')"),
    "returns_another_shape": Fault("wrong_output", "(1, 1, 2, 32)", "y = y[:, 1:]"),
    "is_never_the_same": Fault(forward="y = y + torch.rand_like(y)"),
    "changes_its_input": Fault("wrong_output", "changes its input in place", "x.add_(1)"),
    "loops_forever": Fault("timeout", "no answer within 3 s", "while True: time.sleep(0.01)"),
    "exits": Fault("crashed", "exit status 139", "os._exit(139)", variant=True),
    "ends_itself": Fault("crashed", "SIGSEGV", "os.kill(os.getpid(), signal.SIGSEGV)"),
    "takes_all_memory": Fault("out_of_memory", "memory", "y = torch.zeros(2**40).sum() + y"),
    "takes_memory_bit_by_bit": Fault(
        "out_of_memory", "memory", "ones = [torch.ones(2**26) for _ in range(32)]", variant=True
    ),
    "prints_megabytes": Fault(forward="print('x' * 2**20)"),
    "leaves_a_child": Fault(build=f"subprocess.Popen({_SLEEP}, start_new_session=True)"),
    "forks": Fault(build="os.fork() or (os.fork(), time.sleep(600))"),
    "forks_and_goes_on_twice": Fault(build="os.fork()", variant=True),
    "fails_at_length": Fault("error", "not today", "raise ValueError('not today ' * 1000)"),
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """The sweep over faults and a sound mechanism."""

    faults: dict[str, Fault]
    status: int
    out: str
    err: str
    rows: dict[str, dict[str, str]]
    left: list[str]


@pytest.fixture(
    scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow), "loops_forever"]
)
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Faults in one run of the real command; the one that ends in a timeout has its own."""
    folder = tmp_path_factory.mktemp("faults")
    faults = {
        name: fault
        for name, fault in FAULTS.items()
        if (name == "loops_forever") == (request.param == "loops_forever")
        if request.param == "all" or not fault.variant
    }
    words = ["run", "--device", "cpu", "--quiet", "--memory-limit", "3GiB"]
    words += [*_LAYER.split(), *_TIME.split(), "--out", "run"]
    words += ["--timeout", "3" if "loops_forever" in faults else "60"]
    for name, fault in faults.items():
        plugin(folder, name, layer(fault.build, fault.forward, keywords=""))
        words += ["--plugin", f"{name}.py"]
    words += ["--attention", ",".join([*faults, *(["msa"] if len(faults) > 1 else [])])]
    mark = uuid.uuid4().hex
    done = vitbench(folder, *words, **{MARK: mark})
    left = left_behind(mark)
    rows = {row["attention"]: row for row in read_csv(folder / "run" / "records.csv")}
    return Sweep(faults, done.returncode, done.stdout, done.stderr, rows, left)


def test_each_fault_has_its_row(sweep: Sweep) -> None:
    """Its own status and a message of one readable line; a speed only where it was measured."""
    for name, fault in sweep.faults.items():
        row = sweep.rows[name]
        assert (name, row["status"]) == (name, fault.status), row["message"]
        assert fault.message in row["message"], name
        assert len(row["message"]) < 600, name
        assert len(row["message"].splitlines()) == (0 if fault.status == MEASURED else 1), name
        assert bool(row["throughput_img_s"]) == (fault.status == MEASURED), name


def test_the_others_are_measured(sweep: Sweep) -> None:
    """A sound mechanism in the midst of them is measured."""
    others = sweep.rows.keys() - sweep.faults.keys()
    assert others == ({"msa"} if len(sweep.faults) > 1 else set())
    for name in others:
        assert sweep.rows[name]["status"] == MEASURED
        assert float(sweep.rows[name]["throughput_img_s"]) > 0


def test_the_end_of_the_sweep_says_so(sweep: Sweep) -> None:
    """Exit status 1, a line with the counts, and no traceback."""
    assert sweep.status == 1
    counts = Counter(row["status"] for row in sweep.rows.values())
    (line,) = (line for line in sweep.out.splitlines() if " cases measured on " in line)
    assert line.startswith(f"{counts.pop(MEASURED, 0)} of {len(sweep.rows)} cases measured")
    assert all(f"{count} {status}" in line for status, count in counts.items())
    assert "Traceback" not in sweep.out + sweep.err


def test_no_process_is_left(sweep: Sweep) -> None:
    """Nor what the mechanisms started, in sessions of their own or by forking."""
    assert sweep.left == []
