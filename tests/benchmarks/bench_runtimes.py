"""Our latency in other runtimes beside what their own tools measure of the same file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks import Options, Section, verdict
from tests.benchmarks.side_by_side import Row, in_new_process, interleave
from vitbench import runtimes
from vitbench.analysis import stats, trust
from vitbench.cases.case import Case
from vitbench.cases.sweep import Sweep
from vitbench.instruments import host, timing
from vitbench.render import tables
from vitbench.subjects import build as subjects

GOAL = 0.03
NAMES = ("msa", "hilo", "lka")
READING_S = 2
# One call in a sample, as benchmark_app and the Timer of torch take of calls of this length: the
# median of means of several is higher, since calls are late more often than early. How calls are
# timed is judged elsewhere (bench_clock.py); here, how the runtime is set up.
RULE = timing.TimingRule(min_s=READING_S, cap_s=READING_S, warmup_s=0.5, sample_s=1e-6)
THREADS = host.usable_cores()


@dataclass(frozen=True, slots=True)
class Reading:
    """One process's median: seconds of a call, and the cores that others kept busy meanwhile."""

    latency_s: float
    neighbour_cores: float


def converted(case: Case, folder: Path) -> Iterator[Row]:
    """Converts a case into a folder; run in a process of its own, as a run does."""
    from vitbench.runtimes import _artifact

    _artifact.make(runtimes.converting()[case.runtime], subjects.build(case, {}), folder)
    yield {}


def ours(case: Case, folder: Path) -> Iterator[Row]:
    """vitbench's median."""
    subject = subjects.build(case, {})
    prepared = runtimes.load(case.runtime).prepare(subject, folder)
    timed = timing.measure(prepared.call, subject.device.clock(cold=False), RULE)
    yield {"s": stats.median(timed.samples)}


def torchs_timer(case: Case, folder: Path) -> Iterator[Row]:
    """The median of torch.utils.benchmark, of AOTInductor's package as its users load it."""
    import torch
    from torch.utils.benchmark import Timer

    x = subjects.build(case, {}).x
    model = torch._inductor.aoti_load_package(str(folder / "model.pt2"))
    timer = Timer("model(x)", globals={"model": model, "x": x}, num_threads=THREADS)
    timer.blocked_autorange(min_run_time=0.5)
    yield {"s": float(timer.blocked_autorange(min_run_time=READING_S).median)}


def benchmark_app(case: Case, folder: Path) -> float:
    """The median of OpenVINO's own tool: its latency hint, one request after the other. With the
    hint it takes no number of threads, and uses one for each core, as we do."""
    start = "from openvino.tools.benchmark.main import main; main()"
    command = [sys.executable, "-c", start]
    command += ["-m", str(folder / "model.xml"), "-d", "CPU", "-hint", "latency", "-api", "sync"]
    command += ["-infer_precision", "f32", "-t", str(READING_S)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Median:\s*([\d.]+) ms", done.stdout)
    assert found is not None, done.stdout
    return float(found[1]) / 1e3


_ONNXRUNTIME = """
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
session = onnxruntime.InferenceSession({file!r}, options, providers=['CPUExecutionProvider'])
x = numpy.random.default_rng(0).standard_normal({shape}).astype('float32')
binding = session.io_binding()
value = onnxruntime.OrtValue.ortvalue_from_numpy(x)
binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
for output in session.get_outputs():
    empty = numpy.empty(output.shape, 'float32')
    binding.bind_ortvalue_output(output.name, onnxruntime.OrtValue.ortvalue_from_numpy(empty))
run = lambda: session.run_with_iobinding(binding)
"""
# Outputs stay where the program computes them: copies by torch's threads disturb XNNPACK's.
_EXECUTORCH = """
import torch
from executorch.extension.pybindings import portable_lib
portable_lib._unsafe_reset_threadpool({threads})
module = portable_lib._load_for_executorch({file!r})
x = torch.randn({shape})
run = lambda: module.forward([x], clone_outputs=False)
"""


def pyperfs_loop(setup: str, file: str, case: Case, folder: Path) -> float:
    """The median of pyperf's values in one worker process. Not by `pyperf timeit`, which makes a
    new session for each value, and so times first calls."""
    (row,) = in_new_process(_input_shape, case)
    code = setup.format(threads=THREADS, file=str(folder / file), shape=row["shape"])
    with tempfile.TemporaryDirectory() as name:
        script, out = Path(name) / "loop.py", Path(name) / "values.json"
        script.write_text(f"import pyperf\n{code}pyperf.Runner().bench_func('call', run)\n")
        command = [sys.executable, str(script), "--quiet", "--processes=1", "--warmups=25"]
        subprocess.run(
            [*command, "--values=150", "--loops=1", "-o", str(out)], capture_output=True, check=True
        )
        (benchmark,) = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    return stats.median([value for run in benchmark["runs"] for value in run.get("values", ())])


def _input_shape(case: Case) -> Iterator[Row]:
    yield {"shape": tuple(subjects.build(case, {}).x.shape)}


Judge = Callable[[Case, Path], float]


def _in_process(function: Callable[[Case, Path], Iterator[Row]], case: Case, folder: Path) -> float:
    (row,) = in_new_process(function, case, folder)
    return float(row["s"])


# Of each runtime the tool that judges us, and what it is called.
JUDGES: Mapping[str, tuple[str, Judge]] = {
    "openvino": ("benchmark_app", benchmark_app),
    "onnxruntime": ("pyperf", partial(pyperfs_loop, _ONNXRUNTIME, "model.onnx")),
    "aotinductor": ("torch.utils.benchmark", partial(_in_process, torchs_timer)),
    "executorch": ("pyperf", partial(pyperfs_loop, _EXECUTORCH, "model.pte")),
}


def _reading(judge: Judge, case: Case, folder: Path) -> Reading:
    """A judge's median, and what other processes did while it measured."""
    start, start_s = host.read(), sum(os.times()[:4])
    latency_s = judge(case, folder)
    end, own_s = host.read(), sum(os.times()[:4]) - start_s
    busy_s = (end.busy_s or 0.0) - (start.busy_s or 0.0)
    return Reading(latency_s, max(0.0, busy_s - own_s) / (end.wall_s - start.wall_s))


def compare(case: Case, folder: Path, cycles: int) -> list[Row]:
    """Fresh processes in turns, A B B A: a row for each cycle."""
    tool, judge = JUDGES[case.runtime]
    readings = interleave(
        {
            "ours": partial(_reading, partial(_in_process, ours), case, folder),
            "theirs": partial(_reading, judge, case, folder),
        },
        cycles,
    )
    rows: list[Row] = []
    for k in range(cycles):
        a, b = (readings[side][2 * k : 2 * k + 2] for side in ("ours", "theirs"))
        # The lower of the two: one process in twenty is far slower than its neighbours.
        ours_s, theirs_s = (min(one.latency_s for one in side) for side in (a, b))
        neighbours = max(one.neighbour_cores for one in (*a, *b))
        rows.append(
            {"runtime": case.runtime, "attention": case.subject, "tool": tool}
            | {"ours_s": ours_s, "theirs_s": theirs_s, "neighbour_cores": neighbours}
        )
    return rows


def run(options: Options) -> Section:
    """Each runtime's file of each mechanism at 14 x 14 x 384."""
    names, cycles = (NAMES[:1], 1) if options.quick else (NAMES, 6)
    sweep = Sweep(
        attention=names,
        runtime=tuple(JUDGES),
        resolution=("224",),
        stride=(16,),
        dim=(384,),
        num_heads=(12,),
        batch_size=(8,),
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for case in sweep.expand():
            folder = Path(name) / case.id
            in_new_process(converted, case, folder)
            rows += compare(case, folder, cycles)
    return section(rows)


def section(rows: Sequence[Row]) -> Section:
    """The medians of the quiet cycles, with the goal."""
    limit = next(one.b for one in trust.LIMITS if one.column == "neighbour_cores")
    lines, figures = [], {}
    known: dict[str, list[float]] = {}
    for runtime, name in dict.fromkeys((row["runtime"], row["attention"]) for row in rows):
        own = [row for row in rows if (row["runtime"], row["attention"]) == (runtime, name)]
        quiet = [row for row in own if row["neighbour_cores"] <= limit]
        # Not the median of the ratios: the machine's speed changes by 15% within a cycle.
        ours_s, theirs_s = (stats.median([row[key] for row in quiet or own]) for key in _SIDES)
        ratio = ours_s / theirs_s
        if quiet:
            figures[f"{runtime}_{name}"] = ratio
            known.setdefault(runtime, []).append(ratio)
        cells = (f"{ours_s * 1e3:.3f}", f"{theirs_s * 1e3:.3f}", f"{ratio:.3f}")
        lines.append((runtime, name, own[0]["tool"], *cells, f"{len(quiet)} of {len(own)}"))
    header = ("runtime", "mechanism", "tool", "ours, ms", "theirs, ms", "ratio", "quiet cycles")
    text = [
        "The file that vitbench converted, measured by vitbench and by a tool of the runtime's own "
        f"or of Python's, each in fresh processes, in turns A B B A, with {THREADS} threads: "
        "medians of the cycles in which other processes kept less than "
        f"{limit:g} cores busy, or of all where there was no such cycle, which judges nothing. "
        "OpenVINO's tool reads the library's own clock, without the call from Python, which is "
        "20 \u00b5s.",
        tables.markdown(header, lines),
    ]
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        goal = f"Goal for {runtime}: within {GOAL:.0%}"
        if runtime not in known:
            text.append(f"{goal}: not known, since no cycle was quiet.")
            continue
        middle = figures[runtime] = stats.median(known[runtime])
        text.append(f"{goal}: {verdict(abs(middle - 1) <= GOAL)} ({middle - 1:+.1%}).")
    return Section("Runtimes beside their own tools", text, rows, figures)


_SIDES = ("ours_s", "theirs_s")
