"""Where a layer's time goes: the operators of eager and fused, by what they do."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.benchmarks import Options, Section
from tests.benchmarks.bench_fused import pairs
from tests.benchmarks.side_by_side import Row, emulated, in_new_process, interleave
from vitbench.analysis import stats
from vitbench.cases.case import Resolution
from vitbench.render import tables
from vitbench.subjects import build as subjects

SIZE = Resolution(448, 448)
CYCLES = 3
PRODUCTS, CONVOLUTIONS, ATTENTION = "matrix products", "convolutions", "attention kernel"
SOFTMAX, CHOOSING, MOVING, REST = "softmax", "sampling, choosing", "moving", "elementwise"
MULTIPLYING = (PRODUCTS, CONVOLUTIONS, ATTENTION)
# In the order of the chart. An operator that is in none is elementwise.
FAMILIES: Mapping[str, frozenset[str]] = {
    PRODUCTS: frozenset({"addmm", "mm", "bmm", "baddbmm", "_linear_pointwise"}),
    CONVOLUTIONS: frozenset({"convolution"}),
    ATTENTION: frozenset({"_scaled_dot_product_flash_attention_for_cpu"}),
    SOFTMAX: frozenset({"_softmax"}),
    CHOOSING: frozenset({"grid_sampler_2d", "topk"}),
    MOVING: frozenset(
        {"copy_", "_to_copy", "clone", "cat", "stack", "index", "index_select", "gather", "roll"}
        | {"constant_pad_nd", "fill_", "_unsafe_view"}
    ),
    REST: frozenset(),
}


def family(operator: str, inputs: Sequence[Any] = ()) -> str:
    """What an operator does; a convolution with a kernel of 1 x 1 is a matrix product."""
    if operator == "convolution" and list(inputs[1].shape[2:]) == [1, 1]:
        return PRODUCTS
    return next((name for name, operators in FAMILIES.items() if operator in operators), REST)


class Timed(TorchDispatchMode):
    """Seconds of the operators that run under it, by family.

    torch's profiler keeps its records among the tensors, whose memory is then fragmented and paged
    in again: performer by equations took 1.0 to 2.2 s a call under it, and 0.5 s by itself.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has not typed it
        self.spent = dict.fromkeys(FAMILIES, 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        self.spent[family(name, args)] += time.perf_counter() - start
        return result


def spent(call: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of one call by family."""
    with Timed() as timed:
        call()
    return {name: seconds * 1e3 for name, seconds in timed.spent.items()}


def rows_of(name: str, dtypes: Sequence[str]) -> Iterator[Row]:
    """Milliseconds of a call in each family, eager's and fused's: medians of calls in turns."""
    # Under inference_mode, composite operators arrive whole.
    with torch.inference_mode(mode=False), torch.no_grad():
        for dtype in dtypes:
            if emulated(dtype):
                continue  # eager's time would be the emulation's
            for cases in pairs(name, dtype, [SIZE]):
                calls = {case.impl: subjects.build(case, {}).call for case in cases}
                for call in [*calls.values()] * 2:
                    call()
                turns = {impl: partial(spent, call) for impl, call in calls.items()}
                for impl, readings in interleave(turns, CYCLES).items():
                    row = {"attention": name, "dtype": dtype, "impl": impl}
                    yield row | {
                        family: stats.median([reading[family] for reading in readings])
                        for family in FAMILIES
                    }


def run(options: Options) -> Section:
    """Each mechanism in a process of its own."""
    rows = (in_new_process(rows_of, name, options.dtypes) for name in options.attentions)
    return section([*itertools.chain(*rows)])


def whole(row: Row) -> float:
    """Milliseconds of all families."""
    return sum(float(row[name]) for name in FAMILIES)


def section(rows: Sequence[Row]) -> Section:
    """The shares of the families, and what fused leaves of each."""
    lines, figures, means = [], {}, []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        own = [row for row in rows if row["dtype"] == dtype]
        for slow, fast in zip(own[::2], own[1::2], strict=True):
            total = whole(slow)
            shares = [f"{slow[f] / total:.0%} to {fast[f] / total:.0%}" for f in FAMILIES]
            lines.append([slow["attention"], dtype, *shares, f"{whole(fast) / total:.0%}"])
        for impl, side in (("eager", own[::2]), ("fused", own[1::2])):  # each mechanism counts once
            parts = [sum(row[f] for f in MULTIPLYING) / whole(row) for row in side]
            figures[f"multiplying_{impl}_{dtype}"] = sum(parts) / len(parts)
        means.append(
            f"{dtype}: products, convolutions and the attention kernel take "
            f"{figures[f'multiplying_eager_{dtype}']:.0%} of a layer's time in eager, "
            f"{figures[f'multiplying_fused_{dtype}']:.0%} in fused, on average."
        )
    header = ["share of eager's time", "dtype", *FAMILIES, "all"]
    text = [
        f"The same layers at {SIZE.height // 16} x {SIZE.width // 16} tokens, 16 images: the time "
        "of their operators by what they do, in eager and in fused, as shares of eager's time. "
        "Convolutions of 1 x 1 are matrix products; elementwise is everything that is in no other "
        "column. Each operator is timed by itself, from Python, so the last column differs "
        "slightly from the speed of the whole layer.",
        tables.markdown(header, lines, ["---", "---"] + ["---:"] * (len(header) - 2)),
        *means,
    ]
    title = "Where a layer's time goes"
    return Section(title, text, rows, figures, draw=lambda path: draw(rows, path))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Two bars for each mechanism, eager's above fused's, eager's of length one."""
    from matplotlib import pyplot as plt

    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    names = list(dict.fromkeys(row["attention"] for row in rows))[::-1]
    size = (8.5 * len(dtypes), 0.42 * len(names) + 1.6)
    figure = plt.figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)
    for axes, dtype in zip(panels[0], dtypes, strict=True):
        own = [row for row in rows if row["dtype"] == dtype]
        for slow, fast in zip(own[::2], own[1::2], strict=True):
            place = names.index(slow["attention"])
            for row, y, alpha in ((slow, place + 0.2, 1.0), (fast, place - 0.2, 0.75)):
                start = 0.0
                for index, name in enumerate(FAMILIES):
                    width = row[name] / whole(slow)
                    axes.barh(y, width, 0.36, left=start, color=f"C{index}", alpha=alpha)
                    start += width
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set_title(f"share of eager's time, {dtype}: eager above, fused below")
        axes.grid(axis="x", linewidth=0.3)
        axes.set_axisbelow(True)
    panels[0][0].set_yticks(range(len(names)), names)
    for index, name in enumerate(FAMILIES):
        panels[0][0].barh(0, 0, color=f"C{index}", label=name)
    figure.legend(loc="outside right upper", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)
