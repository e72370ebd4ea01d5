"""The runtime of graphs, on a stand-in for a device that records them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.vitbench.examples import case
from vitbench import devices
from vitbench.devices import cpu
from vitbench.engine import passes
from vitbench.instruments.correctness import WrongOutput, tensors_in
from vitbench.results.outcome import Counted, Failed
from vitbench.runtimes import Samples, cuda_graph
from vitbench.subjects.build import Subject


class Recorder(cpu.Device):
    """Replays on the host; of what a call returned, `follows` says what a replay fills anew."""

    def __init__(self, follows: Callable[[int], bool] = lambda index: True) -> None:
        super().__init__()
        self._follows = follows
        self.collects: bool | None = None

    def capture(self, call: devices.Call) -> devices.Graph:
        self.collects = gc.isenabled()
        output = call()

        def replay() -> None:
            filled = zip(tensors_in(output), tensors_in(call()), strict=True)
            for index, (static, anew) in enumerate(filled):
                if self._follows(index):
                    static.copy_(anew)

        return devices.Graph(replay, output, peak_bytes=1000, pool_bytes=4096)


class Layer(nn.Module):
    """A linear layer and dropout: its output is random where it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(x), training=self.training)


def subject(device: Recorder, *, trained: bool) -> Subject:
    """A layer on that device."""
    module = Layer().train(trained)
    x = torch.randn(4, 8)
    return Subject(module, module, device, x, "float32", lambda: Samples((x,), "one input"))


@pytest.mark.parametrize("trained", [False, True])
def test_a_replay_is_what_is_measured(trained: bool) -> None:
    """Its output is that of the input that is there; what its operators are cannot be listed; its
    memory is the graph's; no garbage is collected while it is recorded."""
    device = Recorder()
    one = subject(device, trained=trained)
    x, module = one.x.detach().clone(), one.module
    with torch.set_grad_enabled(trained):
        prepared = cuda_graph.prepare(one, None)
        output = prepared.call()
    assert torch.equal(one.x, x)
    assert output.shape == x.shape
    if not trained:
        assert torch.equal(output, module(x))
        with torch.no_grad():
            one.x.mul_(2)
        assert torch.equal(prepared.call(), module(2 * x))
    assert not prepared.is_dispatched
    assert prepared.kept_bytes == 1000
    assert prepared.columns()["graph_pool_bytes"] == 4096
    assert device.collects is False
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("stale", "name"), [(0, "output"), (1, "gradients"), (2, "gradients"), (3, "gradients")]
)
def test_a_replay_that_does_not_follow_its_input(stale: int, name: str) -> None:
    """In its output, the input's gradient or a parameter's: no speed is reported."""
    device = Recorder(lambda index: index != stale)
    with pytest.raises(WrongOutput, match=f"the {name} must be those of an eager call"):
        cuda_graph.prepare(subject(device, trained=True), None)


def measured(monkeypatch: pytest.MonkeyPatch, capture: Any, **changes: Any) -> Any:
    """The outcome of a case whose runtime records on such a device, but for its time."""
    monkeypatch.setattr(cpu.Device, "capture", capture)
    monkeypatch.setattr(cuda_graph, "refuses", lambda *_: None)
    return passes.measure(case(runtime="cuda-graph", **changes), None, {}, with_facts=True)


def test_a_call_that_cannot_be_recorded_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the device's reason, by its class."""

    def capture(device: cpu.Device, call: devices.Call) -> devices.Graph:
        raise devices.NotRecordable("it waits for the device")

    reason = "it cannot be recorded as a CUDA graph: it waits for the device"
    assert measured(monkeypatch, capture) == Failed("unsupported", reason)


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_every_pass_gets_the_replay(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Memory and operators are those of the graph; the output is checked as any other."""

    def capture(device: cpu.Device, call: devices.Call) -> devices.Graph:
        return devices.Graph(lambda: None, call(), peak_bytes=2**40, pool_bytes=2**41)

    monkeypatch.setattr(cuda_graph.Recorded, "_check", lambda *_: None)
    outcome = measured(monkeypatch, capture, mode=mode)
    assert isinstance(outcome, Counted), outcome
    columns = outcome.facts.columns
    assert columns["activation_memory_bytes"] == 2**40
    assert columns["peak_memory_bytes"] > 2**40
    assert columns["graph_pool_bytes"] == 2**41
    assert "operator_calls" not in columns
    assert columns["checked_against"] == "eager float64"


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_on_a_gpu(mode: str) -> None:
    """A graph of MSA is recorded, follows its input, and takes at most the eager call's memory but
    for rounding; a call that waits for the GPU is unsupported."""
    eager, graph = (
        passes.measure(
            case(device="cuda", runtime=runtime, mode=mode, grid_height=32, grid_width=32),
            None,
            {},
            with_facts=True,
        )
        for runtime in ("eager", "cuda-graph")
    )
    assert isinstance(eager, Counted), eager
    assert isinstance(graph, Counted), graph
    peaks = [outcome.facts.columns["peak_memory_bytes"] for outcome in (eager, graph)]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)
    columns = graph.facts.columns
    assert columns["graph_pool_bytes"] >= columns["activation_memory_bytes"] > 0


_WAITING = """
from torch import nn
from attentions import AttentionSpec


class Waiting(nn.Module):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x):
        return x * float(x.sum())


ATTENTION = AttentionSpec(module=Waiting)
"""


@pytest.mark.cuda
def test_a_call_that_waits_for_the_gpu(tmp_path: Path) -> None:
    """It is unsupported, and the process goes on."""
    plugin = tmp_path / "waiting.py"
    plugin.write_text(_WAITING)
    waiting = case(
        device="cuda", runtime="cuda-graph", attention="waiting", impl="eager", params=()
    )
    outcome = passes.measure(waiting, None, {"waiting": plugin}, with_facts=True)
    assert isinstance(outcome, Failed), outcome
    assert outcome.kind == "unsupported"
    after = case(device="cuda", runtime="cuda-graph")
    assert isinstance(passes.measure(after, None, {}, with_facts=True), Counted)
