"""Views of runs: drawn where a run has what they need, complete, legible and apart."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import attentions
from tests import synthetic_records as synthetic
from tests.vitbench.render.test_placing import check_apart, texts_of
from vitbench.__main__ import run
from vitbench.cases.backbone_names import NAMES
from vitbench.render import charts, style
from vitbench.render.views import _settings
from vitbench.results import frame
from vitbench.results.folder import read_environment_file
from vitbench.results.record import Record

MECHANISMS = ("msa", "hilo", "window", "sra", "xca", "performer", "focal", "dat")
MODELS = ("resnet50", "litv2_s", "swin_tiny", "convnext_tiny", "cait_xs24")


def records(rng: np.random.Generator, device: str = "cpu", **axes: Any) -> list[Record]:
    """Rows whose latency, MACs and peak differ from subject to subject."""
    rows = []
    for planned in synthetic.cases(**axes):
        case = dataclasses.replace(planned, device=device)
        spread = np.exp(rng.normal(0, 0.6, 3))
        tokens = max(1, case.grid_height * case.grid_width)
        rows.append(
            synthetic.record(
                case,
                synthetic.rounds(rng, 1e-4 * tokens * float(spread[0]), odd=0.0),
                macs=int(1e9 * spread[1]),
                peak_memory_bytes=int(1e8 * spread[2]),
                compulsory_bytes=int(1e7 * spread[0]),
                phases="projections:0.600 kernel:0.150 elementwise:0.250" if case.attention else "",
            )
        )
    return rows


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight mechanisms at two sizes and two batches."""
    rows = records(
        np.random.default_rng(0),
        attention=MECHANISMS,
        resolution=(224, 384),
        batch_size=(1, 8),
        dim=384,
        num_heads=12,
    )
    rows.append(synthetic.failed(synthetic.cases(attention="quadtree", resolution=(224,))[0]))
    return synthetic.folder(tmp_path_factory.mktemp("layers"), rows)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five models, one of them at a size other than the published one."""
    rows = records(np.random.default_rng(1), backbone=MODELS, resolution=(224,), batch_size=(64,))
    folder = synthetic.folder(tmp_path_factory.mktemp("models"), rows)
    content = read_environment_file(folder)
    content["plan"] = {"published": "backbones", "reference": "resnet50"}
    (folder / "environment.json").write_text(json.dumps(content))
    return folder


def drawn(folder: Path) -> dict[str, Figure]:
    """The views of a run."""
    rows = frame.read(folder)
    with style.styled():
        return dict(charts.views_of(rows, "unknown", read_environment_file(folder)))


@pytest.fixture(scope="module")
def of_layers(layers: Path) -> Mapping[str, Figure]:
    """The views of the layers."""
    return drawn(layers)


@pytest.fixture(scope="module")
def of_models(models: Path) -> Mapping[str, Figure]:
    """The views of the models."""
    return drawn(models)


def points(figure: Figure) -> list[tuple[float, float]]:
    """Those of a scatter chart."""
    (axes,) = figure.axes
    found = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    return [(float(p[0].get_xdata()[0]), float(p[0].get_ydata()[0])) for p in found]


def names(figure: Figure) -> list[str]:
    """Those beside the points and in the legend, without marks."""
    texts = [text.get_text() for text in texts_of(figure)]
    texts += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return sorted(text.split()[0] for text in texts if text)


def test_what_is_drawn(of_layers: Mapping[str, Figure], of_models: Mapping[str, Figure]) -> None:
    """One of each for every batch size; of models accuracy and the published speeds, and no heat
    map of a single size."""
    batches = ("batch-size-1", "batch-size-8")
    kinds = ("heat-map", "macs-latency", "memory-frontier", "phases", "roofline")
    expected = {f"{kind}-{batch}" for kind in kinds for batch in batches}
    assert {*of_layers} == expected | {"fastest-resolution-batch-size"}
    devices = ("a100", "v100", "rtx-6000", "rtx-3090")
    assert {*of_models} == {"accuracy", "macs-latency", "memory-frontier", "roofline"} | {
        f"published-nvidia-{device}" for device in devices
    }


def test_every_subject_is_drawn_and_named(
    of_layers: Mapping[str, Figure], of_models: Mapping[str, Figure]
) -> None:
    """Once, beside its point or in the legend; what was not measured has no point."""
    for kind in ("macs-latency", "memory-frontier", "roofline"):
        for batch in (1, 8):
            figure = of_layers[f"{kind}-batch-size-{batch}"]
            assert len(points(figure)) == len(MECHANISMS)
            assert names(figure) == sorted(MECHANISMS)
    for kind in ("accuracy", "macs-latency", "published-nvidia-a100"):
        assert names(of_models[kind]) == sorted(MODELS)


def test_names_lie_apart(of_layers: Mapping[str, Figure], of_models: Mapping[str, Figure]) -> None:
    """In every chart with points, at a screen's resolution and at a printer's."""
    for figure in (*of_layers.values(), *of_models.values()):
        if any(isinstance(one, ErrorbarContainer) for one in figure.axes[0].containers):
            check_apart(figure, points(figure))


def test_charts_fit_a_column(
    of_layers: Mapping[str, Figure], of_models: Mapping[str, Figure]
) -> None:
    """As wide as one, and no letter is smaller than 5.5 points, a caption's included."""
    for figure in (*of_layers.values(), *of_models.values()):
        assert figure.get_figwidth() <= style.COLUMN_WIDTH
        texts = [*figure.texts, *figure.axes[0].get_xticklabels(), *figure.axes[0].texts]
        assert min(float(text.get_fontsize()) for text in texts) >= 5.5


def test_the_front_is_not_beaten(of_layers: Mapping[str, Figure]) -> None:
    """A point that none beats has a bold name; one that another beats by far has none."""
    figure = of_layers["macs-latency-batch-size-1"]
    bold = {
        text.get_text().split()[0] for text in texts_of(figure) if text.get_fontweight() == "bold"
    }
    found = dict(zip(MECHANISMS, points(figure), strict=True))
    assert bold
    for name, (macs, latency) in found.items():
        rivals = [t for other, (m, t) in found.items() if other != name and m <= macs]
        assert (name in bold) or min(rivals) < latency
        assert (name not in bold) or min(rivals, default=latency) > 0.7 * latency


def test_the_heat_map_is_the_rows(layers: Path, of_layers: Mapping[str, Figure]) -> None:
    """Shares of the fastest of a size; that is bold, and the rows are in order of speed."""
    (axes,) = of_layers["heat-map-batch-size-8"].axes
    rows = frame.measured(frame.read(layers))
    rows = rows[rows["batch_size"] == 8]
    shown = {text.get_position(): text for text in axes.texts}
    subjects = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(subjects) == sorted(MECHANISMS)
    for x, size in enumerate((224, 384)):
        own = rows[rows["image_height"] == size].set_index("subject")["throughput_img_s"]
        for y, subject in enumerate(subjects):
            text, share = shown[x, y], own[subject] / own.max()
            assert text.get_text() == (f"{share:.2f}" if share >= 0.1 else f"{share:.2g}")
            assert (text.get_fontweight() == "bold") == (share == 1)


def test_the_fastest_at_each_pair(layers: Path, of_layers: Mapping[str, Figure]) -> None:
    """The name in the cell is that of the highest throughput there."""
    (axes,) = of_layers["fastest-resolution-batch-size"].axes
    rows = frame.measured(frame.read(layers))
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    for (x, size), (y, batch) in itertools.product(enumerate((224, 384)), enumerate((1, 8))):
        own = rows[(rows["image_height"] == size) & (rows["batch_size"] == batch)]
        best = own.sort_values("throughput_img_s")["subject"].iloc[-1]
        assert best in shown[x, y].split("\n")[0]


def test_phases_fill_their_bars(of_layers: Mapping[str, Figure]) -> None:
    """One bar a mechanism, of all its phases; those in the legend are those in the bars."""
    figure = of_layers["phases-batch-size-8"]
    (axes,) = figure.axes
    ends: dict[float, float] = {}
    for bar in axes.patches:
        assert isinstance(bar, Rectangle)
        ends[bar.get_y()] = max(ends.get(bar.get_y(), 0.0), bar.get_x() + bar.get_width())
    assert list(ends.values()) == pytest.approx([1.0] * len(MECHANISMS))
    assert sorted(label.get_text() for label in axes.get_yticklabels()) == sorted(MECHANISMS)
    (legend,) = figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told == ["projections", "kernel", "elementwise"]


def test_accuracy_is_called_published(of_models: Mapping[str, Figure]) -> None:
    """On the axis, and a figure that does not quite fit is marked and explained."""
    figure = of_models["accuracy"]
    assert "published" in figure.axes[0].get_ylabel()
    tops = sorted(y for _, y in points(figure))
    assert tops == [80.382, 81.388, 81.8, 82.0, 82.066]
    caption = " ".join(figure.get_supxlabel().split())
    assert "what others published for their weights" in caption


@pytest.fixture
def devices(tmp_path: Path) -> list[Path]:
    """Two runs on two devices; one case is of the first alone."""
    runs = []
    for device, count in (("cpu", 4), ("cuda", 3)):
        rng = np.random.default_rng(count)
        rows = records(rng, device, attention=MECHANISMS[:count], resolution=(224,))
        rows = [row | {"device_name": f"{device} name"} for row in rows]
        runs.append(synthetic.folder(tmp_path / device, rows))
    return runs


def test_devices_against_each_other(devices: list[Path]) -> None:
    """A point for each case that both have."""
    both = pd.concat([frame.read(path) for path in devices], ignore_index=True)
    with style.styled():
        figures = dict(charts.views_of(both, "", {}))
    assert "macs-latency-device-cuda" in figures
    assert names(figures["devices-cpu-cuda"]) == sorted(MECHANISMS[:3])
    (axes,) = figures["devices-cpu-cuda"].axes
    assert axes.get_xlabel() == "cpu name: ms a call"
    assert axes.get_ylabel() == "cuda name: ms a call"


@pytest.mark.slow
def test_several_runs_in_one_set_of_charts(
    devices: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command takes them with --out; without it each run has its own charts."""
    out = tmp_path / "both"
    assert run(["plot", *map(str, devices), "--out", str(out)]) == 0
    assert out / "devices-cpu-cuda.png" in map(Path, capsys.readouterr().out.splitlines())
    assert run(["plot", *map(str, devices)]) == 0
    written = [Path(line).parent for line in capsys.readouterr().out.splitlines()]
    assert {*written} == {path / "plots" for path in devices}


def test_what_is_not_known_is_not_drawn(layers: Path, models: Path) -> None:
    """One subject has no rivals, a run without ceilings no roofline, one without a published table
    no published speeds; MACs and peaks that were not read are no points."""
    rows = frame.read(models)
    with style.styled():
        assert {*dict(charts.views_of(rows, "", {}))} == {
            *("accuracy", "macs-latency", "memory-frontier")
        }
        unread = rows.copy()
        unread[["macs", "peak_memory_bytes"]] = pd.NA
        assert {*dict(charts.views_of(unread, "", {}))} == {"accuracy"}
        rows = frame.read(layers)
        alone = rows[(rows["subject"] == "msa") & (rows["batch_size"] == 1)]
        assert {*dict(charts.views_of(alone, "", read_environment_file(layers)))} == {"phases"}


def test_names_are_text(tmp_path: Path) -> None:
    """Dollars, braces and backslashes are no formula, in names, captions and file names."""
    rows = frame.read(synthetic.folder(tmp_path, records(np.random.default_rng(2), **SMALL)))
    hostile = ["$x^2$", "\\frac{1}{0}", "a_{", "=cmd()"]
    rows = rows.assign(subject=hostile, attention=hostile, device_name="$\\alpha")
    with style.styled():
        for name, figure in charts.views_of(rows, "", {}):
            style.save(figure, tmp_path, name)
            if name == "macs-latency":
                assert names(figure) == sorted(hostile)
    assert (tmp_path / "memory-frontier.png").exists()


SMALL: Mapping[str, Any] = {"attention": MECHANISMS[:4], "resolution": (224,)}


def test_one_chart_in_three_formats(tmp_path: Path) -> None:
    """The SVG is dark on a dark page, and the same each time; the PNG is white behind the letters,
    and fine enough for print."""
    rows = frame.read(synthetic.folder(tmp_path, records(np.random.default_rng(2), **SMALL)))
    contents = []
    for _ in range(2):
        with style.styled():
            figure = dict(charts.views_of(rows, "", {}))["macs-latency"]
            png = style.save(figure, tmp_path, "chart")
        contents.append(png.with_suffix(".svg").read_bytes())
    assert contents[0] == contents[1]
    assert b"prefers-color-scheme: dark" in contents[0]
    pixels = image.imread(png)
    assert pixels.shape[1] == pytest.approx(300 * style.COLUMN_WIDTH, abs=1)
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]


def test_settings_have_names_of_files() -> None:
    """Whatever a device is called: letters, digits, hyphens."""
    table = pd.DataFrame(
        [
            {**synthetic.record(case, [0.1]), "device_name": name}
            for name in ("A/B: c", "d")
            for case in synthetic.cases(**SMALL)
        ]
    )
    table = table.assign(subject=table["attention"], settings=table["settings"].astype("string"))
    suffixes = [suffix for suffix, _ in _settings.settings(table)]
    assert suffixes == ["-device-name-A-B-c", "-device-name-d"]


# What people with the two commonest forms of colour blindness see of red, green and blue (Machado,
# Oliveira and Fernandes 2009, severity 1).
BLIND = {
    "protan": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deutan": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
}


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("subjects", [tuple(attentions.names()), NAMES])
def test_subjects_are_told_apart(kind: str, subjects: tuple[str, ...]) -> None:
    """Two of them differ in marker, or in what is left of their colours."""
    matrix = np.array(BLIND[kind])
    looks = [style.style_of(subject) for subject in subjects if subject in style.KNOWN]
    seen = [matrix @ np.array(to_rgb(look.colour)) ** 2.2 for look in looks]
    for i, j in itertools.combinations(range(len(looks)), 2):
        if looks[i].marker == looks[j].marker:
            assert np.abs(seen[i] - seen[j]).max() > 0.05, (subjects[i], subjects[j])
