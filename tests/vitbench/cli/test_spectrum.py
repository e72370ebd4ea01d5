"""vitbench spectrum: files, the report's section, and mistakes in one sentence."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from tests.vitbench.examples import ROOT, vitbench
from vitbench.__main__ import run
from vitbench.render import report
from vitbench.results import spectra

_SMALL = ["--resolution", "64", "--stride", "8", "--dim", "32", "--heads", "4"]


def _images(folder: Path, count: int = 3) -> Path:
    """A folder of pictures of noise."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    draws = np.random.default_rng(0)
    for index in range(count):
        pixels = draws.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_a_layer(tmp_path: Path) -> None:
    """One row a ring for each output; groups of heads apart; random weights are called so."""
    _images(tmp_path / "images")
    done = vitbench(tmp_path, "spectrum", "hilo", *_SMALL, "--images", "images", "--out", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "random weights" in done.stdout
    (layer,) = spectra.read(tmp_path / "out")
    assert [(one.layer, one.group) for one in layer.spectra] == [
        ("input", ""),
        ("", ""),
        ("", "Hi-Fi"),
        ("", "Lo-Fi"),
    ]
    assert all(one.images == 3 for one in layer.spectra)
    with (tmp_path / "out" / "spectra.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shares = [float(row["energy_share"]) for row in rows]
    expected = [share.mean for one in layer.spectra for share in one.energy]
    assert shares == pytest.approx(expected)
    assert (tmp_path / "out" / "plots" / "spectrum-hilo.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_model_of_ours(tmp_path: Path) -> None:
    """Every layer of its attention, and the groups of heads of those that have several."""
    _images(tmp_path / "images")
    words = ["spectrum", "litv2_s", "--resolution", "96x128", "--images", "images", "--out", "out"]
    done = vitbench(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (model,) = spectra.read(tmp_path / "out")
    groups = [one.group for one in model.spectra]
    assert len({one.layer for one in model.spectra}) == 8, "6 of stage 3 and 2 of stage 4"
    assert (groups.count("Hi-Fi"), groups.count("Lo-Fi"), groups.count("")) == (6, 6, 8)
    assert {one.grid for one in model.spectra} == {(6, 8), (3, 4)}


@pytest.mark.slow
def test_models_of_others(tmp_path: Path) -> None:
    """Their maps at each stride; of a ViT, which has one stride, the layers that are named."""
    _images(tmp_path / "images")
    size = ["--resolution", "224", "--images", "images"]
    assert vitbench(tmp_path, "spectrum", "swin_tiny", *size, "--out", "a").returncode == 0
    (swin,) = spectra.read(tmp_path / "a")
    assert [one.grid[0] for one in swin.spectra] == [56, 28, 14, 7]
    words = ["spectrum", "vit_small", *size, "--out"]
    done = vitbench(tmp_path, *words, "b")
    assert done.returncode == 2
    assert "--layer" in done.stderr
    done = vitbench(tmp_path, *words, "c", "--layer", "blocks.*.attn")
    assert done.returncode == 0, done.stderr
    (vit,) = spectra.read(tmp_path / "c")
    assert [one.layer for one in vit.spectra] == [f"blocks.{i}.attn" for i in range(12)]
    assert {one.grid for one in vit.spectra} == {(14, 14)}


@pytest.mark.slow
def test_a_runs_report_shows_them(tmp_path: Path) -> None:
    """Where a run's folder has spectra, its page has their section, with figures and numbers."""
    folder = tmp_path / "run"
    shutil.copytree(ROOT / "reports" / "cpu-quick", folder, ignore=shutil.ignore_patterns("plots"))
    (page, _) = report.write([folder])
    assert 'id="spectra"' not in page.read_text(encoding="utf-8")
    _images(tmp_path / "images")
    words = ["spectrum", "window", *_SMALL, "--images", "images", "--out", "run"]
    done = vitbench(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert 'id="spectra"' in text
    assert "data:image/png;base64," in text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["hilow"], "nearest: hilo"),
        (["hilo", "--layer", "x"], "--layer names modules of backbones"),
        (["hilo", "--images", "missing"], "--images takes a folder of images"),
        (["hilo", "--resolution", "64,128"], "give one value of each"),
        (["hilo", "--weights", "missing.pt"], "missing.pt cannot be read"),
        (["hilo", "--out", "full"], "is not empty"),
        (["pooling", "--resolution", "16"], "constant"),
        (["litv2_s", "--layer", "nothing"], "matches no module"),
        (["hilo", "--param", "hilo.alpha=0.5,0.9"], "give one value of each"),
    ],
)
def test_mistakes(
    words: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2, one line, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/a").touch()
    before = sorted(tmp_path.rglob("*"))
    assert run(["spectrum", *words]) == 2
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
