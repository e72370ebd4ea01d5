"""Across runtimes: the heat map, the ranks, and the findings in words."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tests.vitbench.examples import case, facts, measured, run_folder, state
from vitbench.render import charts, findings, style
from vitbench.results import frame
from vitbench.results.outcome import Failed, Outcome

# Milliseconds of a call in eager, onnxruntime and openvino.
TIMES = {"msa": (10, 8, 5), "dat": (11, 22, 4.5), "sra": (20, 20, 10)}
RUNTIMES = ("eager", "onnxruntime", "openvino")
Changes = dict[tuple[str, str], Outcome | None]


def drawn(
    folder: Path, changes: Changes | None = None, runtimes: tuple[str, ...] = RUNTIMES
) -> Any:
    """The charts by name, and the findings, of a run with these outcomes in place of the times."""
    outcomes = {}
    for name, times in TIMES.items():
        for runtime, time_ms in zip(RUNTIMES, times, strict=True):
            usual = measured(*(time_ms / 1e3,) * 20)
            outcome = (changes or {}).get((name, runtime), usual)
            if outcome is not None and runtime in runtimes:
                rounds = [outcome] if isinstance(outcome, Failed) else [outcome, outcome]
                outcomes[case(attention=name, params=(), runtime=runtime)] = rounds
    rows = frame.read(run_folder(folder, outcomes))
    with style.styled():
        return dict(charts.of_resolutions(rows, "A CPU")), findings.lines(frame.records(rows))


def cells(figure: Figure) -> dict[tuple[str, str], tuple[str, Rectangle, Any]]:
    """Text, field and hatch of a cell, by subject and runtime."""
    axes = figure.axes[0]
    subjects = [label.get_text() for label in axes.get_yticklabels()]
    columns = [label.get_text().split("\n")[0] for label in axes.get_xticklabels()]
    fields: dict[tuple[float, float], list[Rectangle]] = {}
    for patch in axes.patches:
        assert isinstance(patch, Rectangle)
        fields.setdefault((patch.get_x() + 0.5, patch.get_y() + 0.5), []).append(patch)
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        own = fields[x, y]
        hatch = own[-1].get_hatch()
        found[subjects[round(y)], columns[round(x)]] = (text.get_text(), own[0], hatch)
    return found


def hue(field: Rectangle) -> str:
    """blue, orange or none."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*to_rgb(field.get_facecolor()[:3]))
    return "none" if saturation < 0.02 else "blue" if 0.5 < hue < 0.7 else "orange"


def ranked(axes: Axes) -> dict[str, list[int]]:
    """Ranks by subject, from the labels at the left."""
    names = {}
    for text in axes.texts:
        if text.get_horizontalalignment() == "right":
            name, rank = text.get_text().rsplit("  ", 1)
            names[int(rank)] = name
    ranks = [[round(y) for y in np.asarray(line.get_ydata())] for line in axes.lines]
    return {names[own[0]]: own for own in ranks}


def test_one_runtime_has_no_chart_across(tmp_path: Path) -> None:
    """And nothing is said; two have both charts."""
    figures, lines = drawn(tmp_path / "one", runtimes=("eager",))
    assert (set(figures), lines) == ({"throughput-bars"}, [])
    figures, lines = drawn(tmp_path / "two", runtimes=("eager", "openvino"))
    assert {"runtimes-64px", "runtime-ranks-64px"} < set(figures)
    assert lines[0] == "across runtimes, 64 px:"


def test_the_heat_map_is_speed_over_eager(tmp_path: Path) -> None:
    """Blue where faster, orange where slower, white at 1; eager's own column is its latency, and
    its fastest mechanism is on top."""
    figures, _ = drawn(tmp_path)
    found = cells(figures["runtimes-64px"])
    expected = {
        ("msa", "onnxruntime"): ("1.25", "blue"),
        ("dat", "onnxruntime"): ("0.50", "orange"),
        ("sra", "onnxruntime"): ("1.00", "none"),
        ("sra", "openvino"): ("2.00", "blue"),
        ("msa", "eager"): ("10.0", "none"),
    }
    assert {key: (found[key][0], hue(found[key][1])) for key in expected} == expected
    labels = figures["runtimes-64px"].axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["msa", "dat", "sra"]
    assert figures["runtimes-64px"].get_supxlabel().startswith("A CPU, float32, batch 2")


def test_what_was_not_measured_is_hatched_and_said(tmp_path: Path) -> None:
    """A failure in its own word, beside a speed that has nothing to be divided by; a case that was
    not asked for is empty."""
    changes: Changes = {
        ("dat", "eager"): Failed("out_of_memory", "no room"),
        ("msa", "onnxruntime"): Failed("unsupported", "not exported"),
        ("sra", "onnxruntime"): None,
    }
    figures, _ = drawn(tmp_path, changes)
    found = cells(figures["runtimes-64px"])
    for key, word in (("dat", "eager"), "out of memory"), (("msa", "onnxruntime"), "unsupported"):
        assert found[key][0] == word
        assert found[key][2]
    assert found["dat", "openvino"][0] == "4.50 ms"
    assert not found["dat", "openvino"][2]
    assert ("sra", "onnxruntime") not in found
    assert "hatched: not measured" in figures["runtimes-64px"].get_supxlabel()


def test_int8_is_drawn_over_eager_float32(tmp_path: Path) -> None:
    """Its map, its ranks and its sentences say which eager they mean; the map of float32 does not
    need to."""
    outcomes = {
        case(attention=name, params=(), runtime=runtime, dtype=dtype): [
            measured(*(time_ms / 1e3,) * 20)
        ]
        * 2
        for runtime, dtype, times in (
            ("eager", "float32", (10, 20)),
            ("openvino", "float32", (8, 16)),
            ("openvino", "int8", (5, 2)),
        )
        for name, time_ms in zip(("msa", "dat"), times, strict=True)
    }
    rows = frame.read(run_folder(tmp_path, outcomes))
    with style.styled():
        figures = dict(charts.of_resolutions(rows, "A CPU"))
    chart = figures["runtimes-64px-int8"]
    assert chart.axes[0].get_title(loc="left") == "Speed over eager float32 at 64 px, int8"
    columns = [label.get_text() for label in chart.axes[0].get_xticklabels()]
    assert columns == ["eager\nfloat32\nms a call", "openvino"]
    assert cells(chart)["dat", "openvino"][0] == "10.0"
    assert cells(chart)["dat", "eager"][0] == "20.0"
    (axes,) = figures["runtime-ranks-64px-int8"].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["eager\nfloat32", "openvino"]
    own = findings.groups(frame.records(rows))
    assert dict(own)["across runtimes, 64 px, int8"] == [
        "fastest in openvino: msa, dat",
        "the fastest is 4.47 times as fast as eager float32: the geometric mean of 2",
        "msa is faster than dat in eager float32 (2.00 times) and slower in openvino (0.40 times)",
    ]
    plain = figures["runtimes-64px-float32"].axes[0].get_title(loc="left")
    assert plain == "Speed over eager at 64 px, float32"


def test_the_ranks(tmp_path: Path) -> None:
    """By speed in each runtime, of those that all measured; coloured where an order changes."""
    figures, _ = drawn(tmp_path / "all")
    (axes,) = figures["runtime-ranks-64px"].axes
    assert ranked(axes) == {"msa": [1, 1, 2], "dat": [2, 3, 1], "sra": [3, 2, 3]}
    failed: Changes = {("sra", "openvino"): Failed("crashed", "signal 11")}
    figures, _ = drawn(tmp_path / "failed", failed)
    (axes,) = figures["runtime-ranks-64px"].axes
    assert ranked(axes) == {"msa": [1, 1, 2], "dat": [2, 2, 1]}
    assert "without sra, which some" in figures["runtime-ranks-64px"].get_supxlabel()


def test_a_runtime_that_measured_little_takes_no_ranks_away(tmp_path: Path) -> None:
    """It is left out, and said, where it measured half of them or fewer."""
    failed = Failed("error", "not exported")
    figures, _ = drawn(tmp_path, {("msa", "openvino"): failed, ("dat", "openvino"): failed})
    (axes,) = figures["runtime-ranks-64px"].axes
    assert ranked(axes) == {"msa": [1, 1], "dat": [2, 3], "sra": [3, 2]}
    assert "without openvino" in figures["runtime-ranks-64px"].get_supxlabel()


def test_the_findings(tmp_path: Path) -> None:
    """The fastest of each, the mean gain, and each pair whose order changes, both ways."""
    _, lines = drawn(tmp_path)
    assert lines[1:] == [
        "fastest in openvino: msa, dat, sra",
        "the fastest is 2.14 times as fast as eager: the geometric mean of 3",
        "msa is faster than dat in onnxruntime (2.75 times) and slower in openvino (0.90 times)",
        "dat is faster than sra in openvino (2.22 times) and slower in onnxruntime (0.91 times)",
    ]


def test_disturbed_times_are_marked_and_no_finding(tmp_path: Path) -> None:
    """The cell has the grade, the words say how many rows were left out."""
    disturbed = measured(*(0.022,) * 20, state=state(neighbour_cores=1.0))
    figures, lines = drawn(tmp_path, {("dat", "onnxruntime"): disturbed})
    found = cells(figures["runtimes-64px"])
    assert found["dat", "onnxruntime"][0] == "0.50 C"
    assert found["dat", "openvino"][0] == "2.44"
    assert "C, D: the trust" in figures["runtimes-64px"].get_supxlabel()
    assert not any("onnxruntime" in line for line in lines)
    assert lines[-1].startswith("1 of 9 rows are not of trust A and B")


@pytest.mark.parametrize("source", ["allocator", "resident"])
def test_a_resident_peak_is_said_beside_its_curve(tmp_path: Path, source: str) -> None:
    """It would seem to compare with the others."""
    outcomes = {
        case(runtime="openvino", image_height=side, image_width=side): [
            measured(facts=facts(memory_source=source))
        ]
        for side in (64, 128)
    }
    rows = frame.read(run_folder(tmp_path, outcomes))
    with style.styled():
        figures = dict(charts.of_resolutions(rows, "A CPU"))
    said = {
        name
        for name, figure in figures.items()
        if "openvino: with its own" in figure.get_supxlabel()
    }
    assert said == ({"overview", "peak-memory"} if source == "resident" else set())
