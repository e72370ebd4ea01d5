"""Tuning beside exhaustive measurement: what it costs, and whether it finds the same setting."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import Options, Section, measured, verdict
from vitbench.analysis import tuning
from vitbench.analysis.stats import Ratio
from vitbench.cases.limits import Limits
from vitbench.cases.space import Space, parse
from vitbench.cases.tuning import Tuning
from vitbench.render import tables, units
from vitbench.results import journal
from vitbench.results.record import Record

SHARE, RUNS = 0.5, 5
SPACE = ("alpha=0:1:0.1", "window_size=1,2,4,7")
CASE = ("--resolution", "224", "--dim", "768", "--batch-size", "16", "--device", "cpu", "--quiet")


def run(options: Options) -> Section:
    """HiLo over 11 x 4 settings at 14 x 14, dim 768, batch 16: all in ten rounds, and tuned."""
    space = ("alpha=0.5,1", "window_size=2,7") if options.quick else SPACE
    runs = 1 if options.quick else RUNS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole_s = _exhaustive(folder / "all", space)
        whole = journal.read(folder / "all")
        records, medians = whole.records(), whole.medians()
        everything = Tuning(space=Space((parse(space),)), limits=Limits(), defaults=(), narrowing=0)
        (outcome,) = tuning.outcomes(records, medians, everything)
        rows: list[dict[str, Any]] = []
        for index in range(runs):
            words = [word for item in space for word in ("--space", item)]
            tuned_s = measured("tune", "hilo", *words, *CASE, "--out", str(folder / str(index)))
            done = journal.read(folder / str(index))
            assert done.plan.tuning is not None
            (found,) = tuning.outcomes(done.records(), done.medians(), done.plan.tuning)
            assert found.pick is not None
            rows.append(_row(index, tuned_s, whole_s, found.pick, outcome, len(done.outcomes)))
    most, right = max(row["share"] for row in rows), sum(bool(row["is_right"]) for row in rows)
    assert outcome.pick is not None
    parts = [
        "HiLo's alpha and window are tuned at 14 x 14 tokens, dim 768, batch 16. The same settings "
        f"were measured exhaustively before, in eleven rounds each: {len(whole.outcomes)} "
        f"measurements in {units.duration(whole_s)}; the best is {outcome.pick['settings']}. A run "
        "finds the right setting where it is that one, or one that the exhaustive run does not "
        "tell from it.",
        tables.markdown(
            ("run", "time", "share of all", "measurements", "pick", "its time over the best's"),
            [
                (
                    str(row["run"]),
                    units.duration(float(str(row["seconds"]))),
                    f"{row['share']:.0%}",
                    str(row["measurements"]),
                    str(row["pick"]),
                    str(row["over_best"]),
                )
                for row in rows
            ],
        ),
        f"Goal: at most {SHARE:.0%} of the time: {verdict(most <= SHARE)} (at most {most:.0%}). "
        f"The right setting in all {runs}: {verdict(right == runs)} ({right}).",
    ]
    return Section("Tuning", parts, rows, {"share": most, "right": right})


def _exhaustive(folder: Path, space: tuple[str, ...]) -> float:
    """Seconds of measuring every setting in as many rounds as the finalists of tuning have."""
    values = parse(space)
    words = [
        word
        for name, own in values.items()
        for word in ("--param", f"hilo.{name}={','.join(map(str, own))}")
    ]
    return measured(
        "run", "--attention", "hilo", *words, *CASE, "--effort", "quick", "--rounds", "11",
        "--out", str(folder),
    )  # fmt: skip


def _row(
    index: int,
    tuned_s: float,
    whole_s: float,
    pick: Record,
    outcome: tuning.Outcome,
    measurements: int,
) -> dict[str, Any]:
    assert outcome.pick is not None
    is_best = pick["settings"] == outcome.pick["settings"]
    rival = next((r for r in outcome.rivals if r.record["settings"] == pick["settings"]), None)
    return {
        "run": index + 1,
        "seconds": tuned_s,
        "share": tuned_s / whole_s,
        "measurements": measurements,
        "pick": pick["settings"],
        "is_right": is_best or (rival is not None and rival.cause == "level"),
        "over_best": "1" if rival is None else _words(rival.ratio),
    }


def _words(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
