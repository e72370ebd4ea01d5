"""How far a result may lie from the same function computed in fp64.

The unit is eps, the spacing of the dtype at 1 (fp64 2e-16, fp32 1e-7, fp16 1e-3, bf16 8e-3).
Storing a number rounds it by at most eps / 2, by 0.29 eps in the root mean square. An attention
layer stores about ten results one after the other (q, k, v, scores, weights, their product, the
projection, and norms or convolutions around them). Their errors are independent, so they add as
squares: about sqrt(10) x 0.29 = 1 eps of the output, in the root mean square. Scores of size s
add s x 0.29 eps more, since the exponential turns their absolute error into a relative one.

In fp16 and bf16 that is all, because libraries sum products in fp32: the budget is 2 eps. In fp32
and fp64 a sum of n terms is made in the dtype itself and adds up to sqrt(n) x 0.29 eps, 16 eps at
3000 terms (an 8 x 8 convolution of 48 channels): the budget is 16 eps.

The largest of a million normal errors is five times their root mean square, and it is measured
against the largest output, itself three to five times the root mean square of the outputs. So
the largest error needs little more than the root mean square; it gets twice as much, because
errors are larger where the scores are.

A gradient adds the errors of the backward pass to those of the forward pass: twice the budget. It
can also be a small difference of large terms, with an error to match: that of q where all keys are
alike, that of a key's bias, which is exactly zero, for softmax does not see what is added to all
keys. So the errors of gradients are measured against the largest of them. That hides nothing: in
fp64 even a gradient 1e-10 times the largest has to have its first four digits.

A wrong formula is far off: a bias left out or a key too many moves the output by percents, 1e5 eps
in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

RMS = {torch.float16: 2.0, torch.bfloat16: 2.0, torch.float32: 16.0, torch.float64: 16.0}
MAX_OVER_RMS = 2.0


def rms(x: Tensor) -> float:
    """Root mean square."""
    return x.double().square().mean().sqrt().item()


def errors(result: Tensor, reference: Tensor, *, least: float = 0.0) -> tuple[float, float]:
    """(rms error / rms reference, largest error / largest reference), in eps of result's dtype.

    A reference whose size is under `least` is taken to be that size.
    """
    eps = torch.finfo(result.dtype).eps
    error = (result.double() - reference.double()).abs()
    largest = max(reference.abs().max().item(), least)
    if largest == 0:
        return (0.0, 0.0) if not error.any() else (float("inf"), float("inf"))
    return rms(error) / max(rms(reference), least) / eps, error.max().item() / largest / eps


def assert_within(
    result: Tensor,
    reference: Tensor,
    *,
    what: str = "output",
    times: float = 1.0,
    least: float = 0.0,
) -> None:
    """Asserts finite, same shape, and both errors within `times` the budget of result's dtype."""
    assert result.shape == reference.shape, f"{what}: {result.shape} is not {reference.shape}"
    assert result.isfinite().all(), f"{what} is not finite"
    budget = times * RMS[result.dtype]
    by_rms, by_max = errors(result, reference, least=least)
    assert by_rms <= budget, f"{what}: rms error {by_rms:.1f} eps, at most {budget:g} eps"
    budget *= MAX_OVER_RMS
    assert by_max <= budget, f"{what}: max error {by_max:.1f} eps, at most {budget:g} eps"
