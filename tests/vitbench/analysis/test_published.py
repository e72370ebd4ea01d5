"""Published figures: read whole, in one schema, and compared to the last printed digit."""

from __future__ import annotations

import csv
import subprocess
import sys
import zipfile
from decimal import Decimal
from pathlib import Path

import pytest

import attentions
from attentions import Grid
from tests.vitbench.examples import ROOT, case, facts, measured
from vitbench.__main__ import run
from vitbench.analysis import published
from vitbench.analysis.published import Figure
from vitbench.cases import suite
from vitbench.cases.case import Case
from vitbench.cases.row import row_of
from vitbench.errors import BadInput
from vitbench.results.record import Record, build_record

SINGLE = published.read("single_layer")


def figure(**changes: object) -> Figure:
    """A figure of HiLo."""
    base = {
        "name": "HiLo",
        "key": "hilo",
        "settings": "alpha=0.9",
        "quantity": "macs",
        "value": "298.30",
        "unit": "M",
        "device": "",
        "source": "https://arxiv.org/abs/2205.13213",
        "note": "",
    }
    return Figure.model_validate(base | changes)


@pytest.mark.parametrize("name", published.names())
def test_every_table_reads(name: str) -> None:
    """In the one schema; no figure stands twice."""
    figures = published.read(name)
    assert figures
    keys = [(f.name, f.settings, f.quantity, f.device) for f in figures]
    assert len(set(keys)) == len(keys)
    for one in figures:
        assert bool(one.device) == (one.quantity in published._DEPENDS_ON_DEVICE)


def test_the_tables_of_the_catalogue() -> None:
    """Each is there, with as many subjects as were published."""
    counts = {name: len({f.name for f in published.read(name)}) for name in published.names()}
    assert counts == {
        "alpha": 1,
        "backbones": 13,
        "detection": 6,
        "litv2": 3,
        "segmentation": 3,
        "single_layer": 14,
        "swapped_attention": 5,
        "top1": len({f.name for f in published.read("top1")}),
        "windows": 3,
    }


@pytest.mark.parametrize(
    ("value", "unit", "ours", "printed"),
    [
        ("298.30", "M", 298_296_320, "298.30"),
        ("2.20", "M", 2_198_528, "2.20"),
        ("27844000", "1", 27_844_000, "27844000"),
        ("3.734", "G", 3.7344e9, "3.734"),
        ("26", "M", 25.6e6, "26"),
    ],
)
def test_ours_in_their_digits(value: str, unit: str, ours: float, printed: str) -> None:
    """A figure is compared in the unit and to the digits in which it was printed."""
    assert figure(value=value, unit=unit).printed(ours) == printed


def test_a_figure_belongs_to_its_settings() -> None:
    """The mechanism, and every setting that the figure names, of the case among them."""
    hilo = case(attention="hilo", params=(("alpha", 0.9), ("window_size", 2)))
    (record,) = rows(hilo)
    assert figure().is_of(record)
    assert figure(settings="").is_of(record)
    here = "grid=4x4 image_size=64 dim=32 num_heads=2 batch_size=2 dtype=float32 window_size=2"
    assert figure(settings=here).is_of(record)
    for other in ("alpha=0.5", "grid=4x8", "image_size=64x128", "dim=3", "batch_size=64"):
        assert not figure(settings=f"{here} {other}").is_of(record)
    assert not figure(key="msa").is_of(record)
    assert not figure().is_of(record | {"mode": "forward_backward"})


def rows(*cases: Case) -> list[Record]:
    """Measured rows whose counts are the published ones."""
    return [build_record(one, [measured(facts=facts(macs=298_296_320))]) for one in cases]


def test_beside() -> None:
    """Counts are equal or not; a time never is, for it is another machine's; a failure is blank."""
    hilo = case(attention="hilo", params=(("alpha", 0.9),))
    figures = [figure(), figure(value="298.31"), figure(quantity="top1", unit="%", value="82")]
    figures.append(figure(quantity="throughput", unit="images/s", value="5104", device="a GPU"))
    found = published.comparisons(rows(hilo), figures)
    assert [(pair.ours, pair.equal) for pair in found] == [
        ("298.30", True),
        ("298.30", False),
        ("200", None),
    ]
    (blank,) = published.comparisons([build_record(hilo, [])], figures[:1])
    assert (blank.ours, blank.equal) == ("", None)


def test_ratios_to_a_reference() -> None:
    """Each device's times over the reference's on that device."""
    figures = [
        figure(key=key, name=key, quantity="throughput", unit="images/s", value=value, device=where)
        for key, value, where in (
            ("msa", "100", "a"),
            ("hilo", "250", "a"),
            ("msa", "10", "b"),
            ("hilo", "15", "b"),
            ("hilo", "15", "c"),
        )
    ]
    found = published.relative_published(figures, "msa")
    assert list(found.values()) == [1, 2.5, 1, 1.5]


def test_our_ratios_compare_like_with_like() -> None:
    """A case is divided by the reference's at the same size and batch, and impl if it has it."""
    hilo: dict[str, object] = {"attention": "hilo", "params": (("alpha", 0.9),)}
    large: dict[str, object] = {"image_height": 128, "grid_height": 8}
    times = {
        case(): 0.02,
        case(impl="eager"): 0.03,
        case(**large): 0.04,
        case(**hilo): 0.005,
        case(**hilo, impl="eager"): 0.005,
        case(**hilo, **large): 0.005,
        case(**hilo, batch_size=1): 0.005,
    }
    records = [build_record(one, [measured(seconds)]) for one, seconds in times.items()]
    found = published.relative_ours(records, "msa")
    assert [found.get(one.id) for one in times] == pytest.approx([1, 1, 1, 4, 6, 8, None])


def test_a_layer_of_a_large_map_is_reproduced() -> None:
    """MSA and HiLo at 50 x 80 tokens, window 2 and 4: published in windows.csv."""
    layers = [one for one in published.read("windows") if one.key != "litv2_s"]
    assert len(layers) == 3
    for one in layers:
        words = dict(word.split("=") for word in one.settings.split())
        assert words["grid"] == "50x80"
        params = {"window_size": int(words["window_size"])} if "window_size" in words else {}
        macs = attentions.load(one.key).macs
        assert macs is not None
        ours = macs(int(words["dim"]), int(words["num_heads"]), Grid(50, 80), **params)
        assert Decimal(one.printed(ours)) == one.value


def test_every_published_row_is_reproduced() -> None:
    """Parameters and MACs of the 14 rows, from the suite's own cases: equal to the last printed
    digit, or the figure carries a note that says why not."""
    chosen = suite.load("peer-table")
    from vitbench.engine.planning import make_sweep

    cases = make_sweep(chosen, "cpu", {}, {}, {}).expand()
    assert len(cases) == 14
    differing = []
    for one in cases:
        spec, params = attentions.load(one.attention), dict(one.params)
        module = spec.build(768, 12, Grid(14, 14), impl="eager", **params)
        assert spec.macs is not None
        counts = {
            "params": sum(p.numel() for p in module.parameters()),
            "macs": spec.macs(768, 12, Grid(14, 14), **params),
        }
        mine = [f for f in SINGLE if f.is_of(row_of(one))]
        quantities = ["macs", "params", "throughput", "throughput"]
        assert sorted(f.quantity for f in mine) == quantities, one.attention
        for f in (f for f in mine if f.quantity in counts):
            if Decimal(f.printed(counts[f.quantity])) != f.value:
                assert f.note, (f.name, f.printed(counts[f.quantity]))
                differing.append((f.key, f.quantity, f.printed(counts[f.quantity])))
    assert differing == [("performer", "macs", "617.16"), ("quadtree", "macs", "622.88")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("298.30", "much", "line 2, value"),
        ("298.30", "-1", "line 2, value"),
        (",M,", ",T,", "line 2, unit"),
        (",macs,", ",mac,", "line 2, quantity"),
        ("quantity", "quality", "the columns must be"),
        ("hilo,", "Hi Lo,", "line 2, key"),
        ("https://", "http//", "line 2, source"),
    ],
)
def test_a_broken_table(tmp_path: Path, old: str, new: str, message: str) -> None:
    """One sentence that names the file, the line and the column."""
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Figure.model_fields))
        writer.writeheader()
        writer.writerow(figure().model_dump())
    assert published.read(str(path)) == [figure()]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadInput, match=message):
        published.read(str(path))


def test_a_table_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, by path, and named by a suite of the user's."""
    with pytest.raises(BadInput, match="nearest: single_layer"):
        published.read("single_layers")
    with pytest.raises(BadInput, match="cannot be read"):
        published.read(str(tmp_path / "no.csv"))
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('title = "x"\npublished = "alhpa"\n[axes]\nattention = "msa"\n')
    assert run(["run", "mine.toml", "--device", "cpu"]) == 2
    assert "nearest: alpha" in capsys.readouterr().err


def test_a_run_stands_beside_the_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real run of three rows: counts equal, a note for what differs, and published.csv."""
    sweep = "--device cpu --attention msa,linformer,performer --batch-size 1"
    words = f"run peer-table {sweep} --threads 1 --untimed --quiet"
    out = tmp_path / "run"
    assert run([*words.split(), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "beside the published figures" in output
    assert "[1] Linformer: the table has k = 256" in output
    assert "[2] Performer: the published count holds half a MAC" in output
    with (out / "published.csv").open(newline="") as file:
        found = {(row["key"], row["quantity"]): row for row in csv.DictReader(file)}
    assert found["msa", "macs"]["ours"] == found["msa", "macs"]["published"] == "521.43"
    assert found["msa", "params"]["equal"] == "true"
    assert found["performer", "macs"]["equal"] == "false"
    assert ("msa", "throughput") not in found  # published at batch 64
    assert "RTX 3090" not in output


def test_the_wheel_holds_them(tmp_path: Path) -> None:
    """And the suites: what is installed works without this repository."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    for name in published.names():
        assert f"vitbench/figures/{name}.csv" in names
    for name in suite.names():
        assert f"vitbench/cases/suites/{name}.toml" in names
    assert "attentions/hilo.py" in names
