"""A gate's result for CI: GitHub's annotations and job summary, JUnit XML, JSON."""

from __future__ import annotations

import json as jsons
from xml.etree import ElementTree

from vitbench.analysis import gate
from vitbench.analysis.compare import Verdict, geometric_mean
from vitbench.analysis.gate import Result
from vitbench.render import verdicts


def markdown(result: Result) -> str:
    """For a job's summary: the sentence, the faults, and the table with the forest plot."""
    lines = [f"### vitbench: {result.sentence}", ""]
    lines += [f"- {fault}" for case in result.verdicts for fault in case.faults]
    if mean := geometric_mean(result.verdicts):
        lines += ["", f"Geometric mean of the latency ratios: {mean:.3f}"]
    axis, rows = verdicts.cells(result.verdicts)
    width = max((len(name) for name, *_ in rows), default=4)
    lines += ["", "```text", f"{'case':{width}}  {'ratio':>7}  {axis}  {'limit':>7}  verdict"]
    for name, ratio, _, forest, limit, word, remarks in rows:
        row = f"{name:{width}}  {ratio:>7}  {forest}  {limit:>7}  {word}"
        lines.append(f"{row}: {remarks}" if remarks else row)
    return "\n".join([*lines, "```", ""])


def workflow_commands(result: Result) -> str:
    """GitHub's workflow commands: an error for each fault, a warning for a case without a ratio."""
    faults = [fault for case in result.verdicts for fault in case.faults]
    lines = [f"::error title=vitbench::{_escaped(fault)}" for fault in faults]
    for verdict in result.verdicts:
        if verdict.word in ("failed", "missing", "incomparable"):
            warning = _escaped(f"{verdict.describe}: {verdict.why}")
            lines.append(f"::warning title=vitbench::{warning}")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    for sign, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(sign, code)
    return text


def junit(result: Result) -> str:
    """JUnit XML: a case a test; a broken limit is a failure, what was not measured an error."""
    suite = ElementTree.Element(
        "testsuite",
        name="vitbench",
        tests=str(len(result.verdicts)),
        failures=str(sum(bool(case.faults) for case in result.verdicts)),
        errors=str(sum(_is_error(case) for case in result.verdicts)),
    )
    for verdict in result.verdicts:
        test = ElementTree.SubElement(
            suite, "testcase", classname=verdict.subject, name=verdict.describe
        )
        for fault in verdict.faults:
            ElementTree.SubElement(test, "failure", message=fault)
        if _is_error(verdict):
            ElementTree.SubElement(test, "error", message=f"{verdict.word}: {verdict.why}")
        elif verdict.word in ("undecided", "incomparable") and not verdict.faults:
            ElementTree.SubElement(test, "skipped", message=f"{verdict.word}: {verdict.why}")
    ElementTree.indent(suite)
    text: str = ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
    return text + "\n"


def _is_error(verdict: Verdict) -> bool:
    return not verdict.faults and verdict.word in ("failed", "missing")


def json(result: Result) -> str:
    """The result as JSON, indented."""
    return jsons.dumps(gate.summary(result), indent=2) + "\n"
