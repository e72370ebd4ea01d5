"""Peak memory beside an account of the same call that was made another way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from attentions import Grid
from tests.benchmarks import Options, Section, verdict
from tests.benchmarks.side_by_side import Row, in_new_process
from tests.vitbench.instruments.test_memory import msa, msa_peak_by_hand
from vitbench import devices
from vitbench.instruments import memory
from vitbench.render import tables

SIZES = ((8, 14, 384, 12), (2, 50, 384, 12), (8, 14, 768, 12), (1, 28, 96, 3))


def rows_of(count: int) -> Iterator[Row]:
    """MSA by equations at so many sizes, each measured twice."""
    cpu = devices.connect("cpu")
    for batch, side, dim, heads in SIZES[:count]:
        grid = Grid(side, side)
        module, x = msa(batch, grid, dim, heads)
        call = partial(module, x)
        peaks = [memory.measure(cpu, call, module, (x,)).activation for _ in range(2)]
        yield {
            "batch": batch,
            "side": side,
            "dim": dim,
            "by_hand_bytes": msa_peak_by_hand(batch, grid, dim, heads),
            "first_bytes": peaks[0],
            "second_bytes": peaks[1],
        }


def run(options: Options) -> Section:
    """All sizes; quick takes two."""
    rows = in_new_process(rows_of, 2 if options.quick else len(SIZES))
    equal = all(r["by_hand_bytes"] == r["first_bytes"] == r["second_bytes"] for r in rows)
    lines = [[f"{value:,}" for value in row.values()] for row in rows]
    parts = [
        "Bytes above weights and input of one call of MSA, op by op, on the CPU.",
        tables.markdown([name.replace("_", " ") for name in rows[0]], lines),
        f"Goal: equal to the byte, and the same in both runs: {verdict(equal)}.",
    ]
    return Section("Peak memory", parts, rows, {"equal": float(equal)})
