"""One case through its passes: every fault of a mechanism is an Outcome, every figure checked."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import attentions
from tests.vitbench.examples import PLUGIN, backbone_case, case, plugin
from vitbench.cases.case import Case
from vitbench.devices import cpu, cuda
from vitbench.engine import messages, worker
from vitbench.engine import passes as measurement
from vitbench.engine.messages import Finished, Measure, Ready, Refused, Reply, Request, SetUp
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Failed, Measured
from vitbench.subjects import build as subjects
from vitbench.subjects import check

QUICK = TimingRule(
    warmup_calls=1, warmup_s=0.0, warmup_cap_s=0.0, sample_s=0.0, min_samples=3, min_s=0.0, cap_s=0
)


def measure(one: Case, plugins: dict[str, Path] | None = None) -> Any:
    """The outcome of a first round."""
    return measurement.measure(one, QUICK, plugins or {}, with_facts=True)


def outcome_of(folder: Path, old: str, new: str, **changes: Any) -> Any:
    """The outcome of the plugin with a change of its text."""
    assert old in PLUGIN
    path = plugin(folder, "mine", PLUGIN.replace(old, new))
    one = case(attention="mine", params=(("strength", 1.0),), impl="eager", **changes)
    return measure(one, {"mine": path})


def test_a_measured_case() -> None:
    """Samples, counts that agree with each other, memory and the check."""
    found = measure(case())
    assert isinstance(found, Measured), found
    assert len(found.samples_s) >= 3
    assert min(found.samples_s) > 0
    facts = found.facts
    assert facts is not None
    assert facts.columns["macs"] == facts.columns["macs_fvcore"]
    assert facts.columns["macs_source"] == "closed form"
    assert facts.columns["macs"] == 4 * 16 * 32**2 + 2 * 16**2 * 32
    weights, maps = 4 * (4 * 32**2 + 4 * 32), 4 * 2 * 16 * 32
    assert facts.columns["params"] * 4 == weights
    assert facts.compulsory_bytes == weights + 2 * maps
    assert (
        facts.columns["peak_memory_bytes"]
        == facts.columns["activation_memory_bytes"] + weights + maps
    )
    assert facts.columns["checked_against"] == "eager float64"
    assert 0 < facts.columns["error_rms"] <= facts.columns["error_worst"] < 1e-4
    assert found.state["cpu_share"] >= 0
    assert {"build", "first_call", "check", "macs", "memory", "timing"} <= found.spent_s.keys()
    json.dumps(asdict(found), allow_nan=False)


def test_later_rounds_take_the_time_only() -> None:
    """Counts and memory do not change between rounds."""
    found = measurement.measure(case(), QUICK, {}, with_facts=False)
    assert isinstance(found, Measured)
    assert found.facts is None
    assert "memory" not in found.spent_s


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype: str) -> None:
    """Are measured in that dtype, and within its budget."""
    found = measure(case(dtype=dtype))
    assert isinstance(found, Measured), found
    assert found.facts is not None
    itemsize = getattr(torch, dtype).itemsize
    assert found.facts.compulsory_bytes == itemsize * (4 * 32**2 + 4 * 32 + 2 * 2 * 16 * 32)


def test_a_training_step() -> None:
    """Gradients of input and weights are made in every call, and take memory."""
    forward, step = measure(case()), measure(case(mode="forward_backward"))
    assert isinstance(step, Measured), step
    assert isinstance(forward, Measured)
    assert step.facts is not None
    assert forward.facts is not None
    assert (
        step.facts.columns["activation_memory_bytes"]
        > forward.facts.columns["activation_memory_bytes"]
    )
    assert step.facts.columns["macs"] == forward.facts.columns["macs"]


def test_a_cold_call() -> None:
    """One call a sample, whatever a sample should last."""
    rule = dataclasses.replace(QUICK, sample_s=0.01)
    found = measurement.measure(case(cold=True), rule, {}, with_facts=False)
    assert isinstance(found, Measured), found
    assert found.calls_per_sample == 1


def test_a_large_map_is_checked_on_a_smaller_one() -> None:
    """A reference of a large map in fp64 would take longer than all else: the row says so."""
    sizes = {"image_height": 1600, "image_width": 800, "grid_height": 100, "grid_width": 50}
    found = measure(case(attention="window", params=(("window_size", 7),), **sizes))
    assert isinstance(found, Measured), found
    assert found.facts is not None
    assert found.facts.columns["checked_against"] == "eager float64 at 57 x 28 tokens"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("grid", [(14, 14), (50, 80)])
def test_a_choice_is_checked_where_none_is_left(dtype: str, grid: tuple[int, int]) -> None:
    """QuadTree's regions turn on rounding: it is compared where it keeps all, on sides that its
    levels divide, and timed where it chooses."""
    height, width = grid
    sizes = {"grid_height": height, "grid_width": width, "image_height": 16 * height}
    params = (("levels", 2), ("topk", 8))
    one = case(attention="quadtree", params=params, dtype=dtype, image_width=16 * width, **sizes)
    found = measure(one)
    assert isinstance(found, Measured), found
    assert found.facts is not None
    words = found.facts.columns["checked_against"].split()
    assert words[:2] == ["eager", "float64"]
    assert f"topk={2**20} and as it is in float64" in found.facts.columns["checked_against"]
    rows, columns = int(words[3]), int(words[5])
    assert rows % 2 == columns % 2 == 0
    assert 64 <= rows * columns <= check.MAX_CHOOSING_TOKENS
    assert found.facts.columns["macs"] == macs_of("quadtree", one)


CHOOSES = """\
from torch import nn
from attentions import AttentionSpec


class Best(nn.Module):
    def __init__(self, dim, num_heads, grid, *, keep=2, impl="fused"):
        super().__init__()
        self.scale = nn.Linear(dim, dim)
        self.keep, self.largest = keep, LARGEST

    def forward(self, x):
        tokens = self.scale(x).flatten(1, 2)
        count = min(self.keep, tokens.shape[1])
        best = tokens.sum(-1).topk(count, largest=self.largest).indices
        chosen = tokens.gather(1, best[..., None].expand(-1, -1, x.shape[3]))
        return x + chosen.mean(dim=1)[:, None, None]


ATTENTION = AttentionSpec(module=Best, impls=("eager", "fused"), checked_with={"keep": 1024})
"""


@pytest.mark.parametrize(
    ("largest", "kind"), [("True", Measured), ('impl == "eager"', Failed)], ids=["right", "wrong"]
)
def test_a_wrong_choice_is_seen(tmp_path: Path, largest: str, kind: type) -> None:
    """Where all is kept nothing shows that the worst were chosen for the best: fp64 does."""
    path = plugin(tmp_path, "best", CHOOSES.replace("LARGEST", largest))
    one = case(attention="best", params=(("keep", 2),), dtype="bfloat16")
    found = measure(one, {"best": path})
    assert isinstance(found, kind), found
    if isinstance(found, Failed):
        assert found.kind == "wrong_output"


def macs_of(name: str, one: Case) -> int:
    """The closed form."""
    formula = attentions.load(name).macs
    assert formula is not None
    return formula(one.dim, one.num_heads, one.grid, **dict(one.params))


def test_a_plugin_is_measured(tmp_path: Path) -> None:
    """Without closed form its MACs are fvcore's."""
    found = outcome_of(tmp_path, "strength=1.0", "strength=2.0")
    assert isinstance(found, Measured), found
    assert found.facts is not None
    assert found.facts.columns["macs_source"] == "fvcore"
    assert found.facts.columns["macs"] == 16 * 32**2


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        ("self.scale =", "raise ValueError('bad')\n        x =", "error", "ValueError: bad"),
        ("return self.scale(x)", "raise KeyError('k')", "error", "KeyError: 'k'"),
        ("return self.scale(x)", "raise RuntimeError", "error", "RuntimeError: no message"),
        ("return self.scale(x)", "raise ValueError('a\\nb')", "error", "ValueError: a"),
        ("return self.scale(x)", "raise OSError('\\udcff.py')", "error", "OSError: \\udcff.py"),
        ("return self.scale(x)", "raise MemoryError('full')", "out_of_memory", "full"),
        (
            "return self.scale(x)",
            "return x @ x.new_empty(1 << 50, 1 << 10)",
            "out_of_memory",
            "memory",
        ),
        ("return self.scale(x)", "return x / 0", "wrong_output", "NaN or infinite"),
        ("return self.scale(x)", "return x[:, 1:]", "wrong_output", "(2, 3, 4, 32)"),
        ("return self.scale(x)", "return x.double()", "wrong_output", "float64"),
        ("return self.scale(x)", "return None", "wrong_output", "NoneType"),
        ("ATTENTION =", "OTHER =", "error", "must define ATTENTION"),
        ("import nn", "import nothing_of_that_name", "error", "cannot be imported"),
    ],
)
def test_misbehaviour(tmp_path: Path, old: str, new: str, kind: str, words: str) -> None:
    """Each has its kind, and one line that says what happened."""
    found = outcome_of(tmp_path, old, new)
    assert isinstance(found, Failed), found
    assert found.kind == kind
    assert words in found.message
    assert "\n" not in found.message
    assert found.message.encode()


def test_an_output_that_differs_from_eager(tmp_path: Path) -> None:
    """Right in form, wrong by 1%: no speed is reported."""
    text = PLUGIN.replace(
        "strength=1.0):", 'strength=1.0, impl="fused"):\n        self.impl = impl'
    )
    text = text.replace("self.impl = impl\n        super().__init__()", "super().__init__()")
    text = text.replace("__init__()\n", "__init__()\n        self.impl = impl\n", 1)
    text = text.replace(
        "return self.scale(x)", "return self.scale(x) * (1.01 if self.impl == 'fused' else 1)"
    )
    text = text.replace("module=Identity", 'module=Identity, impls=("eager", "fused")')
    plugins = {"mine": plugin(tmp_path, "mine", text)}
    wrong = measure(case(attention="mine", params=(), impl="fused"), plugins)
    assert isinstance(wrong, Failed), wrong
    assert wrong.kind == "wrong_output"
    assert "differs from the eager implementation" in wrong.message
    assert isinstance(measure(case(attention="mine", params=(), impl="eager"), plugins), Measured)


def test_unsupported() -> None:
    """The mechanism's own reason, in words."""
    spec = attentions.load("hilo")
    assert spec.reason_against(32, 2, attentions.Grid(4, 4), alpha=1.5) is not None
    found = measure(case(attention="hilo", params=(("alpha", 1.5), ("window_size", 2))))
    assert isinstance(found, Failed)
    assert found.kind == "unsupported"
    assert "alpha" in found.message


def test_a_backbone(tmp_path: Path) -> None:
    """Images in, any tensors out."""
    text = (
        "from torch import nn\n"
        "from vitbench.subjects.backbones import BackboneSpec\n"
        "BACKBONE = BackboneSpec(build=lambda height, width: nn.Conv2d(3, 8, 4, 4))\n"
    )
    found = measure(backbone_case(impl="eager"), {"tiny": plugin(tmp_path, "tiny", text)})
    assert isinstance(found, Measured), found
    assert found.facts is not None
    assert found.facts.columns["macs"] == 16 * 16 * 8 * 3 * 16


def test_equal_cases_have_equal_weights_and_inputs() -> None:
    """impl, dtype, batch and device do not change what is computed, only how."""
    base = case()
    for changes in ({"impl": "eager"}, {"dtype": "float64"}, {"cold": True}):
        other = case(**changes)
        assert subjects.seed_of(other) == subjects.seed_of(base)
    built = [subjects.build_module(base, {}, impl) for impl in ("eager", "fused")]
    for one, other in zip(*(module.state_dict().values() for module in built), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(subjects.build_input(base), subjects.build_input(base))
    assert subjects.build_input(base).std() > 0.5


@pytest.fixture
def settings() -> Iterator[None]:
    """Puts back what a worker's start changes in this process."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.benchmark = benchmark


def serve(*requests: Request) -> list[Reply]:
    """What a worker replies."""
    replies = io.StringIO()
    worker.serve(io.StringIO("".join(map(messages.to_line, requests))), replies)
    return [messages.read_reply(line) for line in replies.getvalue().splitlines()]


@pytest.mark.usefixtures("settings")
def test_the_workers_protocol(tmp_path: Path) -> None:
    """One line in, one line out: the environment first, then cases, a failure among them."""
    start = SetUp(
        device="cpu", threads=1, plugins={"mine": plugin(tmp_path, "mine")}, environment=True
    )
    mine = case(attention="mine", params=(("strength", 1.0),), impl="eager")
    bad = case(attention="hilo", params=(("alpha", 1.5),))
    ready, good, failed = serve(
        start, *(Measure(case=one, rule=QUICK, with_facts=True) for one in (mine, bad))
    )
    assert isinstance(ready, Ready)
    assert ready.device == "cpu"
    assert ready.environment is not None
    assert ready.environment["torch"]["threads"] == 1
    assert isinstance(good, Finished)
    assert isinstance(good.outcome, Measured)
    assert isinstance(failed, Finished)
    assert isinstance(failed.outcome, Failed)
    assert failed.outcome.kind == "unsupported"


@pytest.mark.usefixtures("settings")
def test_what_a_mechanism_changes_does_not_reach_the_next(tmp_path: Path) -> None:
    """Default dtype, gradients and threads are as they were when the next case is measured."""
    changes = """torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        raise RuntimeError("gone")"""
    rude = tmp_path / "rude.py"
    rude.write_text(
        f"""import torch
from torch import nn
from attentions import AttentionSpec

class Rude(nn.Module):
    def __init__(self, dim, num_heads, grid):
        super().__init__()
        {changes}

ATTENTION = AttentionSpec(module=Rude)
"""
    )
    start = SetUp(device="cpu", threads=1, plugins={"rude": rude})
    cases = [case(attention="rude"), case(mode="forward_backward")]
    _, failed, measured = serve(
        start, *(Measure(case=one, rule=QUICK, with_facts=False) for one in cases)
    )
    assert isinstance(failed, Finished)
    assert isinstance(failed.outcome, Failed)
    assert isinstance(measured, Finished)
    assert isinstance(measured.outcome, Measured)
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == 1
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("settings")
def test_what_others_did_before_is_told_with_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading made when the worker starts stands beside each of its measurements."""
    monkeypatch.setattr(cpu.Device, "idle", lambda _: {"gpu_idle_utilisation": 0.3})
    request = Measure(case=case(), rule=QUICK, with_facts=True)
    _, reply = serve(SetUp(device="cpu", threads=1), request)
    assert isinstance(reply, Finished)
    found = reply.outcome
    assert isinstance(found, Measured)
    assert found.state["gpu_idle_utilisation"] == 0.3
    assert "cpu_share" in found.state


@pytest.mark.usefixtures("settings")
def test_a_worker_refuses_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words; it does not end."""
    monkeypatch.setattr(cuda.Device, "count", lambda: 0)
    (reply,) = serve(SetUp(device="cuda"))
    assert isinstance(reply, Refused)
    assert "no CUDA device is there" in reply.reason
