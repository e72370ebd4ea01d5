"""Insights in words: what is found is said with its names and its numbers, and harmlessly."""

from __future__ import annotations

import numpy as np

from tests import synthetic_records as synthetic
from vitbench.analysis.insight import insights
from vitbench.render import insights as words
from vitbench.results.record import Record

SIZES = (160, 224, 288, 384, 512)
NAMES = ("msa", "hilo", "window", "sra", "xca")


def told(rows: list[Record], memory_bytes: int | None = None) -> dict[str, tuple[str, ...]]:
    """The sentences of each paragraph."""
    found = insights(rows, synthetic.environment(), memory_bytes)
    return {one.title: one.sentences for one in words.paragraphs(found, 20)}


def planted() -> list[Record]:
    """hilo overtakes msa at 20 x 20 tokens, in two dtypes."""
    latency_s = synthetic.power_law(
        {"msa": 0.010, "hilo": 0.010 * (400 / 196) ** 0.9}, {"msa": 1.8, "hilo": 0.9}
    )
    planned = synthetic.cases(
        attention=NAMES, resolution=SIZES, runtime="openvino", dtype=("float32", "bfloat16")
    )
    rng = np.random.default_rng(0)
    return synthetic.records(planned, latency_s, rng, scatter=0.001, odd=0.0)


def test_every_kind_has_its_sentences() -> None:
    """With sizes in tokens, factors, intervals and the setting."""
    rows = planted()
    peaks = sorted(int(str(row["peak_memory_bytes"])) for row in rows)
    sentences = told(rows, peaks[len(peaks) // 2])
    (crossing, *_) = sentences["crossovers"]
    assert crossing.startswith(
        "hilo overtakes msa above 20 x 20 tokens (batch 8, float32, openvino on "
    )
    assert crossing.endswith("between 18 and 24, the nearest sizes at which the order is clear)")
    assert any(" to the power of 1.80 (" in line for line in sentences["growth with the tokens"])
    (change,) = sentences["what another runtime, dtype or device changes"]
    assert change.startswith("bfloat16 is 1.00 times as fast as float32 (1.00 to 1.00): ")
    assert "25 not told apart" in change
    assert " fits " in sentences["what fits the memory"][0]
    assert " does not" in sentences["what fits the memory"][0]
    assert sentences["what bounds the cases"][0].count("%") == 2


def test_names_of_users_are_harmless() -> None:
    """What turns the direction of writing or ends a line stands as its code; the rest is text."""
    name = "<script>\u202ealert(1)\n=cmd()"
    rows = [row | {"attention": name} if row["attention"] == "hilo" else row for row in planted()]
    text = "\n".join(line for lines in told(rows).values() for line in lines)
    assert "<script>\\u202ealert(1)\\n=cmd()" in text
    assert "\u202e" not in text


def test_settings_of_one_mechanism_are_told_apart() -> None:
    """By what is not the authors'."""
    (usual,) = synthetic.cases(attention="hilo")
    (other,) = synthetic.cases(attention="hilo", params={"hilo": {"alpha": (0.5,)}})
    names = [words.name(synthetic.record(case, [0.01])) for case in (usual, other)]
    assert names == ["hilo", "hilo[alpha=0.5]"]


def test_most_and_more() -> None:
    """Of a kind so many sentences, and how many more there are."""
    found = insights(planted())
    (growth,) = (one for one in words.paragraphs(found, 3) if one.title.startswith("growth"))
    assert (len(growth.sentences), growth.more) == (3, 7)
