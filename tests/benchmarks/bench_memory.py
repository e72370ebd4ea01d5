"""Peak memory beside an account of the same call that was made another way."""

from __future__ import annotations

import torch

from attentions import Grid
from tests.benchmarks import Section
from tests.vitbench.instruments.test_memory import msa, msa_peak_by_hand
from vitbench.instruments import memory
from vitbench.render import tables

SIZES = ((8, 14, 384, 12), (2, 50, 384, 12), (8, 14, 768, 12), (1, 28, 96, 3))


def run(*, quick: bool) -> Section:
    """MSA by equations at several sizes, each measured twice."""
    rows = []
    for batch, side, dim, heads in SIZES[: 2 if quick else None]:
        grid = Grid(side, side)
        module, x = msa(batch, grid, dim, heads)
        with torch.inference_mode():
            peaks = [memory.measure(lambda: module(x), module, (x,)).activation for _ in range(2)]  # noqa: B023 - called at once
        by_hand = msa_peak_by_hand(batch, grid, dim, heads)
        rows.append(
            {
                "batch": batch,
                "side": side,
                "dim": dim,
                "by_hand_bytes": by_hand,
                "first_bytes": peaks[0],
                "second_bytes": peaks[1],
            }
        )
    equal = all(r["by_hand_bytes"] == r["first_bytes"] == r["second_bytes"] for r in rows)
    lines = [[f"{value:,}" for value in row.values()] for row in rows]
    text = (
        "Bytes above weights and input of one call of MSA, op by op, on the CPU.\n\n"
        + tables.markdown([name.replace("_", " ") for name in rows[0]], lines)
        + "\n\nGoal: equal to the byte, and between two runs: "
        + ("met." if equal else "missed.")
    )
    if not torch.cuda.is_available():
        text += " CUDA: no such device here; not compared."
    return Section("Peak memory", text, rows, {"equal": float(equal)})
