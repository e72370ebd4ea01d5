"""Where a layer's time goes: the operators of eager and fused, by what they do.

python -m tests.benchmarks.bench_profile NAME         a mechanism's shares, as JSON lines
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import attentions
from attentions._halves import is_emulated
from tests.benchmarks import ROOT, Section
from tests.benchmarks.bench_fused import DTYPES, cases
from vitbench.analysis import stats
from vitbench.cases.case import Resolution
from vitbench.devices import allocator, environment
from vitbench.render import tables
from vitbench.subjects import build as subjects

SIZE = Resolution(448, 448)
CALLS = 5
PRODUCTS, CONVOLUTIONS, ATTENTION = "matrix products", "convolutions", "attention kernel"
SOFTMAX, CHOOSING, MOVING, REST = "softmax", "sampling, choosing", "moving", "elementwise"
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
    return next((one for one, names in FAMILIES.items() if operator in names), REST)


class Timed(TorchDispatchMode):
    """Seconds of the operators that run under it, by family.

    A profiler keeps what it saw among the tensors, whose memory is then in pieces and paged in
    anew: performer by equations took 1.0 to 2.2 s a call under torch's, and 0.5 s by itself.
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
    return {one: seconds * 1e3 for one, seconds in timed.spent.items()}


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """Milliseconds of a call in each family, eager's and fused's, medians of calls in turns."""
    impls = attentions.load(name).impls
    for dtype in DTYPES:
        if is_emulated(getattr(torch, dtype)):
            continue  # eager's would be the emulation's
        calls = []
        for impl in (impls[0], impls[-1]):
            (case,) = cases(name, dtype, (SIZE,), impl)
            calls.append(subjects.build(case, {}).call)
        for call in calls * 2:
            call()
        taken: tuple[list[dict[str, float]], ...] = ([], [])
        for index in range(2 * CALLS):
            taken[index % 2].append(spent(calls[index % 2]))
        for impl, of in zip(("eager", "fused"), taken, strict=True):
            middle = {one: stats.median([each[one] for each in of]) for one in FAMILIES}
            yield {"attention": name, "dtype": dtype, "impl": impl} | middle


def main() -> None:
    """The rows of one mechanism."""
    environment.configure(os.cpu_count() or 1)
    allocator.settle("steady")
    with torch.no_grad():  # under inference_mode composite operators arrive whole
        for row in rows_of(sys.argv[1]):
            print(json.dumps(row), flush=True)


def run(*, quick: bool) -> Section:
    """Every mechanism; quick takes two."""
    rows = []
    for name in ("hilo", "pooling") if quick else attentions.names():
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_profile", name],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        rows += [json.loads(line) for line in done.stdout.splitlines()]
    return section(rows)


def whole(row: Mapping[str, Any]) -> float:
    """Milliseconds of all families."""
    return sum(float(row[one]) for one in FAMILIES)


def section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """The shares of the families, and what fused leaves of each."""
    lines, figures = [], {}
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        of = [row for row in rows if row["dtype"] == dtype]
        for slow, fast in zip(of[::2], of[1::2], strict=True):
            lines.append(
                [
                    slow["attention"],
                    dtype,
                    *(
                        f"{slow[one] / whole(slow):.0%} to {fast[one] / whole(slow):.0%}"
                        for one in FAMILIES
                    ),
                    f"{whole(fast) / whole(slow):.0%}",
                ]
            )
        # Mechanisms count alike, whatever they take.
        for key, own in (("eager", of[::2]), ("fused", of[1::2])):
            shares = [
                sum(row[one] for one in (PRODUCTS, CONVOLUTIONS, ATTENTION)) / whole(row)
                for row in own
            ]
            figures[f"multiplying_{key}_{dtype}"] = sum(shares) / len(shares)
    header = ["share of eager's time", "dtype", *FAMILIES, "all"]
    text = [
        f"Each layer as above, {SIZE.height // 16} x {SIZE.width // 16} tokens, 16 images: the "
        "time of its operators, by what they do, in eager and in fused, as shares of what eager "
        "takes. Convolutions of 1 x 1 are matrix products; elementwise is all that is in no other "
        "column. Each operator is timed by itself, from Python, so the last column is not quite "
        "the speed measured above.",
        "",
        tables.markdown(header, lines, ["---", "---"] + ["---:"] * (len(header) - 2)),
        "",
        *(
            f"{dtype}: products, convolutions and the attention kernel are "
            f"{figures[f'multiplying_eager_{dtype}']:.0%} of a layer's time in eager, "
            f"{figures[f'multiplying_fused_{dtype}']:.0%} in fused, at the mean."
            for dtype in dict.fromkeys(row["dtype"] for row in rows)
        ),
    ]
    return Section(
        "Where a layer's time goes",
        "\n".join(text),
        rows,
        figures,
        draw=lambda path: draw(rows, path),
    )


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Two bars for each mechanism, eager's above fused's, eager's of length one."""
    from matplotlib import pyplot as plt

    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    names = list(dict.fromkeys(row["attention"] for row in rows))[::-1]
    figure, panels = plt.subplots(
        1,
        len(dtypes),
        figsize=(8.5 * len(dtypes), 0.42 * len(names) + 1.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, dtype in zip(panels[0], dtypes, strict=True):
        of = [row for row in rows if row["dtype"] == dtype]
        for slow, fast in zip(of[::2], of[1::2], strict=True):
            place = names.index(slow["attention"])
            for row, y, alpha in ((slow, place + 0.2, 1.0), (fast, place - 0.2, 0.75)):
                start = 0.0
                for index, one in enumerate(FAMILIES):
                    wide = row[one] / whole(slow)
                    axes.barh(y, wide, 0.36, left=start, color=f"C{index}", alpha=alpha)
                    start += wide
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set_title(f"share of eager's time, {dtype}: eager above, fused below")
        axes.grid(axis="x", linewidth=0.3)
        axes.set_axisbelow(True)
    panels[0][0].set_yticks(range(len(names)), names)
    for index, one in enumerate(FAMILIES):
        panels[0][0].barh(0, 0, color=f"C{index}", label=one)
    figure.legend(loc="outside right upper", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
