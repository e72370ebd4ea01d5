"""Run against run: the ratio of medians with its interval, and a verdict for each case. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vitbench import devices
from vitbench.analysis import stats
from vitbench.errors import BadInput, nearest
from vitbench.results.outcome import COUNTED, MEASURED, NOT_MEASURED
from vitbench.results.record import Record

Word = Literal[
    "faster", "same", "slower", "changed", "undecided", "incomparable", "missing", "failed"
]
SIGNIFICANCE = 0.05
# A threshold below this many A/A floors would call what identical code shows.
FLOORS = 1.5

# What tells cases apart, and what two measurements must share for their times to compare.
IDENTITY = (
    "attention",
    "backbone",
    "impl",
    "runtime",
    "cold",
    "mode",
    "batch_size",
    "image_height",
    "image_width",
    "stride",
    "grid_height",
    "grid_width",
    "dim",
    "num_heads",
    "settings",
)
MACHINE = ("device", "dtype", "device_name", "torch")
# Counts that need no statistics. Peak memory is exact on a CPU; on CUDA it is within blocks.
EXACT = ("params", "macs", "peak_memory_bytes")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison says of one case.

    subject    the mechanism or backbone
    describe   the case among its neighbours
    word       faster, same, slower, undecided; incomparable, missing or failed where no ratio is;
               where a side was counted and not timed: same, or changed
    ratio      latency of the candidate over the base; None where there is none
    threshold  the slowdown that would be called, as a share: the policy's, or the floor's
    why        for a word without a ratio, and for undecided: the reason, and what would help
    changed    exact columns that differ: name -> (base, candidate)
    options    the options of `vitbench run` and `vitbench ab` that select the case
    """

    subject: str
    describe: str
    word: Word
    ratio: stats.Ratio | None
    threshold: float
    why: str
    changed: Mapping[str, tuple[object, object]]
    options: str = ""


def check_across(across: Sequence[str]) -> None:
    """Raises BadInput for a difference that cannot be waived."""
    for name in across:
        if name not in MACHINE:
            raise BadInput(f"no difference is called {name!r}; {nearest(name, MACHINE)}")


def compare(
    base: Sequence[Record],
    candidate: Sequence[Record],
    *,
    threshold: float | Mapping[str, float] = 0.05,
    across: Sequence[str] = (),
    blocks: Mapping[str, Sequence[float]] | None = None,
) -> list[Verdict]:
    """A verdict for every case of the base, and for those only the candidate has.

    threshold  slowdown that is called, as a share; or one for each case by its `describe`
    across     columns of MACHINE that may differ
    blocks     log(candidate / base) of interleaved blocks, by `describe`; where there are none, the
               medians of the rounds are compared
    """
    check_across(across)
    judged = []
    for a, b in _pairs(base, candidate, across):
        name = _name(a or b or {})
        shifts = None if blocks is None else blocks.get(name, ())
        judged.append(_Pair(a, b, _limit(name, threshold), across, shifts))
    slower = stats.holm([pair.p_slower() for pair in judged])
    faster = stats.holm([pair.p_faster() for pair in judged])
    return [pair.verdict(s, f) for pair, s, f in zip(judged, slower, faster, strict=True)]


def _limit(name: str, threshold: float | Mapping[str, float]) -> float:
    return threshold if isinstance(threshold, float | int) else threshold[name]


def name_of(record: Record) -> str:
    """A case among its neighbours, in one line."""
    return _name(record)


def _name(record: Mapping[str, object]) -> str:
    if not record:
        return ""
    height, width = record["image_height"], record["image_width"]
    size = f"{height}px" if height == width else f"{height}x{width}px"
    words = [str(record["attention"] or record["backbone"]), size, str(record["dtype"])]
    words += [f"batch {record['batch_size']}", str(record["impl"])]
    words += [str(record["runtime"])] if record["runtime"] != "eager" else []
    words += ["cold"] if record["cold"] is True else []
    if record["mode"] != "forward":
        words.append(str(record["mode"]))
    return " ".join([*words, str(record["settings"] or "")]).strip()


def _key(record: Record, across: Sequence[str]) -> tuple[object, ...]:
    shared = [name for name in ("device", "dtype") if name not in across]
    return tuple(str(record[name] or "") for name in (*IDENTITY, *shared))


def _pairs(
    base: Sequence[Record], candidate: Sequence[Record], across: Sequence[str]
) -> list[tuple[Record | None, Record | None]]:
    """The same case on both sides, in the base's order; what is only on one side has no partner.

    A case on another device or in another dtype is paired too, to be named as incomparable.
    """
    left = {_key(record, across): record for record in candidate}
    loose = {_key(record, ("device", "dtype")): record for record in candidate}
    pairs: list[tuple[Record | None, Record | None]] = []
    used = set()
    for record in base:
        found = left.get(_key(record, across)) or loose.get(_key(record, ("device", "dtype")))
        if found is not None:
            used.add(id(found))
        pairs.append((record, found))
    pairs += [(None, record) for record in candidate if id(record) not in used]
    return pairs


@dataclass(frozen=True, slots=True)
class _Pair:
    base: Record | None
    candidate: Record | None
    limit: float
    across: Sequence[str]
    shifts: Sequence[float] | None

    def p_slower(self) -> float:
        if self._obstacle() is not None or self._is_untimed():
            return 1.0
        if self.shifts is not None:
            return stats.p_slower_in_blocks(self.shifts)
        return stats.p_slower(*self._rounds())

    def p_faster(self) -> float:
        if self._obstacle() is not None or self._is_untimed():
            return 1.0
        if self.shifts is not None:
            return stats.p_slower_in_blocks([-shift for shift in self.shifts])
        base, candidate = self._rounds()
        return stats.p_slower(candidate, base)

    def _rounds(self) -> tuple[list[float], list[float]]:
        """Round medians of both sides."""
        assert self.base is not None
        assert self.candidate is not None
        return round_medians(self.base), round_medians(self.candidate)

    def _ratio(self) -> stats.Ratio:
        if self.shifts is not None:
            return stats.ratio_of_blocks(self.shifts)
        return stats.ratio_of_medians(*self._rounds())

    def _is_untimed(self) -> bool:
        """Whether a side was counted only."""
        return COUNTED in {side["status"] for side in (self.base, self.candidate) if side}

    def _obstacle(self) -> tuple[Word, str] | None:
        """Why there is no ratio: a word and a reason."""
        if self.base is None:
            return "missing", "the base does not have it"
        if self.candidate is None:
            return "missing", "the candidate does not have it"
        sides = (("base", self.base), ("candidate", self.candidate))
        lost = [(name, one) for name, one in sides if one["status"] not in (MEASURED, COUNTED)]
        # What failed says more than what was not measured because its rival had failed.
        for side, record in sorted(lost, key=lambda pair: pair[1]["status"] == NOT_MEASURED):
            return "failed", f"{side}: {record['status']}: {record['message']}"
        matters = ("device", "dtype") if self._is_untimed() else MACHINE
        for name in matters:
            mine, other = self.base[name], self.candidate[name]
            if name not in self.across and str(mine or "") != str(other or ""):
                return "incomparable", f"{name} differs: {mine} and {other}"
        if self.shifts is not None and not self.shifts:
            return "failed", "candidate: no block was measured on both sides"
        return None

    def verdict(self, p_slower: float, p_faster: float) -> Verdict:
        obstacle = self._obstacle()
        if obstacle is not None:
            word, why = obstacle
            return self._say(word, None, self.limit, why)
        if self._is_untimed():
            return self._untimed()
        ratio = self._ratio()
        threshold = max(self.limit, FLOORS * ratio.floor if math.isfinite(ratio.floor) else 0.0)
        if ratio.low > 1 + threshold and p_slower <= SIGNIFICANCE:
            return self._say("slower", ratio, threshold, "")
        if ratio.high < 1 / (1 + threshold) and p_faster <= SIGNIFICANCE:
            return self._say("faster", ratio, threshold, "")
        if ratio.low >= 1 / (1 + self.limit) and ratio.high <= 1 + self.limit:
            return self._say("same", ratio, threshold, "")
        return self._say("undecided", ratio, threshold, self._help(ratio, threshold))

    def _untimed(self) -> Verdict:
        compared = "counts compared"
        if not self._is_same_memory():
            compared += ", peak memory not: it follows device_name, threads and torch, which differ"
        return self._say("changed" if self._changed() else "same", None, self.limit, compared)

    def _help(self, ratio: stats.Ratio, threshold: float) -> str:
        """How many rounds or blocks would settle it."""
        if self.shifts is not None:
            unit, fewest, least = "blocks", len(self.shifts), stats.TRIM_BLOCKS
        else:
            unit, least = "rounds on each side", stats.RANK_ROUNDS
            fewest = min(len(side) for side in self._rounds())
        if fewest < 2:
            return f"one says nothing of the spread between processes: take more {unit}"
        width = math.log(ratio.high / ratio.low) / 2
        room = abs(math.log1p(threshold) - abs(math.log(ratio.value)))
        needed = math.inf if room <= 0 else max(least, math.ceil(fewest * (width / room) ** 2))
        if needed > _MANY * fewest:
            return "the ratio lies on the threshold: more of the same would not settle it"
        if needed <= fewest:
            return f"the interval allows it, the rank test does not yet: take some more {unit}"
        return f"about {needed - fewest} more {unit} would settle it, here are {fewest}"

    def _say(self, word: Word, ratio: stats.Ratio | None, threshold: float, why: str) -> Verdict:
        record = self.base or self.candidate
        assert record is not None
        return Verdict(
            str(record["attention"] or record["backbone"]),
            _name(record),
            word,
            ratio,
            threshold,
            why,
            self._changed(),
            options_of(record),
        )

    def _is_same_memory(self) -> bool:
        """Whether peak memory is exact between the sides: what an allocation takes follows the
        version of torch and the threads, and on some devices what else was allocated."""
        assert self.base is not None
        assert self.candidate is not None
        return devices.rules(str(self.base["device"])).is_memory_exact and all(
            str(self.base[name]) == str(self.candidate[name]) for name in ("torch", "device_name")
        )

    def _changed(self) -> dict[str, tuple[object, object]]:
        """Exact columns that both sides have and that differ."""
        if self.base is None or self.candidate is None:
            return {}
        found: dict[str, tuple[object, object]] = {}
        for name in EXACT:
            mine, other = self.base[name], self.candidate[name]
            comparable = name != "peak_memory_bytes" or self._is_same_memory()
            if comparable and mine is not None and other is not None and mine != other:
                found[name] = (mine, other)
        return found


# So many times the effort is not worth advising.
_MANY = 20

_OPTIONS = (
    ("stride", "--stride"),
    ("dim", "--dim"),
    ("num_heads", "--heads"),
    ("batch_size", "--batch-size"),
    ("dtype", "--dtype"),
    ("impl", "--impl"),
    ("mode", "--mode"),
    ("device", "--device"),
)


def options_of(record: Record) -> str:
    """The options of `vitbench run` that select the case of a row, and only it."""
    kind = "attention" if record["attention"] else "backbone"
    name = record[kind]
    size = f"{record['image_height']}x{record['image_width']}"
    words = [f"--{kind} {name}", f"--resolution {size}"]
    words += [f"{option} {record[column]}" for column, option in _OPTIONS if record[column]]
    words += [f"--runtime {record['runtime']}"] if record["runtime"] != "eager" else []
    words += ["--cold true"] if record["cold"] is True else []
    words += [f"--param {name}.{setting}" for setting in str(record["settings"] or "").split()]
    return " ".join(words)


def round_medians(record: Record) -> list[float]:
    """The medians of a row's rounds, seconds."""
    return [float(word) for word in str(record["round_medians"] or "").split()]


def geometric_mean(verdicts: Sequence[Verdict]) -> float | None:
    """Of the ratios there are."""
    ratios = [verdict.ratio.value for verdict in verdicts if verdict.ratio is not None]
    return stats.geometric_mean(ratios) if ratios else None
