"""LITv2-S against its eager self and against its rivals, each pair in turns in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.benchmarks import Options, Section
from tests.benchmarks.side_by_side import Ready, Row, compare, emulated, in_new_process, ready
from vitbench.cases.sweep import Sweep
from vitbench.render import tables

OURS = "litv2_s"
RIVALS = ("swin_tiny", "pvt_v2_b2", "convnext_tiny", "resnet50")
BATCH, BATCH_EMULATED = 16, 4  # a call takes many seconds where the dtype is emulated
CYCLES, CYCLES_OF_OURS = 4, 10  # a turn is one call here


def batch_of(dtype: str) -> int:
    """Images in a call."""
    return BATCH_EMULATED if emulated(dtype) else BATCH


def model(name: str, dtype: str, impl: str) -> Ready:
    """A backbone at 224 x 224."""
    batch = (batch_of(dtype),)
    sweep = Sweep(backbone=(name,), batch_size=batch, dtype=(dtype,), impl=(impl,))
    prepared = ready(*sweep.expand())
    assert prepared is not None
    return prepared[0]


def rows_of(dtype: str) -> Iterator[Row]:
    """Each model against LITv2-S fused."""
    ours, batch = model(OURS, dtype, "fused"), batch_of(dtype)
    for name, impl in ((OURS, "eager"), *((rival, "fused") for rival in RIVALS)):
        cycles = CYCLES_OF_OURS if name == OURS else CYCLES
        ratio, other_s, ours_s = compare(
            model(name, dtype, impl), ours, 1 if emulated(dtype) else cycles
        )
        yield {
            "backbone": name,
            "impl": impl,
            "dtype": dtype,
            "batch_size": batch,
            "img_s": batch / other_s,
            "litv2_s_img_s": batch / ours_s,
            "litv2_s_times_as_fast": ratio,
        }


def run(options: Options) -> Section:
    """Each dtype in a process of its own."""
    return section([row for dtype in options.dtypes for row in in_new_process(rows_of, dtype)])


def section(rows: Sequence[Row]) -> Section:
    """How many times as fast LITv2-S is as each."""
    header = ["dtype", "batch", "against", "images/s", "LITv2-S, images/s", "ratio"]
    lines = []
    for row in rows:
        against = f"{row['backbone']}, {row['impl']}"
        rates = [row[name] for name in ("img_s", "litv2_s_img_s", "litv2_s_times_as_fast")]
        rounded = [f"{rate:.2f}" for rate in rates]
        lines.append([row["dtype"], str(row["batch_size"]), against, *rounded])
    parts = [
        "LITv2-S, fused, at 224 x 224, and each rival in turns in one process; timm's models use "
        "timm's fused attention. The ratio says how many times as fast LITv2-S is.",
        tables.markdown(header, lines, ["---", "---:", "---", "---:", "---:", "---:"]),
    ]
    figures = {
        f"{row['backbone']}_{row['impl']}_{row['dtype']}": row["litv2_s_times_as_fast"]
        for row in rows
    }
    return Section("LITv2-S and its rivals", parts, rows, figures)
