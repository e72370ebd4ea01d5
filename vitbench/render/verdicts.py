"""Verdicts as a table, as Markdown with a forest plot, as annotations and as JUnit XML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from vitbench.analysis.compare import Verdict, geometric_mean
from vitbench.analysis.gate import Judged, Result

_COLOURS = {"slower": "red", "failed": "red", "missing": "red", "faster": "green"}
_WIDTH = 31  # characters of a forest line; odd, so that 1 has a place of its own


def table(verdicts: Sequence[Verdict]) -> Table:
    """One row a case: the ratio, its interval drawn and in figures, and the verdict."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("case", overflow="fold")
    drawn.add_column("latency ratio", justify="right")
    drawn.add_column("95% interval", justify="right")
    reach = _reach(verdicts)
    drawn.add_column(_axis(reach))
    drawn.add_column("verdict")
    drawn.add_column("", overflow="fold")
    for verdict, label in zip(
        verdicts, labels([verdict.describe for verdict in verdicts]), strict=True
    ):
        word = Text(verdict.word, style=_COLOURS.get(verdict.word, ""))
        cells = [label, *_figures(verdict), forest(verdict, reach)]
        drawn.add_row(*(Text(cell) for cell in cells), word, Text(_remarks(verdict)))
    return drawn


def labels(full: Sequence[str]) -> list[str]:
    """What tells each case from the others: hyper-parameters only where some would be alike."""
    short = [" ".join(word for word in name.split() if "=" not in word) for name in full]
    return [a if short.count(a) == 1 else b for a, b in zip(short, full, strict=True)]


def _figures(verdict: Verdict) -> list[str]:
    ratio = verdict.ratio
    if ratio is None:
        return ["", ""]
    high = "?" if math.isinf(ratio.high) else f"{ratio.high:.3f}"
    low = "?" if ratio.low == 0 else f"{ratio.low:.3f}"
    return [f"{ratio.value:.3f}", f"{low} to {high}"]


def _remarks(verdict: Verdict) -> str:
    changed = [f"{name} {old} -> {new}" for name, (old, new) in verdict.changed.items()]
    return "; ".join([part for part in (verdict.why, *changed) if part])


def _reach(verdicts: Sequence[Verdict]) -> float:
    """How far the axis goes on either side of 1, as a logarithm; at least 10%, at most 2 times."""
    ends = [
        abs(math.log(end))
        for verdict in verdicts
        if verdict.ratio is not None
        for end in (verdict.ratio.low, verdict.ratio.high)
        if 0 < end < math.inf
    ]
    return min(max([math.log(1.1), *ends]), math.log(2))


def _axis(reach: float) -> str:
    low, high = f"{math.exp(-reach):.2f}", f"{math.exp(reach):.2f}"
    gap = _WIDTH - len(low) - len(high)
    return f"{low}{'1'.center(gap)}{high}"


def forest(verdict: Verdict, reach: float) -> str:
    """A line with the interval as dashes, the ratio as a point, and a bar at 1."""
    cells = [" "] * _WIDTH
    cells[_WIDTH // 2] = "|"
    ratio = verdict.ratio
    if ratio is None:
        return "".join(cells)
    start, middle, end = (_place(x, reach) for x in (ratio.low, ratio.value, ratio.high))
    for place in range(start, end + 1):
        cells[place] = "-" if cells[place] == " " else "+"
    cells[middle] = "o"
    return "".join(cells)


def _place(ratio: float, reach: float) -> int:
    if ratio <= 0:
        return 0
    share = 0.5 if math.isinf(ratio) else max(-1.0, min(1.0, math.log(ratio) / reach)) / 2
    return round((share + 0.5) * (_WIDTH - 1))


def markdown(result: Result) -> str:
    """For a job's summary: the sentence, the faults, and the table with the forest plot."""
    verdicts = [one.verdict for one in result.judged]
    lines = [f"### vitbench: {result.sentence}", ""]
    lines += [f"- {fault}" for one in result.judged for fault in one.faults]
    if mean := geometric_mean(verdicts):
        lines += ["", f"Geometric mean of the latency ratios: {mean:.3f}"]
    reach = _reach(verdicts)
    names = labels([verdict.describe for verdict in verdicts])
    width = max(map(len, names), default=4)
    lines += ["", "```text", f"{'case':{width}}  {'ratio':>7}  {_axis(reach)}  verdict"]
    for verdict, name in zip(verdicts, names, strict=True):
        ratio = _figures(verdict)[0]
        row = f"{name:{width}}  {ratio:>7}  {forest(verdict, reach)}  {verdict.word}"
        remarks = _remarks(verdict)
        lines.append(f"{row}: {remarks}" if remarks else row)
    return "\n".join([*lines, "```", ""])


def workflow_commands(result: Result) -> str:
    """GitHub's workflow commands: an error for each fault, a warning for what is not decided."""
    faults = [fault for one in result.judged for fault in one.faults]
    lines = [f"::error title=vitbench::{_escaped(fault)}" for fault in faults]
    for one in result.judged:
        verdict = one.verdict
        if verdict.word in ("failed", "missing", "incomparable"):
            lines.append(
                f"::warning title=vitbench::{_escaped(f'{verdict.describe}: {verdict.why}')}"
            )
    return "\n".join(lines)


def _escaped(text: str) -> str:
    for sign, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(sign, code)
    return text


def junit(result: Result) -> str:
    """JUnit XML: a case a test; a broken limit is a failure, what was not measured an error."""
    failures = sum(bool(one.faults) for one in result.judged)
    errors = sum(_is_error(one) for one in result.judged)
    suite = ElementTree.Element(
        "testsuite",
        name="vitbench",
        tests=str(len(result.judged)),
        failures=str(failures),
        errors=str(errors),
    )
    for one in result.judged:
        verdict = one.verdict
        case = ElementTree.SubElement(
            suite, "testcase", classname=verdict.subject, name=verdict.describe
        )
        for fault in one.faults:
            ElementTree.SubElement(case, "failure", message=fault)
        if _is_error(one):
            ElementTree.SubElement(case, "error", message=f"{verdict.word}: {verdict.why}")
        elif verdict.word in ("undecided", "incomparable") and not one.faults:
            ElementTree.SubElement(case, "skipped", message=f"{verdict.word}: {verdict.why}")
    ElementTree.indent(suite)
    text: str = ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
    return text + "\n"


def _is_error(one: Judged) -> bool:
    return not one.faults and one.verdict.word in ("failed", "missing")
