"""Base and head in turns: error rates by simulation, what is settled when, and every mishap."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vitbench.engine import workers as scripted
from tests.vitbench.examples import ROOT, case, facts, layer, measured, plan, plugin, read_csv
from vitbench.analysis.gate import NOTHING, PASSED, REGRESSION, UNDECIDED, Limits, Policy
from vitbench.cases.case import Case
from vitbench.engine import ab, messages, pool
from vitbench.engine.ab import AbComparison, Rules
from vitbench.engine.child import ChildDied, ChildTimeout, Target
from vitbench.engine.revision import Revision
from vitbench.errors import BadInput
from vitbench.results.outcome import Facts, Failed

CASES = tuple(case(attention=name) for name in ("msa", "hilo", "window", "sra", "shifted_window"))
Latency = Callable[[str, Case], float]


class Workers(scripted.Workers):
    """Workers with the latency of a side's case, with noise of the process and of the reading.

    slow     share of processes that are 2.7 times slower, as was seen
    process  scatter between processes; reading: between readings; drift: of the machine, a reading
    served   (worker, side, request, case) of every conversion and preparation, in order
    """

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)
        self.latency: Latency = lambda _, __: 0.01
        self.process, self.reading, self.drift, self.slow = 0.015, 0.03, 0.01, 0.05
        self.fault: Callable[[str, Case, type[messages.Request]], Failed | BaseException | None]
        self.fault = lambda *_: None
        self.facts: Callable[[str], Facts] = lambda _: facts()
        self.machine = 0.0
        self.factors: dict[int, float] = {}
        self.asked: list[tuple[str, str]] = []
        self.slices: list[str] = []
        self.prepared: dict[int, messages.PrepareCase] = {}
        self.served: list[tuple[int, str, str, Case]] = []

    def make(self, target: Target) -> scripted.Worker:
        worker = super().make(target)
        odd = self.rng.random() < self.slow
        factor = math.exp(self.rng.normal(0, self.process))
        self.factors[worker.number] = 2.7 * factor if odd else factor
        return worker

    def answer(self, worker: scripted.Worker, request: messages.Request) -> messages.Reply:
        number, side = worker.number, worker.side
        if isinstance(request, messages.Discard):
            self.prepared.pop(number, None)
            return messages.Accepted()
        if isinstance(request, messages.Convert | messages.PrepareCase):
            self.served.append((number, side, request.type, request.case))
        if isinstance(request, messages.Convert):
            fault = self.fault(side, request.case, type(request))
            if isinstance(fault, BaseException):
                raise fault
            return messages.Finished(outcome=fault) if fault else messages.Accepted()
        if isinstance(request, messages.PrepareCase):
            assert number not in self.prepared, "the case of before was not ended"
            self.prepared[number] = request
            self.asked.append((side, request.case.attention))
        case, with_facts = self.prepared[number].case, self.prepared[number].with_facts
        fault = self.fault(side, case, type(request))
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            return messages.Finished(outcome=fault)
        if isinstance(request, messages.Sample):
            self.slices.append(side)
            return messages.Sampled(samples_s=self._sample(side, case, self.factors[number]))
        if isinstance(request, messages.Finish):
            del self.prepared[number]
            chosen = self.facts(side) if with_facts else None
            return messages.Finished(outcome=measured(facts=chosen))
        return messages.Accepted()

    def _sample(self, side: str, case: Case, factor: float) -> tuple[float, ...]:
        samples_s = []
        for _ in range(3):
            self.machine += self.rng.normal(0, self.drift)
            noise = self.machine + self.rng.normal(0, self.reading)
            samples_s.append(factor * self.latency(side, case) * math.exp(noise))
        return tuple(samples_s)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    made = Workers()
    monkeypatch.setattr(pool, "Child", made.make)
    return made


SIDES = (
    Revision("main (1234567)", Target(root=Path("base"))),
    Revision("the working tree", Target(root=Path("head"))),
)
TIGHT = Policy(max_slowdown=0.02)


def comparison(
    folder: Path,
    policy: Policy = TIGHT,
    cases: tuple[Case, ...] = CASES,
    **rules: Any,
) -> AbComparison:
    folder.mkdir(parents=True)
    limits = Rules(**({"abba_cycles": 2} | rules))
    return AbComparison(plan(*cases), SIDES, policy, limits, folder, command="vitbench ab main")


def words(result: Any) -> dict[str, str]:
    return {one.subject: one.word for one in result.verdicts}


def test_identical_code_passes(workers: Workers, tmp_path: Path) -> None:
    """At most one of 20 comparisons of five cases calls anything, at a limit of 2% on a machine
    whose processes differ by 1.5%, one in twenty by 2.7 times, and whose speed drifts.
    """
    called = 0
    for number in range(20):
        result = comparison(tmp_path / str(number)).measure()
        called += bool({"slower", "faster"} & set(words(result).values()))
        assert result.status == PASSED or called
    assert called <= 1


@pytest.mark.parametrize("slowdown", [1.05, 1.10])
def test_a_slowdown_is_found(workers: Workers, tmp_path: Path, slowdown: float) -> None:
    """In at least 9 of 10 comparisons, and only there."""
    workers.latency = lambda side, one: (
        0.01 * (slowdown if (side, one.attention) == ("head", "hilo") else 1.0)
    )
    found = 0
    for number in range(10):
        result = comparison(tmp_path / str(number)).measure()
        verdicts = words(result)
        found += verdicts.pop("hilo") == "slower" and result.status == REGRESSION
        assert not {"slower", "faster"} & set(verdicts.values())
    assert found >= 9


def test_the_slices(workers: Workers, tmp_path: Path) -> None:
    """A B B A, B A A B, ... in one block, the other way round in the next; fresh workers of both
    sides each time."""
    comparison(tmp_path / "ab", cases=CASES[:1], max_blocks=3, abba_cycles=2).measure()
    abba, baab = ["base", "head", "head", "base"], ["head", "base", "base", "head"]
    assert workers.slices == abba + baab + baab + abba + abba + baab
    assert workers.started == ["base", "head", "head", "base", "base", "head"]
    assert workers.alive == 0


@pytest.mark.parametrize("abba_cycles", [1, 3, 8])
@pytest.mark.parametrize("first", [0, 1])
def test_a_drift_cancels(abba_cycles: int, first: int) -> None:
    """A machine that becomes slower from slice to slice moves no block's shift."""
    order = ab.slice_order(abba_cycles, first)
    slices = [
        (which, [0.01 * math.exp(0.03 * index) * (1.25 if which == "head" else 1.0)])
        for index, which in enumerate(order)
    ]
    # Of the two slices of a side the lower decile takes the outer ones alike, but not the same.
    assert ab.shift_of(slices) == pytest.approx(math.log(1.25), abs=0.03)
    assert order.count("base") == order.count("head") == 2 * abba_cycles


def test_a_disturbed_slice_moves_no_block() -> None:
    """One slice in which everything took three times as long."""
    order = ab.slice_order(8, 0)
    for odd in range(len(order)):
        slices = [(which, [0.03 if i == odd else 0.01] * 4) for i, which in enumerate(order)]
        assert ab.shift_of(slices) == 0


def test_a_settled_case_is_measured_no_more(workers: Workers, tmp_path: Path) -> None:
    """Of a quiet case and one at the limit, the quiet one stops early."""
    workers.process = workers.reading = workers.drift = workers.slow = 0.001
    workers.latency = lambda side, one: (
        0.01 * (1.02 if (side, one.attention) == ("head", "hilo") else 1.0)
    )
    comparison(tmp_path / "ab", max_blocks=20).measure()
    asked = [name for _, name in workers.asked]
    assert asked.count("msa") == 2 * ab.blocks_needed(len(CASES))
    assert asked.count("hilo") == 2 * 20


def test_what_the_rerun_does_not_repeat_is_not_called(workers: Workers, tmp_path: Path) -> None:
    """A slowdown that is gone when the case is run again: undecided, with both figures."""
    workers.slow = 0.0
    least = ab.blocks_needed(1)

    def latency(side: str, _: Case) -> float:
        first = len(workers.asked) <= 2 * least
        return 0.01 * (1.2 if first and side == "head" else 1.0)

    workers.latency = latency
    result = comparison(tmp_path / "ab", cases=CASES[:1]).measure()
    (judged,) = result.verdicts
    assert not judged.faults
    assert judged.word in ("undecided", "same")
    assert result.status == (UNDECIDED if judged.word == "undecided" else PASSED)
    if judged.word == "undecided":
        assert "first slower" in judged.why
        assert "run again" in judged.why


def test_a_called_case_is_measured_again_beside_the_open_ones(
    workers: Workers, tmp_path: Path
) -> None:
    """A slowdown is confirmed while another case is still open: no block is of the called alone."""
    workers.process = workers.reading = workers.drift = workers.slow = 0.001
    slowdown = {"hilo": 1.2, "msa": 1.02}  # msa lies at the limit, and stays open
    workers.latency = lambda side, one: 0.01 * (slowdown[one.attention] if side == "head" else 1.0)
    result = comparison(tmp_path / "ab", cases=CASES[:2], max_blocks=20).measure()
    assert words(result) == {"msa": "undecided", "hilo": "slower"}
    phases: dict[str, dict[int, str]] = {"msa": {}, "hilo": {}}
    for row in read_csv(tmp_path / "ab" / ab.READINGS):
        phases[row["case"].split()[0]][int(row["block"])] = row["phase"]
    least = ab.blocks_needed(2)
    assert list(phases["hilo"].values()) == ["1"] * least + ["2"] * least
    assert phases["hilo"].keys() <= phases["msa"].keys()


def test_a_confirmed_call_stands(workers: Workers, tmp_path: Path) -> None:
    """Also where other cases are called after it was confirmed, and are not confirmed."""
    workers.process = workers.reading = workers.drift = workers.slow = 0.0001

    def latency(side: str, one: Case) -> float:
        if side == "base":
            return 0.01
        if one.attention == "msa":
            return 0.012
        block = sum(name == one.attention for _, name in workers.asked) // 2
        if block <= 3:  # so that it is called late
            return 0.009
        is_again = made._open[case_ids[one.attention]] == 2
        return 0.01 if is_again else 0.012

    workers.latency = latency
    made = comparison(tmp_path / "ab")
    case_ids = {pair.head.attention: pair.head.id for pair in made.pairs}
    result = made.measure()
    expected = dict.fromkeys(case_ids, "undecided") | {"msa": "slower"}
    assert words(result) == expected
    assert result.status == REGRESSION


@pytest.mark.parametrize(
    ("side", "word", "status"), [("base", "slower", REGRESSION), ("head", "failed", NOTHING)]
)
def test_a_called_case_that_fails_when_it_is_run_again(
    workers: Workers, tmp_path: Path, side: str, word: str, status: int
) -> None:
    """A slowdown is no pass because the base failed later; the fault says that it is not
    confirmed. Where the candidate failed, that is said."""
    workers.process = workers.reading = workers.drift = workers.slow = 0.0001
    workers.latency = lambda which, one: (
        0.012 if (which, one.attention) == ("head", "hilo") else 0.01
    )
    least = ab.blocks_needed(2)

    def fault(which: str, one: Case, _: type[messages.Request]) -> Failed | None:
        is_again = workers.asked.count((which, one.attention)) > least
        is_bad = is_again and (which, one.attention) == (side, "hilo")
        return Failed("error", "no") if is_bad else None

    workers.fault = fault
    result = comparison(tmp_path / "ab", cases=CASES[:2]).measure()
    assert words(result) == {"msa": "same", "hilo": word}
    assert result.status == status
    if side == "base":
        assert (
            "not confirmed: when it was run again, base: error: no" in result.verdicts[1].faults[0]
        )


def test_the_message_of_a_regression(workers: Workers, tmp_path: Path) -> None:
    """It names the case, the ratio, the interval, the limit and the command."""
    workers.latency = lambda side, _: 0.012 if side == "head" else 0.01
    result = comparison(tmp_path / "ab", cases=CASES[1:2]).measure()
    (fault,) = result.verdicts[0].faults
    ratio = result.verdicts[0].ratio
    assert ratio is not None
    assert ratio.low < 1.2 < ratio.high
    for part in ("hilo 64px", f"{ratio.value:.3f} times", f"{ratio.low:.3f} to {ratio.high:.3f}"):
        assert part in fault
    assert "again: vitbench ab main --attention hilo --resolution 64x64 --stride 16" in fault


def test_an_undecided_case_says_what_would_settle_it(workers: Workers, tmp_path: Path) -> None:
    """The number of blocks, where processes differ by 10% and the limit is 10%."""
    workers.process, workers.slow = 0.1, 0.0
    loose = Policy(max_slowdown=0.1)
    result = comparison(tmp_path / "ab", loose, cases=CASES[:1], max_blocks=6).measure()
    (judged,) = result.verdicts
    assert judged.word == "undecided"
    assert "more blocks would settle it, here are 6" in judged.why
    assert judged.threshold > loose.limit("msa", "max_slowdown", 0.0)


@pytest.mark.parametrize("where", [messages.PrepareCase, messages.Sample, messages.Finish])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (ChildDied("the worker was ended by SIGSEGV"), "crashed: the worker was ended by SIGSEGV"),
        (ChildTimeout("no answer within 300 s"), "timeout: no answer within 300 s"),
        (Failed("wrong_output", "not a number"), "wrong_output: not a number"),
    ],
)
def test_a_head_that_fails_never_passes(
    workers: Workers, tmp_path: Path, fault: Any, kind: str, where: type[messages.Request]
) -> None:
    """Its case is failed and the exit status says so; the others are measured to their end."""
    workers.fault = lambda side, one, request: (
        fault if (side, one.attention, request) == ("head", "hilo", where) else None
    )
    result = comparison(tmp_path / "ab").measure()
    verdicts = {one.subject: one for one in result.verdicts}
    assert verdicts["hilo"].word == "failed"
    assert kind in verdicts["hilo"].why
    assert result.status == NOTHING
    assert all(verdicts[name].ratio is not None for name in verdicts if name != "hilo")
    assert workers.alive == 0


@pytest.mark.parametrize("where", [messages.PrepareCase, messages.Sample, messages.Finish])
@pytest.mark.parametrize("kind", ["crashed", "timeout", "wrong_output"])
def test_what_fails_on_both_sides_never_passes(
    workers: Workers, tmp_path: Path, kind: str, where: type[messages.Request]
) -> None:
    """Both failures are recorded, whichever side is asked first; the others are measured."""
    faults: dict[str, Any] = {
        "crashed": ChildDied("no"),
        "timeout": ChildTimeout("no"),
        "wrong_output": Failed("wrong_output", "no"),
    }
    workers.fault = lambda _, one, request: (
        faults[kind] if (one.attention, request) == ("hilo", where) else None
    )
    result = comparison(tmp_path / "ab").measure()
    verdicts = {one.subject: one for one in result.verdicts}
    assert verdicts["hilo"].why == f"base: {kind}: no; candidate: {kind}: no"
    assert result.status == NOTHING
    for side in ("base", "head"):
        rows = read_csv(tmp_path / "ab" / f"{side}.csv")
        statuses = {row["attention"]: row["status"] for row in rows}
        assert statuses == dict.fromkeys(statuses, "measured") | {"hilo": kind}
    assert workers.alive == 0


def test_too_little_memory_for_two_says_what_to_do(workers: Workers, tmp_path: Path) -> None:
    """Where the other version held the case too; not where one had the device alone."""
    workers.fault = lambda side, one, request: (
        Failed("out_of_memory", "CUDA out of memory")
        if (one.attention, request) == ("hilo", messages.Sample)
        else None
    )
    comparison(tmp_path / "ab", cases=CASES[1:2], max_blocks=1).measure()
    reasons = [read_csv(tmp_path / "ab" / f"{side}.csv")[0]["message"] for side in ("base", "head")]
    assert reasons[0].startswith("CUDA out of memory; both versions hold the case at once")
    assert "`vitbench run` with each version" in reasons[0]
    assert reasons[1] == "CUDA out of memory"


RUINS = [
    ("cuda", "error", 1),
    ("cuda", "out_of_memory", 1),
    ("cuda", "unsupported", 0),
    ("cpu", "error", 0),
]


@pytest.mark.parametrize(("device", "kind", "replaced"), RUINS)
def test_a_process_that_a_case_ruined_is_replaced(
    workers: Workers, tmp_path: Path, device: str, kind: Any, replaced: int
) -> None:
    """The next case of the block gets another worker of that side, and only of that side."""
    workers.device = device
    workers.fault = lambda side, one, request: (
        Failed(kind, "no")
        if (side, one.attention, request) == ("head", workers.asked[0][1], messages.Sample)
        else None
    )
    comparison(tmp_path / "ab", max_blocks=1).measure()
    assert workers.started == ["base", "head"] + ["head"] * replaced
    assert workers.alive == 0


def test_the_side_that_works_is_measured(workers: Workers, tmp_path: Path) -> None:
    """Where its rival fails: its row says so."""
    workers.fault = lambda side, *_: Failed("error", "no") if side == "base" else None
    comparison(tmp_path / "ab", cases=CASES[:1]).measure()
    (row,) = read_csv(tmp_path / "ab" / "head.csv")
    assert row["status"] == "measured"


@pytest.mark.parametrize(
    "reply",
    [
        messages.Ready(device="cpu"),
        messages.Ready(device="cpu", environment={"torch": {}}),
        messages.Accepted(),
    ],
)
def test_a_worker_that_does_not_say_what_it_runs_on(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: messages.Reply
) -> None:
    """One sentence, with the side's name; no worker is left."""
    monkeypatch.setattr(scripted.Worker, "_answer", lambda *_: reply)
    with pytest.raises(BadInput, match=r"base main \(1234567\) cannot be measured: the worker "):
        comparison(tmp_path / "ab").measure()
    assert workers.alive == 0


def test_workers_know_that_they_are_two(workers: Workers, tmp_path: Path) -> None:
    """So that a device which is for one process refuses before anything is measured."""
    comparison(tmp_path / "ab", cases=CASES[:1], max_blocks=1).measure()
    assert set(workers.shared_by) == {2}


def test_a_base_that_does_not_start(workers: Workers, tmp_path: Path) -> None:
    """One sentence with its name and the reason, and no worker is left."""
    workers.starting = [ChildDied("last output: ImportError: no")] * 3
    reason = r"base main \(1234567\) cannot be measured: .*ImportError: no"
    with pytest.raises(BadInput, match=reason):
        comparison(tmp_path / "ab").measure()
    assert workers.alive == 0


def test_a_side_that_does_not_start_any_more(workers: Workers, tmp_path: Path) -> None:
    """What was measured before is written, and no worker is left."""

    def on_progress(progress: ab.Progress) -> None:
        if progress.block == 1:
            workers.starting = [ChildDied("last output: no memory")] * 3

    ended = comparison(tmp_path / "ab", cases=CASES[:1])
    ended.on_progress = on_progress
    with pytest.raises(BadInput, match="cannot be measured: last output: no memory"):
        ended.measure()
    for side in ("base", "head"):
        (row,) = read_csv(tmp_path / "ab" / f"{side}.csv")
        assert row["rounds"] == "2"
    assert workers.alive == 0


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """A clock of the comparison that goes on by a second with each call of this."""
    now = [0.0]
    monkeypatch.setattr("vitbench.engine.ab.time.monotonic", lambda: now[0])

    def tick(_: object) -> None:
        now[0] += 1.0

    return tick


def test_a_budget(workers: Workers, tmp_path: Path, ticking: Callable[[object], None]) -> None:
    """No block is begun after it."""
    short = comparison(tmp_path / "ab", budget_s=12.0)
    short.on_progress = ticking
    short.measure()
    assert short.blocks == 3


@pytest.mark.parametrize("blocks_left", range(8))
def test_a_slowdown_fails_also_where_time_runs_out(
    workers: Workers, tmp_path: Path, ticking: Callable[[object], None], blocks_left: int
) -> None:
    """Whether the second phase has no time, some, or enough: status 3, and the fault says if the
    slowdown is not confirmed.
    """
    workers.slow = 0.0
    workers.latency = lambda side, _: 0.015 if side == "head" else 0.01
    least = ab.blocks_needed(1)
    hurried = comparison(tmp_path / "ab", cases=CASES[:1], budget_s=float(least + blocks_left))
    hurried.on_progress = ticking
    result = hurried.measure()
    assert result.status == REGRESSION
    assert hurried.blocks == least + min(blocks_left, least)
    is_confirmed = blocks_left >= least
    assert ("not confirmed: the comparison ended" in result.verdicts[0].faults[0]) != is_confirmed


def test_time_is_set_aside_to_confirm(
    workers: Workers, tmp_path: Path, ticking: Callable[[object], None]
) -> None:
    """A case that stays open does not use up the time in which a called one is measured again."""
    workers.slow = 0.0
    noisy = {"msa": 0.3}
    workers.latency = lambda side, one: (
        0.01
        * (1.5 if (side, one.attention) == ("head", "hilo") else 1.0)
        * math.exp(workers.rng.normal(0, noisy.get(one.attention, 0.0)))
    )
    hurried = comparison(tmp_path / "ab", cases=CASES[:2], budget_s=60.0, max_blocks=1000)
    hurried.on_progress = ticking
    result = hurried.measure()
    verdicts = {one.subject: one for one in result.verdicts}
    assert verdicts["hilo"].word == "slower"
    assert not verdicts["hilo"].why
    assert verdicts["msa"].word == "undecided"


CONVERTED = tuple(
    case(runtime=runtime, batch_size=batch)
    for runtime in ("eager", "compile", "onnxruntime", "openvino")
    for batch in (1, 2)
)


def test_modules_are_converted_once_on_each_side(workers: Workers, tmp_path: Path) -> None:
    """By a process of each side that measures nothing, before the first block, into the side's own
    folder; every later worker of the side loads them from there."""
    comparison(tmp_path / "ab", cases=CONVERTED, max_blocks=2).measure()
    conversions = [one for one in workers.served if one[2] == "convert"]
    assert workers.served[: len(conversions)] == conversions
    for number, side in ((1, "base"), (2, "head")):
        of_side = [
            one for worker, which, _, one in conversions if (worker, which) == (number, side)
        ]
        assert of_side == list(CONVERTED[4:])
    assert len(conversions) == 2 * len(CONVERTED[4:])
    assert not {1, 2} & {worker for worker, *_ in workers.served[len(conversions) :]}
    for number, side in enumerate(workers.started, start=1):
        assert workers.artifacts[number] == tmp_path / "ab" / "artifacts" / side
    assert workers.alive == 0


def test_a_runtime_is_measured_by_itself(workers: Workers, tmp_path: Path) -> None:
    """A worker serves one runtime, and no worker of another is alive beside the two that are
    compared."""
    comparison(tmp_path / "ab", cases=CONVERTED, max_blocks=2).measure()
    served: dict[int, set[Case]] = {}
    for worker, _, kind, one in workers.served:
        if kind == "prepare_case":
            served.setdefault(worker, set()).add(one)
    groups = [set(CONVERTED[k : k + 2]) for k in range(0, len(CONVERTED), 2)]
    assert all(cases in groups for cases in served.values())
    assert len(served) == 2 * 2 * len(groups)
    assert workers.most_alive == 2


def test_nothing_is_converted_where_no_runtime_needs_it(workers: Workers, tmp_path: Path) -> None:
    """No process is started for it."""
    comparison(tmp_path / "ab", cases=CONVERTED[:2], max_blocks=1).measure()
    assert workers.started == ["base", "head"]


@pytest.mark.parametrize("sides", [("base",), ("head",), ("base", "head")])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Failed("error", "RuntimeError: no such operator"), "error"),
        (ChildTimeout("no answer within 300 s"), "timeout"),
        (ChildDied("the worker was ended by SIGSEGV"), "crashed"),
    ],
)
def test_a_conversion_that_fails_is_its_cases_failure(
    workers: Workers, tmp_path: Path, fault: Any, status: str, sides: tuple[str, ...]
) -> None:
    """On that side, with the reason of the conversion; the other side is measured, and so are the
    other cases."""
    failing = CONVERTED[-1]
    workers.fault = lambda side, one, request: (
        fault if side in sides and one == failing and request is messages.Convert else None
    )
    result = comparison(tmp_path / "ab", cases=CONVERTED, max_blocks=1).measure()
    assert [one.word for one in result.verdicts] == ["undecided"] * 7 + ["failed"]
    reason = fault.message if isinstance(fault, Failed) else str(fault)
    for side in ("base", "head"):
        *others, last = read_csv(tmp_path / "ab" / f"{side}.csv")
        assert {row["status"] for row in others} == {"measured"}
        expected = (status, reason) if side in sides else ("measured", "")
        assert (last["status"], last["message"]) == expected
        prepared = [
            one for _, which, kind, one in workers.served if (which, kind[0]) == (side, "p")
        ]
        assert prepared.count(failing) == (side not in sides)
    assert workers.alive == 0


def test_no_block_is_no_pass(workers: Workers, tmp_path: Path) -> None:
    """A comparison that ended before anything was measured on both sides is a failure."""
    workers.fault = lambda *_: KeyboardInterrupt()
    interrupted = comparison(tmp_path / "ab")
    with pytest.raises(KeyboardInterrupt):
        interrupted.measure()
    result = interrupted.finish()
    assert result.status == NOTHING
    assert set(words(result).values()) == {"failed"}
    assert workers.alive == 0


def test_the_folder(workers: Workers, tmp_path: Path) -> None:
    """Every reading as it was taken, and the rows of both sides. Cases that differ in a setting
    alone have two names."""
    cases = tuple(case(attention="hilo", params=(("alpha", alpha),)) for alpha in (0.5, 0.9))
    comparison(tmp_path / "ab", cases=cases, max_blocks=2).measure()
    readings = read_csv(tmp_path / "ab" / ab.READINGS)
    assert len(readings) == 2 * 2 * 4 * 2
    assert all(len(row["samples_s"].split()) == 3 for row in readings)
    assert {row["side"] for row in readings} == {"base", "head"}
    assert {row["case"].split()[-1] for row in readings} == {"alpha=0.5", "alpha=0.9"}
    for name in ("base", "head"):
        rows = read_csv(tmp_path / "ab" / f"{name}.csv")
        assert [row["settings"] for row in rows] == ["alpha=0.5", "alpha=0.9"]
        assert [row["rounds"] for row in rows] == ["2", "2"]


def test_a_change_of_counts_is_seen(workers: Workers, tmp_path: Path) -> None:
    """More MACs are a regression whatever the time says."""
    worse = facts(macs=90000)
    workers.facts = lambda side: worse if side == "head" else facts()
    policy = Policy(max_slowdown=0.5, attention={"hilo": Limits(max_macs=0.2)})
    result = comparison(tmp_path / "ab", policy, cases=CASES[:2], max_blocks=6).measure()
    faults = {one.subject: one.faults for one in result.verdicts}
    assert "macs grew from 81920 to 90000 (+9.9%)" in faults["msa"][0]
    assert faults["hilo"] == ()
    assert result.status == REGRESSION


def mechanism(
    folder: Path, keywords: str = "", spec: str = ', impls=("eager", "fused")'
) -> dict[str, Path]:
    folder.mkdir()
    return {"mine": plugin(folder, "mine", layer(keywords=keywords, spec=spec))}


@pytest.mark.parametrize(
    ("base", "params", "common", "why"),
    [
        (", *, a=1, b=2", (("a", 1), ("b", 2)), (("a", 1), ("b", 2)), ""),
        (", *, a=1", (("a", 1), ("b", 2)), (("a", 1),), ""),
        (", *, a=1", (("a", 1), ("b", 3)), None, "the base has no parameter 'b'"),
        ("", (("a", 1), ("b", 2)), (), ""),
    ],
)
def test_hyper_parameters_that_are_new(
    tmp_path: Path, base: str, params: Any, common: Any, why: str
) -> None:
    """An option that came with the head is left out on the base where it has its default."""
    files = mechanism(tmp_path / "base", base), mechanism(tmp_path / "head", ", *, a=1, b=2")
    pair = ab.pair_case(case(attention="mine", params=params), *files)
    assert pair.incomparable_reason == why
    assert (pair.base and pair.base.params) == common


def test_mechanisms_that_the_base_lacks(tmp_path: Path) -> None:
    """New, without the implementation, or not to be read: with the reason."""
    head = mechanism(tmp_path / "head")
    for base, reason in (
        ({}, "the base does not have it"),
        (mechanism(tmp_path / "eager", spec=""), "the base has no implementation 'fused'"),
        ({"mine": plugin(tmp_path, "broken", "def")}, "not valid Python"),
    ):
        pair = ab.pair_case(case(attention="mine", params=()), base, head)
        assert pair.base is None
        assert reason in pair.incomparable_reason


@pytest.mark.parametrize(
    ("text", "reason"), [("", "candidate does not have mine"), ("def", "candidate: mine.py is not")]
)
def test_a_mechanism_that_the_head_lacks(tmp_path: Path, text: str, reason: str) -> None:
    """Gone, or not to be read: a sentence that names the right side."""
    head = {"mine": plugin(tmp_path, "mine", text)} if text else {}
    with pytest.raises(BadInput, match=reason):
        ab.pair_case(case(attention="mine", params=()), mechanism(tmp_path / "base"), head)


def test_a_new_mechanism_is_missing_and_the_rest_is_judged(
    workers: Workers, tmp_path: Path
) -> None:
    """It does not fail the check; a comparison of nothing but new ones does, with the reason."""
    registry = tmp_path / "base" / "attentions"
    registry.mkdir(parents=True)
    (registry / "_registry.py").touch()
    (registry / "msa.py").write_text((ROOT / "attentions" / "msa.py").read_text())
    sides = (Revision("old", Target(root=tmp_path / "base")), SIDES[1])

    def against(cases: tuple[Case, ...], name: str) -> Any:
        (tmp_path / name).mkdir()
        return AbComparison(plan(*cases), sides, TIGHT, Rules(), tmp_path / name).measure()

    both = against(CASES[:2], "both")
    assert words(both) == {"msa": "same", "hilo": "missing"}
    assert both.status == PASSED
    assert against(CASES[1:2], "new").status == NOTHING
    (verdict,) = against((case(params=(("new", 1),)),), "parameter").verdicts
    assert (verdict.word, verdict.why) == ("missing", "the base has no parameter 'new'")
