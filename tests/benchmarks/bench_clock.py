"""Our clock beside torch.utils.benchmark's, and on CUDA beside Triton's and the profiler's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from tests.benchmarks import Options, Section, verdict
from tests.benchmarks.side_by_side import Row, in_new_process, interleave
from vitbench import devices
from vitbench.analysis import stats
from vitbench.cases.sweep import Sweep
from vitbench.instruments import timing
from vitbench.render import tables
from vitbench.subjects import build as subjects

GOAL = 0.02
NAMES = ("msa", "window", "shifted_window", "sra", "hilo")
# Short readings, taken many times in turn: on a noisy machine its speed changes by the second.
RULE = timing.TimingRule(cap_s=0.15, min_s=0.1, warmup_s=0.01, warmup_cap_s=0.05)
Call = Callable[[], Any]


def our_clock(device: str) -> Callable[[Call], float]:
    """The median of vitbench's samples."""
    clock = devices.connect(device).clock(cold=False)
    return lambda call: stats.median(timing.measure(call, clock, RULE).samples)


def blocked_autorange(call: Call) -> float:
    """torch's median, with as many threads as we use."""
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=0.12).median)


def do_bench(call: Call) -> float:
    """Triton's median, which empties the L2 cache before every call: ours does so with --cold."""
    from triton.testing import do_bench

    return float(do_bench(call, return_mode="median")) / 1e3


def profiler(call: Call) -> float:
    """Time in kernels, a call, as the profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        for _ in range(20):
            call()
        torch.cuda.synchronize()
    events = profiled.events() or []
    return sum(float(event.device_time_total) for event in events) / 1e6 / 20


def rows_of(device: str, pairs: int) -> Iterator[Row]:
    """Pairs of readings of five mechanisms at LITv2-S's stage 3."""
    others = [blocked_autorange, *([do_bench, profiler] if device == "cuda" else [])]
    ours = our_clock(device)
    sweep = Sweep(attention=NAMES, batch_size=(32 if device == "cuda" else 4,), device=device)
    for case in sweep.expand():
        call = subjects.build(case, {}).call
        for other in others:
            clocks = {"ours_s": partial(ours, call), "theirs_s": partial(other, call)}
            readings = interleave(clocks, pairs // 2)
            for pair in zip(*readings.values(), strict=True):
                row = {"device": device, "clock": other.__name__, "attention": case.subject}
                yield row | dict(zip(readings, pair, strict=True))


def run(options: Options) -> Section:
    """On the CPU, and on CUDA where there is such a device."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    pairs = 4 if options.quick else 80
    rows = [row for device in devices for row in in_new_process(rows_of, device, pairs)]
    parts: list[str] = []
    figures: dict[str, float] = {}
    for device, clock in dict.fromkeys((row["device"], row["clock"]) for row in rows):
        own, ratios = _compared([r for r in rows if (r["device"], r["clock"]) == (device, clock)])
        parts += [f"On {device}, {pairs} pairs of readings of each mechanism, in turns:", *own]
        figures = figures or ratios
    if len(devices) == 1:
        parts.append("There is no CUDA device here: do_bench and the profiler were not compared.")
    return Section("Our clock and others", parts, rows, figures)


def _compared(rows: Sequence[Row]) -> tuple[list[str], dict[str, float]]:
    """The ratios of our clock to another one, with whether the goal is met."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        ratios.setdefault(row["attention"], []).append(row["ours_s"] / row["theirs_s"])
    medians = {name: stats.median(values) for name, values in ratios.items()}
    overall = stats.median([*itertools.chain(*ratios.values())])
    farthest = max(abs(median - 1) for median in medians.values())
    lines = []
    for name, values in ratios.items():
        interval = stats.median_interval(values)
        lines.append((name, f"{medians[name]:.4f}", f"{interval.low:.4f} to {interval.high:.4f}"))
    lines.append(("all", f"{overall:.4f}", ""))
    header = ("mechanism", f"ours / {rows[0]['clock']}", "95% interval")
    goal = (
        f"Goal: median ratio within {GOAL:.0%}: {verdict(abs(overall - 1) <= GOAL)} over all "
        f"({overall - 1:+.2%}); the mechanism that differs most differs by {farthest:.2%}."
    )
    return [tables.markdown(header, lines), goal], {"ratio": overall, "farthest": farthest}
