"""Messages between runner and worker: each survives its line, and no other line passes for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vitbench.examples import backbone_case, case, ceilings, environment, facts, measured
from vitbench.engine import messages
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Counted, Failed

# No file name need be text.
PARAMS = (("alpha", 0.5), ("bias", True), ("name", "a\n\udce9\u2028"), ("size", 2), ("whole", 2.0))
REQUESTS: list[messages.Request] = [
    messages.SetUp(device="cuda:1", plugins={"mine": Path("/a/\udce9.py")}, ceilings=("float32",)),
    messages.Identify(device="cuda"),
    messages.CheckWeights(case=backbone_case()),
    messages.Measure(case=case(params=PARAMS), rule=None, with_facts=True),
    messages.Measure(case=case(), rule=TimingRule(), with_facts=False),
    messages.PrepareCase(case=case(), rule=TimingRule(cap_s=0.1), with_facts=True),
    messages.Sample(seconds=0.03),
    messages.Finish(),
    messages.Discard(),
]
REPLIES: list[messages.Reply] = [
    messages.Ready(device="cpu"),
    messages.Ready(device="cpu", environment=environment(), ceilings=ceilings()),
    messages.Identified(identity="GPU-1234"),
    messages.Refused(reason="no"),
    messages.Accepted(),
    messages.Sampled(samples_s=(1e-3, 0.1 + 0.2)),
    messages.Finished(outcome=measured()),
    messages.Finished(outcome=measured(facts=None, compile_s=1.0)),
    messages.Finished(outcome=Counted(facts())),
    messages.Finished(outcome=Failed("timeout", "1\n2")),
]


def test_each_survives_its_line() -> None:
    """Types of values included: a 2.0 does not become a 2, nor a tuple a list."""
    for message in (*REQUESTS, *REPLIES):
        line = messages.to_line(message)
        assert line.index("\n") == len(line) - 1
        read = messages.read_request if message in REQUESTS else messages.read_reply
        assert repr(read(line)) == repr(read(line.encode())) == repr(message)


MEASURE = json.loads(messages.to_line(REQUESTS[4]))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "Expecting value"),
        ("hello", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("null", "valid dictionary"),
        ("[]", "valid dictionary"),
        ("{}", "'type'"),
        ('{"type": "measur"}', "'measur'"),
        ('{"type": "accepted"}', "'accepted'"),
        ('{"type": "sample"}', "sample.seconds: Field required"),
        ('{"type": "sample", "seconds": "soon"}', "sample.seconds: Input should be a valid number"),
        ('{"type": "finish", "case": 1}', "finish.case: Extra inputs are not permitted"),
        (json.dumps(MEASURE | {"rule": {"cap_s": -1}}), "measure.rule"),
        (json.dumps(MEASURE | {"case": {"attention": "msa"}}), "measure.case.backbone"),
    ],
)
def test_what_is_no_request(line: str, reason: str) -> None:
    """One sentence with the field at fault."""
    with pytest.raises(messages.MalformedMessage, match="this is no request: ") as caught:
        messages.read_request(line)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    index=st.integers(0, len(REQUESTS) + len(REPLIES) - 1),
    field=st.integers(0, 10),
    value=anything,
    cut=st.integers(0, 400),
)
def test_damaged_lines(index: int, field: int, value: object, cut: int) -> None:
    """With another value in a field, or cut off, a line is a message or it is refused."""
    line = messages.to_line([*REQUESTS, *REPLIES][index])
    data = json.loads(line)
    data[list(data)[field % len(data)]] = value
    for damaged in (json.dumps(data), json.dumps(value), line[:cut]):
        for read in (messages.read_request, messages.read_reply):
            try:
                message = read(damaged)
            except messages.MalformedMessage:
                continue
            assert repr(read(messages.to_line(message))) == repr(message)
