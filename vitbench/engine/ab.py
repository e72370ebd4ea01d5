"""Base and head measured in turns, A B B A, in fresh processes, until the verdicts are settled.

A block is a fresh worker process of each side and, for every case still open, a second in which
both keep the case ready and time it in short turns: A B B A, B A A B, ... What the machine does in
such a second it does to both sides, and a drift cancels; what processes differ by shows between
blocks. Each block gives a case one number, the median log ratio of its fours, and those are judged.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import attentions
from vitbench.analysis import gate, stats
from vitbench.analysis.compare import SIGNIFICANCE, Verdict, compare, name_of
from vitbench.analysis.gate import Policy, Result
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine import runner
from vitbench.engine.child import Child, ChildDied, ChildTimeout
from vitbench.engine.revision import Side
from vitbench.errors import BadInput
from vitbench.results.columns import COLUMN_NAMES
from vitbench.results.csv import write_csv
from vitbench.results.folder import StorageFull
from vitbench.results.outcome import Failed, Outcome, outcome_from_dict
from vitbench.results.record import Record, build_record

Which = Literal["base", "head"]
_PAIRS: tuple[tuple[Which, Which], ...] = (("base", "head"), ("head", "base"))

READINGS = "readings.csv"
_READING_COLUMNS = ("phase", "block", "case", "place", "side", "samples_s")


@dataclass(frozen=True, slots=True)
class Pair:
    """A case on both sides.

    base  None where the base cannot have it; `why` says why
    """

    head: Case
    base: Case | None
    why: str = ""


def pair(case: Case, base: Mapping[str, Path], head: Mapping[str, Path]) -> Pair:
    """The base's case for one of the head's, by both sides' files.

    A hyper-parameter that the base does not know is left out there where the head's value is what
    the head takes by itself: a new option with a default is no reason not to compare.
    """
    if case.backbone:
        known = case.backbone in base or case.backbone not in head
        return Pair(case, case if known else None, "" if known else "the base does not have it")
    if case.attention not in base:
        return Pair(case, None, "the base does not have it")
    try:
        theirs = attentions.outline(base[case.attention])
        ours = attentions.outline(head[case.attention])
    except attentions.BrokenAttention as error:
        return Pair(case, None, f"base: {error}")
    if theirs.impls is not None and case.impl not in theirs.impls:
        return Pair(case, None, f"the base has no implementation {case.impl!r}")
    if theirs.keywords is None:
        return Pair(case, case)
    usual = dict(ours.keywords or {}) | ours.settings_at(case.stride)
    unknown = {name: value for name, value in case.params if name not in theirs.keywords}
    chosen = [name for name, value in unknown.items() if value != usual.get(name)]
    if chosen:
        return Pair(case, None, f"the base has no parameter {chosen[0]!r}")
    kept = tuple((name, value) for name, value in case.params if name not in unknown)
    return Pair(case, dataclasses.replace(case, params=kept))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a comparison stands.

    phase    1, or 2 while flagged cases are run again
    settled  cases that need no more blocks
    """

    phase: int
    block: int
    case: Case
    settled: int
    total: int


@dataclass(slots=True)
class _Readings:
    """What was measured of one case in one phase.

    outcomes  of each side, in order
    shifts    log(head / base), block by block
    """

    outcomes: dict[Which, list[Outcome]] = field(default_factory=lambda: {"base": [], "head": []})
    shifts: list[float] = field(default_factory=list)

    @property
    def is_lost(self) -> bool:
        return any(isinstance(o, Failed) for side in self.outcomes.values() for o in side)


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a comparison goes on.

    max_blocks  of each phase
    budget_s    no block is begun after this; None: no budget
    fours       A B B A, for each case in a block: of each side twice as many turns
    turn_s      what a turn lasts at least, seconds
    """

    max_blocks: int = 40
    budget_s: float | None = None
    fours: int = 8
    turn_s: float = 0.03

    def __post_init__(self) -> None:
        if self.max_blocks < 1:
            raise BadInput(f"at least one block is needed, got {self.max_blocks}")


class Comparison:
    """Measures the sides of a plan against each other."""

    def __init__(
        self,
        plan: Plan,
        sides: tuple[Side, Side],
        policy: Policy,
        rules: Rules,
        folder: Path,
        *,
        command: str = "vitbench ab",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.plan, self.policy, self.rules = plan, policy, rules
        self.sides: dict[Which, Side] = {"base": sides[0], "head": sides[1]}
        named = {name: Path(path) for name, path in plan.plugins.items()}
        self._plugins = {which: side.plugins(named) for which, side in self.sides.items()}
        files = {which: side.registry() | self._plugins[which] for which, side in self._each()}
        self.pairs = [pair(case, files["base"], files["head"]) for case in plan.cases]
        self.environments: dict[Which, dict[str, Any]] = {}
        self.blocks = 0
        self.seconds = 0.0
        self._folder, self._command = folder, command
        self.on_progress = on_progress or (lambda _: None)
        self._phases: list[dict[str, _Readings]] = [{}, {}]
        self._flagged: list[Pair] = []
        self._begun = time.monotonic()

    def plugins(self, which: Which) -> Mapping[str, Path]:
        """The user's files as a side has them."""
        return self._plugins[which]

    def _each(self) -> Iterator[tuple[Which, Side]]:
        yield from self.sides.items()

    def measure(self) -> Result:
        """Blocks until every case is settled, then the flagged cases again. Writes the folder.

        Raises BadInput where a side cannot be measured at all, StorageFull.
        """
        try:
            with (self._folder / READINGS).open("x", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(_READING_COLUMNS)
                self._phase(1, [p for p in self.pairs if p.base is not None], file)
                words = self._words(1)
                self._flagged = [p for p in self.pairs if words[p.head.id] in ("slower", "faster")]
                self._phase(2, self._flagged, file)
        except OSError as error:
            raise StorageFull(f"{self._folder} cannot be written: {error.strerror}") from None
        return self.finish()

    def finish(self) -> Result:
        """What there is, judged and written; also after an interruption."""
        self.seconds = time.monotonic() - self._begun
        result = gate.judge(self._final(), self.policy, self._command)
        for which in self.sides:
            write_csv(self._folder / f"{which}.csv", COLUMN_NAMES, self.records(which))
        return result

    def title(self) -> str:
        """What is compared, for a chart."""
        return "\n".join(f"{which}: {side.told}" for which, side in self._each())

    def summary(self, result: Result) -> dict[str, Any]:
        """The result and how it was got, as JSON can hold it."""
        sides = {
            which: {
                "told": side.told,
                "commit": side.commit,
                "environment": self.environments.get(which),
            }
            for which, side in self._each()
        }
        return {
            **gate.summary(result),
            "sides": sides,
            "blocks": self.blocks,
            "seconds": round(self.seconds, 1),
            "rule": asdict(self.plan.rule),
            "rules": asdict(self.rules),
            "seed": self.plan.seed,
            "command": self._command,
        }

    # Measuring

    def _phase(self, phase: int, pairs: Sequence[Pair], file: TextIO) -> None:
        """Blocks over the open cases until each is settled or the rules end it."""
        least = blocks_needed(len(pairs))
        open_pairs = list(pairs)
        for block in range(self.rules.max_blocks):
            if not open_pairs or self._is_time_up():
                return
            self._block(phase, block, open_pairs, file)
            if block + 1 >= least:
                words = self._words(phase)
                open_pairs = [p for p in open_pairs if words[p.head.id] == "undecided"]
            else:
                open_pairs = [p for p in open_pairs if not self._readings(p, phase).is_lost]

    def _is_time_up(self) -> bool:
        budget_s = self.rules.budget_s
        return budget_s is not None and time.monotonic() - self._begun >= budget_s

    def _readings(self, one: Pair, phase: int) -> _Readings:
        return self._phases[phase - 1].setdefault(one.head.id, _Readings())

    def _block(self, phase: int, block: int, pairs: Sequence[Pair], file: TextIO) -> None:
        """One fresh worker of each side; every open case in turns, in a shuffled order."""
        order = list(pairs)
        random.Random(f"{self.plan.seed}-{phase}-{block}").shuffle(order)
        settled = len(self.pairs) - len(pairs)
        self.blocks += 1
        with _Workers(self) as workers:
            workers.start(*_PAIRS[block % 2])
            for one in order:
                self.on_progress(Progress(phase, block, one.head, settled, len(self.pairs)))
                turns = _Turns(self, one, workers, with_facts=phase == 1 and block == 0)
                self._keep(turns, self._readings(one, phase), phase, block, file)

    def _keep(
        self, turns: _Turns, readings: _Readings, phase: int, block: int, file: TextIO
    ) -> None:
        """What a case's turns of a block gave, tried once more where a worker died."""
        outcomes = turns.take(first=block % 2)
        if any(isinstance(one, Failed) and one.kind == "crashed" for one in outcomes.values()):
            outcomes = turns.take(first=block % 2)
        for which, outcome in outcomes.items():
            readings.outcomes[which].append(outcome)
        rows = csv.writer(file, lineterminator="\n")
        name = turns.pair.head.describe()
        for place, (which, samples_s) in enumerate(turns.taken):
            told = " ".join(f"{one:.6g}" for one in samples_s)
            rows.writerow((phase, block, name, place, which, told))
        file.flush()
        if not readings.is_lost:
            readings.shifts.append(shift_of(turns.taken))

    # Judging

    def _words(self, phase: int) -> dict[str, str]:
        """The verdict of each pair from one phase, by the head's case."""
        found = self._verdicts((phase,))
        return {one.head.id: v.word for one, v in zip(self.pairs, found, strict=True)}

    def _verdicts(self, phases: Iterable[int]) -> list[Verdict]:
        """A verdict for each pair from these phases, in the order of the pairs."""
        chosen = tuple(phases)
        base, head = self._rows("base", brief=True), self._rows("head", brief=True)
        limits = gate.limits([*base, *head], self.policy)
        blocks = {
            name_of(record): [
                shift
                for phase in chosen
                for shift in self._phases[phase - 1].get(one.head.id, _Readings()).shifts
            ]
            for record, one in zip(head, self.pairs, strict=True)
        }
        have = [
            record for record, one in zip(base, self.pairs, strict=True) if one.base is not None
        ]
        everything = ("device", "dtype", "device_name", "torch")
        found = compare(have, head, threshold=limits, across=everything, blocks=blocks)
        by_name = {verdict.describe: verdict for verdict in found}
        ordered = [by_name[name_of(record)] for record in head]
        return [
            dataclasses.replace(verdict, why=one.why) if one.base is None else verdict
            for verdict, one in zip(ordered, self.pairs, strict=True)
        ]

    def _final(self) -> list[Verdict]:
        """From all blocks; what was flagged is called only where its re-run calls it again."""
        first, again, both = (self._verdicts(phases) for phases in ((1,), (2,), (1, 2)))
        final = []
        for one, before, rerun, verdict in zip(self.pairs, first, again, both, strict=True):
            if one not in self._flagged or rerun.word == before.word == verdict.word:
                final.append(verdict if one in self._flagged else before)
                continue
            final.append(_unrepeated(verdict, before, rerun))
        return final

    def records(self, which: Which) -> list[Record]:
        """A row for each pair from all readings of a side; the settings are the head's."""
        return self._rows(which, brief=False)

    def _rows(self, which: Which, *, brief: bool) -> list[Record]:
        """Brief: from the one reading that says whether it can be judged, which is the failed one
        or the first. Verdicts need no more, and are asked for after every block.
        """
        rows = []
        for one in self.pairs:
            outcomes = [
                outcome
                for phase in self._phases
                if one.head.id in phase
                for outcome in phase[one.head.id].outcomes[which]
            ]
            if brief:
                lost: list[Outcome] = [o for o in outcomes if isinstance(o, Failed)]
                outcomes = (lost or outcomes)[:1]
            case = one.base if which == "base" and one.base is not None else one.head
            row = build_record(case, outcomes, None, self.environments.get(which))
            rows.append(row | {"settings": one.head.settings})
        return rows


def blocks_needed(cases: int) -> int:
    """The fewest blocks after which a case can be called: the signs of n blocks reach 2^-n at best,
    and Holm's correction multiplies that by the number of cases.
    """
    return max(stats.TRIM_BLOCKS, math.ceil(math.log2(max(cases, 1) / SIGNIFICANCE)))


def _unrepeated(verdict: Verdict, before: Verdict, rerun: Verdict) -> Verdict:
    """A flagged case whose re-run says something else. What all blocks say holds, unless that is
    a call, which needs both.
    """
    words = [f"first {_told(before)}", f"run again {_told(rerun)}"]
    if verdict.word in ("slower", "faster", "undecided"):
        return dataclasses.replace(verdict, word="undecided", why="; ".join(words))
    return verdict


def _told(verdict: Verdict) -> str:
    ratio = verdict.ratio
    if ratio is None:
        return f"{verdict.word}: {verdict.why}"
    return f"{verdict.word} at {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


Turn = tuple[Which, Sequence[float]]


def order_of_turns(fours: int, first: int) -> list[Which]:
    """A B B A, B A A B, B A A B, A B B A, ... by the sequence of Thue and Morse, in which drifts
    cancel; `first` is 1 where B begins."""
    pairs = (_PAIRS[(place.bit_count() + first) % 2] for place in range(2 * fours))
    return [which for pair in pairs for which in pair]


def shift_of(turns: Sequence[Turn]) -> float:
    """log(head / base) of a block from its turns, in the order in which they were taken.

    Of every four the lower quartiles of both sides' samples are compared: what else the machine
    does only ever adds time. The median of the fours is not moved by one in which it did too much.
    """
    shifts = []
    for place in range(0, len(turns), 4):
        of: dict[Which, list[float]] = {"base": [], "head": []}
        for which, samples_s in turns[place : place + 4]:
            of[which] += samples_s
        base, head = (stats.lower_quartile(of[which]) for which in ("base", "head"))
        shifts.append(math.log(head / base))
    return stats.median(shifts)


class _Turns:
    """A case kept ready in both workers of a block, and timed in turns."""

    def __init__(
        self, comparison: Comparison, one: Pair, workers: _Workers, *, with_facts: bool
    ) -> None:
        self.pair = one
        self.taken: list[Turn] = []
        self._rules, self._rule = comparison.rules, asdict(comparison.plan.rule)
        self._workers, self._with_facts = workers, with_facts

    def take(self, first: int) -> dict[Which, Outcome]:
        """The outcome of each side; where one failed, only that one's. `first`: of _PAIRS."""
        self.taken = []
        for which in _PAIRS[first]:
            if isinstance(lost := self._hold(which), Failed):
                return {which: lost}
        for which in order_of_turns(self._rules.fours, first):
            request = {"do": "turn", "seconds": self._rules.turn_s}
            if isinstance(reply := self._workers.ask(which, request), Failed):
                return {which: reply}
            self.taken.append((which, reply["samples_s"]))
        outcomes: dict[Which, Outcome] = {}
        for which in _PAIRS[first]:
            if isinstance(reply := self._workers.ask(which, {"do": "release"}), Failed):
                return {which: reply}
            outcomes[which] = outcome_from_dict(reply)
        return outcomes

    def _hold(self, which: Which) -> dict[str, Any] | Failed:
        case = self.pair.base if which == "base" else self.pair.head
        assert case is not None
        return self._workers.ask(
            which,
            {
                "do": "hold",
                "case": case.to_dict(),
                "rule": self._rule,
                "with_facts": self._with_facts,
            },
        )


class _Workers:
    """The two workers of a block; one that dies is replaced."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._children: dict[Which, Child] = {}

    def start(self, *sides: Which) -> None:
        """Both at once: they import torch side by side."""
        for which in sides:
            self._children[which] = Child(self._comparison.sides[which].place)
        for which in sides:
            self._settle(which)

    def _settle(self, which: Which) -> None:
        """Tells the worker its device and threads, and asks for its environment once."""
        comparison = self._comparison
        plan, side = comparison.plan, comparison.sides[which]
        new = which not in comparison.environments
        try:
            reply = runner.settle(
                self._children[which],
                plan.device,
                plan.threads,
                fingerprint=new,
                plugins={n: str(path) for n, path in comparison.plugins(which).items()},
                memory_limit_bytes=plan.memory_limit_bytes,
                allocator=plan.allocator,
            )
        except (ChildDied, ChildTimeout) as error:
            raise BadInput(f"{which} {side.told} cannot be measured: {error}") from None
        if new:
            comparison.environments[which] = reply["environment"]

    def ask(self, which: Which, request: Mapping[str, Any]) -> dict[str, Any] | Failed:
        """The reply, or why there is none; a worker without a reply is ended."""
        if which not in self._children:
            self.start(which)
        try:
            reply = self._children[which].ask(request, self._comparison.plan.timeout_s)
        except ChildTimeout as error:
            self._end(which)
            return Failed("timeout", str(error))
        except ChildDied as error:
            self._end(which)
            return Failed("crashed", str(error))
        if "failed" in reply:
            failed = outcome_from_dict(reply)
            assert isinstance(failed, Failed)
            return failed
        return reply

    def _end(self, which: Which) -> None:
        self._children.pop(which).close()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            with contextlib.suppress(OSError):
                child.close()
