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
    """Root mean square and largest difference, over the reference's root mean square."""
    reference = torch.tensor([3.0, -3.0, 3.0, -3.0])
    found = correctness.errors(reference + torch.tensor([0.0, 0.6, 0.0, 0.0]), reference)
    assert found.rms == pytest.approx(0.1)
    assert found.worst == pytest.approx(0.2)
    assert correctness.errors(reference, reference) == Errors(0.0, 0.0)


def test_errors_of_zeros() -> None:
    """A reference of zeros equals zeros and nothing else."""
    zeros = torch.zeros(4)
    assert correctness.errors(zeros, zeros) == Errors(0.0, 0.0)
    found = correctness.errors(zeros + 1e-30, zeros)
    assert correctness.fault_of_value(found, correctness.budget(torch.float32)) is not None


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
    one, zero = torch.ones(2), torch.zeros(2)
    found = correctness.worst_of([one, one * 1.5], [one, one])
    assert found == Errors(0.5, 0.5)
    with pytest.raises(ValueError, match="zip"):
        correctness.worst_of([one, zero], [one])


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
        assert fault is not None
        assert "differs from the eager implementation" in fault


def test_budgets_follow_the_dtype() -> None:
    """Fewer bits, more room; TF32 is as coarse as fp16; depth adds like a root."""
    budgets = [correctness.budget(dtype).rms for dtype in DTYPES]
    fp64, fp32, bf16, fp16 = budgets
    assert fp64 < fp32 < fp16 < bf16
    assert correctness.budget(torch.float32, tf32=True) == correctness.budget(torch.float16)
    assert correctness.budget(torch.float16, tf32=True) == correctness.budget(torch.float16)
    assert correctness.budget(torch.float32, layers=4).rms == pytest.approx(2 * fp32)


def test_nan_is_no_small_error() -> None:
    """A comparison with NaN is false, and must not pass for equal."""
    nan = float("nan")
    assert correctness.fault_of_value(Errors(nan, 0.0), correctness.budget(torch.float32))
    assert correctness.fault_of_value(Errors(0.0, nan), correctness.budget(torch.float32))


X = torch.zeros(2, 3, 4, 8)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (X, None),
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
def test_form_of_a_layers_output(output: object, words: str | None) -> None:
    """A tensor of the input's shape and dtype, finite; else what was expected and what came."""
    fault = correctness.fault_of_form(output, X)
    if words is None:
        assert fault is None
    else:
        assert fault is not None
        assert re.search(words, fault)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [([X, X], None), ([], "got none"), ([X, X / 0], "NaN or infinite")],
)
def test_form_of_a_models_outputs(outputs: list[Tensor], words: str | None) -> None:
    """At least one tensor, all finite."""
    fault = correctness.fault_of_tensors(outputs)
    assert (fault is None) if words is None else (words in str(fault))
