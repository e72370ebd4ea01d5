"""Records with known truth: what is compared, found and drawn without measuring anything.

A latency is a function of the case. Each round is a process of its own: processes scatter by a few
percent, and one in twenty can be 2.7 times slower, as was seen on small machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import attentions
from vitbench.cases.case import Case
from vitbench.cases.row import row_of
from vitbench.cases.sweep import Sweep
from vitbench.results.columns import COLUMN_NAMES
from vitbench.results.csv import write_csv, write_json
from vitbench.results.folder import ENVIRONMENT, RECORDS
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

DEVICE_NAME, TORCH = "A CPU, 2 threads", "2.13"
# FLOP/s and bytes/s of the machine that environment.json tells of.
FLOPS_RATE, BANDWIDTH = 100e9, 10e9
SCATTER, ODD, ODD_FACTOR = 0.03, 0.05, 2.7


def cases(**axes: Any) -> list[Case]:
    """The cases of a sweep, whether its runtimes are installed or not."""
    return Sweep(elsewhere=True, **axes).expand()


def rounds(
    rng: np.random.Generator,
    latency_s: float,
    count: int = 5,
    scatter: float = SCATTER,
    odd: float = ODD,
) -> list[float]:
    """Medians of so many rounds of a case; a share of the processes is far slower."""
    noise = np.exp(rng.normal(0, scatter, count))
    factor = np.where(rng.random(count) < odd, ODD_FACTOR, 1.0)
    return (latency_s * noise * factor).tolist()


def record(case: Case, medians_s: Sequence[float], **columns: Any) -> Record:
    """A measured row of rounds with these medians; counts follow MSA's formula unless given."""
    ordered, tokens = sorted(medians_s), max(1, case.grid_height * case.grid_width)
    latency_s, low_s, high_s = (float(np.median(ordered)), ordered[0], ordered[-1])
    row: Record = dict.fromkeys(COLUMN_NAMES)
    row |= row_of(case)
    macs = 4 * tokens * case.dim**2 + 2 * tokens**2 * case.dim if case.attention else 4 * 10**9
    row |= {
        "status": MEASURED,
        "message": "",
        "latency_s": latency_s,
        "latency_low_s": low_s,
        "latency_high_s": high_s,
        "throughput_img_s": case.batch_size / latency_s,
        "throughput_low_img_s": case.batch_size / high_s,
        "throughput_high_img_s": case.batch_size / low_s,
        "noise": (high_s - low_s) / (2 * latency_s),
        "samples": 20 * len(ordered),
        "outliers": 0,
        "rounds": len(ordered),
        "round_spread": high_s / low_s - 1,
        "round_medians": " ".join(f"{value:.6g}" for value in medians_s),
        "stopped_by": "noise",
        "macs": macs,
        "macs_source": "closed form",
        "macs_counted": macs,
        "params": 4 * max(1, case.dim) ** 2,
        "peak_memory_bytes": 4 * case.batch_size * tokens * max(1, case.dim) * 6,
        "memory_source": "allocator",
        "checked_against": "eager float64",
        "error_rms": 1e-7,
        "error_worst": 5e-7,
        "computed_dtype": case.dtype,
        "device_name": DEVICE_NAME,
        "torch": TORCH,
        "trust": "A",
        "trust_reasons": "",
        **columns,
    }
    if row["macs"] is not None:
        flops = 2 * int(str(row["macs"]))
        row["flops"] = flops
        row["flops_rate"] = flops * case.batch_size / latency_s
        row["roofline_fraction"] = min(1.0, flops * case.batch_size / FLOPS_RATE / latency_s)
    return {**row, **columns}


def failed(case: Case, status: str = "unsupported", message: str = "it cannot") -> Record:
    """A row without a measurement."""
    empty: Record = dict.fromkeys(COLUMN_NAMES)
    machine = {"device_name": DEVICE_NAME, "torch": TORCH}
    return empty | row_of(case) | machine | {"status": status, "message": message}


def records(
    planned: Iterable[Case],
    latency_s: Callable[[Case], float],
    rng: np.random.Generator,
    count: int = 5,
    **noise: float,
) -> list[Record]:
    """A row for each case, whose true latency is known."""
    return [record(case, rounds(rng, latency_s(case), count, **noise)) for case in planned]


def power_law(
    at_224_s: Mapping[str, float], exponents: Mapping[str, float]
) -> Callable[[Case], float]:
    """Latency of a mechanism as a power of its tokens, given that of 14 x 14 tokens; others have
    exponent 1 and take 10 ms."""

    def latency_s(case: Case) -> float:
        tokens = case.grid_height * case.grid_width
        exponent = exponents.get(case.attention, 1.0)
        scale = at_224_s.get(case.attention, 0.010) * case.batch_size / 8
        return scale * math.pow(tokens / 196, exponent)

    return latency_s


def many(count: int, seed: int = 0) -> list[Record]:
    """So many rows: all mechanisms over sizes, runtimes, dtypes and batches; each has a speed, a
    growth and MACs of its own."""
    per_size = len(attentions.names()) * 4 * 2 * 10
    sizes = tuple(64 + 16 * k for k in range(math.ceil(count / per_size)))
    planned = cases(
        attention=tuple(attentions.names()),
        resolution=sizes,
        runtime=("eager", "compile", "onnxruntime", "openvino"),
        dtype=("float32", "bfloat16"),
        batch_size=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
        dim=96,
        num_heads=3,
    )
    rng = np.random.default_rng(seed)
    names = attentions.names()
    speeds = {name: 0.005 * 1.1**k for k, name in enumerate(names)}
    several = len(names)
    growths = {name: 1 + 0.55 * (7 * k % several) / several for k, name in enumerate(names)}
    macs = {name: 1 + 2.2 * (5 * k % several) / several for k, name in enumerate(names)}
    latency_s = power_law(speeds, growths)
    return [
        record(
            case,
            rounds(rng, latency_s(case)),
            macs=round(macs[case.attention] * 1000 * case.grid_height * case.grid_width),
        )
        for case in planned[:count]
    ]


def environment() -> dict[str, Any]:
    """What environment.json says of the machine."""
    return {
        "environment": {
            "device_name": DEVICE_NAME,
            "torch": {"version": TORCH, "threads": 2},
            "cpu": {"logical_cores": 2},
        },
        "ceilings": {
            "flops_rate": {"float32": FLOPS_RATE, "bfloat16": FLOPS_RATE},
            "bandwidth": BANDWIDTH,
            "cached": [[2**14, BANDWIDTH]],
        },
        "plan": {},
    }


def folder(path: Path, rows: Iterable[Record]) -> Path:
    """A run's folder with these rows."""
    path.mkdir(parents=True, exist_ok=True)
    write_csv(path / RECORDS, COLUMN_NAMES, rows)
    write_json(path / ENVIRONMENT, environment())
    return path
