"""A large batch in groups of images, which use the same memory one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Tokens that a group has at least. Matrix products want many: with 1024 in place of all 12544 a
# layer of HiLo, window attention or MSA took 4% to 20% longer (28 x 28 tokens, 16 images).
GROUP_TOKENS = 8192
# More tokens than that are taken together only while their intermediate results are this small.
GROUP_BYTES = 2**20


def in_groups(
    forward: Callable[
        [Float[Tensor, "images height width dim"]], Float[Tensor, "images height width dim"]
    ],
    x: Float[Tensor, "batch height width dim"],
    channels: float,
    *,
    added: bool = False,
    tokens: int | None = None,
) -> Float[Tensor, "batch height width dim"]:
    """forward(x), or x + forward(x) if `added`, a few images at a time where the batch is large.

    Images do not meet in attention, so the result is the same, and the memory of a group's
    intermediate results is used again by the next. With gradients everything is kept anyway, a GPU
    wants all the work at once, and a compiler fuses by itself: there, the batch is taken whole.

    channels  of the intermediate results that live at a time, for each token
    tokens    that a group has at least, else GROUP_TOKENS
    """
    of_image = x.shape[1] * x.shape[2]
    fitting = int(GROUP_BYTES / (of_image * channels * x.element_size()))
    size = max(1, (tokens or GROUP_TOKENS) // of_image, fitting)
    if size >= x.shape[0] or not is_grouped(x):
        return x + forward(x) if added else forward(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for part, result in zip(x.split(size), out.split(size), strict=True):
        if added:
            torch.add(part, forward(part), out=result)
        else:
            result.copy_(forward(part))
    return out


def is_grouped(x: Tensor) -> bool:
    """Whether a batch is taken in groups at all."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call] # it is public
    )
