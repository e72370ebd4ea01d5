"""The output check: what it lets through and what it does not."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from vitbench.instruments import correctness
from vitbench.instruments.correctness import Errors

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def test_errors_by_hand() -> None:
    """Root mean square and largest difference, over the reference's root mean square; zeros equal
    zeros and nothing else."""
    reference = torch.tensor([3.0, -3.0, 3.0, -3.0])
    found = correctness.errors(reference + torch.tensor([0.0, 0.6, 0.0, 0.0]), reference)
    assert found.rms == pytest.approx(0.1)
    assert found.worst == pytest.approx(0.2)
    zeros = torch.zeros(4)
    for same in (reference, zeros):
        assert correctness.errors(same, same) == Errors(0.0, 0.0)
    found = correctness.errors(zeros + 1e-30, zeros)
    assert correctness.fault_of_value(found, correctness.budget(torch.float32))


@given(st.integers(0, 100), st.sampled_from([2.0**-20, 2.0**30]))
def test_errors_have_no_unit(seed: int, factor: float) -> None:
    """Scaling output and reference changes no error."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(50, generator=generator, dtype=torch.float64)
    output = reference + 0.01 * torch.randn(50, generator=generator, dtype=torch.float64)
    plain = correctness.errors(output, reference)
    scaled = correctness.errors(output * factor, reference * factor)
    assert (scaled.rms, scaled.worst) == pytest.approx((plain.rms, plain.worst))


def test_worst_of_several() -> None:
    """The largest of each, whichever output it comes from."""
    one = torch.ones(2)
    assert correctness.worst_of([one, one * 1.5], [one, one]) == Errors(0.5, 0.5)
    with pytest.raises(ValueError, match="zip"):
        correctness.worst_of([one, one], [one])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_within_the_budget(dtype: torch.dtype) -> None:
    """MSA in a dtype, against itself in fp64 with the same weights, passes with room to spare."""
    torch.manual_seed(0)
    module = attentions.load("msa").build(64, 4, Grid(7, 9), impl="fused").to(dtype).eval()
    x = torch.randn(2, 7, 9, 64).to(dtype)
    with torch.inference_mode():
        output = module(x)
        reference = module.double()(x.double())
    found, allowed = correctness.errors(output, reference), correctness.budget(dtype)
    assert correctness.fault_of_value(found, allowed) is None
    assert found.rms < allowed.rms / 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_real_mistake_is_beyond_the_budget(dtype: torch.dtype) -> None:
    """An output that is 10% too large, or wrong in one token of a thousand, fails in any dtype."""
    torch.manual_seed(0)
    reference = torch.randn(1000, 32, dtype=torch.float64)
    swapped = reference.clone()
    swapped[500] = reference[501]
    allowed = correctness.budget(dtype)
    for wrong in (reference * 1.1, swapped):
        fault = correctness.fault_of_value(correctness.errors(wrong.to(dtype), reference), allowed)
        assert "differs from the eager implementation" in str(fault)


def test_budgets_follow_the_dtype() -> None:
    """Fewer bits, more room; TF32 is as coarse as fp16; depth adds like a root."""
    fp64, fp32, bf16, fp16 = (correctness.budget(dtype).rms for dtype in DTYPES)
    assert fp64 < fp32 < fp16 < bf16
    assert correctness.budget(torch.float32, tf32=True) == correctness.budget(torch.float16)
    assert correctness.budget(torch.float16, tf32=True) == correctness.budget(torch.float16)
    assert correctness.budget(torch.float32, layers=4).rms == pytest.approx(2 * fp32)


def test_nan_is_no_small_error() -> None:
    """A comparison with NaN is false, and must not pass for equal."""
    nan = float("nan")
    for found in (Errors(nan, 0.0), Errors(0.0, nan)):
        assert correctness.fault_of_value(found, correctness.budget(torch.float32))


X = torch.zeros(2, 3, 4, 8)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (X, "None"),
        ("text", "must be a tensor, got str"),
        (None, "must be a tensor, got NoneType"),
        ((X,), "must be a tensor, got tuple"),
        (X[:1], r"shape must be \(2, 3, 4, 8\), got \(1, 3, 4, 8\)"),
        (X.permute(0, 3, 1, 2), r"got \(2, 8, 3, 4\)"),
        (X.double(), "dtype must be torch.float32, got torch.float64"),
        (X / 0, "got 192 of 192 values NaN or infinite"),
        (X + torch.tensor([float("inf")] + [0.0] * 7), "got 24 of 192"),
    ],
)
def test_form_of_a_layers_output(output: object, fault: str) -> None:
    """A tensor of the input's shape and dtype, finite; else what was expected and what came."""
    assert re.search(fault, str(correctness.fault_of_form(output, X)))


@pytest.mark.parametrize(
    ("outputs", "fault"), [([X, X], "None"), ([], "got none"), ([X, X / 0], "NaN or infinite")]
)
def test_form_of_a_models_outputs(outputs: list[Tensor], fault: str) -> None:
    """At least one tensor, all finite."""
    assert fault in str(correctness.fault_of_tensors(outputs))
