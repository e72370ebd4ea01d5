"""One case through its passes: build, check, count, memory, time. Every fault is an Outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from vitbench.cases.case import Case
from vitbench.instruments import correctness, host, macs, memory, operators, timing
from vitbench.results.outcome import Counted, Facts, Failed, FailureKind, Measured, Outcome
from vitbench.subjects import build as subjects
from vitbench.subjects.backbones.weights import BadWeights

# A reference in fp64 of a large map takes longer than all else together; from this many tokens
# on, the check is made on a smaller map of the same mechanism, and the row says so.
MAX_CHECKED_TOKENS = 1600
# Where a mechanism is checked with everything to choose from, every token meets every other.
MAX_CHOOSING_TOKENS = 256
# Rounding errors add up over a model; budgets are for one layer and grow with the root of depth.
BACKBONE_LAYERS = 64
# Characters of a failure's message: a row is for reading.
MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Checked:
    """What an output was compared with, and how far from it it lies."""

    against: str
    errors: correctness.Errors


COMPILED_AGAIN = "torch.compile compiled again inside the timed region"

Done = TypeVar("Done")


class WrongOutput(Exception):
    """The output is not what the mechanism defines."""


@dataclass(slots=True)
class Prepared:
    """A case that was built, run once, checked and counted.

    facts  None where they were not asked for
    spent  seconds of each pass
    """

    case: Case
    subject: subjects.Subject
    facts: Facts | None
    spent: dict[str, float]


def measure(
    case: Case,
    rule: timing.TimingRule | None,
    plugins: subjects.Plugins,
    *,
    with_facts: bool,
    weights: Path | None = None,
) -> Outcome:
    """Checks, counts and times one case; without a rule it is not timed. Every fault is an Outcome,
    never an exception."""
    return guarded(lambda: _measure(case, rule, plugins, with_facts, weights))


def guarded(work: Callable[[], Done]) -> Done | Failed:
    """What the work returns; whatever a mechanism raised, as data."""
    try:
        return work()
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


def gradients_of(case: Case) -> contextlib.AbstractContextManager[object]:
    """Whether torch records for a backward pass, as the case's mode has it."""
    trained = case.mode == "forward_backward"
    return contextlib.nullcontext() if trained else torch.inference_mode()


def _measure(
    case: Case,
    rule: timing.TimingRule | None,
    plugins: subjects.Plugins,
    with_facts: bool,
    weights: Path | None,
) -> Measured | Counted:
    with gradients_of(case):
        ready = prepare(
            case, plugins, with_facts=with_facts, timed=rule is not None, weights=weights
        )
        if rule is None:
            assert ready.facts is not None
            return Counted(ready.facts)
        with _stopwatch(ready.spent, "timing"):
            timed, state = _time(case, ready.subject, rule)
    return measured(ready, timed, state)


def prepare(
    case: Case,
    plugins: subjects.Plugins,
    *,
    with_facts: bool,
    timed: bool,
    weights: Path | None = None,
) -> Prepared:
    """Builds, runs, checks and, where asked, counts a case; under `gradients_of` it."""
    if case.weights and weights is None:
        raise BadWeights(f"the checkpoint {case.weights} is not there: give it with --weights")
    spent: dict[str, float] = {}
    with _stopwatch(spent, "build"):
        subject = subjects.build(case, plugins, weights)
    if case.runtime == "compile":
        graphs_before = compiled_graphs()
        with _stopwatch(spent, "compile"):
            subject.call()
            subject.device.synchronize()
        subject.graph_breaks = graph_breaks()
        if compiled_graphs() == graphs_before:
            raise RuntimeError("torch.compile compiled nothing: the call runs as it is")
    with _stopwatch(spent, "first_call"):
        output = subject.call()
        subject.device.synchronize()
    with _stopwatch(spent, "check"):
        checked = _check(case, subject, output, plugins, full=with_facts)
    output_bytes = sum(tensor.nbytes for tensor in subjects.tensors_in(output))
    del output
    facts = None
    if checked is not None:
        facts = _facts(case, subject, plugins, checked, output_bytes, spent, timed=timed)
    return Prepared(case, subject, facts, spent)


def measured(ready: Prepared, timed: timing.Timing, state: Mapping[str, Any]) -> Measured:
    """The outcome of a case that was timed."""
    return Measured(
        samples_s=tuple(timed.samples),
        wall_samples_s=tuple(timed.wall_samples),
        calls_per_sample=timed.calls_per_sample,
        first_call_s=ready.spent["first_call"],
        compile_s=ready.spent.get("compile"),
        warmup_calls=timed.warmup_calls,
        warmup_s=timed.warmup_s,
        stopped_by=timed.stopped_by,
        state=state,
        facts=ready.facts,
        spent_s=ready.spent,
    )


@contextlib.contextmanager
def _stopwatch(spent: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[name] = time.perf_counter() - start


def _check(
    case: Case, subject: subjects.Subject, output: object, plugins: subjects.Plugins, *, full: bool
) -> Checked | None:
    """Raises WrongOutput. In full: also against the eager implementation in fp64."""
    if case.attention:
        fault = correctness.fault_of_form(output, subject.x)
    else:
        fault = correctness.fault_of_tensors(subjects.tensors_in(output))
    if fault is not None:
        raise WrongOutput(fault)
    if not full:
        return None
    chosen = subjects.checked_with(case, plugins)
    limit = MAX_CHOOSING_TOKENS if chosen else MAX_CHECKED_TOKENS
    if not chosen and (case.backbone or case.grid.tokens <= limit):
        return Checked("eager float64", _against_eager(case, subject, output, plugins))
    other = _checkable(case, plugins, chosen, limit)
    found = _on_its_own(other, plugins)
    words = [] if case.backbone else [f"at {other.grid} tokens"]
    words += [f"with {name}={value}" for name, value in chosen.items()]
    if chosen:
        # That the right things are chosen is seen in fp64, where a tie is too rare to meet.
        double = dataclasses.replace(case, dtype="float64")
        _on_its_own(_checkable(double, plugins, {}, limit), plugins)
        words.append("and as it is in float64")
    return Checked(" ".join(["eager float64", *words]), found)


def _on_its_own(case: Case, plugins: subjects.Plugins) -> correctness.Errors:
    """The errors of a case that is built for the check alone."""
    small = subjects.build(case, plugins)
    return _against_eager(case, small, small.call(), plugins)


def _checkable(
    case: Case, plugins: subjects.Plugins, params: Mapping[str, Any], limit: int
) -> Case:
    """The case on a map of at most `limit` tokens that the mechanism supports, as large and as
    oblong as the case's as can be. Raises Unsupported where there is none.
    """
    if case.backbone:  # it has the size that it has
        merged = dict(case.params) | dict(params)
        return dataclasses.replace(
            case,
            params=tuple(sorted(merged.items())),
            batch_size=min(case.batch_size, 2),
            runtime="eager",
        )
    asked = case.grid
    shape = math.log(asked.height / asked.width)

    def unlike(side: tuple[int, int]) -> tuple[bool, float, int]:
        height, width = side
        oblong = abs(math.log(height / width) - shape)
        return height * width < limit // 2, round(oblong, 1), -height * width

    sides = itertools.product(range(1, asked.height + 1), range(1, asked.width + 1))
    for height, width in sorted((s for s in sides if s[0] * s[1] <= limit), key=unlike):
        other = dataclasses.replace(
            case,
            params=tuple(sorted((dict(case.params) | dict(params)).items())),
            grid_height=height,
            grid_width=width,
            image_height=height * case.stride,
            image_width=width * case.stride,
            batch_size=min(case.batch_size, 2),
            runtime="eager",
        )
        if subjects.is_supported(other, plugins):
            return other
    raise subjects.Unsupported(f"no map of at most {limit} tokens, on which it could be checked")


def _against_eager(
    case: Case, subject: subjects.Subject, output: object, plugins: subjects.Plugins
) -> correctness.Errors:
    """First and last image of the batch against fp64: an index overflow shows in the last."""
    eager = subjects.build_module(case, plugins, subjects.reference_impl(case, plugins))
    eager.load_state_dict(subject.module.state_dict())
    # A training step is checked by its forward pass, in the mode in which it ran.
    eager = eager.to(subject.x.device, torch.float64).train(subject.module.training)
    ends = sorted({0, case.batch_size - 1})
    x = subject.x.detach()
    with torch.no_grad():
        if subject.module.training:  # statistics over the batch need the whole of it
            reference = [t[ends] for t in subjects.tensors_in(eager(x.double()))]
        else:
            parts = [subjects.tensors_in(eager(x[i : i + 1].double())) for i in ends]
            reference = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
    outputs = [t.detach()[ends] for t in subjects.tensors_in(output)]
    found = correctness.worst_of(outputs, reference)
    layers = BACKBONE_LAYERS if case.backbone else 1
    allowed = correctness.budget(x.dtype, tf32=subject.device.uses_tf32(), layers=layers)
    fault = correctness.fault_of_value(found, allowed)
    if fault is not None:
        raise WrongOutput(fault)
    return found


def _facts(
    case: Case,
    subject: subjects.Subject,
    plugins: subjects.Plugins,
    checked: Checked,
    output_bytes: int,
    spent: dict[str, float],
    *,
    timed: bool,
) -> Facts:
    with _stopwatch(spent, "macs"):
        counted, head_macs = subjects.count_macs(case, plugins, subject.module)
    closed_form = subjects.closed_form_macs(case, plugins)
    with _stopwatch(spent, "memory"):
        held = memory.measure(subject.device, subject.call, subject.module, (subject.x,))
    energy = None
    if timed:
        with _stopwatch(spent, "energy"):
            energy = subject.device.energy_j(subject.call)
    with _stopwatch(spent, "operators"):
        traced = None if case.runtime == "compile" else operators.trace(subject.call)
    weight_bytes = sum(p.nbytes for p in subject.module.parameters())
    return Facts(
        params=macs.params(subject.module),
        macs=counted.total if closed_form is None else closed_form,
        macs_fvcore=counted.total,
        macs_closed_form=closed_form,
        uncounted_ops=counted.uncounted,
        wasted_token_fraction=subjects.wasted_token_fraction(case, plugins),
        compulsory_bytes=weight_bytes + subject.x.nbytes + output_bytes,
        peak_memory_bytes=held.peak,
        activation_memory_bytes=held.activation,
        reserved_memory_bytes=held.reserved,
        peak_rss_bytes=held.rss,
        checked_against=checked.against,
        error_rms=checked.errors.rms,
        error_worst=checked.errors.worst,
        energy_j_img=None if energy is None else energy / case.batch_size,
        operator_calls=None if traced is None else traced.calls,
        sdpa_kernels={} if traced is None else traced.kernels,
        graph_breaks=subject.graph_breaks,
        fallback=subjects.fallback(case, plugins),
        macs_head=head_macs,
        macs_formula=subjects.formula_macs(case, plugins),
    )


def _time(
    case: Case, subject: subjects.Subject, rule: timing.TimingRule
) -> tuple[timing.Timing, dict[str, Any]]:
    call, clock = timed_call(case, subject), subject.device.clock(cold=case.cold)
    graphs_before = compiled_graphs()
    watch = subject.device.watch()
    gc.collect()
    gc.disable()  # a collection inside a sample is not the layer's time
    try:
        start = host.read()
        timed = timing.measure(
            call,
            clock,
            rule,
            watch=watch,
            max_calls=most_calls(case),
        )
        state = host.between(start, host.read(), torch.get_num_threads())
    finally:
        gc.enable()
    if compiled_graphs() != graphs_before:
        raise RuntimeError(COMPILED_AGAIN)
    state |= {"retries": timed.retries} if watch.read is not None else {}
    return timed, state | watch.neighbours() | watch.columns(timed.chunks)


def timed_call(case: Case, subject: subjects.Subject) -> Callable[[], Any]:
    """The call that is timed: the subject's, or its CUDA graph's. Raises WrongOutput."""
    return _validated_graph(subject) if case.runtime == "cuda-graph" else subject.call


def most_calls(case: Case) -> int | None:
    """Calls of one sample at most: every call of a cold case is cold."""
    return 1 if case.cold else None


def _validated_graph(subject: subjects.Subject) -> Callable[[], Any]:
    """The call as a CUDA graph that is shown to follow its input. Raises WrongOutput."""
    replay, output = subject.device.capture(subject.call)
    kept = subject.x.detach().clone()
    with torch.no_grad():
        subject.x.copy_(torch.randn_like(kept))
        expected = subject.call()
        replay()
        subject.device.synchronize()
        allowed = correctness.budget(subject.x.dtype)
        found = correctness.worst_of(subjects.tensors_in(output), subjects.tensors_in(expected))
        fault = correctness.fault_of_value(found, allowed)
        subject.x.copy_(kept)
    if fault is not None:
        raise WrongOutput(f"replayed from a CUDA graph on a new input, {fault}")
    return replay


def compiled_graphs() -> int:
    """Graphs that torch.compile has made so far in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0


def graph_breaks() -> int:
    """Times that torch.compile had to stop and begin anew, since its last reset."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return sum(dynamo.counters["graph_break"].values()) if dynamo is not None else 0


def _first_line(error: BaseException) -> str:
    text = str(error).encode(errors="backslashreplace").decode()  # names of files need not be text
    lines = text.strip().splitlines()
    return lines[0][:MAX_MESSAGE] if lines else "no message"


def _is_out_of_memory(error: Exception) -> bool:
    """The CPU allocator raises a plain RuntimeError."""
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
