"""What the fused implementations gain over the equations, how they scale, and HiLo's roofline.

Each mechanism has processes of its own, in which both implementations are timed in turns.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from tests.benchmarks import Options, Section
from tests.benchmarks.side_by_side import Ready, Row, compare, emulated, in_new_process, ready
from vitbench.analysis import stats
from vitbench.cases.case import Case, Resolution
from vitbench.cases.sweep import Sweep
from vitbench.render import tables
from vitbench.subjects import build as subjects

# Images in a call. At 50 x 80 tokens the scores of MSA by equations take 0.8 GB an image in fp32;
# where the dtype is emulated, such a call takes a minute.
BATCH, BATCH_EMULATED = {224: 16, 448: 16, 800: 2}, {224: 16, 448: 4}
CYCLES = 3
# Mechanisms whose cost grows with the number of tokens; HiLo's where all its heads are Hi-Fi.
LINEAR = (
    "hilo", "window", "shifted_window", "grid", "twins_lsa", "neighborhood", "focal", "linear_sra",
    "linformer", "performer", "efficient", "xca", "relu_linear", "lka", "gnconv", "pooling",
)  # fmt: skip
SPEED, SYSTEM, MEMORY = "fused_over_eager", "fused_over_eager_system", "peak_ratio"


def pairs(name: str, dtype: str, sizes: Sequence[Resolution]) -> Iterator[list[Case]]:
    """Eager and fused at LITv2-S's stage 3, on each size that the dtype is measured on."""
    batches = BATCH_EMULATED if emulated(dtype) else BATCH
    for size in sizes:
        if size.height in batches:
            yield Sweep(
                attention=(name,),
                resolution=(size,),
                batch_size=(batches[size.height],),
                dtype=(dtype,),
                impl=("eager", "fused"),
            ).expand()


def rows_of(name: str, dtypes: Sequence[str], sizes: Sequence[Resolution]) -> Iterator[Row]:
    """Speed and peak memory of a mechanism."""
    for dtype in dtypes:
        for slow, fast in pairs(name, dtype, sizes):
            gc.collect()
            eager, fused = ready(slow), ready(fast)
            if eager is None or fused is None:
                continue
            ratio, eager_s, fused_s = compare(eager[0], fused[0], 1 if emulated(dtype) else CYCLES)
            yield {
                "attention": name,
                "dtype": dtype,
                "grid": str(slow.grid),
                "batch_size": slow.batch_size,
                "eager_img_s": slow.batch_size / eager_s,
                "fused_img_s": slow.batch_size / fused_s,
                SPEED: ratio,
                "macs": (subjects.closed_form_macs(slow, {}) or 0) * slow.batch_size,
                "eager_peak_bytes": eager[1],
                "fused_peak_bytes": fused[1],
                MEMORY: fused[1] / eager[1],
            }


def both_allocators(name: str, dtypes: Sequence[str], sizes: Sequence[Resolution]) -> Iterator[Row]:
    """The rows of a mechanism, with the ratio where freed memory goes back to the kernel.

    An emulated dtype takes so long to compute that this does not matter there.
    """
    native = [dtype for dtype in dtypes if not emulated(dtype)]
    given_back = in_new_process(rows_of, name, native, sizes, allocator="system")
    ratios = {(row["dtype"], row["grid"]): row[SPEED] for row in given_back}
    for row in in_new_process(rows_of, name, dtypes, sizes):
        yield {**row, SYSTEM: ratios.get((row["dtype"], row["grid"]))}


def growth_of(name: str) -> Iterator[Row]:
    """The time of a token at 56 x 56 over that at 14 x 14; by MACs it is 1."""
    sweep = Sweep(
        attention=(name,),
        resolution=(Resolution(224, 224), Resolution(896, 896)),
        batch_size=(16,),
        params={"hilo": {"alpha": (0.0,)}} if name == "hilo" else {},
    )
    small, large = (ready(case) for case in sweep.expand())
    assert small is not None
    assert large is not None
    yield {"attention": name, "growth": compare(large[0], small[0], CYCLES)[0] / 16}


def roofline_of(dtype: str) -> Iterator[Row]:
    """HiLo at the size of the paper's table: its rate of MACs as a share of that of a large matrix
    product, by the BLAS library or by oneDNN, whichever is faster."""
    sweep = Sweep(
        attention=("hilo",), batch_size=(64,), dim=(768,), num_heads=(12,), dtype=(dtype,)
    )
    (case,) = sweep.expand()
    hilo = ready(case)
    assert hilo is not None
    side = 2048
    computed_in = torch.float32 if emulated(dtype) else getattr(torch, dtype)
    a, b = (torch.randn(side, side, dtype=computed_in) for _ in range(2))
    image = a.view(1, 1, side, side).permute(0, 3, 1, 2)  # oneDNN's product is a 1 x 1 convolution
    blas = Ready(lambda: a @ b)
    onednn = Ready(lambda: F.conv2d(image, b.view(side, side, 1, 1)))
    macs = case.batch_size * (subjects.closed_form_macs(case, {}) or 0)
    ratio, seconds, blas_s = compare(hilo[0], blas, CYCLES)
    gain = max(1.0, compare(blas, onednn, CYCLES)[0])
    yield {
        "dtype": dtype,
        "roofline": macs / side**3 / ratio / gain,
        "img_s": case.batch_size / seconds,
        "gemm_macs_s": side**3 / blas_s * gain,
    }


def run(options: Options) -> Section:
    """Every mechanism; quick takes two."""
    if unknown := [str(size) for size in options.sizes if size.height not in BATCH]:
        raise SystemExit(f"fused knows no batch for {', '.join(unknown)}: heights are {[*BATCH]}")
    rows = [
        row
        for name in options.attentions
        for row in both_allocators(name, options.dtypes, options.sizes)
    ]
    linear = [name for name in LINEAR if name in options.attentions]
    growth = [row for name in linear for row in in_new_process(growth_of, name)]
    roofline = [row for dtype in options.dtypes for row in in_new_process(roofline_of, dtype)]
    return section(rows, growth, roofline)


def section(rows: Sequence[Row], growth: Sequence[Row], roofline: Sequence[Row]) -> Section:
    """The means, the bounds and the tables."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figures: dict[str, float] = {}
    batches, means, bounds = [], [], []
    for dtype in dtypes:
        own = [row for row in rows if row["dtype"] == dtype]
        sizes = {row["grid"]: f"{row['batch_size']} at {row['grid']}" for row in own}
        note = "; this CPU emulates it, and fused computes in fp32" if emulated(dtype) else ""
        batches.append(f"{dtype}: {', '.join(sizes.values())} tokens{note}.")
        means.append([dtype])
        for column in (SPEED, SYSTEM, MEMORY):
            cells, found = _mean(own, column)
            means[-1] += cells
            figures |= {f"{name}_{dtype}": value for name, value in found.items()}
    for row in roofline:
        own = [one for one in rows if one["dtype"] == row["dtype"] and one["macs"]]
        if not own:
            continue
        found = {
            "gemm": row["gemm_macs_s"],
            "bound": stats.geometric_mean([_bound(one, row["gemm_macs_s"]) for one in own]),
            "reached": stats.geometric_mean([one[SPEED] for one in own]),
            "roofline": row["roofline"],
        }
        figures |= {f"{name}_{row['dtype']}": value for name, value in found.items()}
        rate = f"{found['gemm'] / 1e9:.0f} G"
        bound = [f"{found['bound']:.2f}", f"{found['reached']:.2f}", f"{found['roofline']:.0%}"]
        bounds.append([row["dtype"], rate, *bound])
    names = {"hilo": "Hi-Fi"}
    grown = ", ".join(
        f"{names.get(row['attention'], row['attention'])} {row['growth']:.2f}" for row in growth
    )
    text = [
        "Dim 384, 12 heads, the authors' settings at stride 16. Both implementations are timed in "
        "turns in one process. Images in a call:",
        "\n".join(f"- {line}" for line in batches),
        "Freed memory either stays with the process, which is vitbench's default, or goes back to "
        "the kernel, which is torch's default with glibc: large blocks are then paged in again by "
        "each call. Fused / eager, geometric means over mechanisms and sizes:",
        tables.markdown(
            ["dtype", "speed", "least", "speed, memory given back", "least", "peak memory", "most"],
            means,
        ),
        "Speed, fused / eager:",
        _table(rows, SPEED),
        "Speed, fused / eager, where freed memory goes back to the kernel:",
        _table(rows, SYSTEM),
        "Peak memory, fused / eager:",
        _table(rows, MEMORY),
        "How many times as fast as eager these layers could be if only their MACs took time, each "
        "at the rate of a large matrix product (geometric means, without pooling, which has no "
        "MACs). Last, the share of that rate which HiLo reaches at dim 768, 12 heads, 14 x 14 "
        "tokens, 64 images:",
        tables.markdown(("dtype", "MACs/s", "at most", "reached", "HiLo"), bounds),
    ]
    if growth:
        text.append(
            f"Time for each token at 56 x 56 over that at 14 x 14 (fp32, 16 images): {grown}."
        )
    figures |= {f"growth_{row['attention']}": row["growth"] for row in growth}
    return Section("Fused over eager", text, rows, figures, draw=lambda path: draw(rows, path))


def _mean(rows: Sequence[Row], column: str) -> tuple[list[str], dict[str, float]]:
    """The geometric mean and the least favourable row: two cells, and two figures."""
    own = [row for row in rows if row[column] is not None]
    if not own:
        return ["", ""], {}
    key, worst_key, worst_of = {
        SPEED: ("speed", "least", min),
        SYSTEM: ("system", "least_system", min),
        MEMORY: ("memory", "most", max),
    }[column]
    mean = stats.geometric_mean([row[column] for row in own])
    row = worst_of(own, key=lambda row: row[column])
    cells = [f"{mean:.2f}", f"{row[column]:.2f} ({row['attention']}, {row['grid']})"]
    return cells, {key: mean, worst_key: row[column]}


def _table(rows: Sequence[Row], column: str) -> str:
    """A mechanism a line, a dtype and size a column."""
    cells = {(row["attention"], row["dtype"], row["grid"]): row[column] for row in rows}
    points = list(dict.fromkeys((row["dtype"], row["grid"]) for row in rows))
    lines = []
    for name in dict.fromkeys(row["attention"] for row in rows):
        values = [cells.get((name, *point)) for point in points]
        lines.append([name, *("" if value is None else f"{value:.2f}" for value in values)])
    header = ["mechanism", *(f"{dtype}, {grid}" for dtype, grid in points)]
    return tables.markdown(header, lines, ["---"] + ["---:"] * len(points))


def _bound(row: Row, macs_s: float) -> float:
    """Eager's time over what its MACs alone take."""
    return float(row["batch_size"] / row["eager_img_s"] * macs_s / row["macs"])


def draw(rows: Sequence[Row], path: Path) -> None:
    """A dot for each mechanism, dtype and size; filled in the first dtype."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    speeds: dict[str, list[float]] = {}
    for row in rows:
        speeds.setdefault(row["attention"], []).append(row[SPEED])
    names = sorted(speeds, key=lambda name: stats.geometric_mean(speeds[name]))
    figure, panels = plt.subplots(1, 3, figsize=(14, 0.3 * len(names) + 1.4), sharey=True)
    grids = dict.fromkeys(row["grid"] for row in rows)
    colours = {grid: f"C{index}" for index, grid in enumerate(grids)}
    titles = {
        SPEED: "throughput, fused / eager: memory kept",
        SYSTEM: "throughput: memory given back",
        MEMORY: "peak memory, fused / eager",
    }
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for row in (one for one in rows if one[column] is not None):
            filled, colour = row["dtype"] == rows[0]["dtype"], colours[row["grid"]]
            fill = {"markersize": 5, "markerfacecolor": colour if filled else "white"}
            y = names.index(row["attention"]) + (0.15 if filled else -0.15)
            label = f"{row['grid']}, {row['dtype']}"
            axes.plot(row[column], y, "o", color=colour, label=label, **fill)
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title)
        axes.grid(axis="x", which="both", linewidth=0.3)
    panels[0].set_yticks(range(len(names)), names)
    handles, labels = panels[2].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    panels[2].legend(by_label.values(), by_label.keys(), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
