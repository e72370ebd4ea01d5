"""What the fused implementations gain over the equations, how they scale, and HiLo's roofline.

Both implementations of a mechanism are held ready in one process and timed in turns, A B B A, so
that the machine's minutes cancel. Mechanisms have processes of their own.

    python -m tests.benchmarks.bench_fused NAME           a mechanism's figures, as JSON lines
    python -m tests.benchmarks.bench_fused system NAME    its speed with the C library's allocator
                                                          as it is, which gives freed memory back
    python -m tests.benchmarks.bench_fused growth NAME    its cost against the number of tokens
    python -m tests.benchmarks.bench_fused roofline       HiLo against a matrix product
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import attentions
from attentions._halves import is_emulated
from attentions._linear import linear
from tests.benchmarks import ROOT, Section
from vitbench.analysis import stats
from vitbench.cases.case import Case, Resolution
from vitbench.devices import allocator, environment
from vitbench.engine import ab as interleaved
from vitbench.engine import session
from vitbench.instruments import memory, timing
from vitbench.render import tables

SIZES = (Resolution(224, 224), Resolution(448, 448), Resolution(800, 1280))
DTYPES = ("float32", "bfloat16")
# Images in a call. At 50 x 80 tokens the scores of MSA by equations take 0.8 GB an image in fp32.
BATCH = {224: 16, 448: 16, 800: 2}
LINEAR = (
    "window", "shifted_window", "grid", "twins_lsa", "neighborhood", "focal", "linear_sra",
    "linformer", "performer", "efficient", "xca", "relu_linear", "lka", "gnconv", "pooling",
)  # fmt: skip
RULE = timing.TimingRule(warmup_calls=2, warmup_s=0.1, warmup_agree=1.0, sample_s=0.01)
TURN_S = 0.08
FOURS = 3
# Where a dtype is emulated a call of eager takes seconds, and is a sample that is long enough.
RULE_EMULATED = dataclasses.replace(RULE, warmup_calls=1, warmup_s=0.0)
# At 50 x 80 tokens it takes a minute.
BATCH_EMULATED = {224: 16, 448: 4}
SYSTEM = "fused_over_eager_system"


def sizes_of(dtype: str) -> tuple[Resolution, ...]:
    """The images that a dtype is measured on."""
    batches = BATCH_EMULATED if emulated(dtype) else BATCH
    return tuple(size for size in SIZES if size.height in batches)


def cases(name: str, dtype: str, sizes: Sequence[Resolution], impl: str) -> list[Case]:
    """The mechanism at LITv2-S's stage 3 on these images."""
    batches = BATCH_EMULATED if emulated(dtype) else BATCH
    found: list[Case] = []
    for size in sizes:
        plan = session.make_plan(
            "quick",
            device="cpu",
            axes={
                "attention": (name,),
                "resolution": (size,),
                "batch_size": (batches[size.height],),
                "dtype": (dtype,),
                "impl": (impl,),
            },
        )
        found += plan.cases
    return found


@dataclasses.dataclass
class Ready:
    """An implementation that was built and warmed up."""

    case: Case
    peak_bytes: int
    call: Any
    timing: timing.Timing

    def turn(self) -> list[float]:
        """Samples of one turn."""
        return timing.turn(self.call, timing.CpuClock(), self.timing, TURN_S)


def ready(case: Case, *, weighed: bool = True) -> Ready | None:
    """Built, warmed up and, if `weighed`, measured for memory; None where the mechanism refuses the
    map."""
    from vitbench.subjects import build as subjects

    try:
        subject = subjects.build(case, {})
    except subjects.Unsupported:
        return None
    peak = memory.measure(subject.call, subject.module, (subject.x,)).peak if weighed else 0
    rule = RULE_EMULATED if emulated(case.dtype) else RULE
    return Ready(case, peak, subject.call, timing.warmed(subject.call, timing.CpuClock(), rule))


def emulated(dtype: str) -> bool:
    """Whether this CPU has no instructions for it."""
    return is_emulated(getattr(torch, dtype))


def ratio(pair: Sequence[Ready], fours: int = FOURS) -> tuple[float, float, float]:
    """(latency of the first over the second, and of each), seconds a call."""
    if any(emulated(one.case.dtype) for one in pair):
        fours = 1
    logs, of = [], ([], [])  # type: tuple[list[float], tuple[list[float], list[float]]]
    for four in range(fours):
        taken: tuple[list[float], list[float]] = ([], [])
        for which in interleaved.order_of_turns(1, four % 2):
            side = int(which == "head")
            taken[side].extend(pair[side].turn())
        first, second = (stats.lower_quartile(samples) for samples in taken)
        logs.append(math.log(first / second))
        of[0].append(first)
        of[1].append(second)
    return math.exp(stats.median(logs)), stats.median(of[0]), stats.median(of[1])


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """Fused and eager in turns, at each size and dtype."""
    spec = attentions.load(name)
    for dtype in DTYPES:
        eager = cases(name, dtype, sizes_of(dtype), spec.impls[0])
        fused = cases(name, dtype, sizes_of(dtype), spec.impls[-1])
        for slow, fast in zip(eager, fused, strict=True):
            gc.collect()
            pair = [ready(slow), ready(fast)]
            if pair[0] is None or pair[1] is None:
                continue
            speed, eager_s, fused_s = ratio([one for one in pair if one is not None])
            assert spec.macs is not None
            macs = spec.macs(slow.dim, slow.num_heads, slow.grid, **dict(slow.params))
            yield {
                "attention": name,
                "dtype": dtype,
                "grid": str(slow.grid),
                "batch_size": slow.batch_size,
                "eager_img_s": slow.batch_size / eager_s,
                "fused_img_s": slow.batch_size / fused_s,
                "fused_over_eager": speed,
                "macs": macs * slow.batch_size,
                "eager_peak_bytes": pair[0].peak_bytes,
                "fused_peak_bytes": pair[1].peak_bytes,
                "peak_ratio": pair[1].peak_bytes / pair[0].peak_bytes,
            }
            del pair


def system_rows_of(name: str) -> Iterator[dict[str, Any]]:
    """The same ratios where freed memory goes back to the kernel, to be paged in by the next call.

    It is how torch comes, and what a script of one's own would find.
    """
    impls = attentions.load(name).impls
    for dtype in DTYPES:
        both = (cases(name, dtype, sizes_of(dtype), impl) for impl in (impls[0], impls[-1]))
        for pair_of in zip(*both, strict=True):
            gc.collect()
            grid = str(pair_of[0].grid)
            if emulated(dtype):  # what is multiplied takes so long that memory does not matter
                yield {"attention": name, "dtype": dtype, "grid": grid, SYSTEM: None}
                continue
            pair = [one for case in pair_of if (one := ready(case, weighed=False)) is not None]
            if len(pair) < len(pair_of):
                continue
            yield {"attention": name, "dtype": dtype, "grid": grid, SYSTEM: ratio(pair)[0]}
            del pair


def growth_of(name: str) -> dict[str, Any]:
    """Fused at 56 x 56 over 14 x 14 tokens, for each token, in turns; MACs say 1."""
    params = {"hilo": {"alpha": (0.0,)}}.get(name, {})
    sides = (Resolution(224, 224), Resolution(896, 896))
    found: list[Case] = []
    for side in sides:
        plan = session.make_plan(
            "quick",
            device="cpu",
            axes={"attention": (name,), "resolution": (side,), "batch_size": (16,)},
            params={name: params} if params else {},
        )
        found += plan.cases
    small, large = (ready(case) for case in found)
    assert small is not None
    assert large is not None
    tokens = found[1].grid.tokens / found[0].grid.tokens
    return {"attention": name, "growth": ratio((large, small))[0] / tokens}


def roofline_of(dtype: str) -> dict[str, Any]:
    """HiLo at the size of the paper's table, as a share of what its MACs take at the rate of a
    large matrix product, in turns."""
    plan = session.make_plan(
        "quick",
        device="cpu",
        axes={
            "attention": ("hilo",),
            "resolution": (Resolution(224, 224),),
            "batch_size": (64,),
            "dim": (768,),
            "num_heads": (12,),
            "dtype": (dtype,),
        },
    )
    (case,) = plan.cases
    hilo = ready(case)
    assert hilo is not None
    side = 2048
    rate = torch.float32 if emulated(dtype) else getattr(torch, dtype)  # what it computes in
    a, b = (torch.randn(side, side, dtype=rate) for _ in range(2))
    product, layer = (
        Ready(case, 0, call, timing.warmed(call, timing.CpuClock(), RULE))
        for call in (lambda: a @ b, lambda: linear(a, b))
    )
    macs = attentions.load("hilo").macs
    assert macs is not None
    work = case.batch_size * macs(768, 12, case.grid, **dict(case.params)) / side**3
    over, seconds, product_s = ratio((hilo, product))
    layer_s = ratio((layer, product))[1]
    return {
        "dtype": dtype,
        "roofline": work / over,
        "img_s": case.batch_size / seconds,
        "gemm_macs_s": side**3 / min(product_s, layer_s),
    }


def main() -> None:
    """The rows of one mechanism, or HiLo's roofline."""
    environment.configure(os.cpu_count() or 1)
    allocator.settle("system" if sys.argv[1] == "system" else "steady")
    with torch.inference_mode():
        if sys.argv[1] == "roofline":
            rows: Iterator[dict[str, Any]] = map(roofline_of, DTYPES)
        elif sys.argv[1] == "growth":
            rows = map(growth_of, sys.argv[2:])
        elif sys.argv[1] == "system":
            rows = system_rows_of(sys.argv[2])
        else:
            rows = rows_of(sys.argv[1])
        for row in rows:
            print(json.dumps(row), flush=True)


def asked(*words: str) -> list[dict[str, Any]]:
    """What a process of its own says to these words."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_fused", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(*, quick: bool) -> Section:
    """Every mechanism; quick takes two."""
    names = ("hilo", "pooling") if quick else attentions.names()
    rows = []
    for name in names:
        rows += [one | two for one, two in zip(asked(name), asked("system", name), strict=True)]
    growth = [
        row for name in (names if quick else ("hilo", *LINEAR)) for row in asked("growth", name)
    ]
    return section(rows, growth, asked("roofline"))


def section(
    rows: Sequence[Mapping[str, Any]],
    growth: Sequence[Mapping[str, Any]],
    roofline: Sequence[Mapping[str, Any]],
) -> Section:
    """The table, the means, and whether the goals are met."""
    figures: dict[str, float] = {}
    means = []
    for dtype in DTYPES:
        of = [row for row in rows if row["dtype"] == dtype]
        speed = stats.geometric_mean([row["fused_over_eager"] for row in of])
        given = [row for row in of if row[SYSTEM] is not None]
        system, slowest = "", ""
        if given:
            mean = stats.geometric_mean([row[SYSTEM] for row in given])
            last = min(given, key=lambda row: row[SYSTEM])
            system = f"{mean:.2f}"
            slowest = f"{last[SYSTEM]:.2f} ({last['attention']}, {last['grid']})"
            figures |= {f"system_{dtype}": mean, f"least_system_{dtype}": last[SYSTEM]}
        memory_ = stats.geometric_mean([row["peak_ratio"] for row in of])
        least = min(of, key=lambda row: row["fused_over_eager"])
        most = max(of, key=lambda row: row["peak_ratio"])
        figures |= {f"speed_{dtype}": speed, f"memory_{dtype}": memory_}
        figures |= {
            f"least_{dtype}": least["fused_over_eager"],
            f"most_{dtype}": most["peak_ratio"],
        }
        means.append(
            (
                dtype,
                f"{speed:.2f}",
                f"{least['fused_over_eager']:.2f} ({least['attention']}, {least['grid']})",
                system,
                slowest,
                f"{memory_:.2f}",
                f"{most['peak_ratio']:.2f} ({most['attention']}, {most['grid']})",
            )
        )
    bounds = []
    for row in roofline:
        figures[f"roofline_{row['dtype']}"] = row["roofline"]
        of = [one for one in rows if one["dtype"] == row["dtype"] and one["macs"]]
        bound = stats.geometric_mean([_bound(one, row["gemm_macs_s"]) for one in of])
        figures |= {f"bound_{row['dtype']}": bound, f"gemm_{row['dtype']}": row["gemm_macs_s"]}
        bounds.append(
            (
                row["dtype"],
                f"{row['gemm_macs_s'] / 1e9:.0f} G",
                f"{bound:.2f}",
                f"{stats.geometric_mean([one['fused_over_eager'] for one in of]):.2f}",
            )
        )
    grids = list(dict.fromkeys(row["grid"] for row in rows))
    held = {(row["attention"], row["dtype"], row["grid"]): row for row in rows}
    lines, system_lines = [], []
    for name in dict.fromkeys(row["attention"] for row in rows):
        keys = [(name, dtype, grid) for dtype in DTYPES for grid in grids]
        cells = [name, *(_cell(held.get(key), "fused_over_eager") for key in keys)]
        cells += [_cell(held.get(key), "peak_ratio") for key in keys[: len(grids)]]
        lines.append(cells)
        system_lines.append([name, *(_cell(held.get(key), SYSTEM) for key in keys)])
    header = ["fused / eager"]
    header += [f"{short}, {grid}" for short in ("fp32", "bf16") for grid in grids]
    header += [f"memory, {grid}" for grid in grids]
    text = [
        f"Dim 384, 12 heads, the authors' settings at stride 16; images in a call: "
        f"{_batches(rows, DTYPES[0])} "
        "tokens. Both implementations in one process, in turns. Freed memory stays with the "
        "process, as vitbench has it; or it goes back to the kernel, as torch comes with glibc, "
        "and what is large is paged in anew by each call.",
        *(
            f"This CPU has no instructions for {dtype}: eager has it emulated, fused computes in "
            f"fp32. There: {_batches(rows, dtype)}."
            for dtype in dict.fromkeys(row["dtype"] for row in rows if row[SYSTEM] is None)
        ),
        "",
        tables.markdown(
            (
                "dtype",
                "memory kept: geometric mean",
                "least",
                "given back: geometric mean",
                "least",
                "peak memory, geometric mean",
                "most",
            ),
            means,
        ),
        "",
        "Memory kept:",
        "",
        tables.markdown(header, lines, ["---"] + ["---:"] * (len(header) - 1)),
        "",
        "Memory given back:",
        "",
        tables.markdown(
            header[: -len(grids)], system_lines, ["---"] + ["---:"] * (len(header) - 1 - len(grids))
        ),
        "",
        "How much faster than eager these layers would be if nothing but their MACs took time, "
        "each at the rate of a large matrix product, geometric means (pooling, without any, is "
        "left out):",
        "",
        tables.markdown(("dtype", "MACs/s", "at most", "reached"), bounds),
        "",
        "HiLo at dim 768, 12 heads, 14 x 14 tokens, 64 images, of what its MACs take at the rate "
        "of a 2048-sided matrix product: "
        + ", ".join(f"{row['roofline']:.0%} ({row['dtype']})" for row in roofline)
        + ".",
        "",
        "Time for each token at 56 x 56 over that at 14 x 14 (fp32, 16 images): "
        + ", ".join(
            f"{'Hi-Fi' if row['attention'] == 'hilo' else row['attention']} {row['growth']:.2f}"
            for row in growth
        )
        + ".",
    ]
    figures |= {f"growth_{row['attention']}": row["growth"] for row in growth}
    return Section(
        "Fused over eager",
        "\n".join(text),
        rows,
        figures,
        draw=lambda path: draw(rows, path),
    )


def _cell(row: Mapping[str, Any] | None, column: str) -> str:
    return "" if row is None or row[column] is None else f"{row[column]:.2f}"


def _bound(row: Mapping[str, Any], macs_s: float) -> float:
    """Eager's time over what its MACs alone take."""
    return float(row["batch_size"] / row["eager_img_s"] * macs_s / row["macs"])


def _batches(rows: Sequence[Mapping[str, Any]], dtype: str) -> str:
    of = _sizes([row for row in rows if row["dtype"] == dtype])
    return ", ".join(f"{row['batch_size']} at {row['grid']}" for row in of)


def _sizes(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One row of each size."""
    return list({row["grid"]: row for row in rows}.values())


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A dot for each mechanism, dtype and size."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    means: dict[str, list[float]] = {}
    for row in rows:
        means.setdefault(row["attention"], []).append(row["fused_over_eager"])
    names = sorted(means, key=lambda name: stats.geometric_mean(means[name]))
    figure, axes = plt.subplots(1, 3, figsize=(14, 0.3 * len(names) + 1.4), sharey=True)
    grids = [row["grid"] for row in _sizes(rows)]
    colours = {grid: f"C{index}" for index, grid in enumerate(grids)}
    columns = (
        ("fused_over_eager", "throughput, fused / eager: memory kept"),
        (SYSTEM, "throughput: memory given back"),
        ("peak_ratio", "peak memory, fused / eager"),
    )
    for axis, (column, title) in zip(axes, columns, strict=True):
        for row in (one for one in rows if one[column] is not None):
            filled = row["dtype"] == DTYPES[0]
            colour = colours[row["grid"]]
            axis.plot(
                row[column],
                names.index(row["attention"]) + (0.15 if filled else -0.15),
                "o",
                markersize=5,
                color=colour,
                markerfacecolor=colour if filled else "white",
            )
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title)
        axis.grid(axis="x", which="both", linewidth=0.3)
    axes[0].set_yticks(range(len(names)), names)
    for grid in grids:
        axes[2].plot([], [], "o", color=colours[grid], label=f"{grid} tokens, fp32")
    axes[2].plot([], [], "o", color="grey", markerfacecolor="white", label="bf16")
    axes[2].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
