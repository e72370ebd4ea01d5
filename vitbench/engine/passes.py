"""One case through its passes: build, prepare, check, read, time. Every fault is an Outcome."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from vitbench import devices, instruments, runtimes
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.errors import BadInput, StorageFull, causes, first_line, named
from vitbench.instruments import NOTES, Workload, host, timing
from vitbench.instruments.correctness import WrongOutput, tensors_in
from vitbench.results.folder import artifact_of
from vitbench.results.outcome import Counted, Facts, Failed, Measured
from vitbench.runtimes import _artifact
from vitbench.subjects import behaviour, check, settings
from vitbench.subjects import build as subjects
from vitbench.subjects import plugins as own
from vitbench.subjects.backbones.weights import BadWeights

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(slots=True)
class Ready:
    """A case that was built, prepared, run once, checked, and read where that was asked for.

    timed_under  the settings of the process
    facts        None where they were not asked for
    spent        seconds of each pass
    """

    case: Case
    subject: subjects.Subject
    prepared: runtimes.Prepared
    timed_under: settings.Settings
    facts: Facts | None = None
    spent: dict[str, float] = field(default_factory=dict)

    def measured(self, timed: timing.Timing, state: Mapping[str, Any]) -> Measured:
        """The outcome, when it was timed. Raises RuntimeError where the time is no call's."""
        fault = self.prepared.fault()
        if fault is not None:
            raise RuntimeError(fault)
        return Measured(
            samples_s=tuple(timed.samples),
            device_samples_s=tuple(timed.device_samples),
            calls_per_sample=timed.calls_per_sample,
            first_call_s=self.spent["first_call"],
            compile_s=self.prepared.compile_s,
            is_cached=self.prepared.is_cached,
            warmup_calls=timed.warmup_calls,
            warmup_s=timed.warmup_s,
            stopped_by=timed.stopped_by,
            state={**state, "settings_changed": self._changes()},
            facts=self.facts,
            spent_s=self.spent,
        )

    def _changes(self) -> str:
        """What the module left changed when it was timed, in words."""
        return "; ".join(settings.changes(self.timed_under, settings.read()))


def guarded(work: Callable[Arguments, Result]) -> Callable[Arguments, Result | Failed]:
    """The same function, except that it returns a Failed for whatever a mechanism raises."""

    @functools.wraps(work, updated=())
    def guarded_work(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result | Failed:
        try:
            return work(*args, **kwargs)
        except (subjects.Unsupported, runtimes.Unsuitable) as reason:
            return Failed("unsupported", str(reason))
        except WrongOutput as reason:
            return Failed("wrong_output", str(reason))
        except _artifact.Changed as reason:
            return Failed("error", str(reason))
        except StorageFull:
            raise
        # A mechanism may raise anything; the sweep goes on, and the row carries the message.
        except (Exception, SystemExit) as error:
            if devices.is_out_of_memory(error):
                return Failed("out_of_memory", first_line(causes(error)[-1]))
            return Failed("error", named(error))

    return guarded_work


@contextlib.contextmanager
def conditions(case: Case, plugins: subjects.Plugins) -> Iterator[None]:
    """What holds while a case runs: whether torch records for a backward pass, as the case's mode
    has it, and that its plugins can import what lies beside them."""
    trained = case.mode == "forward_backward"
    gradients = contextlib.nullcontext() if trained else torch.inference_mode()
    with own.importable(case, plugins), gradients:
        yield


@guarded
def measure(
    case: Case,
    rule: timing.TimingRule | None,
    plugins: subjects.Plugins,
    *,
    with_facts: bool,
    weights: Path | None = None,
    calibration: Calibration | None = None,
    artifacts: Path | None = None,
) -> Measured | Counted:
    """Checks, reads and times one case; without a rule it is not timed."""
    with conditions(case, plugins):
        energy_s = 0.0 if rule is None else rule.energy_s
        ready = prepare(
            case,
            plugins,
            with_facts=with_facts,
            energy_s=energy_s,
            weights=weights,
            calibration=calibration,
            artifacts=artifacts,
        )
        if rule is None:
            assert ready.facts is not None
            return Counted(ready.facts)
        with _stopwatch(ready.spent, "timing"):
            timed, state = _time(ready, rule)
        return ready.measured(timed, state)


def prepare(
    case: Case,
    plugins: subjects.Plugins,
    *,
    with_facts: bool,
    energy_s: float,
    weights: Path | None = None,
    calibration: Calibration | None = None,
    artifacts: Path | None = None,
) -> Ready:
    """Builds, runs, checks and, where asked, reads a case; under its `conditions`. What its runtime
    converts is among the artifacts."""
    if case.weights and weights is None:
        raise BadWeights(f"the checkpoint {case.weights} is not there: give it with --weights")
    spent: dict[str, float] = {}
    runtime, before = _runtime_of(case), settings.read()
    with _stopwatch(spent, "build"), own.noted(case, plugins):
        subject = subjects.build(case, plugins, weights, calibration)
    changed = settings.changes(before, settings.read(), running=False)
    settings.restore(before)
    stayed = settings.changes(before, settings.read())
    changed = [change for change in changed if change not in stayed]
    subject.device.load_libraries()
    settings.seed(subjects.seed_of(case))
    with _stopwatch(spent, "prepare"), own.noted(case, plugins, subject.x):
        artifact = None if artifacts is None else artifact_of(case, artifacts)
        if artifact is not None and runtime.RULES.converts:
            _artifact.check(artifact)
        prepared = runtime.prepare(subject, artifact)
    watched = None
    if with_facts and behaviour.is_of_a_user(case, plugins):
        watched = behaviour.FirstCall(subject)
    with _stopwatch(spent, "first_call"), own.noted(case, plugins, subject.x):
        output = prepared.call()
        subject.device.synchronize()
    held_bytes = host.resident_bytes() - prepared.resident_before_bytes
    settings.restore(before)
    # Threads and processes cannot be ended: those of the module count as changed while it is timed.
    # What a package starts as it is imported is not: of a converted module no Python runs here, and
    # what its building left is in `stayed`.
    keeps = runtime.RULES.keeps_processes or (runtime.RULES.converts and not stayed)
    ready = Ready(case, subject, prepared, settings.read() if keeps else before, spent=spent)
    with _stopwatch(spent, "check"):
        note = check.check_form(case, subject, output, plugins)
        keeps_state = watched is not None and watched.keeps_state()
        checked: dict[str, Any] = {}
        if with_facts:
            checked = check.check_values(case, subject, output, plugins, keeps_state=keeps_state)
            if runtime.RULES.converts:
                check.check_follows_input(case, subject, prepared.call)
    output_bytes = sum(tensor.nbytes for tensor in tensors_in(output))
    del output
    if with_facts:
        columns = checked | _read(ready, plugins, energy_s, held_bytes)
        said = f"set again after it was built: {', '.join(changed)}" if changed else ""
        heads = subjects.heads_note(case, plugins)
        layout = subjects.layout_note(case, subject.module)
        columns[NOTES] = "; ".join(filter(None, (note, layout, heads, said, columns[NOTES])))
        settings.restore(before)
        # In the case's dtype, whatever dtype the module computes in here.
        numbers = sum(p.numel() * (1 + p.is_complex()) for p in subject.module.parameters())
        weight_bytes = subject.x.itemsize * numbers
        ready.facts = Facts(weight_bytes + subject.x.nbytes + output_bytes, columns)
    return ready


@guarded
def convert(
    case: Case,
    plugins: subjects.Plugins,
    artifacts: Path,
    weights: Path | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Converts the module of a case for its runtime, where it was not converted before. Raises
    StorageFull: the next case would not fit either."""
    _runtime_of(case)
    folder = artifact_of(case, artifacts)
    if _artifact.is_whole(folder):
        return
    with conditions(case, plugins), own.noted(case, plugins):
        subject = subjects.build(case, plugins, weights, calibration)
        _artifact.make(runtimes.converting()[case.runtime], subject, folder)


def _runtime_of(case: Case) -> runtimes.Runtime:
    """What runs the case. Raises Unsupported where that cannot be here."""
    try:
        runtime = runtimes.load(case.runtime)
    except BadInput as unknown:
        raise subjects.Unsupported(str(unknown)) from None
    reason = runtimes.refusal(case.runtime, case.device, case.dtype, case.mode)
    reason = reason or runtimes.missing(case.runtime, case.dtype)
    if reason is not None:
        raise subjects.Unsupported(reason)
    return runtime


def _read(
    ready: Ready, plugins: subjects.Plugins, energy_s: float, held_bytes: int
) -> dict[str, Any]:
    """What the instruments, the runtime and the subject say, by column.

    One that fails leaves its columns empty, and `notes` says why: the case is timed all the same.
    """
    case, subject, prepared = ready.case, ready.subject, ready.prepared
    workload = Workload(
        device=subject.device,
        module=subject.module,
        x=subject.x,
        call=prepared.call,
        images=case.batch_size,
        is_dispatched=prepared.is_dispatched,
        kept_bytes=prepared.kept_bytes,
        memory_source=prepared.memory_source,
        resident_held_bytes=held_bytes,
        energy_s=energy_s,
        counts=subjects.counts(case, plugins, subject.module),
    )
    reads: dict[str, Callable[[], Mapping[str, Any]]] = {
        "fallback": lambda: {"fallback": subjects.fallback(case, plugins)},
        "computed_dtype": lambda: {
            "computed_dtype": prepared.computed_dtype or subjects.computed_dtype(case, plugins)
        },
        "wasted_token_fraction": lambda: {
            "wasted_token_fraction": subjects.wasted_token_fraction(case, plugins)
        },
        case.runtime: prepared.columns,
    }
    for name, read in instruments.readers().items():
        reads[name] = functools.partial(read, workload)
    columns: dict[str, Any] = {}
    notes: list[str] = []
    for name, read_columns in reads.items():
        settings.restore(ready.timed_under)  # the pass before may have left them changed
        with _stopwatch(ready.spent, name):
            try:
                columns |= (found := read_columns())
                notes += [str(found[NOTES])] if found.get(NOTES) else []
            # A mechanism may raise anything in a pass that it does not know.
            except Exception as error:
                notes.append(f"{name}: {named(error)}")
    return columns | {NOTES: "; ".join(notes)}


def _time(ready: Ready, rule: timing.TimingRule) -> tuple[timing.Timing, dict[str, Any]]:
    ready.prepared.begin()
    call, device = ready.prepared.call, ready.subject.device
    clock, watch = device.clock(cold=ready.case.cold), device.watch()
    gc.collect()
    gc.disable()  # a collection inside a sample is not the layer's time
    try:
        start = host.read()
        timed = timing.measure(call, clock, rule, watch=watch, max_calls=most_calls(ready.case))
        state = host.between(start, host.read(), torch.get_num_threads())
    finally:
        gc.enable()
    state |= {"retries": timed.retries} if watch.read is not None else {}
    return timed, state | watch.neighbours() | watch.columns(timed.chunks)


def most_calls(case: Case) -> int | None:
    """Calls of one sample at most: every call of a cold case is cold."""
    return 1 if case.cold else None


@contextlib.contextmanager
def _stopwatch(spent: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[name] = time.perf_counter() - start
