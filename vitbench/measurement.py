"""One case through its passes: build, check, count, memory, time. Every fault is an Outcome."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vitbench import subjects
from vitbench.case import Case
from vitbench.instruments import correctness, environment, gpu, host, macs, memory, timing
from vitbench.record import Facts, Failed, FailureKind, Measured, Outcome

# A reference in fp64 of a large map takes longer than all else together; from this many tokens
# on, the check is made on a smaller map of the same mechanism, and the row says so.
MAX_CHECKED_TOKENS = 1600


class WrongOutput(Exception):
    """The output is not what the mechanism defines."""


def measure(
    case: Case,
    rule: timing.TimingRule,
    plugins: Mapping[str, Path],
    *,
    with_facts: bool,
) -> Outcome:
    """Checks, counts and times one case. Every fault is an Outcome, never an exception."""
    try:
        return _measure(case, rule, plugins, with_facts=with_facts)
    except subjects.Unsupported as reason:
        return Failed("unsupported", str(reason))
    except WrongOutput as reason:
        return Failed("wrong_output", str(reason))
    except (torch.OutOfMemoryError, MemoryError) as error:
        return Failed("out_of_memory", _first_line(error))
    # A mechanism may raise anything; the sweep goes on, and the row carries the message.
    except Exception as error:
        kind: FailureKind = "out_of_memory" if _is_out_of_memory(error) else "error"
        return Failed(kind, f"{type(error).__name__}: {_first_line(error)}")


def _measure(
    case: Case, rule: timing.TimingRule, plugins: Mapping[str, Path], *, with_facts: bool
) -> Measured:
    spent: dict[str, float] = {}
    trained = case.mode == "forward_backward"
    with contextlib.nullcontext() if trained else torch.inference_mode():
        with _stopwatch(spent, "build"):
            subject = subjects.build(case, plugins)
        with _stopwatch(spent, "first_call"):
            output = subject.call()
            _synchronize(case)
        compile_s = spent["first_call"] if case.compiled else None
        with _stopwatch(spent, "check"):
            checked = _check(case, subject, output, plugins, thorough=with_facts)
        del output
        facts = None
        if with_facts:
            facts = _facts(case, subject, plugins, checked, spent)
        with _stopwatch(spent, "timing"):
            timed, state = _time(case, subject, rule)
    return Measured(
        samples_s=tuple(timed.samples),
        wall_samples_s=tuple(timed.wall_samples) if case.device != "cpu" else tuple(timed.samples),
        calls_per_sample=timed.calls_per_sample,
        first_call_s=spent["first_call"],
        compile_s=compile_s,
        warmup_calls=timed.warmup_calls,
        warmup_s=timed.warmup_s,
        stopped_by=timed.stopped_by,
        state=state,
        facts=facts,
        spent_s=spent,
    )


@contextlib.contextmanager
def _stopwatch(spent: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[name] = time.perf_counter() - start


def _synchronize(case: Case) -> None:
    if case.device.startswith("cuda"):
        torch.cuda.synchronize(case.device)


def _check(
    case: Case,
    subject: subjects.Subject,
    output: object,
    plugins: Mapping[str, Path],
    *,
    thorough: bool,
) -> tuple[str, correctness.Errors] | None:
    """Raises WrongOutput. Thorough: against the eager implementation in fp64."""
    fault = correctness.fault_of_form(output, subject.x)
    if fault is not None:
        raise WrongOutput(fault)
    if not thorough:
        return None
    assert isinstance(output, torch.Tensor)
    if case.grid.tokens <= MAX_CHECKED_TOKENS:
        return "eager float64", _errors_against_eager(
            case, subject.module, subject.x, output, plugins
        )
    smaller = _smaller(case)
    small = subjects.build(smaller, plugins)
    return (
        f"eager float64 at {smaller.grid} tokens",
        _errors_against_eager(smaller, small.module, small.x, small.call(), plugins),
    )


def _smaller(case: Case) -> Case:
    """The case on a map small enough to check, its sides' remainders kept where they matter."""
    data = case.to_dict()
    while data["grid_height"] * data["grid_width"] > MAX_CHECKED_TOKENS:
        longer = "height" if data["grid_height"] >= data["grid_width"] else "width"
        data[f"grid_{longer}"] = -(-data[f"grid_{longer}"] // 2)
        data[f"image_{longer}"] = data[f"grid_{longer}"] * data["stride"]
    return Case.from_dict(data | {"batch_size": min(case.batch_size, 2), "compiled": False})


def _errors_against_eager(
    case: Case,
    module: torch.nn.Module,
    x: torch.Tensor,
    output: torch.Tensor,
    plugins: Mapping[str, Path],
) -> correctness.Errors:
    """First and last image of the batch against fp64: an index overflow shows in the last."""
    spec = subjects.spec_of(case.attention, plugins)
    eager = subjects.build_module(spec, case, "eager" if "eager" in spec.impls else case.impl)
    eager.load_state_dict(module.state_dict())
    eager = eager.to(case.device, torch.float64).train(module.training)
    ends = sorted({0, x.shape[0] - 1})
    with torch.no_grad():
        reference = torch.cat([eager(x[i : i + 1].detach().double()) for i in ends])
    found = correctness.errors(output.detach()[ends], reference)
    tf32 = case.device.startswith("cuda") and environment.tf32()
    fault = correctness.fault_of_value(found, correctness.budget(x.dtype, tf32=tf32))
    if fault is not None:
        raise WrongOutput(fault)
    return found


def _facts(
    case: Case,
    subject: subjects.Subject,
    plugins: Mapping[str, Path],
    checked: tuple[str, correctness.Errors] | None,
    spent: dict[str, float],
) -> Facts:
    assert checked is not None
    spec = subjects.spec_of(case.attention, plugins)
    with _stopwatch(spent, "macs"):
        eager = subjects.build_module(spec, case, "eager" if "eager" in spec.impls else case.impl)
        counted = macs.count(eager, (1, case.grid_height, case.grid_width, case.dim))
    closed_form = None
    if spec.macs is not None:
        closed_form = spec.macs(case.dim, case.num_heads, case.grid, **dict(case.params))
    computed = case.grid
    if spec.computed is not None:
        computed = spec.computed(case.grid, **dict(case.params))
    with _stopwatch(spent, "memory"):
        held = memory.measure(subject.call, subject.module, (subject.x,))
    energy = None
    if case.device.startswith("cuda"):
        with _stopwatch(spent, "energy"):
            energy = _energy_j_img(case, subject)
    against, errors = checked
    return Facts(
        params=macs.params(subject.module),
        macs=counted.total if closed_form is None else closed_form,
        macs_fvcore=counted.total,
        macs_closed_form=closed_form,
        uncounted_ops=counted.uncounted,
        computed_tokens=computed.tokens,
        peak_memory_bytes=held.peak,
        activation_memory_bytes=held.activation,
        reserved_memory_bytes=held.reserved,
        peak_rss_bytes=held.rss,
        checked_against=against,
        error_rms=errors.rms,
        error_worst=errors.worst,
        energy_j_img=energy,
    )


def _time(
    case: Case, subject: subjects.Subject, rule: timing.TimingRule
) -> tuple[timing.Timing, dict[str, Any]]:
    call: Callable[[], Any] = subject.call
    on_cuda = case.device.startswith("cuda")
    if case.cuda_graph:
        call = _validated_graph(case, subject)
    flush = _flusher(case.device) if case.cold else None
    clock: timing.Clock = timing.CpuClock(flush)
    if on_cuda:
        clock = timing.CudaClock(case.device, flush)
    graphs_before = _compiled_graphs()
    board = _board(case.device) if on_cuda else None
    gc.collect()
    gc.disable()  # a collection inside a sample is not the layer's time
    try:
        start = host.read()
        timed = timing.measure(
            call,
            clock,
            rule,
            between=(lambda: asdict(board.state())) if board is not None else None,
            max_calls=1 if case.cold else None,
        )
        state = host.between(start, host.read(), torch.get_num_threads())
    finally:
        gc.enable()
    if _compiled_graphs() != graphs_before:
        raise RuntimeError("torch.compile compiled again inside the timed region")
    return timed, state | _board_state(timed.chunks)


def _board(device: str) -> gpu.Gpu | None:
    try:
        return gpu.Gpu(str(torch.cuda.get_device_properties(device).uuid))
    except gpu.GpuUnreadable:
        return None


def _board_state(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of the readings between chunks of samples."""
    if not chunks:
        return {}

    def seen(name: str) -> list[Any]:
        return [chunk[name] for chunk in chunks if chunk[name] is not None]

    masks = seen("throttle")
    return {
        "sm_clock_hz": min(seen("sm_clock_hz"), default=None),
        "temperature_c": max(seen("temperature_c"), default=None),
        "power_w": max(seen("power_w"), default=None),
        "throttle_reasons": [
            words
            for bit, words in gpu.BAD_THROTTLE_REASONS.items()
            if any(mask & bit for mask in masks)
        ],
    }


def _validated_graph(case: Case, subject: subjects.Subject) -> Callable[[], Any]:
    """The call as a CUDA graph that is shown to follow its input. Raises WrongOutput."""
    replay, output = subjects.captured(subject.call, case.device)
    kept = subject.x.detach().clone()
    with torch.no_grad():
        subject.x.copy_(torch.randn_like(kept))
        expected = subject.call()
        replay()
        torch.cuda.synchronize(case.device)
        allowed = correctness.budget(subject.x.dtype)
        fault = correctness.fault_of_value(correctness.errors(output, expected), allowed)
        subject.x.copy_(kept)
    if fault is not None:
        raise WrongOutput(f"replayed from a CUDA graph on a new input, {fault}")
    return replay


def _flusher(device: str) -> Callable[[], Any]:
    """Overwrites more memory than the caches hold: twice the L2 of a GPU, 128 MiB on a CPU."""
    nbytes = 2**27
    if device.startswith("cuda"):
        nbytes = 2 * torch.cuda.get_device_properties(device).L2_cache_size
    scratch = torch.empty(nbytes, dtype=torch.int8, device=device)
    return scratch.zero_


def _energy_j_img(case: Case, subject: subjects.Subject, seconds: float = 0.5) -> float | None:
    """Joules per image from NVML's energy counter over half a second of calls."""
    board = _board(case.device)
    before = board.state().energy_j if board is not None else None
    if board is None or before is None:
        return None
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            subject.call()
        torch.cuda.synchronize(case.device)
        calls += 10
    after = board.state().energy_j
    return None if after is None else (after - before) / (calls * case.batch_size)


def _compiled_graphs() -> int:
    """Graphs that torch.compile has made so far in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _is_out_of_memory(error: Exception) -> bool:
    """The CPU allocator raises a plain RuntimeError."""
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
