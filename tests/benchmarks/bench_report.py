"""How long the report of a large run takes: to be written, and to be ready in a browser."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

import attentions
from tests import synthetic_records as synthetic
from tests.benchmarks import Options, Section, verdict
from tests.benchmarks.bench_startup import seconds
from tests.vitbench.render.browser import start
from vitbench.render import tables
from vitbench.results.csv import SAMPLE_COLUMNS, write_csv
from vitbench.results.folder import REPORT, SAMPLES
from vitbench.results.record import Record

GOAL_WRITTEN_S, GOAL_READY_S, GOAL_BYTES = 10.0, 2.0, 5_000_000
SIZES = (224, 288, 384, 448, 512, 768)
RUNTIMES = ("eager", "onnxruntime", "openvino", "executorch")
_ROUNDS, _SAMPLES = 3, 60


def run_folder(folder: Path, mechanisms: Sequence[str] | None = None) -> Path:
    """A run of all mechanisms in six resolutions, four runtimes and two dtypes, with samples."""
    planned = synthetic.cases(
        attention=tuple(mechanisms or attentions.names()),
        resolution=SIZES,
        runtime=RUNTIMES,
        dtype=("float32", "bfloat16"),
    )
    rng = np.random.default_rng(0)
    speeds = dict(zip(attentions.names(), rng.uniform(0.005, 0.03, 99), strict=False))
    exponents = dict(zip(attentions.names(), rng.uniform(1, 2, 99), strict=False))
    latency_s = synthetic.power_law(speeds, exponents)
    records = synthetic.records(planned, latency_s, rng, _ROUNDS, odd=0.0)
    synthetic.folder(folder, records)
    write_csv(folder / SAMPLES, SAMPLE_COLUMNS, _samples(records, rng))
    return folder


def _samples(records: Sequence[Record], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for record in records:
        for number, median in enumerate(str(record["round_medians"]).split()):
            samples = float(median) * np.exp(rng.normal(0, 0.02, _SAMPLES))
            for index, sample_s in enumerate(samples.tolist()):
                values = (record["case"], number, index, sample_s)
                yield dict(zip(SAMPLE_COLUMNS, values, strict=True))


def run(options: Options) -> Section:
    """The report once, as a command; its page five times in a fresh tab."""
    with tempfile.TemporaryDirectory() as folder:
        path = run_folder(Path(folder, "run"), ("msa", "hilo") if options.quick else None)
        written_s = seconds(["-m", "vitbench", "report", str(path)])
        size = (path / REPORT).stat().st_size
        ready = list(_ready_s((path / REPORT).as_uri(), 1 if options.quick else 5))
    goals = [
        ("written, s", written_s, GOAL_WRITTEN_S),
        ("size, MB", size / 1e6, GOAL_BYTES / 1e6),
        ("ready in Chromium, s", max(ready), GOAL_READY_S),
    ]
    cases = len(attentions.names()) * len(SIZES) * len(RUNTIMES) * 2
    header = (f"report of {'a few' if options.quick else f'{cases:,}'} cases", "most", "goal", "")
    lines = [
        (name, f"{value:.2f}", f"{goal:g}", verdict(value <= goal)) for name, value, goal in goals
    ]
    figures = {"written_s": written_s, "bytes": size, "ready_s": max(ready)}
    rows = [{"tab": index, "ready_s": ready_s} for index, ready_s in enumerate(ready)]
    return Section("Report", [tables.markdown(header, lines)], rows, figures)


def _ready_s(address: str, count: int) -> Iterator[float]:
    """Seconds from opening a page until its charts are drawn and its table can be used."""
    with sync_playwright() as playwright:
        browser = start(playwright)
        for _ in range(count):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            begin = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("html[data-ready]")
            yield time.perf_counter() - begin
            page.close()
        browser.close()
