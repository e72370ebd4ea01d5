"""A tuning run in words and as a table: the best setting, its margin, and what MACs would say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from vitbench.analysis.stats import Ratio
from vitbench.analysis.tuning import Outcome, Rival
from vitbench.cases.tuning import Tuning
from vitbench.render import advice, units
from vitbench.render.insights import setting
from vitbench.render.listing import listing
from vitbench.render.text import visible
from vitbench.results.record import Record, subject_of

# Names in a sentence, and rows of a table.
_MOST_NAMES, MOST_ROWS = 6, 24
# Hyper-parameters that a name tells all of.
_MOST_SETTINGS = 3
_STATUS = {
    "level": "nothing tells it from the pick",
    "slower": "slower",
    "given_up": "given up",
    "failed": "failed",
    "unmeasured": "not measured",
}


def paragraphs(outcome: Outcome, tuning: Tuning) -> list[tuple[str, list[str]]]:
    """Titles, "" for the one before the first; and sentences below each."""
    head = f"{title(outcome)}:"
    if outcome.pick is None:
        return [(head, [_nothing(outcome, tuning)])]
    parts = [
        (head, sentences(outcome, tuning)),
        ("How to build it", advice.commands(outcome.pick)),
    ]
    return [(title, [visible(line) for line in lines]) for title, lines in parts]


def title(outcome: Outcome) -> str:
    """`hilo at 224 px, batch 8, openvino on AMD EPYC, 2 threads`."""
    first = outcome.rows[0]
    return f"{subject_of(first)} at {setting(first, _chosen(outcome))}"


def _chosen(outcome: Outcome) -> list[str]:
    """The axes that are chosen among."""
    return [n for n in ("dtype", "impl") if len({row[n] for row in outcome.rows}) > 1]


def sentences(outcome: Outcome, tuning: Tuning) -> list[str]:
    """The pick; how it compares with the authors' setting, and with what MACs would choose; what
    is level with it; how much was given up; the fronts."""
    pick = outcome.pick
    if pick is None:
        return [_nothing(outcome, tuning)]
    lines = [f"use {named(pick, outcome, tuning)}: {advice.figures(pick)}"]
    lines.append(_beside_default(outcome, tuning))
    if level := [one.record for one in outcome.rivals if one.cause == "level"]:
        lines.append(f"nothing tells it from {_listed(level, outcome, tuning)}")
    lines.append(_by_macs(outcome, tuning))
    lines += _counts(outcome, tuning)
    lines += [_front(against, rows, outcome, tuning) for against, rows in outcome.fronts.items()]
    if outcome.analytic:
        names = _listed(outcome.analytic, outcome, tuning)
        among = "among " if len(outcome.analytic) > 1 else ""
        lines.append(f"without measuring, by MACs and parameters, one would choose {among}{names}")
    return [visible(line) for line in lines]


def _nothing(outcome: Outcome, tuning: Tuning) -> str:
    """Why there is no answer."""
    limited = [one for one in outcome.rivals if one.cause == "limit"]
    if not limited:
        reasons = {str(row["message"]) for row in outcome.rows if row["message"]}
        return f"nothing was measured: {'; '.join(sorted(reasons)) or 'the run ended before'}"
    nearest = min(limited, key=lambda one: max(miss.factor for miss in one.misses))
    name = named(nearest.record, outcome, tuning)
    return f"no setting keeps to the limits; nearest is {name}: {_reason(nearest, tuning)}"


def _beside_default(outcome: Outcome, tuning: Tuning) -> str:
    default = outcome.default
    if default is None:
        return "the authors' setting is not among those that were measured"
    if default is outcome.pick:
        return "it is the authors' own setting"
    name = named(default, outcome, tuning)
    it = "the authors' setting" + (f", {name}," if "=" in name else "")
    rival = next(one for one in outcome.rivals if one.record is default)
    if outcome.gain is None:
        times = "" if rival.times is None else f", about {rival.times:.2f} times as long"
        return f"{it} is no rival: {_reason(rival, tuning)}{times}"
    return f"{it} takes {_times(outcome.gain)} as long"


def _by_macs(outcome: Outcome, tuning: Tuning) -> str:
    fewest = outcome.fewest
    if not outcome.counts_macs:
        return "what MACs would choose is not known: of no setting are all operations counted"
    if fewest is None:
        return "MACs would choose the same"
    name, pick = named(fewest.record, outcome, tuning), outcome.pick
    assert pick is not None
    what = f"MACs would choose {name}"
    if pick["macs"] and not pick["macs_is_lower_bound"]:
        less = 1 - float(fewest.record["macs"] or 0) / float(pick["macs"])
        what += f", with {less:.1%} fewer of them"
    if fewest.ratio is not None:
        return f"{what}, which takes {_times(fewest.ratio)} as long"
    times = "unknown how" if fewest.times is None else f"about {fewest.times:.2f} times as"
    return f"{what}, which takes {times} long"


def _counts(outcome: Outcome, tuning: Tuning) -> list[str]:
    given_up = [one for one in outcome.rivals if one.cause == "given_up"]
    failed = [one for one in outcome.rivals if one.cause == "failed"]
    over = [one for one in outcome.rivals if one.cause == "limit"]
    rounds = sum(int(row["rounds"] or 0) for row in outcome.rows)
    lines = [
        f"given up before the last rounds: {len(given_up)} of {len(outcome.rows)}; "
        f"{rounds} measurements in all"
    ]
    if tuning.drawn:
        others = {(row["settings"], row["dim"], row["num_heads"]) for row in outcome.rows}
        lines.append(
            f"of the {tuning.space.size} settings of the space {len(others) - 1} were drawn, of "
            f"{tuning.drawn} that were wanted"
        )
    if over:
        lines.append(f"{len(over)} do not keep to the limits")
    if failed:
        lines.append(f"{len(failed)} failed, the first: {failed[0].record['message']}")
    return lines


_AGAINST = {"peak_memory_bytes": "peak memory", "macs": "MACs"}


def _front(against: str, rows: Sequence[Record], outcome: Outcome, tuning: Tuning) -> str:
    names = _listed(rows, outcome, tuning)
    return f"the front of throughput against {_AGAINST[against]}: {names}"


def _listed(rows: Sequence[Record], outcome: Outcome, tuning: Tuning) -> str:
    names = [named(row, outcome, tuning) for row in rows[:_MOST_NAMES]]
    more = f" and {len(rows) - _MOST_NAMES} more" if len(rows) > _MOST_NAMES else ""
    return ", ".join(names) + more


def _times(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})"


def named(row: Record, outcome: Outcome, tuning: Tuning) -> str:
    """The settings of a row by which those of its contest differ: `alpha=0.5 window_size=2`; of
    many hyper-parameters those that are not the authors'."""
    wanted = [name for name in tuning.space.names if name not in ("dim", "num_heads")]
    own, usual = _settings(row), {} if outcome.default is None else _settings(outcome.default)
    words = [
        f"{name}={own[name]}"
        for name in wanted
        if name in own and (len(wanted) <= _MOST_SETTINGS or own[name] != usual.get(name))
    ]
    words += [
        f"{name}={row[name]}"
        for name in ("dim", "num_heads", "dtype", "impl")
        if len({other[name] for other in outcome.rows}) > 1
    ]
    return " ".join(words) or "the authors' setting"


def _settings(row: Record) -> dict[str, str]:
    pairs = (word.partition("=") for word in str(row["settings"] or "").split())
    return {name: value for name, _, value in pairs}


def table(outcome: Outcome, tuning: Tuning, most: int = MOST_ROWS) -> Table:
    """The settings, the fastest first, with what each costs and why it is not the pick. Of more
    than `most` the authors' is the last one shown, unless it is before."""
    rows: list[tuple[Record, Rival | None]] = [(one.record, one) for one in outcome.rivals]
    if outcome.pick is not None:
        rows = [(outcome.pick, None), *rows]
    if own := [row for row in rows[most:] if row[0] is outcome.default]:
        rows = [*rows[: most - 1], *own]
    header = ("setting", "images/s", "GMACs", "peak MiB", "rounds", "times the pick's", "")
    lines = [
        (
            visible(named(row, outcome, tuning)),
            _number(row["throughput_img_s"]),
            _number(row["macs"], 1e9),
            _number(row["peak_memory_bytes"], 2**20),
            str(row["rounds"] or ""),
            _over_pick(rival),
            visible(_reason(rival, tuning)) if rival else "the pick",
        )
        for row, rival in rows[:most]
    ]
    return listing(header, lines, right=header[1:6])


def _over_pick(rival: Rival | None) -> str:
    if rival is None:
        return "1"
    if rival.ratio is not None:
        return f"{rival.ratio.value:.2f} ({rival.ratio.low:.2f} to {rival.ratio.high:.2f})"
    return "" if rival.times is None else f"about {rival.times:.2f}"


def _number(value: object, scale: float = 1.0) -> str:
    return "" if value is None else units.significant(float(str(value)) / scale)


def _reason(rival: Rival, tuning: Tuning) -> str:
    if rival.cause == "limit":
        return "; ".join(advice.missed(one, tuning.limits) for one in rival.misses)
    if rival.cause == "failed":
        return f"{str(rival.record['status']).replace('_', ' ')}: {rival.record['message']}"
    if rival.cause == "given_up":
        rounds = int(rival.record["rounds"] or 0)
        return f"given up after {rounds} {'round' if rounds == 1 else 'rounds'}"
    return _STATUS[rival.cause]


def summary(outcome: Outcome) -> dict[str, Any]:
    """As JSON can hold it: rows by the ids of their cases."""

    def case(row: Record | None) -> Any:
        return None if row is None else row["case"]

    def interval(ratio: Ratio | None) -> Any:
        return None if ratio is None else [ratio.value, ratio.low, ratio.high]

    return {
        "pick": case(outcome.pick),
        "settings": None if outcome.pick is None else outcome.pick["settings"],
        "default": case(outcome.default),
        "default_over_pick": interval(outcome.gain),
        "fewest_macs": case(_fewest(outcome)),
        "level": [case(one.record) for one in outcome.rivals if one.cause == "level"],
        "rivals": [
            {
                "case": case(one.record),
                "cause": one.cause,
                "times": one.times,
                "ratio": interval(one.ratio),
            }
            for one in outcome.rivals
        ],
        "fronts": {name: [case(row) for row in rows] for name, rows in outcome.fronts.items()},
        "analytic_front": [case(row) for row in outcome.analytic],
    }


def _fewest(outcome: Outcome) -> Record | None:
    """The row that MACs would choose; None where it is not known."""
    if outcome.fewest is not None:
        return outcome.fewest.record
    return outcome.pick if outcome.counts_macs else None
