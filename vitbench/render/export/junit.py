"""JUnit XML: what CI systems show of tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from xml.etree import ElementTree

from vitbench.render import text
from vitbench.render.export import Format, Results
from vitbench.results.outcome import COUNTED, MEASURED, NOT_MEASURED, UNSUPPORTED
from vitbench.results.record import Record, subject_of

FORMAT = Format(
    name="junit",
    summary="a case a test: failures with their reasons, the latency as the test's time",
    suffix=".xml",
)
_TAGS = {MEASURED: "", COUNTED: "", UNSUPPORTED: "skipped", NOT_MEASURED: "skipped"}


def render(results: Results) -> Mapping[str, bytes]:
    """What could not run is skipped, what failed is an error; its output says what was measured."""
    names = results.names()
    tags = Counter(_tag(record) for record in results.records)
    suite = ElementTree.Element(
        "testsuite",
        name="vitbench",
        tests=str(len(results.records)),
        failures="0",
        errors=str(tags["error"]),
        skipped=str(tags["skipped"]),
    )
    for record in results.records:
        suite.append(_test(record, names[str(record["case"])]))
    ElementTree.indent(suite)
    return {"": ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True) + b"\n"}


def _tag(record: Record) -> str:
    return _TAGS.get(str(record["status"]), "error")


def _test(record: Record, name: str) -> ElementTree.Element:
    test = ElementTree.Element("testcase", classname=text.visible(subject_of(record)), name=name)
    if tag := _tag(record):
        message = text.visible(f"{record['status']}: {record['message']}")
        ElementTree.SubElement(test, tag, message=message)
    elif record["status"] == MEASURED:
        test.set("time", f"{record['latency_s']:.9f}")
        lines = [
            f"{record['throughput_img_s']:.6g} images/s",
            f"trust {record['trust']} {record['trust_reasons'] or ''}".strip(),
        ]
        ElementTree.SubElement(test, "system-out").text = text.visible("; ".join(lines))
    return test
