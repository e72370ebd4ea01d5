"""int8: what is quantized is read back, checked, and taken from inputs that one can name."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import attentions
from tests.vitbench.examples import case
from tests.vitbench.runtimes.test_converting import AXES, columns_of, converted, run
from vitbench import runtimes
from vitbench.cases import calibration as images
from vitbench.cases.calibration import MOST_IMAGES, Calibration
from vitbench.cases.case import Case
from vitbench.cases.sweep import Sweep
from vitbench.engine import passes, planning, runner
from vitbench.errors import BadInput
from vitbench.instruments import correctness
from vitbench.instruments.correctness import WrongOutput
from vitbench.results import journal
from vitbench.results.outcome import Counted, Failed
from vitbench.subjects import build, check

QUANTIZING = [
    name for name in runtimes.names() if runtimes.load(name).RULES.int8_packages is not None
]
SMALL: Mapping[str, Any] = {"dtype": runtimes.INT8, "grid_height": 5, "grid_width": 7}


def picture(path: Path, value: int = 0, size: tuple[int, int] = (40, 30)) -> None:
    """A file with a picture of one grey, but for one bright pixel at the upper left."""
    pixels = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    pixels[0, 0] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def backbone(**axes: Any) -> Case:
    """A whole model in int8."""
    sweep = Sweep(
        **{
            "backbone": ("resnet50",),
            "dtype": (runtimes.INT8,),
            "runtime": ("openvino",),
            "resolution": ("64x32",),
            "batch_size": (2,),
        }
        | axes
    )
    (one,) = sweep.expand()
    return one


@pytest.mark.parametrize("runtime", QUANTIZING)
def test_what_is_quantized_is_read_back(tmp_path: Path, runtime: str) -> None:
    """The share of the products that are computed in int8 is that of the projections; the output is
    near the eager module's in float64 and not equal."""
    one = case(runtime=runtime, **SMALL)
    found = columns_of(one, tmp_path)
    assert found["int8_share"] >= 2 / 4  # of queries and keys too where a kernel is there for it
    assert found["int8_share"] < 1
    assert found["computed_dtype"] == "int8, float32"
    assert found["calibration"] == "normal inputs"
    assert found["checked_against"] == "eager float64"
    assert 1e-4 < found["error_rms"] < correctness.int8_budget().rms
    assert not found["notes"]


def test_what_multiplies_nothing_is_unsupported(tmp_path: Path) -> None:
    """It is no row in int8 that would be one in float32."""
    one = case(attention="pooling", params=(("pool_size", 3),), runtime="onnxruntime", **SMALL)
    outcome = run(one, tmp_path)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "unsupported"
    assert outcome.message == "nothing of it is computed in int8: it multiplies nothing"


# It multiplies in one depthwise convolution, which OpenVINO computes in float32.
IN_FLOAT32 = {("repmixer", "openvino")}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", QUANTIZING)
@pytest.mark.parametrize("name", sorted({*attentions.names()} - {"pooling"}))
def test_every_mechanism(tmp_path: Path, name: str, runtime: str) -> None:
    """Is quantized in part at least, and computes the same function."""
    how: Mapping[str, Any] = {"dtype": (runtimes.INT8,), "runtime": (runtime,)}
    (one,) = Sweep(attention=(name,), batch_size=(2,), **AXES, **how).expand()
    if (name, runtime) in IN_FLOAT32:
        outcome = run(one, tmp_path)
        assert isinstance(outcome, Failed), outcome
        assert (
            outcome.message == "nothing of it is computed in int8: all its products are in float32"
        )
        return
    found = columns_of(one, tmp_path)
    assert 0 < found["int8_share"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("runtime", QUANTIZING)
@pytest.mark.parametrize("name", ["litv2_s", "timm:resnet18"])
def test_a_whole_backbone(tmp_path: Path, name: str, runtime: str) -> None:
    """Is calibrated on scikit-image's photographs, and the row says so."""
    one = backbone(backbone=(name,), runtime=(runtime,), batch_size=(1,))
    source = images.read(None)
    assert passes.convert(one, {}, tmp_path, calibration=source) is None
    outcome = passes.measure(one, None, {}, with_facts=True, calibration=source, artifacts=tmp_path)
    assert isinstance(outcome, Counted), outcome
    found = outcome.facts.columns
    assert found["calibration"] == "scikit-image's 12 images"
    assert 0 < found["int8_share"] <= 1


class Heads(nn.Module):
    """A linear layer, and a matrix for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.matrices = nn.Parameter(torch.randn(2, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.linear(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return heads @ self.matrices


# The export takes seconds.
@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "onnxruntime")) for name in QUANTIZING],
)
def test_a_matrix_for_each_head(tmp_path: Path, runtime: str) -> None:
    """ONNX Runtime has no kernel by channel for several: they stay in float32."""
    module, x = Heads().eval(), torch.randn(2, 5, 8)
    output = converted(module, x, runtime, tmp_path / "artifact", runtimes.INT8)
    with torch.no_grad():
        assert torch.allclose(output, module(x), atol=0.15)


class Padded(nn.Module):
    """A linear layer, and zeros beside what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.linear(x), (0, 0, 0, 1)).sigmoid()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", QUANTIZING)
def test_what_is_padded_after_it_was_quantized(tmp_path: Path, runtime: str) -> None:
    """XNNPACK does not load a pad of zeros there: it gets what is as good as zeros."""
    module, x = Padded().eval(), torch.randn(2, 5, 8)
    output = converted(module, x, runtime, tmp_path / "artifact", runtimes.INT8)
    with torch.no_grad():
        assert torch.allclose(output, module(x), atol=0.02)


@pytest.mark.parametrize("output", ["another input's", "zero", "noise"])
def test_a_wrong_output_does_not_pass(output: str) -> None:
    """int8 allows more than float32 does, but neither a constant nor garbage."""
    one = case(runtime="openvino", **SMALL)
    subject = build.build(one, {})
    with torch.inference_mode():
        right = subject.call()
        wrong = {
            "another input's": right,
            "zero": torch.zeros_like(right),
            "noise": torch.randn_like(right) * right.std(),
        }[output]
        with pytest.raises(WrongOutput, match="called on another input"):
            check.check_follows_input(one, subject, lambda: wrong)
        if output != "another input's":
            with pytest.raises(WrongOutput, match="the dtype allows"):
                check.check_values(one, subject, wrong, {})
        check.check_follows_input(one, subject, subject.call)


def test_a_large_map_is_checked_as_it_is() -> None:
    """A smaller one would be another module's: that of the runtime is there for its own map."""
    one = case(runtime="openvino", dtype=runtimes.INT8, grid_height=41, grid_width=41, batch_size=1)
    subject = build.build(one, {})
    with torch.inference_mode():
        output = subject.call()
        found = check.check_values(one, subject, output * 1.01, {})
    assert found["checked_against"] == "eager float32"
    assert found["error_rms"] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("runtime", sorted({*runtimes.names()} - {*QUANTIZING}))
def test_runtimes_that_do_not_quantize(runtime: str) -> None:
    """They say so, and which do."""
    reason = f"{runtime} does not quantize: int8 is for executorch, onnxruntime, openvino"
    assert runtimes.refusal(runtime, "cuda", runtimes.INT8, "forward") == reason
    with pytest.raises(BadInput, match=reason):
        Sweep(attention=("msa",), runtime=(runtime,), dtype=(runtimes.INT8,)).expand()


def test_all_runtimes_in_two_dtypes() -> None:
    """`all` makes no case that could never run; a runtime that is named stays, to be a row."""
    dtypes = ("float32", runtimes.INT8)
    sweep = Sweep(attention=("msa",), runtime=("all",), dtype=dtypes)
    cases = sweep.expand()
    for one in cases:
        assert runtimes.refusal(one.runtime, one.device, one.dtype, one.mode) is None
    assert [one.runtime for one in cases if one.dtype == runtimes.INT8] == QUANTIZING
    said = sweep.left_out()
    assert [text for text in said if text.startswith("eager is left out in int8: ")]
    assert not [text for text in said if text.startswith("openvino ")]
    named = Sweep(attention=("msa",), runtime=("eager", "openvino"), dtype=dtypes).expand()
    assert len(named) == 4


def test_a_package_that_quantizes_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the command, before anything is measured; float32 needs it not."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nncf" else find_spec(name)
    )
    axes: Any = {"attention": ("msa",), "dtype": ("float32", runtimes.INT8)}
    message = r"--runtime openvino in int8 needs nncf: pip install 'vitbench\[int8\]'"
    with pytest.raises(BadInput, match=message):
        Sweep(runtime=("openvino",), **axes).expand()
    sweep = Sweep(runtime=("all",), **axes)
    assert ("openvino", "float32") in {(one.runtime, one.dtype) for one in sweep.expand()}
    assert [text for text in sweep.left_out() if text.startswith("openvino is left out in int8")]


def test_normal_samples() -> None:
    """Of a layer's shape; the same each time that they are read; none is what is timed."""
    subject = build.build(case(**SMALL), {})
    samples = subject.samples()
    once, again = list(samples.inputs), list(samples.inputs)
    assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))
    assert {tuple(x.shape) for x in once} == {tuple(subject.x.shape)}
    others = [subject.x, *once]
    assert len({float(x.sum()) for x in others}) == len(others)
    assert abs(float(torch.stack(once).std()) - 1) < 0.05


def test_images_of_a_folder(tmp_path: Path) -> None:
    """They are resized and normalised as ImageNet's, all of them, in whole batches; what is checked
    and timed are the same mirrored."""
    for index, name in enumerate(("b.png", "deep/er/c.JPG", "a.jpeg")):
        picture(tmp_path / name, 100 * index)
    (tmp_path / "notes.txt").write_text("no image")
    source = images.read(tmp_path)
    assert source.source == f"{tmp_path} (3 images)"
    subject = build.build(backbone(), {}, calibration=source)
    batches = list(subject.samples().inputs)
    assert [tuple(x.shape) for x in batches] == [(2, 3, 64, 32)] * 2
    grey = [float(x[0, 32, 16]) * 0.229 + 0.485 for batch in batches for x in batch]
    assert grey == pytest.approx([200 / 255, 0, 100 / 255, 200 / 255], abs=0.01)
    assert torch.equal(subject.x, batches[0].flip(-1))
    other = subject.another_input()
    assert torch.equal(other, torch.stack([batches[0][1], batches[1][0]]))
    assert not torch.equal(other[0], subject.x[0].flip(-1))  # another image, not its mirror image


def test_a_large_folder_is_read_throughout(tmp_path: Path) -> None:
    """So many images as suffice, from its first to its last part."""
    picture(tmp_path / "0000.png")
    data = (tmp_path / "0000.png").read_bytes()
    for index in range(3 * MOST_IMAGES):
        (tmp_path / f"{index:04}.png").write_bytes(data)
    source = images.read(tmp_path)
    assert source.images == MOST_IMAGES
    numbers = [int(path.stem) for path in source.files()]
    assert numbers == list(range(0, 3 * MOST_IMAGES, 3))


def test_scikit_images_photographs() -> None:
    """They are in its package: nothing is downloaded."""
    source = images.read(None)
    assert source.source == "scikit-image's 12 images"
    assert Calibration.from_dict(source.to_dict()) == source


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "holds no images"),
        ({"a.txt": b"text"}, "holds no images"),
        ({"a.png": b"text"}, "a.png is no image: cannot identify image file"),
        ({"a.png": b""}, "a.png is no image"),
        (None, "takes a folder of images, got"),
    ],
)
def test_folders_that_are_none(
    tmp_path: Path, files: Mapping[str, bytes] | None, reason: str
) -> None:
    """One sentence that names the file."""
    folder = tmp_path / "images"
    if files is not None:
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
    with pytest.raises(BadInput, match=reason):
        images.read(folder)


def test_a_truncated_image(tmp_path: Path) -> None:
    """It is read to its end before anything is measured."""
    picture(tmp_path / "a.png", size=(200, 200))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"a\.png is no image"):
        images.read(tmp_path)


def test_what_else_lies_in_a_folder(tmp_path: Path) -> None:
    """A folder with an image's name is none; a link that leads nowhere is named."""
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png" / "c.png")
    assert [path.name for path in images.read(tmp_path).files()] == ["a.png", "c.png"]
    (tmp_path / "d.png").symlink_to("nowhere.png")
    with pytest.raises(BadInput, match=r"d\.png leads to no file"):
        images.read(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for an empty one."""
    picture(tmp_path / "a.png")
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    def scandir(_: str) -> Iterator[object]:
        raise denied

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BadInput, match=f"--calibration {tmp_path} cannot be read: Permission"):
        images.read(tmp_path)


def test_a_resumed_run_has_its_images(tmp_path: Path) -> None:
    """It is refused where they have changed since: half of it would be of other ranges."""
    picture(tmp_path / "images/a.png")
    axes = {"backbone": ("resnet50",), "dtype": (runtimes.INT8,), "runtime": ("openvino",)}
    plan = planning.make_plan(
        "quick", device="cpu", axes=axes, calibration=tmp_path / "images", memory_limit_bytes=None
    )
    journal.create(tmp_path / "run", plan).close()
    assert journal.read(tmp_path / "run").plan == plan
    picture(tmp_path / "images/a.png", 50)
    with pytest.raises(BadInput, match="begun with other images for calibration"):
        runner.resume(tmp_path / "run")


def test_images_that_nothing_needs(tmp_path: Path) -> None:
    """Layers take normal inputs: a folder for them is a mistake."""
    with pytest.raises(BadInput, match="--calibration is for backbones in int8"):
        planning.make_plan("quick", device="cpu", calibration=tmp_path)


def test_no_images_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scikit-image a backbone needs a folder."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"--calibration.*pip install 'vitbench\[int8\]'"):
        images.read(None)


def test_tensors_are_floats() -> None:
    """int8 says how products are computed; estimates and ceilings are those of float32."""
    one = case(dtype=runtimes.INT8)
    assert one.tensor_dtype == "float32"
    subject = build.build(dataclasses.replace(one, runtime="openvino"), {})
    assert subject.x.dtype == torch.float32
    assert {p.dtype for p in subject.module.parameters()} == {torch.float32}
