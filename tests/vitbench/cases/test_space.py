"""Spaces of hyper-parameters: what one writes, and the settings that follow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attentions
from tests import synthetic_records as synthetic
from vitbench.cases.limits import Limits
from vitbench.cases.space import Space, case_with, parse
from vitbench.cases.tuning import Tuning
from vitbench.errors import BadInput
from vitbench.subjects.backbones import LITV2_SPACE


@given(st.integers(-20, 20), st.integers(0, 40), st.integers(1, 9), st.sampled_from([1, 10, 1000]))
def test_a_range_has_the_numbers_that_one_would_write(
    first: int, more: int, step: int, scale: int
) -> None:
    """Both ends included, without the dust of binary fractions."""
    text = f"x={first / scale!r}:{(first + more) / scale!r}:{step / scale!r}"
    (values,) = parse([text]).values()
    assert values[0] == first / scale
    assert len(values) == more // step + 1
    assert all(value == float(repr(value)) and len(repr(value)) < 9 for value in values)


@pytest.mark.parametrize(
    "text",
    ["alpha", "alpha=", "=1", "alpha=0:1", "alpha=1:0:0.1", "alpha=0:1:0", "alpha=0:1:nan",
     "alpha=0:inf:1", "alpha=a:b:c", "alpha=0:1:0.0000001", "alpha=1,,2"],
)  # fmt: skip
def test_what_is_no_space_is_one_sentence(text: str) -> None:
    with pytest.raises(BadInput) as error:
        parse([text])
    assert "\n" not in str(error.value)


def test_a_hyper_parameter_is_named_once() -> None:
    with pytest.raises(BadInput, match="twice"):
        parse(["alpha=0.5", "alpha=0.9"])


def test_words_and_numbers_are_told_apart() -> None:
    assert parse(["attention=msa,sra", "scale=2,2.5,true"]) == {
        "attention": ("msa", "sra"),
        "scale": (2, 2.5, True),
    }


def test_a_union_of_products_is_as_large_as_its_settings() -> None:
    space = Space(({"a": (1, 2), "b": (1, 2, 3)}, {"c": (1,)}))
    assert space.size == len(list(space.settings())) == 7
    assert space.names == ("a", "b", "c")


def test_what_a_mechanism_of_a_model_does_not_have_is_left_out() -> None:
    """alpha is HiLo's: beside msa it is no setting."""
    (case,) = synthetic.cases(backbone="litv2_s")
    files = attentions.files()
    own = dict(case_with(case, {"attention": "msa", "alpha": 0.5}, files).params)
    assert own["attention"] == "msa"
    assert "alpha" not in own
    own = dict(case_with(case, {"attention": "hilo", "stage4_window_size": 7}, files).params)
    assert own["stage4_attention"] == "hilo"
    assert own["stage4_window_size"] == 7


def test_the_authors_setting_of_a_model_keeps_its_id() -> None:
    """What is chosen in stage 4 is only said where it is chosen."""
    (case,) = synthetic.cases(backbone="litv2_s")
    assert case_with(case, {}, attentions.files()) == case


def test_sizes_are_no_parameters() -> None:
    (case,) = synthetic.cases(attention="hilo")
    wide = case_with(case, {"num_heads": 6, "alpha": 0.5}, attentions.files())
    assert wide.num_heads == 6
    assert "num_heads" not in dict(wide.params)


def test_a_tuning_survives_its_journal() -> None:
    tuning = Tuning(
        space=Space(LITV2_SPACE),
        limits=Limits(latency_s=0.1, percentile=95, macs=4e9),
        defaults=("a", "b"),
        drawn=16,
        draws=4,
        narrowing=7,
    )
    assert Tuning.from_dict(tuning.to_dict()) == tuning


@pytest.mark.parametrize(
    "name", [n for n, f in attentions.files().items() if attentions.outline(f).space]
)
def test_a_space_has_parameters_of_its_mechanism_and_the_authors_values(name: str) -> None:
    """So that what is gained is gained over the paper, and settings differ."""
    outline = attentions.outline(attentions.files()[name])
    space, known = Space(outline.space), outline.keywords
    assert known is not None
    assert {*space.names} <= known.keys()
    usual = [{**known, **outline.settings_at(stride)} for stride in attentions.STRIDES]
    assert any(
        all(setting[key] == own[key] for key in setting)
        for own in usual
        for setting in space.settings()
    )
    assert space.size > 1
