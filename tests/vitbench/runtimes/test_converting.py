"""Runtimes that run a converted module: the same function, made once, whole or not at all."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import mmap
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attentions
from tests.vitbench.examples import case
from vitbench import runtimes
from vitbench.cases.case import Case
from vitbench.cases.sweep import Sweep
from vitbench.engine import passes
from vitbench.errors import BadInput, StorageFull
from vitbench.instruments import host, timing
from vitbench.instruments.correctness import WrongOutput
from vitbench.results.folder import artifact_of
from vitbench.results.outcome import Counted, Failed, Measured
from vitbench.runtimes import Samples, _artifact, executorch
from vitbench.runtimes import onnxruntime as converting
from vitbench.subjects import build, check

CONVERTING = [
    name
    for name, runtime in runtimes.converting().items()
    if runtime.refuses("cpu", "float32", "forward") is None
]
# The axes on which every mechanism runs: an oblong map, which windows of 7 tokens pad along both
# sides, and two levels of a quadtree divide.
AXES: Mapping[str, Any] = {"resolution": ("128x192",), "dim": (48,), "num_heads": (6,)}


def run(one: Case, folder: Path) -> Counted | Failed:
    """A case that is converted, where its runtime converts, and read, as two workers do it."""
    converts = runtimes.load(one.runtime).RULES.converts
    failed = passes.convert(one, {}, folder) if converts else None
    if failed is not None:
        return failed
    outcome = passes.measure(one, None, {}, with_facts=True, artifacts=folder)
    assert isinstance(outcome, Counted | Failed)
    return outcome


def columns_of(one: Case, folder: Path) -> Mapping[str, Any]:
    """Of a case that runs."""
    outcome = run(one, folder)
    assert isinstance(outcome, Counted), outcome
    return outcome.facts.columns


@pytest.mark.parametrize("runtime", CONVERTING)
def test_it_computes_the_same_function(tmp_path: Path, runtime: str) -> None:
    """On two inputs, as the eager module in float64 does; what ran, and from which file, is in the
    row."""
    found = columns_of(case(runtime=runtime, grid_height=5, grid_width=7), tmp_path / "artifacts")
    assert found["checked_against"] == "eager float64"
    assert 0 < found["error_rms"] < 1e-5
    assert found["computed_dtype"] == "float32"
    assert found["runtime_version"]
    if runtime in ("executorch", "onnxruntime"):
        assert found["fallback_share"] == 0
    else:  # they do not tell
        assert "fallback_share" not in found
    assert found["conversion_s"] > 0
    file = tmp_path / found["artifact"]
    sizes = [path.stat().st_size for path in file.parent.iterdir() if path.suffix != ".json"]
    assert found["artifact_bytes"] == sum(sizes)
    assert found["macs"] == found["macs_counted"]
    assert not found["notes"]


DTYPES = ("float32", "bfloat16", "float16")


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps", "xpu"])
@pytest.mark.parametrize("runtime", runtimes.names())
def test_what_a_runtime_runs_where(runtime: str, device: str) -> None:
    """Every case of every runtime is run, or refused in words that name what it has not: the
    device, the dtype or training."""
    rules = runtimes.load(runtime)
    for dtype, mode in itertools.product(DTYPES, ("forward", "forward_backward")):
        reason = rules.refuses(device, dtype, mode)
        if reason is None:
            assert mode == "forward" or not rules.RULES.converts
        elif rules.refuses(device, "float32", "forward") is not None:
            assert device in reason
        elif mode == "forward":
            assert dtype in reason
        else:
            assert "does not train" in reason


ON_CUDA = {"aotinductor", "onnxruntime", "tensorrt"}


def test_which_runtimes_convert_for_a_gpu() -> None:
    """Those whose libraries compute there, in all three dtypes."""
    for dtype in DTYPES:
        able = {
            n for n, r in runtimes.converting().items() if not r.refuses("cuda", dtype, "forward")
        }
        assert able == ON_CUDA


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "openvino"))
        for name in CONVERTING
        if runtimes.load(name).refuses("cpu", "bfloat16", "forward") is None
    ],
)
def test_half_precision_on_the_cpu(tmp_path: Path, runtime: str, dtype: str) -> None:
    """It computes in the case's dtype, within its budget, or the row says that it does not: in
    which, or why it is unsupported."""
    outcome = run(case(runtime=runtime, dtype=dtype, grid_height=5, grid_width=7), tmp_path)
    if isinstance(outcome, Failed):
        assert outcome.kind == "unsupported"
        assert f"computes in no {dtype} on this CPU" in outcome.message
        return
    found = outcome.facts.columns
    computed = build.computed_dtype(case(dtype=dtype), {}) if runtime == "aotinductor" else dtype
    assert found["computed_dtype"] == computed
    assert 1e-5 < found["error_rms"] < 0.02
    assert not found["notes"]


def test_a_dtype_that_a_cpu_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenVINO would compute in another one in its place, the case is unsupported; so it is
    where it was converted on another CPU."""
    import openvino

    one = case(runtime="openvino", dtype="bfloat16")
    artifact_of(one, tmp_path / "made").mkdir(parents=True)
    able = ["FP32", "INT8", "BIN"]
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: able)
    for folder in (tmp_path, tmp_path / "made"):
        outcome = run(one, folder)
        assert isinstance(outcome, Failed)
        assert outcome.kind == "unsupported"
        assert outcome.message.startswith("OpenVINO computes in no bfloat16 on this CPU")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("runtime", runtimes.converting())
def test_a_script_is_python(runtime: str, dtype: str) -> None:
    """Whatever the case and the name of its file."""
    script = runtimes.converting()[runtime].script(dtype)
    script = script.format(
        title='"msa"', file="my {model} 'ü'.x", shape=(1, 2), dtype=dtype, device="cuda:1"
    )
    compile(script, "model.py", "exec")


def test_one_process_converts_for_several(tmp_path: Path) -> None:
    """What torch keeps of an export for one runtime does not spoil that for the next."""
    one = case(runtime="executorch", grid_height=5, grid_width=7, batch_size=3)
    with torch.inference_mode():
        _artifact.exported(build.build(one, {}))
    assert columns_of(one, tmp_path)["error_rms"] < 1e-5


# What a runtime cannot run of a mechanism, with the reason; at most 5 of 100 may stand here.
EXCEPTIONS: Mapping[tuple[str, str], str] = {}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["compile", *CONVERTING])
@pytest.mark.parametrize("name", attentions.names())
def test_every_mechanism(tmp_path: Path, name: str, runtime: str) -> None:
    """Is compiled or converted, and computes the same function."""
    if (name, runtime) in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[name, runtime])
    (one,) = Sweep(attention=(name,), runtime=(runtime,), batch_size=(2,), **AXES).expand()
    found = columns_of(one, tmp_path)
    assert found["error_rms"] < 1e-4


@pytest.mark.parametrize(
    ("runtime", "side"),
    [
        pytest.param(name, side, marks=[pytest.mark.slow] * ((name, side) != ("openvino", 20)))
        for name in CONVERTING
        for side in (14, 20, 48)
    ],
)
def test_lines_of_any_length(tmp_path: Path, runtime: str, side: int) -> None:
    """Retention computes short, middle and long lines in three ways, which all convert."""
    axes = {**AXES, "resolution": (str(16 * side),)}
    (one,) = Sweep(attention=("retention",), runtime=(runtime,), **axes).expand()
    assert columns_of(one, tmp_path)["error_rms"] < 1e-4


def test_nearly_all_is_measured() -> None:
    """At least 95% of the mechanisms in all runtimes together."""
    count = len(attentions.names()) * (1 + len(CONVERTING))
    assert len(EXCEPTIONS) <= 0.05 * count


@pytest.mark.slow
@pytest.mark.parametrize("runtime", CONVERTING)
def test_a_whole_backbone(tmp_path: Path, runtime: str) -> None:
    """Is converted too, with its deformable convolutions."""
    sweep = Sweep(backbone=("litv2_s",), runtime=(runtime,), batch_size=(1,), resolution=("64",))
    (one,) = sweep.expand()
    assert columns_of(one, tmp_path)["error_rms"] < 1e-4


class Share(nn.Module):
    """What each channel is of all together; of nothing, nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.sum(dim=-1, keepdim=True) + 1e-15)


def converted(
    module: nn.Module, x: Tensor, runtime: str, folder: Path, dtype: str = "float32"
) -> Tensor:
    """The output of a module that is not a mechanism's, converted for a runtime."""
    subject = build.build(case(runtime=runtime, dtype=dtype), {})
    subject = dataclasses.replace(
        subject, module=module, runnable=module, x=x, samples=lambda: Samples([x], "its input")
    )
    loaded = cast("runtimes.Converting", runtimes.load(runtime))
    with torch.inference_mode():
        _artifact.make(loaded, subject, folder)
        prepared = loaded.prepare(subject, folder)
        output = prepared.call()
    assert isinstance(output, Tensor)
    return output.clone()  # it is in the memory of what was prepared


# The compiler of AOTInductor takes five seconds.
@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "aotinductor")) for name in CONVERTING],
)
def test_a_small_term_is_kept(tmp_path: Path, runtime: str) -> None:
    """One that keeps a quotient finite is not taken for zero."""
    x = torch.zeros(2, 5, 8)
    assert torch.equal(converted(Share().eval(), x, runtime, tmp_path / "artifact"), x)


class Shapes(nn.Module):
    """Attention without a dimension for heads, and with one for windows, whose masks differ."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = nn.Buffer(torch.randn(3, 1, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 2)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens, scale=0.5).view_as(x)
        return mixed + F.scaled_dot_product_attention(x, x, x, self.masks)


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "onnxruntime")) for name in CONVERTING],
)
def test_attention_of_any_shape(tmp_path: Path, runtime: str) -> None:
    """Not only of (batch, heads, tokens, head_dim): timm's Twins has windows beside the heads."""
    module, x = Shapes().eval(), torch.randn(2, 3, 4, 6, 8)
    output = converted(module, x, runtime, tmp_path / "artifact")
    assert torch.allclose(output, module(x), atol=1e-5)


class Masked(nn.Module):
    """Attention under masks: finite, one that masks all keys of the first query, and made in a
    call; and parts of a map."""

    def __init__(self) -> None:
        super().__init__()
        finite = torch.randn(6, 6)
        self.masks = nn.Buffer(torch.stack([finite, finite]))
        self.masks[1, 0] = -torch.inf

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.chunk(3, dim=-1)
        computed = torch.where(x[:1, :1, :, :1] > 0, 0.0, -torch.inf)
        masks = (None, self.masks[0], self.masks[1], computed)
        return sum((F.scaled_dot_product_attention(q, k, v, mask) for mask in masks), q)


@pytest.mark.slow
def test_what_is_masked_altogether(tmp_path: Path) -> None:
    """Is zero in ExecuTorch too, which else computes attention without what guards softmax."""
    module, x = Masked().eval(), torch.randn(2, 3, 6, 24)
    output = converted(module, x, "executorch", tmp_path / "artifact")
    assert torch.allclose(output, module(x), atol=1e-5)
    assert output.isfinite().all()


def test_why_a_file_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ExecuTorch's exception does not say; its log does, and so does the row."""

    def convert(subject: runtimes.Subject, folder: Path) -> Mapping[str, Any]:
        (folder / executorch.FILE).write_bytes(bytes(2**12))
        return {}

    monkeypatch.setattr(executorch, "convert", convert)
    outcome = run(case(runtime="executorch"), tmp_path)
    assert isinstance(outcome, Failed)
    assert "ET12" in outcome.message  # what such a file begins with


@pytest.mark.parametrize("runtime", CONVERTING)
def test_what_it_refuses(runtime: str) -> None:
    """Training, in words; a sweep of nothing else is bad input."""
    rules = runtimes.load(runtime)
    assert rules.refuses("cpu", "float32", "forward") is None
    reason = rules.refuses("cpu", "float32", "forward_backward")
    assert reason is not None
    assert reason.startswith(f"{runtime} does not train")
    with pytest.raises(BadInput, match="does not train"):
        Sweep(attention=("msa",), runtime=(runtime,), mode=("forward_backward",)).expand()
    outcome = passes.measure(
        case(runtime=runtime, mode="forward_backward"), None, {}, with_facts=True
    )
    assert outcome == Failed("unsupported", reason)


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is one sentence with the command that installs it, before anything is measured."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    with pytest.raises(BadInput, match=r"needs openvino: pip install 'vitbench\[runtimes\]'"):
        Sweep(attention=("msa",), runtime=("eager", "openvino")).expand()


def test_all_runtimes_are_those_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`all` leaves out a runtime whose package is missing, with the command that installs it, and
    one that refuses the device or the dtype, with its reason; beside one that is named too, once.
    """
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    sweep = Sweep(attention=("msa",), runtime=("eager", "all"), dtype=("bfloat16",))
    found = [one.runtime for one in sweep.expand()]
    assert found == ["eager", "aotinductor", "compile"]
    reasons = {text.split()[0]: text for text in sweep.left_out()}
    assert set(reasons) == set(runtimes.names()) - set(found)
    assert reasons["openvino"].endswith("needs openvino: pip install 'vitbench[runtimes]'")
    assert "CUDA" in reasons["cuda-graph"]
    assert "float32" in reasons["onnxruntime"]
    assert Sweep(attention=("msa",), runtime=("eager",)).left_out() == []


def test_a_conversion_that_keeps_the_first_output_is_wrong() -> None:
    """It would be as fast as anything, and right on the input that it was made from."""
    one = case(runtime="openvino")
    subject = build.build(one, {})
    with torch.inference_mode():
        before, kept = subject.x.clone(), subject.call()
        with pytest.raises(WrongOutput, match="converted for openvino and called on another input"):
            check.check_follows_input(one, subject, lambda: kept)
        assert torch.equal(subject.x, before)
        check.check_follows_input(one, subject, subject.call)


def test_a_conversion_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that breaks off leaves no artifact, its failure is the case's, and the next one starts
    anew; one that is there is not made again."""
    one, calls = case(runtime="onnxruntime"), []

    def convert(subject: runtimes.Subject, folder: Path) -> Mapping[str, Any]:
        calls.append(list(folder.iterdir()))
        (folder / "half").touch()
        if len(calls) == 1:
            raise RuntimeError("no such operator\nand a long story")
        return {"fallback_share": 0.5}

    monkeypatch.setattr(converting, "convert", convert)
    assert passes.convert(one, {}, tmp_path) == Failed("error", "RuntimeError: no such operator")
    folder = artifact_of(one, tmp_path)
    assert not folder.exists()
    for _ in range(2):
        assert passes.convert(one, {}, tmp_path) is None
    assert calls == [[], []]
    assert sorted(path.name for path in folder.iterdir()) == ["columns.json", "half"]


def damage_nothing(folder: Path) -> None:
    """It stays as it was made."""


def truncate(folder: Path) -> None:
    """A file is shorter."""
    (folder / "model.onnx").write_bytes(b"mod")


def replace(folder: Path) -> None:
    """A file is another one of the same length."""
    (folder / "model.onnx").write_bytes(b"nodel")


def remove(folder: Path) -> None:
    """A file is gone."""
    (folder / "model.onnx").unlink()


def forget(folder: Path) -> None:
    """What it was is not known, as in a folder of an older release."""
    (folder / "columns.json").write_text('{"conversion_s": 1.0}')


@pytest.mark.parametrize("damage", [damage_nothing, truncate, replace, remove, forget])
def test_a_file_that_changed_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """It is the case's failure, in words, though it may load; a run that is continued makes it
    anew."""
    one, calls = case(runtime="onnxruntime"), []

    def convert(subject: runtimes.Subject, folder: Path) -> Mapping[str, Any]:
        calls.append(folder)
        (folder / "model.onnx").write_bytes(b"model")
        return {}

    monkeypatch.setattr(converting, "convert", convert)
    assert passes.convert(one, {}, tmp_path / "artifacts") is None
    folder = artifact_of(one, tmp_path / "artifacts")
    damage(folder)
    outcome = passes.measure(one, None, {}, with_facts=False, artifacts=tmp_path / "artifacts")
    is_changed = damage is not damage_nothing
    sentence = f"artifacts/{folder.name} is not as it was converted: begin a new run"
    assert (outcome == Failed("error", sentence)) is is_changed
    assert passes.convert(one, {}, tmp_path / "artifacts") is None
    assert len(calls) == 1 + is_changed
    assert _artifact.is_whole(folder)


@pytest.mark.parametrize("is_told", [True, False])
def test_a_full_disk_is_no_failure_of_a_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    """Whether the library says that it could not write all, or not; nothing is left there."""
    one = case(runtime="onnxruntime")

    def convert(subject: runtimes.Subject, folder: Path) -> Mapping[str, Any]:
        (folder / "model.onnx").write_bytes(b"mod")
        if is_told:
            raise RuntimeError("cannot write")
        return {}

    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(converting, "convert", convert)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageFull, match=r"the disk that holds .*artifacts is full"):
        passes.convert(one, {}, tmp_path / "artifacts")
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_no_sample_holds_a_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case is timed from the file that is there; where it is not, nothing makes it meanwhile."""
    one, rule = case(runtime="onnxruntime"), timing.TimingRule(warmup_s=0.0, min_s=0.0, cap_s=0.0)
    assert passes.convert(one, {}, tmp_path) is None

    def convert(subject: runtimes.Subject, folder: Path) -> Mapping[str, Any]:
        raise AssertionError("converted while a case is measured")

    monkeypatch.setattr(converting, "convert", convert)
    for with_facts in (True, False):
        outcome = passes.measure(one, rule, {}, with_facts=with_facts, artifacts=tmp_path)
        assert isinstance(outcome, Measured), outcome
    missing = passes.measure(one, rule, {}, with_facts=True, artifacts=tmp_path / "none")
    assert isinstance(missing, Failed)
    assert "converted while" not in missing.message


@pytest.mark.parametrize("runtime", CONVERTING)
def test_the_file_names_its_case(runtime: str) -> None:
    """By subject, runtime and id: two cases have two artifacts."""
    one = case(runtime=runtime)
    other = dataclasses.replace(one, batch_size=3)
    names = [artifact_of(each, Path("run")).name for each in (one, other)]
    assert names[0].startswith(f"msa-{runtime}-")
    assert names[0] != names[1]


def test_memory_of_the_process() -> None:
    """The highest resident set is that of the work, not of what was before."""

    def fill() -> None:
        with mmap.mmap(-1, 2**26) as pages:  # new ones: an allocator may have kept others
            pages.write(b"x" * 2**26)

    idle = host.highest_resident_bytes(lambda: None)
    if idle is None:
        pytest.skip("this system does not show the highest resident set")
    busy = host.highest_resident_bytes(fill)
    assert busy is not None
    assert busy > idle + 2**25
    assert idle >= host.resident_bytes() * 0.9
