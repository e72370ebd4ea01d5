"""Base and head measured by turns, A B B A, in fresh processes, until the verdicts are settled.

A block is a fresh worker process of each side and, for every open case, about a second in which
both have the case prepared and time it in short slices: A B B A, B A A B, ... A disturbance of the
machine hits both sides alike, and a drift cancels; differences between processes show between
blocks. Each block gives a case one number, the median log ratio of its ABBA cycles, and the verdict
is made from these. A case that is called is measured again, in the blocks of the cases that are
still open: the call holds if the second measurement repeats it.

Where a runtime converts modules, a process of each side does so before the first block.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

import attentions
from vitbench import runtimes
from vitbench.analysis import gate, stats
from vitbench.analysis.compare import SIGNIFICANCE, Verdict, compare
from vitbench.analysis.gate import Policy, Result
from vitbench.cases import plan as plans
from vitbench.cases.case import Case
from vitbench.cases.class_names import is_class
from vitbench.cases.plan import Plan
from vitbench.cases.row import name_of, row_of
from vitbench.engine import messages
from vitbench.engine.device_lock import DeviceLock
from vitbench.engine.pool import CaseFailed, Pool, WorkerSpec
from vitbench.engine.revision import Revision
from vitbench.errors import BadInput, BrokenPlugin, writing
from vitbench.results.columns import COLUMN_NAMES
from vitbench.results.csv import write_csv
from vitbench.results.folder import ARTIFACTS
from vitbench.results.outcome import Failed, Outcome
from vitbench.results.record import Record, build_record

Which = Literal["base", "head"]
_ORDERS: tuple[tuple[Which, Which], ...] = (("base", "head"), ("head", "base"))

READINGS = "readings.csv"
_READING_COLUMNS = ("phase", "block", "case", "place", "side", "samples_s")


@dataclass(frozen=True, slots=True)
class CasePair:
    """A case on both sides.

    base                 None where the base cannot run it
    incomparable_reason  why not
    """

    head: Case
    base: Case | None
    incomparable_reason: str = ""


def pair_case(case: Case, base: Mapping[str, Path], head: Mapping[str, Path]) -> CasePair:
    """The base's case for one of the head's, by the files of both sides.

    A hyper-parameter that the base does not know is left out there if it has the head's default: a
    new option is no reason not to compare. Raises BadInput where the head lacks it.
    """
    if case.backbone or is_class(case.attention):
        is_known = case.subject in base or case.subject not in head
        return CasePair(case, case) if is_known else CasePair(case, None, _BASE_LACKS_IT)
    if case.attention not in head:
        raise BadInput(f"the candidate does not have {case.attention}")
    if case.attention not in base:
        return CasePair(case, None, _BASE_LACKS_IT)
    try:
        head_outline = attentions.outline(head[case.attention])
    except attentions.BrokenAttention as error:
        raise BadInput(f"candidate: {error}") from None
    try:
        base_outline = attentions.outline(base[case.attention])
    except attentions.BrokenAttention as error:
        return CasePair(case, None, f"base: {error}")
    if base_outline.impls is not None and case.impl not in base_outline.impls:
        return CasePair(case, None, f"the base has no implementation {case.impl!r}")
    known = base_outline.keywords
    if known is None:
        return CasePair(case, case)
    defaults = dict(head_outline.keywords or {}) | head_outline.settings_at(case.stride)
    for name, value in case.params:
        if name not in known and value != defaults.get(name):
            return CasePair(case, None, f"the base has no parameter {name!r}")
    params = tuple((name, value) for name, value in case.params if name in known)
    return CasePair(case, dataclasses.replace(case, params=params))


def _cases(pair: CasePair) -> dict[Which, Case]:
    """The case of each side, where the base has one."""
    assert pair.base is not None
    return {"base": pair.base, "head": pair.head}


def _is_converted(case: Case) -> bool:
    return runtimes.load(case.runtime).RULES.converts


def _check_text(which: Which, plugins: Mapping[str, Path]) -> None:
    """Raises BrokenPlugin for a side's plugin that is not Python."""
    for path in plugins.values():
        try:
            attentions.outline(path)
        except attentions.BrokenAttention as error:
            raise BrokenPlugin(f"{which}: plugin {error}") from None


_BASE_LACKS_IT = "the base does not have it"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a comparison stands.

    is_again  the case was called, and is measured again
    settled   cases that need no more blocks
    """

    block: int
    case: Case
    is_again: bool
    settled: int
    total: int


@dataclass(slots=True)
class _Readings:
    """What was measured of one case in one phase: first, or again after it was called.

    outcomes  of each side, in order
    shifts    log(head / base), block by block
    """

    outcomes: dict[Which, list[Outcome]] = field(default_factory=lambda: {"base": [], "head": []})
    shifts: list[float] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return len(self.outcomes["head"])

    @property
    def has_failed(self) -> bool:
        return any(isinstance(o, Failed) for side in self.outcomes.values() for o in side)


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a comparison takes.

    max_blocks   in which a case is measured, and in which it is measured again
    budget_s     no block begins after this; None: no budget
    abba_cycles  for each case in a block: a cycle is two slices of each side
    slice_s      what a slice takes at least, seconds
    """

    max_blocks: int = 40
    budget_s: float | None = None
    abba_cycles: int = 8
    slice_s: float = 0.03

    def __post_init__(self) -> None:
        if self.max_blocks < 1:
            raise BadInput(f"at least one block is needed, got {self.max_blocks}")


class AbComparison:
    """Measures the cases of a plan on two sides, and judges them."""

    def __init__(
        self,
        plan: Plan,
        sides: tuple[Revision, Revision],
        policy: Policy,
        rules: Rules,
        folder: Path,
        *,
        command: str = "vitbench ab",
        rivals: Mapping[Case, Case] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """rivals: another case that is the base of a case of the plan, in place of its own."""
        self.plan, self.policy, self.rules = plan, policy, rules
        self.sides: dict[Which, Revision] = {"base": sides[0], "head": sides[1]}
        self._plugins: dict[Which, dict[str, Path]] = {
            "head": sides[1].plugins(plan.plugins, sides[0]),
            "base": sides[0].plugins(plan.plugins, sides[1]),
        }
        for which, files in self._plugins.items():
            _check_text(which, files)
        base, head = (side.registry() | self._plugins[which] for which, side in self.sides.items())
        rivals = rivals or {}
        self.pairs = [
            CasePair(case, rivals[case]) if case in rivals else pair_case(case, base, head)
            for case in plan.cases
        ]
        self.environments: dict[Which, dict[str, Any]] = {}
        self.blocks = 0
        self.seconds = 0.0
        self._folder, self._command = folder, command
        self.on_progress = on_progress or (lambda _: None)
        self._phases = {phase: defaultdict[str, _Readings](_Readings) for phase in (1, 2)}
        # By side and the head's case: conversions that failed.
        self._unconverted: dict[tuple[Which, str], Outcome] = {}
        # The phase of each case that is still measured; the verdict on each that was called, and
        # that of its second measurement. They are kept: later calls of other cases, by which later
        # verdicts are corrected too, do not take them back.
        self._open = {pair.head.id: 1 for pair in self.pairs if pair.base is not None}
        self._called: dict[str, Verdict] = {}
        self._again: dict[str, Verdict] = {}
        self._start_s = time.monotonic()
        self._lock = DeviceLock(self._add_time)

    def measure(self) -> Result:
        """Blocks until every case is settled. Writes the folder.

        Raises BadInput where a side cannot be measured at all, StorageFull.
        """
        with (
            writing(self._folder),
            (self._folder / READINGS).open("x", encoding="utf-8", newline="") as file,
            self._lock,
        ):
            csv.writer(file, lineterminator="\n").writerow(_READING_COLUMNS)
            self._convert()
            reserve_s = 0.0
            while self._open:
                if self._is_time_up(reserve_s):  # what is left is for the cases that were called
                    again = {case_id: 2 for case_id, phase in self._open.items() if phase == 2}
                    if not again or self._is_time_up():
                        break
                    self._open = again
                start_s = time.monotonic()
                try:
                    self._block(file)
                except BadInput:  # a side cannot be started any more: what was measured stays
                    if self.blocks > 1:
                        self.finish()
                    raise
                block_s = time.monotonic() - start_s
                self._settle()
                # A block of the called cases takes no longer than one of more cases.
                reserve_s = block_s * self._blocks_to_confirm()
        return self.finish()

    def _add_time(self, waited_s: float) -> None:
        """Waiting for another vitbench is none of the budget's time."""
        self._start_s += waited_s

    def finish(self) -> Result:
        """Judges and writes what was measured, also after an interruption. Raises StorageFull."""
        self.seconds = time.monotonic() - self._start_s
        result = gate.judge(self._final(), self.policy, self._command)
        with writing(self._folder):
            for which in self.sides:
                write_csv(self._folder / f"{which}.csv", COLUMN_NAMES, self.records(which))
        return result

    def title(self) -> str:
        """What is compared, for a chart."""
        return "\n".join(f"{which}: {side.label}" for which, side in self.sides.items())

    def summary(self, result: Result) -> dict[str, Any]:
        """The result and how it came about, as JSON can hold it."""
        return {
            **gate.summary(result),
            "sides": {
                which: {
                    "label": side.label,
                    "commit": side.commit,
                    "environment": self.environments.get(which),
                }
                for which, side in self.sides.items()
            },
            "blocks": self.blocks,
            "seconds": round(self.seconds, 1),
            "rule": asdict(self.plan.rule),
            "rules": asdict(self.rules),
            "seed": self.plan.seed,
            "command": self._command,
        }

    # Measuring

    def _settle(self) -> None:
        """After a block: takes out the cases that need no more, and has those that are called
        measured again.
        """
        for phase in (1, 2):
            verdicts, least = self._verdicts(phase), self._least(phase)
            for case_id in [case_id for case_id, its in self._open.items() if its == phase]:
                readings, word = self._phases[phase][case_id], verdicts[case_id].word
                is_over = readings.blocks >= self.rules.max_blocks
                is_undecided = readings.blocks < least or word == "undecided"
                if is_undecided and not is_over and not readings.has_failed:
                    continue
                if phase == 1 and word in ("slower", "faster"):
                    self._called[case_id] = verdicts[case_id]
                    self._open[case_id] = 2
                    continue
                if phase == 2:
                    self._again[case_id] = verdicts[case_id]
                del self._open[case_id]

    def _least(self, phase: int) -> int:
        """Blocks before a case of the phase is judged."""
        measured = sum(pair.base is not None for pair in self.pairs)
        return blocks_needed(measured if phase == 1 else len(self._called))

    def _blocks_to_confirm(self) -> int:
        """Blocks that the called cases take at least."""
        taken = [self._phases[2][id_].blocks for id_, phase in self._open.items() if phase == 2]
        return max(1, self._least(2) - min(taken)) if taken else 0

    def _is_time_up(self, reserve_s: float = 0.0) -> bool:
        budget_s = self.rules.budget_s
        return budget_s is not None and time.monotonic() - self._start_s + reserve_s >= budget_s

    def _convert(self) -> None:
        """Has each side convert the modules of its cases, for the runtimes that need it, in a
        process of its own. Raises BrokenPlugin, BadInput."""
        pairs = [
            pair
            for pair in self.pairs
            if pair.base is not None
            if any(map(_is_converted, _cases(pair).values()))
        ]
        if not pairs:
            return
        with Pool(self._specs(), self.plan.timeout_s, self._lock) as pool:
            pool.start(*self.sides)
            self._check_plugins(pool)
            for pair in pairs:
                self.on_progress(Progress(0, pair.head, False, 0, len(self.pairs)))
                for which, case in filter(
                    lambda side: _is_converted(side[1]), _cases(pair).items()
                ):
                    request = messages.Convert(case=case)
                    try:
                        pool.retry(partial(pool.ask, which, request, messages.Accepted))
                    except CaseFailed as error:
                        self._unconverted[which, pair.head.id] = error.failure

    def _block(self, file: TextIO) -> None:
        """Every open case in a shuffled order, by fresh workers of each side: one serves no case
        of another runtime beside one whose threads are its own."""
        open_pairs = {pair.head: pair for pair in self.pairs if pair.head.id in self._open}
        order = plans.shuffled(open_pairs, f"{self.plan.seed}-{self.blocks}")
        settled = len(self.pairs) - len(order)
        block = self.blocks
        self.blocks += 1
        for _, group in itertools.groupby(order, plans.group_of):
            with Pool(self._specs(), self.plan.timeout_s, self._lock) as pool:
                pool.start(*_ORDERS[block % 2])
                if block == 0:
                    self._check_plugins(pool)
                for case in group:
                    phase = self._open[case.id]
                    progress = Progress(block, case, phase == 2, settled, len(self.pairs))
                    self.on_progress(progress)
                    outcomes, slices = self._measure_pair(pool, open_pairs[case], block)
                    readings = self._phases[phase][case.id]
                    for which, outcome in outcomes.items():
                        readings.outcomes[which].append(outcome)
                    if not readings.has_failed:
                        readings.shifts.append(shift_of(slices))
                    _write_readings(file, phase, block, case, slices)

    def check_plugins(self) -> None:
        """Has workers of both sides import their plugins. Raises BrokenPlugin, BadInput."""
        with Pool(self._specs(), self.plan.timeout_s) as pool:
            self._check_plugins(pool)

    def _check_plugins(self, pool: Pool[Which]) -> None:
        for which, plugins in self._plugins.items():
            pool.check_plugins(which, plugins, f"{which}: plugin")
            cases = [_cases(pair)[which] for pair in self.pairs if pair.base is not None]
            pool.check_classes(which, cases, f"{which}: attention")

    def _measure_pair(
        self, pool: Pool[Which], pair: CasePair, block: int
    ) -> tuple[dict[Which, Outcome], list[Slice]]:
        """The outcome of each side, and all slices in order. Where one side fails, the other is
        measured alone: it may fail too.
        """
        with_facts, rule, sides = block == 0, self.plan.rule, _ORDERS[block % 2]
        cases = _cases(pair)
        sample, finish = messages.Sample(seconds=self.rules.slice_s), messages.Finish()
        slices: list[Slice] = []

        def measure(
            measured: Sequence[Which], order: Sequence[Which], into: list[Slice]
        ) -> dict[Which, Outcome]:
            into.clear()
            try:
                for which in measured:
                    prepare = messages.PrepareCase(
                        case=cases[which], rule=rule, with_facts=with_facts
                    )
                    pool.ask(which, prepare, messages.Accepted)
                for which in order:
                    into.append((which, pool.ask(which, sample, messages.Sampled).samples_s))
                return {
                    which: pool.ask(which, finish, messages.Finished).outcome for which in measured
                }
            except CaseFailed:
                for which in measured:
                    pool.discard(which)
                raise

        failures = {which: self._unconverted.get((which, pair.head.id)) for which in sides}
        outcomes = {which: failed for which, failed in failures.items() if failed is not None}
        if not outcomes:
            try:
                order = slice_order(self.rules.abba_cycles, first=block % 2)
                return pool.retry(lambda: measure(sides, order, slices)), slices
            except CaseFailed as error:
                failure = _with_remedy(error.failure)
                outcomes = {which: failure for which in sides if which == error.slot}
        alone = [which for which in sides if which not in outcomes]
        try:
            outcomes |= pool.retry(lambda: measure(alone, alone, []))
        except CaseFailed as error:
            outcomes |= dict.fromkeys(alone, error.failure)
        return outcomes, slices

    def _specs(self) -> dict[Which, WorkerSpec]:
        def spec(which: Which, side: Revision) -> WorkerSpec:
            def setup() -> messages.SetUp:
                is_new = which not in self.environments
                return messages.SetUp.of(
                    self.plan,
                    plugins=self._plugins[which],
                    artifacts=self._folder.resolve() / ARTIFACTS / which,
                    workers=len(self.sides),
                    environment=is_new,
                )

            def on_ready(ready: messages.Ready) -> None:
                if ready.environment is not None:
                    self.environments[which] = dict(ready.environment)

            problem = f"{which} {side.label} cannot be measured"
            return WorkerSpec(setup, on_ready, side.target, problem)

        return {which: spec(which, side) for which, side in self.sides.items()}

    # Judging

    def _verdicts(self, *phases: int) -> dict[str, Verdict]:
        """A verdict for each pair that was to be measured in these phases, by the head's case."""
        base, head = self.records("base", brief=True), self.records("head", brief=True)
        # A rival is compared as what it is measured against.
        base = [row | row_of(pair.head) for row, pair in zip(base, self.pairs, strict=True)]
        limits = gate.limits([*base, *head], self.policy)
        judged = [
            rows
            for rows in zip(base, head, self.pairs, strict=True)
            if 1 in phases or rows[2].head.id in self._called
        ]
        blocks = {
            name_of(record): [
                shift for phase in phases for shift in self._phases[phase][pair.head.id].shifts
            ]
            for _, record, pair in judged
        }
        comparable = [record for record, _, pair in judged if pair.base is not None]
        candidates = [record for _, record, _ in judged]
        across = ("device", "dtype", "device_name", "torch")
        verdicts = compare(comparable, candidates, threshold=limits, across=across, blocks=blocks)
        by_name = {verdict.describe: verdict for verdict in verdicts}
        by_case = {}
        for _, record, pair in judged:
            verdict = by_name[name_of(record)]
            why = verdict.why if pair.base is not None else pair.incomparable_reason
            by_case[pair.head.id] = dataclasses.replace(verdict, why=why)
        return by_case

    def _final(self) -> list[Verdict]:
        """From all blocks; a case is called only if it is called again, or the comparison ended
        before.
        """
        again, both = self._verdicts(2) | self._again, self._verdicts(1, 2)
        final = []
        for case_id, verdict in self._verdicts(1).items():
            if case_id in self._open and both[case_id].word in ("slower", "faster"):
                verdict = _unconfirmed(both[case_id])
            elif case_id in self._called:
                verdict = _repeated(both[case_id], self._called[case_id], again[case_id])
            final.append(verdict)
        return final

    def records(self, which: Which, *, brief: bool = False) -> list[Record]:
        """A row for each pair from all readings of a side; the settings are the head's.

        Brief: from one reading only, the first or the one that failed. A verdict needs no more,
        and verdicts are made after every block.
        """
        rows = []
        for pair in self.pairs:
            readings = [phase[pair.head.id] for phase in self._phases.values()]
            outcomes = [outcome for phase in readings for outcome in phase.outcomes[which]]
            if brief:
                failed: list[Outcome] = [o for o in outcomes if isinstance(o, Failed)]
                outcomes = (failed or outcomes)[:1]
            case = pair.base if which == "base" and pair.base is not None else pair.head
            row = build_record(case, outcomes, None, self.environments.get(which))
            if row["artifact"]:  # in this folder, not in the side's
                row["artifact"] = f"{ARTIFACTS}/{row['artifact']}"
            is_rival = case.subject != pair.head.subject
            rows.append(row if is_rival else row | {"settings": pair.head.settings})
        return rows


def _with_remedy(failure: Failed) -> Failed:
    """The failure of a side whose rival held the case too, with what to do where memory ran out."""
    if failure.kind != "out_of_memory":
        return failure
    return dataclasses.replace(failure, message=f"{failure.message}; {_MORE_ROOM}")


_MORE_ROOM = (
    "both versions hold the case at once, so its weights and inputs are there twice: take a "
    "smaller batch, or `vitbench run` with each version and `vitbench compare`"
)


def blocks_needed(cases: int) -> int:
    """The fewest blocks after which a case can be called: the signs of n blocks reach 2^-n at best,
    and Holm's correction multiplies that by the number of cases.
    """
    return max(stats.TRIM_BLOCKS, math.ceil(math.log2(max(cases, 1) / SIGNIFICANCE)))


def _unconfirmed(verdict: Verdict) -> Verdict:
    """A slowdown that there was no time to measure again: it fails all the same."""
    reason = "not confirmed: the comparison ended before it was measured again; give it more time"
    return dataclasses.replace(verdict, why=reason)


def _repeated(verdict: Verdict, before: Verdict, rerun: Verdict) -> Verdict:
    """The verdict on a case that was called: that of all blocks, unless it is a call that was not
    repeated. A slowdown stands where it was the base that could not be measured again.
    """
    if before.word == "slower" and rerun.failed_side == "base":
        return dataclasses.replace(before, why=f"not confirmed: when it was run again, {rerun.why}")
    if rerun.word == before.word == verdict.word:
        return verdict
    if verdict.word not in ("slower", "faster", "undecided"):
        return verdict
    reason = f"first {_label(before)}; run again {_label(rerun)}"
    return dataclasses.replace(verdict, word="undecided", why=reason)


def _label(verdict: Verdict) -> str:
    ratio = verdict.ratio
    if ratio is None:
        return f"{verdict.word}: {verdict.why}"
    return f"{verdict.word} at {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


Slice = tuple[Which, Sequence[float]]

# On a machine with two busy cores blocks scatter a sixth less than with lower quartiles.
_DECILE = 0.1


def slice_order(abba_cycles: int, first: int) -> list[Which]:
    """A B B A, B A A B, B A A B, A B B A, ... by the sequence of Thue and Morse, in which drifts
    cancel; `first` is 1 where B begins."""
    pairs = (_ORDERS[(index.bit_count() + first) % 2] for index in range(2 * abba_cycles))
    return [which for pair in pairs for which in pair]


def shift_of(slices: Sequence[Slice]) -> float:
    """log(head / base) of a block from its slices, in the order in which they were taken.

    In every cycle the lower deciles of both sides' samples are compared: disturbances only ever
    add time. The median over the cycles is not moved by one that was disturbed too much.
    """
    shifts = []
    for start in range(0, len(slices), 4):
        samples_s: dict[Which, list[float]] = {"base": [], "head": []}
        for which, slice_s in slices[start : start + 4]:
            samples_s[which] += slice_s
        base, head = (stats.quantile(samples_s[which], _DECILE) for which in ("base", "head"))
        shifts.append(math.log(head / base))
    return stats.median(shifts)


def _write_readings(
    file: TextIO, phase: int, block: int, case: Case, slices: Sequence[Slice]
) -> None:
    rows, name = csv.writer(file, lineterminator="\n"), name_of(case)
    for index, (which, samples_s) in enumerate(slices):
        text = " ".join(f"{sample:.6g}" for sample in samples_s)
        rows.writerow((phase, block, name, index, which, text))
    file.flush()
