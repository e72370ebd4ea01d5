"""Rows that are looked at together."""

from __future__ import annotations

from tests import synthetic_records as synthetic
from vitbench.analysis import groups


def test_trusted_rows() -> None:
    """A and B; C only where there is neither; never D, unknown trust or a failure."""
    (case,) = synthetic.cases(attention="msa")
    a, b, c, d, unknown = (
        synthetic.record(case, [1.0], trust=grade) for grade in ("A", "B", "C", "D", "")
    )
    failed = synthetic.failed(case)
    assert groups.trusted([c, a, d, b, unknown, failed]) == [a, b]
    assert groups.trusted([c, d, failed]) == [c]
    assert groups.trusted([d, unknown, failed]) == []


def test_groups_differ_in_what_is_not_free() -> None:
    """Sizes apart, mechanisms together; models that do different things apart."""
    layers = synthetic.cases(attention=("msa", "hilo"), resolution=(224, 288))
    models = synthetic.cases(backbone="litv2_s", task=("classify", "detect"), resolution=224)
    rows = [synthetic.record(case, [1.0]) for case in (*layers, *models)]
    found = groups.groups(rows, groups.SUBJECT)
    assert [len(own) for own in found] == [2, 2, 1, 1, 1]
    assert [groups.head_of(row) for row in rows[4:]] == ["", "retinanet", "mask_rcnn"]
