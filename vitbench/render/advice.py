"""Advice in words: the pick, the runner-up, why each rival lost, and what nobody knows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from vitbench import runtimes
from vitbench.analysis.accuracy import published_top1
from vitbench.analysis.advise import Advice, Kind, Lost, Miss
from vitbench.analysis.unmeasured import Unmeasured
from vitbench.cases.axes import AXES, text_of
from vitbench.cases.limits import Limits
from vitbench.cases.row import options_of
from vitbench.cases.scalars import parse_scalar
from vitbench.instruments import memory
from vitbench.render import labels, units
from vitbench.render.insights import setting
from vitbench.render.text import visible
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record, subject_of

# Rivals that are told, and names in a sentence.
_MOST, _MOST_NAMES = 12, 8
_WHAT: dict[Kind, str] = {
    "latency": "latency",
    "memory": "peak memory",
    "top1": "published top-1",
    "macs": "cost",
    "params": "size",
}


def answer(advice: Advice) -> list[str]:
    """The pick and its runner-up, in sentences; without a pick what is nearest."""
    if advice.pick is None:
        return [_nothing(advice)]
    pick = advice.pick
    lines = [f"use {named(pick)} at {setting(pick, ['runtime'])}: {figures(pick)}"]
    if advice.level:
        others = _listed([named(row) for row in advice.level])
        why = "it takes the least memory" if advice.is_least else "its time is the shortest"
        lines.append(f"a tie: nothing tells it from {others}; of these {why}")
    if advice.runner_up is not None:
        times = next(one.times for one in advice.lost if one.record is advice.runner_up)
        lines.append(f"runner-up: {named(advice.runner_up)}, {times:.2f} times as long")
    if pick["trust"] not in ("A", "B"):
        lines.append(f"of trust {pick['trust']} only: {pick['trust_reasons']}")
    if pick["calibration"]:
        error = "unknown" if pick["error_rms"] is None else f"{float(pick['error_rms']):.2%}"
        lines.append(
            f"quantized: its output's error is {error} of the output (root mean squares); its "
            f"ranges are of {pick['calibration']}"
        )
    return [visible(line) for line in lines]


def commands(pick: Record) -> list[str]:
    """What builds the pick, or converts it, and what measures it again."""
    lines = []
    if pick["runtime"] in runtimes.converting():
        lines.append(f"convert it: {convert_command(pick)}")
    elif pick["attention"]:
        lines.append(f"build it: {_expression(pick)}")
    lines.append(f"measure it again: vitbench run {options_of(pick)}")
    if pick["calibration"] and pick["backbone"]:
        lines.append(
            f"its ranges are of {pick['calibration']}: where that is a folder of your own, give it "
            "to both commands as --calibration"
        )
    return [visible(line) for line in lines]


def convert_command(row: Record) -> str:
    """`vitbench convert` of a row's case."""
    words = ["vitbench convert", shlex.quote(_subject(row)), f"--runtime {row['runtime']}"]
    words.append(f"--resolution {row['image_height']}x{row['image_width']}")
    for name in ("stride", "dim", "num_heads", "batch_size", "dtype", "impl"):
        if text := text_of(row[name]):
            words.append(f"{AXES[name].option} {shlex.quote(text)}")
    words.append(f"--device {row['device']}")
    if row["attention"]:
        words += [f"--param {shlex.quote(word)}" for word in str(row["settings"] or "").split()]
    return " ".join(words)


def _subject(row: Record) -> str:
    settings = ",".join(str(row["settings"] or "").split())
    own = f"[{settings}]" if row["backbone"] and settings else ""
    return subject_of(row) + own


def _expression(row: Record) -> str:
    """In Python, of a layer."""
    pairs = (word.partition("=") for word in str(row["settings"] or "").split())
    own = "".join(f", {name}={parse_scalar(value)!r}" for name, _, value in pairs)
    grid = f"attentions.Grid({row['grid_height']}, {row['grid_width']})"
    return (
        f"attentions.load({subject_of(row)!r}).build({row['dim']}, {row['num_heads']}, {grid}, "
        f"impl={row['impl']!r}{own})"
        + (f", run by {row['runtime']}" if row["runtime"] != runtimes.DEFAULT else "")
    )


def rivals(advice: Advice, most: int = _MOST) -> list[str]:
    """Why each other row is not the pick; how many more there are."""
    lines = [f"{named(one.record)}: {_reason(one, advice)}" for one in advice.lost]
    told = [visible(line) for line in lines[:most]]
    return told + ([f"and {len(lines) - most} more"] if len(lines) > most else [])


def _reason(one: Lost, advice: Advice) -> str:
    row = one.record
    if one.cause == "level":
        return f"nothing tells it from the pick ({one.times:.2f} times as long)"
    if one.cause == "slower":
        return f"takes {one.times:.2f} times as long"
    if one.cause in ("limit", "unknown"):
        return "; ".join(missed(each, advice.limits) for each in one.misses)
    if one.cause == "untrusted":
        return f"trust {row['trust'] or 'unknown'}: {row['trust_reasons'] or 'it was not timed'}"
    return f"{str(row['status']).replace('_', ' ')}: {row['message']}"


def missed(miss: Miss, limits: Limits) -> str:
    """`peak memory of 12 MiB is over 8 MiB`."""
    what = _what(miss.kind, limits)
    limit = _amount(miss.kind, miss.limit)
    if miss.value is None:
        return f"its {what} is not known, and {limit} is the limit"
    side = "under" if miss.kind == "top1" else "over"
    return f"{what} of {_amount(miss.kind, miss.value)} is {side} {limit}"


def _what(kind: Kind, limits: Limits) -> str:
    if kind == "latency" and limits.percentile is not None:
        return f"p{limits.percentile:g} of the latency"
    return _WHAT[kind]


def _amount(kind: Kind, value: float) -> str:
    if kind == "latency":
        return f"{units.significant(value * 1e3)} ms"
    if kind == "memory":
        return f"{units.significant(value / 2**20)} MiB"
    if kind == "macs":
        return f"{units.significant(value / 1e9)} GMACs"
    if kind == "params":
        return f"{units.significant(value / 1e6)}M parameters"
    return f"{value:g}%"


def _nothing(advice: Advice) -> str:
    """`nothing measured meets ...: nearest is ...`."""
    limits = advice.limits
    asked: list[tuple[float | None, Kind, str]] = [
        (limits.latency_s, "latency", "at most "),
        (limits.memory_bytes, "memory", "at most "),
        (limits.macs, "macs", "at most "),
        (limits.params, "params", "at most "),
        (limits.top1, "top1", "at least "),
    ]
    words = [
        f"{_what(kind, limits)} of {bound}{_amount(kind, value)}"
        for value, kind, bound in asked
        if value is not None
    ]
    text = "nothing measured meets " + " and ".join(words or ["the rules of trust"])
    if all(one.record["status"] != MEASURED for one in advice.lost):
        return "nothing was measured; without a time no row can be the answer"
    if advice.nearest is None:
        why = "no row may be trusted; `vitbench doctor` says what disturbs this machine"
        return visible(f"{text}: {why}")
    reasons = "; ".join(missed(each, limits) for each in advice.nearest.misses)
    return visible(f"{text}: nearest is {named(advice.nearest.record)}, {reasons}")


def figures(row: Record) -> str:
    """Throughput, latency, memory and trust of a row."""
    speed, low, high = (
        units.significant(float(row[name] or 0))
        for name in ("throughput_img_s", "throughput_low_img_s", "throughput_high_img_s")
    )
    words = [
        f"{speed} images/s ({low} to {high})",
        f"{units.significant(1e3 * float(row['latency_s'] or 0))} ms a call",
    ]
    if (peak_bytes := row["peak_memory_bytes"]) is not None:
        about = " about" if row["memory_source"] in memory.INEXACT else ""
        words.append(f"peak memory{about} {units.mebibytes(float(peak_bytes))} MiB")
    if row["backbone"] and (known := published_top1(row)) is not None:
        remark = f" ({known.remark})" if known.remark else ""
        words.append(f"published top-1 {known.percent:g}%{remark}")
    return ", ".join([*words, f"trust {row['trust']}"])


def named(row: Record) -> str:
    """`hilo fused in openvino`, with the settings that are not the authors'."""
    return f"{labels.subject(row)} {row['impl']} in {row['runtime']}"


def changes(advice: Advice, elsewhere: Sequence[tuple[str, Advice]]) -> list[str]:
    """What would change the answer: limits that bind, ties, and other sizes and batches.

    elsewhere  the advice of other settings, each with what is other there, such as `512 px`
    """
    lines = []
    pick = advice.pick
    if advice.near:
        near = _listed([named(row) for row in advice.near])
        lines.append(f"within 20% of it: {near}; only turns tell them apart for certain: --turns")
    faster = [one for one in advice.lost if one.cause == "limit" and (one.times or 1) < 1]
    if faster:
        best = min(faster, key=lambda one: one.times or 1)
        reasons = "; ".join(missed(each, advice.limits) for each in best.misses)
        lines.append(f"without the limits {named(best.record)}: {reasons}")
    doubted = [one for one in advice.lost if one.cause == "untrusted" and (one.times or 1) < 1]
    if doubted:
        names = _listed([named(one.record) for one in doubted])
        lines.append(f"on a quiet machine maybe {names}: faster here, but not to be trusted")
    for words, other in elsewhere:
        if other.pick is not None and (pick is None or named(other.pick) != named(pick)):
            tie = f" (a tie with {len(other.level)} more)" if other.level else ""
            lines.append(f"at {words}: {named(other.pick)}{tie}")
    return [visible(line) for line in lines]


def missing(unmeasured: Sequence[Unmeasured]) -> list[str]:
    """What was not measured, how long measuring it takes, and how."""
    return [
        visible(
            f"{one.axis}s {_listed(one.names)}: {units.duration(one.seconds[0])} to "
            f"{units.duration(one.seconds[1])} with {one.command}"
        )
        for one in unmeasured
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
