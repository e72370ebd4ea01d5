"""The selective scan of Mamba (arXiv 2312.00752), equation by equation, as one operator of torch.

One operator, so that counters see it whole: what it costs is defined here. torch composes it of
others, which give its gradients, and which torch.compile and torch.export take.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

_LIBRARY = torch.library.Library("attentions", "DEF")
_LIBRARY.define(
    "selective_scan(Tensor u, Tensor delta, Tensor a, Tensor b, Tensor c, Tensor d) -> Tensor"
)


def selective_scan(
    u: Float[Tensor, "batch paths tokens channels"],
    delta: Float[Tensor, "batch paths tokens channels"],
    a: Float[Tensor, "paths channels states"],
    b: Float[Tensor, "batch paths tokens states"],
    c: Float[Tensor, "batch paths tokens states"],
    d: Float[Tensor, "paths channels"],
) -> Float[Tensor, "batch paths tokens channels"]:
    """h_t = exp(delta_t a) h_{t-1} + delta_t b_t u_t and y_t = c_t h_t + d u_t, token by token."""
    y: Tensor = torch.ops.attentions.selective_scan(u, delta, a, b, c, d)
    return y


def macs_of_scan(tokens: int, channels: int, states: int) -> int:
    """4 S + 2 for each token and channel, S states: its products delta a, delta u, b (delta u),
    the step from one state to the next, c h and d u.
    """
    return tokens * channels * (4 * states + 2)


def _composed(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    decays = (delta[..., None] * a[:, None]).exp()
    updates = (delta * u)[..., None] * b[..., None, :]
    states: list[Tensor] = []
    for decay, update in zip(decays.unbind(2), updates.unbind(2), strict=True):
        states.append(torch.addcmul(update, decay, states[-1]) if states else update)
    return (torch.stack(states, 2) * c[..., None, :]).sum(-1) + d[:, None] * u


_LIBRARY.impl("selective_scan", _composed, "CompositeImplicitAutograd")


@register_flop_formula(torch.ops.attentions.selective_scan)
def _flops(u: Any, delta: Any, a: Any, *rest: Any, **options: Any) -> int:
    """By shapes."""
    batch, paths, tokens, channels = u
    return 2 * macs_of_scan(batch * paths * tokens, channels, a[-1])
