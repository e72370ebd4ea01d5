"""Our clock beside torch.utils.benchmark's, and on CUDA beside Triton's and the profiler's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from tests.benchmarks import Section
from vitbench.analysis import stats
from vitbench.cases.case import Case, Resolution, Sweep
from vitbench.devices import allocator, environment
from vitbench.instruments import host, timing
from vitbench.render import tables
from vitbench.subjects import build as subjects

GOAL = 0.02
NAMES = ("msa", "window", "shifted_window", "sra", "hilo")
# Short readings, taken many times in turn: on a noisy machine its speed changes by the second.
RULE = timing.TimingRule(cap_s=0.15, min_s=0.1, warmup_s=0.01, warmup_cap_s=0.05)
Clock = Callable[[Callable[[], Any]], float]


def cases(device: str) -> list[Case]:
    """Five mechanisms at LITv2-S's stage 3."""
    cuda = device.startswith("cuda")
    sweep = Sweep(
        attention=NAMES,
        resolution=(Resolution(224, 224),),
        batch_size=(32 if cuda else 4,),
        device=device,
    )
    return sweep.expand()


def ours(device: str) -> Clock:
    """The median of vitbench's samples."""
    clock: timing.Clock = timing.CpuClock()
    if device.startswith("cuda"):
        clock = timing.CudaClock(device)
    return lambda call: stats.median(timing.measure(call, clock, RULE).samples)


def torch_timer(call: Callable[[], Any]) -> float:
    """The median of blocked_autorange, with as many threads as we use."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=0.12).median)


def triton_do_bench(call: Callable[[], Any]) -> float:
    """Triton's median, which empties the L2 cache before every call: ours does so with --cold."""
    from triton.testing import do_bench

    return float(do_bench(call, return_mode="median")) / 1e3


def profiler_kernels(call: Callable[[], Any]) -> float:
    """Time in kernels, a call, as the profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        for _ in range(20):
            call()
        torch.cuda.synchronize()
    events = profiled.events() or []
    return sum(float(event.device_time_total) for event in events) / 1e6 / 20


def in_turn(
    mine: Clock, other: Clock, calls: Sequence[Callable[[], Any]], pairs: int
) -> list[list[tuple[float, float]]]:
    """For each call pairs of readings (ours, theirs), in the order A B B A."""
    found: list[list[tuple[float, float]]] = [[] for _ in calls]
    for number in range(pairs):
        for index, call in enumerate(calls):
            if number % 2:
                second = other(call)
                found[index].append((mine(call), second))
            else:
                first = mine(call)
                found[index].append((first, other(call)))
    return found


def run(*, quick: bool) -> Section:
    """On the CPU, and on CUDA where there is such a device."""
    environment.configure(host.usable_cores())
    allocator.settle("steady")
    pairs = 4 if quick else 80
    sections = [_compare("cpu", "blocked_autorange", torch_timer, pairs)]
    if torch.cuda.is_available():
        others = {"do_bench": triton_do_bench, "profiler": profiler_kernels}
        others["blocked_autorange"] = torch_timer
        sections += [_compare("cuda", name, clock, pairs) for name, clock in others.items()]
    rows = [row for section in sections for row in section[1]]
    text = "\n\n".join(section[0] for section in sections)
    if not torch.cuda.is_available():
        text += "\n\nCUDA: no such device here; do_bench and the profiler were not compared."
    return Section("Our clock and others", text, rows, sections[0][2])


def _compare(
    device: str, name: str, other: Clock, pairs: int
) -> tuple[str, list[dict[str, Any]], dict[str, float]]:
    chosen = cases(device)
    with torch.inference_mode():
        calls = [subjects.build(case, dict[str, Path]()).call for case in chosen]
        found = in_turn(ours(device), other, calls, pairs)
    rows: list[dict[str, Any]] = []
    lines, medians = [], []
    for case, readings in zip(chosen, found, strict=True):
        ratios = [mine / theirs for mine, theirs in readings]
        median, interval = stats.median(ratios), stats.median_interval(ratios)
        medians.append(median)
        lines.append((case.subject, f"{median:.4f}", f"{interval.low:.4f} to {interval.high:.4f}"))
        rows += [
            {"device": device, "clock": name, "attention": case.subject, "ours_s": a, "theirs_s": b}
            for a, b in readings
        ]
    all_ratios = [mine / theirs for readings in found for mine, theirs in readings]
    overall = stats.median(all_ratios)
    lines.append(("all", f"{overall:.4f}", ""))
    header = ("mechanism", f"ours / {name}", "95% interval")
    text = (
        f"On {device}: {pairs} pairs of readings for each mechanism, A B B A, in one process.\n\n"
        + tables.markdown(header, lines)
        + f"\n\nGoal: median ratio within {GOAL:.0%}: "
        + ("met" if abs(overall - 1) <= GOAL else "missed")
        + f" over all ({overall - 1:+.2%}), the mechanism farthest away "
        + f"{max(medians, key=lambda m: abs(m - 1)) - 1:+.2%}."
    )
    farthest = max(abs(m - 1) for m in medians)
    return text, rows, {"ratio": overall, "farthest": farthest}
