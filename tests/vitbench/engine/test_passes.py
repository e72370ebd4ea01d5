"""One case through its passes: every fault of a mechanism is an Outcome, every figure checked."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import attentions
from tests.vitbench.examples import BACKBONE, backbone_case, case, layer, plugin
from vitbench import devices, runtimes
from vitbench.cases.case import Case
from vitbench.devices import cpu, cuda
from vitbench.engine import messages, passes, worker
from vitbench.engine.messages import (
    Discard,
    Finish,
    Finished,
    Measure,
    PrepareCase,
    Ready,
    Refused,
    Reply,
    Request,
    Sample,
    SetUp,
)
from vitbench.errors import BadInput
from vitbench.instruments import correctness
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Ceilings, Failed, Measured
from vitbench.subjects import build as subjects
from vitbench.subjects import check, describe

QUICK = TimingRule(
    warmup_calls=1, warmup_s=0.0, warmup_cap_s=0.0, sample_s=0.0, min_samples=3, min_s=0.0, cap_s=0
)


def outcome_of(case: Case, plugins: dict[str, Path] | None = None) -> Any:
    """The outcome of a first round."""
    return passes.measure(case, QUICK, plugins or {}, with_facts=True)


def measure(case: Case, plugins: dict[str, Path] | None = None) -> Any:
    """The outcome of a first round, which measured it."""
    outcome = outcome_of(case, plugins)
    assert isinstance(outcome, Measured), outcome
    return outcome


def mine(folder: Path, text: str) -> Any:
    """The outcome of a plugin with this text."""
    plugins = {"mine": plugin(folder, "mine", text)}
    return outcome_of(case(attention="mine", params=(), impl="eager"), plugins)


def test_a_measured_case() -> None:
    """Samples, counts that agree with each other, memory and the check."""
    outcome = measure(case())
    assert len(outcome.samples_s) >= 3
    assert min(outcome.samples_s) > 0
    columns = outcome.facts.columns
    assert columns["macs"] == columns["macs_counted"] == 4 * 16 * 32**2 + 2 * 16**2 * 32
    assert columns["macs_source"] == "closed form"
    weights, maps = 4 * (4 * 32**2 + 4 * 32), 4 * 2 * 16 * 32
    assert columns["params"] * 4 == weights
    assert outcome.facts.compulsory_bytes == weights + 2 * maps
    assert columns["peak_memory_bytes"] == columns["activation_memory_bytes"] + weights + maps
    assert columns["checked_against"] == "eager float64"
    assert 0 < columns["error_rms"] <= columns["error_worst"] < 1e-4
    assert outcome.state["cpu_share"] >= 0
    assert {"build", "first_call", "check", "macs", "memory", "timing"} <= outcome.spent_s.keys()
    json.dumps(asdict(outcome), allow_nan=False)


def test_later_rounds_take_the_time_only() -> None:
    """Counts and memory do not change between rounds; a cold call is one sample, whatever a sample
    should last."""
    rule = dataclasses.replace(QUICK, sample_s=0.01)
    outcome = passes.measure(case(cold=True), rule, {}, with_facts=False)
    assert isinstance(outcome, Measured)
    assert outcome.facts is None
    assert "memory" not in outcome.spent_s
    assert outcome.calls_per_sample == 1


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype: str) -> None:
    """Are measured in that dtype, and within its budget."""
    itemsize = getattr(torch, dtype).itemsize
    compulsory_bytes = measure(case(dtype=dtype)).facts.compulsory_bytes
    assert compulsory_bytes == itemsize * (4 * 32**2 + 4 * 32 + 2 * 2 * 16 * 32)


def test_a_training_step() -> None:
    """Gradients of input and weights are made in every call, and take memory."""
    forward, step = (measure(case(mode=m)).facts.columns for m in ("forward", "forward_backward"))
    assert step["activation_memory_bytes"] > forward["activation_memory_bytes"]
    assert step["macs"] == forward["macs"]


def test_a_large_map_is_checked_on_a_smaller_one() -> None:
    """A reference of a large map in fp64 would take longer than all else: the row says so."""
    sizes = {"image_height": 1600, "image_width": 800, "grid_height": 100, "grid_width": 50}
    outcome = measure(case(attention="window", params=(("window_size", 7),), **sizes))
    assert outcome.facts.columns["checked_against"] == "eager float64 at 57 x 28 tokens"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("grid", [(14, 14), (50, 80)])
def test_a_choice_is_checked_where_none_is_left(dtype: str, grid: tuple[int, int]) -> None:
    """QuadTree's regions turn on rounding: it is compared where it keeps all, on sides that its
    levels divide, and timed where it chooses."""
    height, width = grid
    sizes = {"grid_height": height, "grid_width": width, "image_height": 16 * height}
    params = (("levels", 2), ("topk", 8))
    quadtree = case(
        attention="quadtree", params=params, dtype=dtype, image_width=16 * width, **sizes
    )
    facts = measure(quadtree).facts.columns
    words = facts["checked_against"].split()
    assert words[:2] == ["eager", "float64"]
    assert f"topk={2**20} and as it is in float64" in facts["checked_against"]
    rows, columns = int(words[3]), int(words[5])
    assert rows % 2 == columns % 2 == 0
    assert 64 <= rows * columns <= check.MAX_CHOOSING_TOKENS
    formula = attentions.load("quadtree").macs
    assert formula is not None
    assert facts["macs"] == formula(32, 2, quadtree.grid, **dict(params))


CHOOSES = """\
tokens = y.flatten(1, 2)
best = tokens.sum(-1).topk(min(self.keep, tokens.shape[1]), largest=self.largest).indices
chosen = tokens.gather(1, best[..., None].expand(-1, -1, x.shape[3]))
y = x + chosen.mean(dim=1)[:, None, None]"""


@pytest.mark.parametrize(
    ("largest", "kind"), [("True", Measured), ('impl == "eager"', Failed)], ids=["right", "wrong"]
)
def test_a_wrong_choice_is_seen(tmp_path: Path, largest: str, kind: type) -> None:
    """Where all is kept nothing shows that the worst were chosen for the best: fp64 does."""
    text = layer(
        f"self.keep, self.largest = keep, {largest}",
        CHOOSES,
        keywords=', *, keep=2, impl="fused"',
        spec=', impls=("eager", "fused"), checked_with={"keep": 1024}',
    )
    best = case(attention="best", params=(("keep", 2),), dtype="bfloat16")
    outcome = outcome_of(best, {"best": plugin(tmp_path, "best", text)})
    assert isinstance(outcome, kind), outcome
    if isinstance(outcome, Failed):
        assert outcome.kind == "wrong_output"


def test_a_plugin_is_measured(tmp_path: Path) -> None:
    """Without closed form its MACs are counted, and fvcore's stand beside them."""
    outcome = mine(tmp_path, layer())
    assert isinstance(outcome, Measured), outcome
    assert outcome.facts is not None
    assert outcome.facts.columns["macs_source"] == "counted"
    names = ("macs", "macs_counted", "macs_fvcore")
    assert {outcome.facts.columns[name] for name in names} == {16 * 32**2}
    assert outcome.facts.columns["macs_is_lower_bound"] is False


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (layer(build="raise ValueError('bad')"), "error", "ValueError: bad"),
        (layer(forward="raise KeyError('k')"), "error", "KeyError: 'k'"),
        (layer(forward="raise RuntimeError"), "error", "RuntimeError: no message"),
        (layer(forward="raise ValueError('a\\nb')"), "error", "ValueError: a"),
        (layer(forward="raise OSError('\\udcff.py')"), "error", "OSError: \\udcff.py"),
        (layer(forward="raise MemoryError('full')"), "out_of_memory", "full"),
        (layer(forward="x @ x.new_empty(1 << 50, 1 << 10)"), "out_of_memory", "memory"),
        (layer(forward="y = x / 0"), "wrong_output", "NaN or infinite"),
        (layer(forward="y = x[:, 1:]"), "wrong_output", "(2, 3, 4, 32)"),
        (layer(forward="y = x.double()"), "wrong_output", "float64"),
        (layer(forward="y = None"), "wrong_output", "NoneType"),
        (layer().replace("ATTENTION =", "OTHER ="), "error", "must define ATTENTION"),
        (f"import nothing_of_that_name\n{layer()}", "error", "cannot be imported"),
    ],
)
def test_misbehaviour(tmp_path: Path, text: str, kind: str, words: str) -> None:
    """Each has its kind, and one line that says what happened."""
    outcome = mine(tmp_path, text)
    assert isinstance(outcome, Failed), outcome
    assert outcome.kind == kind
    assert words in outcome.message
    assert "\n" not in outcome.message
    assert outcome.message.encode()


def test_an_output_that_differs_from_eager(tmp_path: Path) -> None:
    """Right in form, wrong by 1%: no speed is reported."""
    text = layer(
        "self.factor = 1.01 if impl == 'fused' else 1",
        "y = y * self.factor",
        keywords=", impl='fused'",
        spec=', impls=("eager", "fused")',
    )
    plugins = {"mine": plugin(tmp_path, "mine", text)}
    wrong = outcome_of(case(attention="mine", params=(), impl="fused"), plugins)
    assert isinstance(wrong, Failed), wrong
    assert wrong.kind == "wrong_output"
    assert "differs from the eager implementation" in wrong.message
    measure(case(attention="mine", params=(), impl="eager"), plugins)


def test_a_dtype_that_the_device_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case is unsupported, for the device's reason; before a run it is said too."""
    monkeypatch.setattr(
        cpu.Device, "refuses", lambda _, dtype: "none here" if dtype == "bfloat16" else None
    )
    refused = case(dtype="bfloat16")
    assert outcome_of(refused) == Failed("unsupported", "none here")
    assert describe.reasons_against([refused, case()], {}) == {refused: "none here"}


def test_what_its_runtime_refuses_is_said_before() -> None:
    """With the reason that its row would have."""
    refused = case(dtype="int8")
    reasons = describe.reasons_against([refused, case()], {})
    assert reasons == {refused: runtimes.refusal("eager", "cpu", "int8", "forward")}


@pytest.mark.parametrize(
    ("full", "checked"),
    [
        (1, "eager float32: it cannot run in float64 (memory ran out)"),
        (
            2,
            "nothing: it cannot run in float64 (memory ran out), "
            "it cannot run in float32 (memory ran out)",
        ),
    ],
)
def test_a_reference_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, full: int, checked: str
) -> None:
    """The case is measured all the same, and says what it was checked against."""
    whole, tries = check._reference, itertools.count()

    def reference(*args: Any) -> Any:
        if next(tries) < full:
            raise torch.OutOfMemoryError("Tried to allocate 80 GiB")
        return whole(*args)

    monkeypatch.setattr(check, "_reference", reference)
    columns = measure(case()).facts.columns
    assert columns["checked_against"] == checked
    assert (columns["error_rms"] is None) == (full == 2)


def test_a_comparison_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the row unchecked."""

    def worst_of(*_: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 80 GiB")

    monkeypatch.setattr(correctness, "worst_of", worst_of)
    assert measure(case()).facts.columns["checked_against"] == "nothing: memory ran out"


def test_the_reference_runs_where_the_device_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the output is compared with it."""
    seen: list[torch.Tensor] = []

    def worst_of(outputs: list[torch.Tensor], references: list[torch.Tensor]) -> Any:
        seen.extend([*outputs, *references])
        return correctness.Errors(0.0, 0.0)

    monkeypatch.setattr(cpu.Device, "reference", lambda _: torch.device("meta"))
    monkeypatch.setattr(correctness, "worst_of", worst_of)
    assert measure(case()).facts.columns["checked_against"] == "eager float64"
    assert [(t.device.type, t.dtype) for t in seen] == [
        ("meta", torch.float32),
        ("meta", torch.float64),
    ]


def test_a_backbone(tmp_path: Path) -> None:
    """Images in, any tensors out."""
    plugins = {"tiny": plugin(tmp_path, "tiny", BACKBONE)}
    outcome = measure(backbone_case(impl="eager"), plugins)
    assert outcome.facts.columns["macs"] == 16 * 16 * 8 * 3 * 16


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


def test_the_first_call_loads_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process loads once was loaded before, and only once: the first case of a process would
    have it in its first call, and no other."""
    events: list[Any] = []
    conv2d = torch.nn.functional.conv2d

    def watched(x: torch.Tensor, *others: Any) -> torch.Tensor:
        events.append(tuple(x.shape))
        return conv2d(x, *others)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    monkeypatch.setattr(devices.connect("cpu"), "_has_libraries", False)
    text = layer(forward="import torch.nn.functional as f\nf.seen.append('called')")
    monkeypatch.setattr(torch.nn.functional, "seen", events, raising=False)
    plugins = {"mine": plugin(tmp_path, "mine", text)}
    for _ in range(2):
        one = case(attention="mine", params=(), impl="eager")
        passes.measure(one, QUICK, plugins, with_facts=False)
    assert events[:2] == [(1, 8, 8, 8), "called"]
    assert events.count((1, 8, 8, 8)) == 1


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
def test_what_a_mechanism_changes_does_not_reach_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line in, one line out: the environment first, then cases, a failure among them. Default
    dtype, gradients and threads are as they were when the next case is measured, and the most that
    others did before and after a case stands beside it."""
    shares = iter((0.9, 0.3, None, 0.1))
    monkeypatch.setattr(cpu.Device, "idle", lambda _: {"gpu_idle_utilisation": next(shares)})
    rude = layer(
        build="torch.set_default_dtype(torch.float64)\n"
        "torch.set_grad_enabled(False)\n"
        "torch.set_num_threads(2)\n"
        "raise RuntimeError('gone')"
    )
    plugins = {"rude": plugin(tmp_path, "rude", rude)}
    cases = [case(attention="rude", impl="eager", params=()), case(mode="forward_backward")]
    ready, failed, reply = serve(
        SetUp(device="cpu", threads=1, plugins=plugins, environment=True),
        *(Measure(case=each, rule=QUICK, with_facts=False) for each in cases),
    )
    assert isinstance(ready, Ready)
    assert ready.device == "cpu"
    assert ready.environment is not None
    assert ready.environment["torch"]["threads"] == 1
    gone = "RuntimeError: gone; raised at rude.py:14"
    assert failed == Finished(outcome=Failed("error", gone))
    assert isinstance(reply, Finished)
    assert isinstance(reply.outcome, Measured)
    assert reply.outcome.state["gpu_idle_utilisation"] == 0.3
    assert "cpu_share" in reply.outcome.state
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == 1
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("autotune", [True, False])
def test_a_worker_tells_its_device_how_kernels_are_chosen(
    monkeypatch: pytest.MonkeyPatch, autotune: bool
) -> None:
    """Before the device is configured."""
    device = devices.connect("cpu")
    monkeypatch.setattr(device, "autotunes", not autotune)
    seen: list[bool] = []
    monkeypatch.setattr(device, "configure", lambda threads: seen.append(device.autotunes))
    serve(SetUp(device="cpu", threads=1, autotune=autotune))
    assert seen == [autotune]


@pytest.mark.usefixtures("settings")
def test_a_worker_leaves_memory_to_the_other_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was needed to prepare a case is given back before the other side prepares its own; where
    room is short, after each turn; and all of it when the case is over, however that came."""
    events: list[str] = []
    device = devices.connect("cpu")
    keeps_much = iter([True, False])
    monkeypatch.setattr(device, "release", lambda: events.append("release"))
    monkeypatch.setattr(device, "keeps_much", lambda: next(keeps_much))
    text = layer("self.calls = 40", "self.calls -= 1\nassert self.calls, 'out of breath'")
    plugins = {"tired": plugin(tmp_path, "tired", text)}
    sound, tired = case(), case(attention="tired", params=(), impl="eager")
    once, long = Sample(seconds=0.0), Sample(seconds=5.0)
    prepared = [PrepareCase(case=each, rule=QUICK, with_facts=False) for each in (sound, tired)]
    unknown = PrepareCase(case=case(attention="no"), rule=QUICK, with_facts=False)
    conversations: list[tuple[list[Request], list[str]]] = [
        ([prepared[0], once, once, Finish()], ["release"] * 3),
        ([prepared[0], Discard()], ["release"] * 2),
        ([prepared[1], long], ["release"] * 2),
        ([unknown], ["release"]),
    ]
    for requests, expected in conversations:
        events.clear()
        serve(SetUp(device="cpu", threads=1, plugins=plugins), *requests)
        assert events == expected


@pytest.mark.usefixtures("settings")
def test_a_worker_asks_a_ruined_device_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would raise that too: the worker answers what the case raised."""

    def release(_: cpu.Device) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(cpu, "RULES", dataclasses.replace(cpu.RULES, ruined_by=("error",)))
    monkeypatch.setattr(cpu.Device, "release", release)
    plugins = {"gone": plugin(tmp_path, "gone", layer(forward="raise RuntimeError('gone')"))}
    lost = case(attention="gone", params=(), impl="eager")
    setup = SetUp(device="cpu", threads=1, plugins=plugins)
    for request in (Measure, PrepareCase):
        _, reply = serve(setup, request(case=lost, rule=QUICK, with_facts=False))
        assert isinstance(reply, Finished)
        assert isinstance(reply.outcome, Failed)
        assert reply.outcome.kind == "error"


@pytest.mark.usefixtures("settings")
def test_a_worker_without_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ready all the same: they are empty, and the environment says why."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("nothing is left")

    monkeypatch.setattr(cpu.Device, "_best_s", full)
    (ready,) = serve(SetUp(device="cpu", threads=1, environment=True, ceilings=("float32",)))
    assert isinstance(ready, Ready)
    assert ready.ceilings == Ceilings({})
    assert ready.environment is not None
    assert ready.environment["ceilings_unmeasured"] == ["OutOfMemoryError: nothing is left"]


@pytest.mark.usefixtures("settings")
def test_a_worker_refuses_a_device_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words; the device is told how many workers use it at a time."""

    def start(device: cpu.Device, workers: int) -> None:
        raise BadInput(f"no room for {workers}")

    monkeypatch.setattr(cpu.Device, "start", start)
    (reply,) = serve(SetUp(device="cpu", workers=2))
    assert reply == Refused(reason="no room for 2")


@pytest.mark.usefixtures("settings")
def test_a_worker_refuses_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words; it does not end."""
    monkeypatch.setattr(cuda.Device, "count", lambda: 0)
    (reply,) = serve(SetUp(device="cuda"))
    assert isinstance(reply, Refused)
    assert "this machine has no CUDA device" in reply.reason
