"""Modules whose output depends on more than their input: timed and marked, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.examples import case, layer, plugin
from vitbench.analysis import trust
from vitbench.engine import passes
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Failed, Measured

ONCE = TimingRule(
    warmup_calls=1, warmup_s=0.0, warmup_cap_s=0.0, sample_s=0.0, min_samples=2, min_s=0.0, cap_s=0
)


def outcome(folder: Path, text: str, **changes: Any) -> Any:
    """Of a plugin with this text."""
    files = {"net": plugin(folder, "net", text)}
    net = case(attention="net", impl="eager", params=(), batch_size=4, **changes)
    return passes.measure(net, ONCE, files, with_facts=True)


NOISE = "nn.functional.dropout(y, 0.5)"
NORM = "(y - y.mean(0)) / (y.amax(0) - y.amin(0) + 1)"
COUNT = "self.register_buffer('calls', torch.zeros(1))"

# What forward adds to a linear layer, what __init__ does, and the behaviour in the row.
BEHAVIOURS = {
    "nothing": ("pass", "pass", ""),
    "dropout left on": (f"y = {NOISE}", "pass", "random"),
    "a random choice of tokens": ("y = y[:, torch.randperm(4)]", "pass", "random"),
    "random numbers of Python's": ("import random\ny = y * random.random()", "pass", "random"),
    "random numbers of NumPy's": (
        "import numpy\ny = y * float(numpy.random.rand())",
        "pass",
        "random",
    ),
    "a generator of its own": (
        "y = y * torch.rand(1, generator=self.g)",
        "self.g = torch.Generator()",
        "random",
    ),
    "normalised over the batch": (f"y = {NORM}", "pass", "depends_on_batch"),
    "batch norm in training mode": (
        "y = nn.functional.batch_norm(y.permute(0, 3, 1, 2), None, None, training=True)"
        ".permute(0, 2, 3, 1)",
        "pass",
        "depends_on_batch",
    ),
    "attends over the batch": (
        "y = (y.flatten(1) @ y.flatten(1).T).softmax(-1)[:, :, None, None].mean(1, True) * y",
        "pass",
        "depends_on_batch",
    ),
    "counts its calls": ("self.calls += 1", COUNT, "keeps_state"),
    "a moving average": (
        "self.calls.lerp_(y.mean(), 0.1)\ny = y - self.calls",
        COUNT,
        "keeps_state",
    ),
    "a sparse buffer": (
        "y = y + torch.sparse.sum(self.calls)",
        "self.register_buffer('calls', torch.eye(3).to_sparse())",
        "",
    ),
    "a sparse buffer that changes": (
        "self.calls.mul_(2)",
        "self.register_buffer('calls', torch.eye(3).to_sparse())",
        "keeps_state",
    ),
    "a list that grows": ("self.seen.append(1)", "self.seen = []", ""),
    "caches a mask": (
        "self.mask = getattr(self, 'mask', torch.ones(4, 4, 1))\ny = y * self.mask",
        "pass",
        "",
    ),
    "a view of its input": ("return x[:]", "pass", ""),
    "its input itself": ("return x", "pass", ""),
    "its own buffer": (
        "return self.out.expand(len(x), -1, -1, -1)",
        "self.register_buffer('out', torch.ones(1, 4, 4, 32))",
        "",
    ),
    "a buffer of one batch size": (
        "return self.out",
        "self.register_buffer('out', torch.ones(4, 4, 4, 32))",
        "depends_on_batch",
    ),
    "in place on what it made": ("y.mul_(2).relu_()", "pass", ""),
}
QUICK = ("dropout left on", "normalised over the batch", "counts its calls", "its own buffer")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in QUICK)) for kind in BEHAVIOURS],
)
def test_what_an_output_depends_on(tmp_path: Path, kind: str) -> None:
    """Is in the row, and lowers the trust to B; the case is timed."""
    forward, build, behaviour = BEHAVIOURS[kind]
    measured = outcome(tmp_path, layer(build, forward, keywords=""))
    assert isinstance(measured, Measured), measured
    assert measured.facts is not None
    columns = measured.facts.columns
    assert columns["behaviour"] == behaviour
    unchecked = behaviour == "random" or kind == "a moving average"
    assert (columns["error_rms"] is None) == unchecked, columns["checked_against"]
    reasons = [trust.BEHAVIOURS[behaviour]] if behaviour else []
    assert trust.grade({**columns, "macs": None}) == ("B" if reasons else "A", reasons)


@pytest.mark.parametrize(
    "code",
    ["x.add_(y)", "x[:, 0] = 0", "x.view(-1).mul_(2)", "nn.functional.relu_(x)", "x += 1"],
)
def test_an_input_that_is_changed(tmp_path: Path, code: str) -> None:
    """Is refused: no speed of drifting values."""
    failed = outcome(tmp_path, layer(forward=code, keywords=""))
    assert isinstance(failed, Failed)
    assert failed.kind == "wrong_output"
    assert failed.message.startswith("it changes its input in place")


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("return y, y.mean()", 2),
        ("return {'x': y, 'attention': y.new_zeros(4, 2, 16, 16)}", 2),
        ("return [y]", 1),
        ("return y, None", 1),
        ("return {'out': (y, [y, y])}", 3),
    ],
)
def test_more_than_a_map(tmp_path: Path, code: str, count: int) -> None:
    """The first tensor is the map, which a note says."""
    measured = outcome(tmp_path, layer(forward=code, keywords=""))
    assert isinstance(measured, Measured), measured
    assert measured.facts is not None
    said = f"it returns {count} tensors, of which the first is taken for the map"
    assert measured.facts.columns["notes"].startswith(said)
    assert measured.facts.columns["error_rms"] < 1e-6


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return y.mean((1, 2))", "the output's shape must be (4, 4, 4, 32), got (4, 32)"),
        ("return y.flatten(1, 2)", "the output's shape must be (4, 4, 4, 32), got (4, 16, 32)"),
        ("return y.permute(0, 3, 1, 2)", "the output's shape must be (4, 4, 4, 32), got (4, 32"),
        ("return y.half()", "the output's dtype must be torch.float32, got torch.float16"),
        ("return None", "the output must be a tensor, got NoneType"),
        ("return {'loss': 3.0}", "the output must be a tensor, got dict"),
        ("return y.mean(), y", "the output's shape must be (4, 4, 4, 32), got ()"),
        ("return y.sigmoid().log() * float('inf')", "the output must be finite"),
    ],
)
def test_an_output_of_another_form(tmp_path: Path, code: str, message: str) -> None:
    """Expected and got."""
    failed = outcome(tmp_path, layer(forward=code, keywords=""))
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.message[: len(message)]) == ("wrong_output", message)


def test_training(tmp_path: Path) -> None:
    """Batch norm updates its buffers in training, which is no state that is odd."""
    text = layer(
        "self.drop = nn.Dropout(0.5); self.norm = nn.BatchNorm2d(4)", "y = self.norm(y)", ""
    )
    measured = outcome(tmp_path, text, mode="forward_backward")
    assert isinstance(measured, Measured), measured
    assert measured.facts is not None
    assert measured.facts.columns["behaviour"] == ""
