"""LITv2-S against its eager self and against its rivals: all ready in one process, in turns.

python -m tests.benchmarks.bench_backbones DTYPE      the figures of a dtype, as JSON lines
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from tests.benchmarks import ROOT, Section
from tests.benchmarks.bench_fused import Ready, emulated, ratio, ready
from vitbench.cases.case import Case, Resolution
from vitbench.devices import allocator, environment
from vitbench.engine import session
from vitbench.render import tables

OURS = "litv2_s"
RIVALS = ("swin_tiny", "pvt_v2_b2", "convnext_tiny", "resnet50")
DTYPES = ("float32", "bfloat16")
BATCH, PIXELS = 16, 224
BATCH_EMULATED = 4  # where the CPU has no instructions for the dtype a call takes many seconds
FOURS = 4  # a turn is one call here
FOURS_OF_OURS = 10


def batch_of(dtype: str) -> int:
    """Images in a call."""
    return BATCH_EMULATED if emulated(dtype) else BATCH


def case_of(name: str, dtype: str, impl: str) -> Case:
    """A backbone at 224 x 224."""
    axes = {
        "backbone": (name,),
        "resolution": (Resolution(PIXELS, PIXELS),),
        "batch_size": (batch_of(dtype),),
        "dtype": (dtype,),
        "impl": (impl,),
    }
    (case,) = session.make_plan("quick", device="cpu", axes=axes).cases
    return case


def rows_of(dtype: str) -> Iterator[dict[str, Any]]:
    """Each against LITv2-S fused, A B B A."""
    ours = _ready(case_of(OURS, dtype, "fused"))
    for name, impl in ((OURS, "eager"), *((rival, "fused") for rival in RIVALS)):
        fours = FOURS_OF_OURS if name == OURS else FOURS
        over, seconds, own_s = ratio((_ready(case_of(name, dtype, impl)), ours), fours)
        yield {
            "backbone": name,
            "impl": impl,
            "dtype": dtype,
            "batch_size": batch_of(dtype),
            "img_s": batch_of(dtype) / seconds,
            "litv2_s_img_s": batch_of(dtype) / own_s,
            "litv2_s_times_as_fast": over,
        }


def _ready(case: Case) -> Ready:
    found = ready(case)
    assert found is not None
    return found


def main() -> None:
    """The rows of a dtype."""
    environment.configure(os.cpu_count() or 1)
    allocator.settle("steady")
    with torch.inference_mode():
        for row in rows_of(sys.argv[1]):
            print(json.dumps(row), flush=True)


def run(*, quick: bool) -> Section:
    """Both dtypes; quick takes fp32."""
    rows: list[dict[str, Any]] = []
    for dtype in DTYPES[:1] if quick else DTYPES:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_backbones", dtype],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        rows += [json.loads(line) for line in done.stdout.splitlines()]
    return section(rows)


def section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """How many times as fast LITv2-S is as each."""
    found = {(row["backbone"], row["impl"], row["dtype"]): row for row in rows}
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    lines = []
    for name, impl in dict.fromkeys((row["backbone"], row["impl"]) for row in rows):
        cells = [f"{name}, {impl}"]
        for dtype in dtypes:
            row = found[name, impl, dtype]
            cells += [f"{row['img_s']:.2f}", f"{row['litv2_s_times_as_fast']:.2f}"]
        lines.append(cells)
    header = ["against"]
    for dtype in dtypes:
        header += [f"images/s, {dtype}", "LITv2-S is so many times as fast"]
    own = ", ".join(
        f"{found[OURS, 'eager', dtype]['litv2_s_img_s']:.2f} ({dtype})" for dtype in dtypes
    )
    images = " and ".join(str(one) for one in dict.fromkeys(int(row["batch_size"]) for row in rows))
    text = [
        f"LITv2-S, fused, at {PIXELS} x {PIXELS}: {own} images/s, with {images} images in a call. "
        "Each rival beside it in one process, in turns; timm's with its fused attention."
        + "".join(f" This CPU emulates {dtype}." for dtype in dtypes if emulated(dtype)),
        "",
        tables.markdown(header, lines, ["---"] + ["---:"] * (len(header) - 1)),
    ]
    figures = {
        f"{name}_{impl}_{dtype}": row["litv2_s_times_as_fast"]
        for (name, impl, dtype), row in found.items()
    }
    return Section("LITv2-S and its rivals", "\n".join(text), rows, figures)


if __name__ == "__main__":
    main()
