"""A case as a row, as a name and as options: nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vitbench.examples import backbone_case, case
from vitbench import runtimes
from vitbench.cases.axes import AXES
from vitbench.cases.case import Case, Resolution
from vitbench.cases.row import COLUMNS, case_of, name_of, options_of, row_of, select
from vitbench.cases.scalars import parse_scalar
from vitbench.cases.sweep import Sweep
from vitbench.errors import BadInput

SIZES = st.sampled_from([Resolution(64, 64), Resolution(64, 96), Resolution(96, 64)])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "attention": st.sampled_from(["msa", "hilo", "window"]),
    "resolution": SIZES,
    "stride": st.sampled_from([8, 16]),
    "dim": st.sampled_from([32, 384]),
    "num_heads": st.sampled_from([2, 4]),
    "batch_size": st.integers(1, 9),
    "cold": st.booleans(),
    **{
        # Not int8, which the runtimes below refuse.
        name: st.sampled_from([value for value in axis.choices if value != runtimes.INT8])
        for name, axis in AXES.items()
        if axis.choices and name not in ("cold", "task", "runtime")
    },
    "runtime": st.sampled_from(
        [
            name
            for name in runtimes.names()
            if runtimes.load(name).refuses("cuda", "float32", "forward_backward") is None
        ]
    ),
}
SWEEPS = st.builds(
    lambda device, alpha, **axes: Sweep(
        device=device,
        params={"hilo": {"alpha": alpha}} if "hilo" in axes["attention"] else {},
        **axes,
    ),
    device=st.sampled_from(["cuda", "cuda:1"]),
    alpha=st.lists(st.sampled_from([0.0, 0.5, 0.9, 1]), min_size=1, unique=True).map(tuple),
    **{
        name: st.lists(values, min_size=1, max_size=2, unique=True).map(tuple)
        for name, values in VALUES.items()
    },
)


@given(SWEEPS)
def test_names_are_unique_in_a_sweep(sweep: Sweep) -> None:
    """And the same from the case and from its row, whose case_of is the inverse of row_of."""
    cases = sweep.expand()
    assert [case_of(row_of(one)) for one in cases] == cases
    assert len({name_of(one) for one in cases}) == len(cases)
    assert [name_of(row_of(one)) for one in cases] == [name_of(one) for one in cases]


def test_names_say_what_differs_from_the_default() -> None:
    """Subject, pixels, dtype and batch first, all settings last."""
    usual = case(dim=384, num_heads=12)
    assert name_of(usual) == "msa 64px float32 batch 2 qkv_bias=true"
    odd = dataclasses.replace(
        usual, impl="eager", runtime="compile", cold=True, mode="forward_backward", image_width=96
    )
    name = "msa 64x96px float32 batch 2 eager compile cold forward_backward qkv_bias=true"
    assert name_of(odd) == name
    assert name_of(case(stride=8, device="cuda:1", params=())) == (
        "msa 64px float32 batch 2 stride 8 dim 32 heads 2 cuda:1"
    )
    params = (("alpha", 0.9),)
    assert name_of(dataclasses.replace(backbone_case(), params=params, head="retinanet")) == (
        "tiny 64px float32 batch 2 alpha=0.9 head=retinanet"
    )


@given(SWEEPS)
def test_the_options_select_the_case(sweep: Sweep) -> None:
    """They are read as the command line reads them, and give the one case."""
    (one, *_) = sweep.expand()
    words = shlex.split(options_of(row_of(one)))
    pairs = list(zip(words[::2], words[1::2], strict=True))
    named = {axis.option: name for name, axis in AXES.items()}
    axes: dict[str, Any] = {
        named[option]: AXES[named[option]].parse(text) for option, text in pairs if option in named
    }
    params: dict[str, dict[str, tuple[Any, ...]]] = {one.attention: {}}
    for option, text in pairs:
        if option == "--param":
            name, _, value = text.removeprefix(f"{one.attention}.").partition("=")
            params[one.attention][name] = (parse_scalar(value),)
    assert Sweep(device=dict(pairs)["--device"], params=params, **axes).expand() == [one]


def test_the_options_select_a_backbone_with_its_head() -> None:
    """The head is no hyper-parameter, and no option but the model's name says it."""
    (one,) = Sweep(backbone=("litv2_s[attention=sra]",), task=("segment",)).expand()
    words = shlex.split(options_of(row_of(one)))
    backbone, size = (words[words.index(option) + 1] for option in ("--backbone", "--resolution"))
    assert "--param" not in words
    sizes = AXES["resolution"].parse(size)
    assert Sweep(backbone=AXES["backbone"].parse(backbone), resolution=sizes).expand() == [one]


def test_a_row_of_a_backbone() -> None:
    """What only layers have is empty."""
    row = row_of(backbone_case())
    assert (row["attention"], row["stride"], row["dim"]) == ("", None, None)
    assert case_of(row) == backbone_case()
    assert tuple(row) == tuple(column.name for column in COLUMNS)


@pytest.mark.parametrize("column", ["dim", "impl", "settings", "case"])
def test_a_row_of_another_case_is_refused(column: str) -> None:
    """The id goes over all columns."""
    row = row_of(case()) | {column: row_of(case(dim=64, impl="eager", params=()))[column]}
    with pytest.raises(ValueError, match="of another case"):
        case_of(row)


def test_axes_without_a_field_keep_ids() -> None:
    """An axis that comes later changes no id and no name of the cases before it."""
    assert case(more=()).id == case().id != case(more=(("layout", "nhwc"),)).id
    again = Case.from_dict(case(more=(("layout", "nhwc"),)).to_dict())
    assert again == case(more=(("layout", "nhwc"),))


def test_rows_are_chosen_by_values_of_axes() -> None:
    """Those with one of the values of every axis that is named; `all` is any; a value that no row
    has is refused with what the rows have."""
    rows = [
        row_of(case(runtime=runtime, image_height=size))
        for runtime in ("eager", "openvino")
        for size in (64, 96)
    ]
    chosen = select(rows, {"runtime": ("openvino",), "resolution": (Resolution(96, 64),)})
    assert chosen == [rows[3]]
    assert select(rows, {"runtime": ("all",)}) == rows == select(rows, {})
    with pytest.raises(BadInput, match="no row has runtime 'openvinoo'; nearest: openvino"):
        select(rows, {"runtime": ("openvinoo",)})
    with pytest.raises(BadInput, match="no row has backbone 'x'; known: none"):
        select(rows, {"backbone": ("x",)})
