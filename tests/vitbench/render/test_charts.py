"""Charts: bars from zero, intervals, logarithmic axes, one colour a mechanism, honest captions."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

import attentions
from tests.vitbench.examples import backbone_case, case, facts, measured, run_folder
from vitbench.cases.case import Case
from vitbench.render import charts as plots
from vitbench.render import style
from vitbench.results import frame
from vitbench.results.outcome import Failed, Outcome

DEVICE = "A CPU, 2 threads"


def layer(name: str, side: int, **changes: Any) -> Case:
    """A case of a mechanism at a resolution."""
    grid = side // 16
    sizes = {"image_height": side, "image_width": side, "grid_height": grid, "grid_width": grid}
    return case(attention=name, params=(), **(sizes | changes))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Three mechanisms at three resolutions; sra failed at the largest."""
    outcomes: dict[Case, list[Outcome]] = {}
    for index, name in enumerate(("msa", "hilo", "sra"), start=1):
        for side in (64, 96, 128):
            samples = (0.001 * index * side / 64 * (1 + 0.01 * i) for i in range(12))
            outcomes[layer(name, side)] = [measured(*samples)]
    outcomes[layer("sra", 128)] = [Failed("out_of_memory", "no room")]
    return frame.read(run_folder(tmp_path_factory.mktemp("run"), outcomes))


def drawn(rows: pd.DataFrame) -> dict[str, Figure]:
    """Every chart by name."""
    with style.styled():
        return dict(plots.of_resolutions(rows, DEVICE))


@pytest.fixture(scope="module")
def charts(rows: pd.DataFrame) -> dict[str, Figure]:
    """The charts of that run."""
    return drawn(rows)


def bars_of(charts: dict[str, Figure]) -> tuple[Axes, BarContainer]:
    """The bars of the chart at one resolution, and their axes."""
    (axes,) = charts["throughput-bars"].axes
    (bars,) = [one for one in axes.containers if isinstance(one, BarContainer)]
    return axes, bars


def lines(axes: Axes) -> dict[str, ErrorbarContainer]:
    """Curves by label."""
    found = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    return {str(one.get_label()): one for one in found}


def test_the_charts_of_a_run(charts: dict[str, Figure]) -> None:
    """Bars at one resolution, and throughput, MACs and memory against resolution."""
    assert set(charts) == {"throughput-bars", "overview", "throughput", "macs", "peak-memory"}


def test_bars_start_at_zero(charts: dict[str, Figure]) -> None:
    """The axis too: a truncated bar lies about ratios."""
    axes, bars = bars_of(charts)
    assert len(bars.patches) == 3
    assert {bar.get_x() for bar in bars.patches} == {0.0}
    assert axes.get_xlim()[0] == 0
    assert axes.get_xscale() == "linear"


def test_bars_are_throughput_with_its_interval(
    charts: dict[str, Figure], rows: pd.DataFrame
) -> None:
    """Length is the median, whiskers the 95% interval; the smallest resolution, fastest on top."""
    axes, bars = bars_of(charts)
    small = rows[rows["image_height"] == 64].sort_values("throughput_img_s")
    assert [bar.get_width() for bar in bars.patches] == small["throughput_img_s"].tolist()
    assert [label.get_text() for label in axes.get_yticklabels()] == small["subject"].tolist()
    assert bars.errorbar is not None
    (whiskers,) = bars.errorbar[2]
    ends = [segment[:, 0].tolist() for segment in whiskers.get_segments()]
    low, high = small["throughput_low_img_s"], small["throughput_high_img_s"]
    for found, expected in zip(ends, zip(low, high, strict=True), strict=True):
        assert found == pytest.approx(expected)
    assert max(high) <= axes.get_xlim()[1]
    assert "64 px" in axes.get_title(loc="left")


@pytest.mark.parametrize("name", ["throughput", "macs", "peak-memory"])
def test_curves_are_logarithmic(charts: dict[str, Figure], name: str) -> None:
    """Both axes; one line a mechanism; ticks at the resolutions measured."""
    (axes,) = charts[name].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert set(lines(axes)) == {"msa", "hilo", "sra"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "96", "128"]
    assert axes.get_ylabel()
    assert "pixels" in axes.get_xlabel()


def test_curves_are_the_rows(charts: dict[str, Figure], rows: pd.DataFrame) -> None:
    """Points are the measured medians, whiskers their intervals; a failure has no point."""
    (axes,) = charts["throughput"].axes
    for name, line in lines(axes).items():
        mine = frame.measured(rows)[lambda table, name=name: table["subject"] == name]
        data = line[0]
        assert list(data.get_xdata()) == pytest.approx(mine["image_height"].tolist())
        assert list(data.get_ydata()) == pytest.approx(mine["throughput_img_s"].tolist())
        assert line.has_yerr
        (whiskers,) = line[2]
        for segment, (_, row) in zip(whiskers.get_segments(), mine.iterrows(), strict=True):
            expected = (row["throughput_low_img_s"], row["throughput_high_img_s"])
            assert segment[:, 1] == pytest.approx(expected)
    assert len(lines(axes)["sra"][0].get_xdata()) == 2


def test_memory_is_in_mebibytes(charts: dict[str, Figure], rows: pd.DataFrame) -> None:
    """As its axis says."""
    (axes,) = charts["peak-memory"].axes
    assert "MiB" in axes.get_ylabel()
    values = lines(axes)["msa"][0].get_ydata()
    expected = rows[rows["subject"] == "msa"]["peak_memory_bytes"] / 2**20
    assert list(values) == pytest.approx(expected.tolist())


def test_a_mechanism_has_one_colour(charts: dict[str, Figure]) -> None:
    """In every chart the same, and another than its neighbours'."""
    colours: dict[str, set[str]] = {}
    for figure in charts.values():
        for axes in figure.axes:
            for name, line in lines(axes).items():
                if name in ("msa", "hilo", "sra"):
                    colours.setdefault(name, set()).add(to_hex(line[0].get_color()))
    axes, bars = bars_of(charts)
    for bar, label in zip(bars.patches, axes.get_yticklabels(), strict=True):
        colours[label.get_text()].add(to_hex(bar.get_facecolor()))
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == 3


def test_every_mechanism_of_ours_has_a_style_of_its_own() -> None:
    """No two share colour, marker and line; a user's own keeps its style from run to run."""
    styles = [style.style_of(name) for name in attentions.names()]
    assert len(set(styles)) == len(styles)
    assert style.style_of("my_attention") == style.style_of("my_attention")


def test_captions_name_device_and_setting(charts: dict[str, Figure]) -> None:
    """Below every chart: what it was measured on, dtype, batch and size of the layer."""
    for figure in charts.values():
        caption = figure.get_supxlabel()
        assert caption == f"{DEVICE}, float32, batch 2, dim 32, 2 heads, stride 16"


def test_the_legend_follows_the_curves(charts: dict[str, Figure]) -> None:
    """Top entry, top curve at the right end."""
    (legend,) = charts["throughput"].legends
    (axes,) = charts["throughput"].axes
    ends = {name: float(line[0].get_ydata()[-1]) for name, line in lines(axes).items()}
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == sorted(ends, key=lambda name: -ends[name])


def test_files(rows: pd.DataFrame, tmp_path: Path) -> None:
    """PNG, PDF and SVG of each chart; the folder is made; drawing again replaces them."""
    folder = tmp_path / "new" / "plots"
    one = rows[rows["image_height"] == 64]
    paths = plots.save_all(plots.of_resolutions(one, DEVICE), folder)
    assert paths == [folder / "throughput-bars.png"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert (folder / "throughput-bars.pdf").read_bytes().startswith(b"%PDF")
    assert plots.save_all(plots.of_resolutions(one, DEVICE), folder) == paths
    assert len(list(folder.iterdir())) == 3


def test_nothing_measured_is_no_chart(rows: pd.DataFrame, tmp_path: Path) -> None:
    """And no fault."""
    assert plots.save_all(plots.figures(rows[rows["status"] != "measured"], DEVICE), tmp_path) == []


def from_cases(folder: Path, *cases: Case) -> dict[str, Figure]:
    """The charts of these cases, each measured alike."""
    return drawn(frame.read(run_folder(folder, {one: [measured()] for one in cases})))


def test_settings_are_not_mixed(tmp_path: Path) -> None:
    """float32 and bfloat16 are charts of their own, named and captioned so."""
    charts = from_cases(
        tmp_path, *(layer("msa", 64, dtype=dtype) for dtype in ("float32", "bfloat16"))
    )
    assert set(charts) == {"throughput-bars-dtype-float32", "throughput-bars-dtype-bfloat16"}
    assert "bfloat16" in charts["throughput-bars-dtype-bfloat16"].get_supxlabel()


def test_variants_are_lines_of_one_colour(tmp_path: Path) -> None:
    """eager and fused of one mechanism: two labels, one colour, different lines."""
    cases = [layer("msa", side, impl=impl) for side in (64, 96) for impl in ("eager", "fused")]
    (axes,) = from_cases(tmp_path, *cases)["throughput"].axes
    found = lines(axes)
    assert set(found) == {"msa eager", "msa fused"}
    assert len({line[0].get_color() for line in found.values()}) == 1
    assert len({line[0].get_linestyle() for line in found.values()}) == 2


def test_many_mechanisms_in_many_runtimes_are_charts_apart(tmp_path: Path) -> None:
    """One for each runtime, named and captioned so, once a legend could not hold all lines."""
    names = attentions.names()[:13]
    cases = [layer(name, 64, runtime=used) for name in names for used in ("eager", "openvino")]
    few = from_cases(tmp_path / "few", *cases[:24])
    assert "throughput-bars" in few
    many = from_cases(tmp_path / "many", *cases)
    bars = {name for name in many if name.startswith("throughput-bars")}
    assert bars == {"throughput-bars-eager", "throughput-bars-openvino"}
    figure = many["throughput-bars-openvino"]
    assert {label.get_text() for label in figure.axes[0].get_yticklabels()} == set(names)
    assert figure.get_supxlabel().startswith(f"{DEVICE}, openvino, float32")


def test_launch_bound_bars_are_hatched(tmp_path: Path) -> None:
    """And the caption says what that means."""
    bound = measured(device_samples_s=(0.004,) * 20)
    outcomes = {layer(name, 64): [found] for name, found in (("msa", measured()), ("sra", bound))}
    charts = drawn(frame.read(run_folder(tmp_path, outcomes)))
    axes, bars = bars_of(charts)
    names = [label.get_text() for label in axes.get_yticklabels()]
    hatches = dict(zip(names, (bar.get_hatch() for bar in bars), strict=True))
    assert hatches == {"msa": None, "sra": "///"}
    assert "launch-bound" in charts["throughput-bars"].get_supxlabel()


def test_a_lower_bound_of_macs_is_named(tmp_path: Path) -> None:
    """In the label of its line."""
    least = measured(facts=facts(macs_is_lower_bound=True))
    outcomes = {layer(name, 64): [found] for name, found in (("msa", measured()), ("sra", least))}
    axes, _ = bars_of(drawn(frame.read(run_folder(tmp_path, outcomes))))
    names = {label.get_text() for label in axes.get_yticklabels()}
    assert names == {"msa", "sra (MACs ≥)"}


def test_a_variant_is_named_though_the_others_failed(tmp_path: Path) -> None:
    """Else a bar would seem to be the mechanism as it comes."""
    outcomes: dict[float, Outcome] = {0.5: measured(), 1.0: Failed("out_of_memory", "no room")}
    folder = run_folder(
        tmp_path,
        {
            dataclasses.replace(layer("hilo", 64), params=(("alpha", alpha),)): [outcome]
            for alpha, outcome in outcomes.items()
        },
    )
    axes, _ = bars_of(drawn(frame.read(folder)))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hilo alpha=0.5"]


def test_oblong_images_are_named(tmp_path: Path) -> None:
    """At the geometric mean of their sides."""
    oblong = layer("msa", 64, image_width=256, grid_width=16)
    (axes,) = from_cases(tmp_path, layer("msa", 64), oblong)["throughput"].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "64x256"]
    assert list(axes.get_xticks()) == pytest.approx([64, 128])


def test_a_backbone_has_a_caption_without_a_layer(tmp_path: Path) -> None:
    """dim, heads and stride are not its own."""
    charts = from_cases(tmp_path, backbone_case())
    assert charts["throughput-bars"].get_supxlabel() == f"{DEVICE}, float32, batch 2"


def test_layers_and_backbones_are_not_mixed(tmp_path: Path) -> None:
    """A run of both has charts of both, under names that any file system takes."""
    charts = from_cases(tmp_path, layer("msa", 64), backbone_case())
    assert len(charts) == 2
    for name in charts:
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert "nan" not in name


def test_a_legend_of_many_is_whole(rows: pd.DataFrame) -> None:
    """The names of all mechanisms of the catalogue stand inside the figure, in columns."""
    names = attentions.names()
    many = pd.concat([rows.assign(subject=name, attention=name) for name in names])
    figure = drawn(many)["overview"]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {*names}
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 <= box.x1 <= whole.x1
    assert whole.y0 <= box.y0 <= box.y1 <= whole.y1
