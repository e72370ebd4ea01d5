"""State-space mixing on hidden states: tokens are gathered in a few states, mixed, and given back.

arXiv 2411.15241 (EfficientViM), HSM-SSD. Mamba-2's layer without its order of tokens: one sum over
the map, weighted by each token's step, makes the states. Projection and gate, the costly part of
that layer, then work on the states, of which there are far fewer than tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl
from attentions._conv_norm import convolve
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    state_dim   S, the number of states
    ssd_expand  channels of a state between its projections, as a multiple of dim
    """

    state_dim: int = 64
    ssd_expand: float = 1.0


class Projection(nn.Module):
    """A 1 x 1 convolution of tokens without a bias. Names as in the authors' ConvLayer1D: conv."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "batch in_channels tokens"]
    ) -> Float[Tensor, "batch out_channels tokens"]:
        return self.conv(x)

    def fused(
        self, x: Float[Tensor, "batch height width in_channels"]
    ) -> Float[Tensor, "batch height width out_channels"]:
        """The same of a channels-last map."""
        return convolve(x, self.conv.weight[..., None], None, groups=1)


class Depthwise(nn.Module):
    """A depthwise 3 x 3 convolution without a bias. Names as in the authors' ConvLayer2D: conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.conv(x)


class HiddenStateMixer(nn.Module):
    """HSM-SSD, single-head. Names as in the authors' HSMSSD.

    They are BCdt_proj, dw, hz_proj, out_proj, A and D. Their module also returns the states, from
    which their classifier reads; here they are left out, as are the norm and the convolutions of
    the block. `num_heads` has no effect.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        states, inner = params.state_dim, inner_of(dim, params)
        self.BCdt_proj = Projection(dim, 3 * states)
        self.dw = Depthwise(3 * states)
        self.hz_proj = Projection(dim, 2 * inner)
        self.out_proj = Projection(inner, dim)
        self.A = nn.Parameter(torch.empty(states).uniform_(1, 16))
        self.D = nn.Parameter(torch.ones(1))

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        image = x.permute(0, 3, 1, 2)
        tokens = image.flatten(2)
        projected = self.BCdt_proj(tokens).unflatten(2, image.shape[2:])
        b, c, step = self.dw(projected).flatten(2).chunk(3, dim=1)
        a = (step + self.A[:, None]).softmax(dim=-1)
        states = tokens @ (a * b).transpose(1, 2)
        h, z = self.hz_proj(states).chunk(2, dim=1)
        states = self.out_proj(h * F.silu(z) + h * self.D)
        return (states @ c).unflatten(2, image.shape[2:]).permute(0, 2, 3, 1)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Channels last. A, which exceeds all else, stays out of the convolution, whose output has
        one scale in 8 bits."""
        projected = self.BCdt_proj.fused(x)
        mixed = convolve(projected, self.dw.conv.weight, None, groups=projected.shape[3])
        b, c, step = mixed.flatten(1, 2).chunk(3, dim=-1)
        states = ((step + self.A).softmax(dim=1) * b).transpose(1, 2) @ x.flatten(1, 2)
        h, z = self.hz_proj.fused(states[:, None]).chunk(2, dim=-1)
        states = self.out_proj.fused(h * (F.silu(z) + self.D)).squeeze(1)
        return (c @ states).unflatten(1, x.shape[1:3])


def inner_of(dim: int, params: Params) -> int:
    """The channels of a state between its projections."""
    return int(params.ssd_expand * dim)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """5 N S C + 27 N S + 3 S E C, S states of E channels inside: linear in tokens."""
    tokens, states = grid.tokens, params.state_dim
    return states * (5 * tokens * dim + 27 * tokens + 3 * inner_of(dim, params) * dim)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.state_dim < 1:
        return f"state_dim must be at least 1, got {params.state_dim}"
    if inner_of(dim, params) < 1:
        return f"ssd_expand must leave a state at least 1 channel, got {params.ssd_expand}"
    return None


ATTENTION = AttentionSpec(
    module=HiddenStateMixer,
    params=Params,
    family="state space",
    paper=Paper(
        title="EfficientViM: Efficient Vision Mamba with Hidden State Mixer based State Space "
        "Duality",
        arxiv="2411.15241",
        venue="CVPR 2025",
        code="https://github.com/mlvlab/EfficientViM",
    ),
    equation="C W_o(h silu(z) + D h), [h, z] = (softmax(T + A) B)^T X W_hz, "
    "[B, C, T] = DWConv3x3(X W)",
    cost="5NSC + 3SC^2",
    size_rule="any",
    # Those of M4, the largest; its third stage has stride 64 and 16 states.
    settings={16: {"state_dim": 64}, 32: {"state_dim": 32}},
    space={"state_dim": (16, 32, 64)},
    impls=("eager", "fused"),
    kernels="products of channels-last tokens, one depthwise convolution",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "A has no effect: softmax is taken over tokens, and does not see what is added to all of "
        "them; its gradient is zero, and it is here for published weights to load",
        "no token comes before another: no scan, and the whole map is seen at once",
        "each token gets back a mixture of the same S vectors: the rank of the output is at most S",
        "the authors' module reads a square map off the number of tokens; here any map goes",
        "its states are an output of the authors' module, which their classifier averages",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
