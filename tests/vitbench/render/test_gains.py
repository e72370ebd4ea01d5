"""The table of what each mechanism gains as it is deployed."""

from __future__ import annotations

import pytest

from tests.vitbench.analysis.test_across_runtimes import row
from tests.vitbench.examples import case, ceilings, environment, facts, measured
from vitbench.render import gains
from vitbench.results.record import build_record


def test_a_line_says_how_much_and_how_far() -> None:
    """The fastest runtime of each dtype, its gain and its error; of the limit what the MACs take;
    what computes beside them. The largest gain stands first, and the mean is over all."""
    looked_at = facts(uncounted_ops="mul:1 softmax:2", error_rms=2e-7)
    rounds = [measured(*(0.002,) * 20, facts=looked_at), measured(*(0.002,) * 20)]
    one = case(attention="hilo", params=(), runtime="openvino")
    records = [
        row("msa", "eager", 0.03),
        row("msa", "openvino", 0.015),
        row("hilo", "eager", 0.008),
        build_record(one, rounds, ceilings(), environment()),
    ]
    (table,) = gains.tables(records)
    assert table.title == "64 px, batch 2"
    assert [line[0] for line in table.rows] == ["hilo", "msa"]
    line = dict(zip(table.header, table.rows[0], strict=True))
    assert line["float32, fastest in"] == "openvino"
    assert line["times"] == "4.00"
    assert line["output error"] == "2.0e-07"
    assert line["beside the MACs"] == "softmax, mul"
    share = records[3]["roofline_fraction"]
    assert isinstance(share, float)
    assert line["of the limit"] == f"{share:.0%}"
    assert table.means == {"float32": pytest.approx(8**0.5, rel=0.01)}


def test_a_dtype_that_is_not_measured_is_an_empty_cell() -> None:
    """Of one mechanism; of all, it has no column."""
    both = [row("msa", "eager", 0.03), row("hilo", "eager", 0.02)]
    assert "int8, fastest in" not in gains.tables(both)[0].header
    (table,) = gains.tables([*both, row("msa", "openvino", 0.01, dtype="int8")])
    cells = {line[0]: line[table.header.index("int8, fastest in")] for line in table.rows}
    assert cells == {"msa": "openvino", "hilo": ""}
