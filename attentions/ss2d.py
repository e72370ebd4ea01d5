"""SS2D: a state-space model that reads the map along four paths, by rows and columns, both ways.

arXiv 2401.10166 (VMamba). Along each path a state decays from token to token and takes up what it
reads, both by amounts that the token itself decides (Mamba's selective scan); the four results are
added. Linear in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl
from attentions._conv_norm import convolve
from attentions._scan import macs_of_scan, selective_scan
from attentions._spec import AttentionSpec, Grid, Paper

PATHS = 4  # rows, columns, and both read backwards: the order of all parameters of a path
DT_MIN, DT_MAX = 0.001, 0.1  # between which time steps begin
KERNEL = 3  # side of the convolution before the scan

# What a path carries for each token of a line, or for each line.
States = Float[Tensor, "batch lines states channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    d_state    S, the states of each channel
    ssm_ratio  width of the scan as a multiple of dim
    dt_rank    width that the time steps are computed from; None: dim / 16, rounded up
    conv_bias  the convolution before the scan has a bias
    disable_z  the result is not multiplied by a gate
    """

    d_state: int = 1
    ssm_ratio: float = 1.0
    dt_rank: int | None = None
    conv_bias: bool = False
    disable_z: bool = True


class SS2D(nn.Module):
    """The selective scan in two dimensions. Names as in the authors' SS2D.

    They are in_proj, conv2d, x_proj, dt_projs, dt_projs_bias, A_logs, Ds, out_norm, out_proj. There
    are no heads: `num_heads` has no effect. In fp16 and bf16 the scan is computed in fp32, as the
    authors' kernel does: steps of a thousandth would be lost beside one.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        inner, rank, states = inner_of(dim, params), rank_of(dim, params), params.d_state
        self.parts = (rank, states, states)
        self.in_proj = nn.Linear(dim, inner * (1 if params.disable_z else 2), bias=False)
        self.conv2d = nn.Conv2d(
            inner, inner, KERNEL, padding=KERNEL // 2, groups=inner, bias=params.conv_bias
        )
        self.x_proj = nn.Linear(inner, PATHS * sum(self.parts), bias=False)
        self.dt_projs = nn.Linear(rank, PATHS * inner, bias=False)
        self.dt_projs_bias = nn.Parameter(first_steps(PATHS, inner))
        self.A_logs = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(PATHS * inner, 1))
        self.Ds = nn.Parameter(torch.ones(PATHS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        projected = self.in_proj(x)
        x, *gate = projected.split(self.conv2d.in_channels, dim=-1)
        x = F.silu(convolve(x, self.conv2d.weight, self.conv2d.bias, groups=x.shape[-1]))
        # In what the scan is computed.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scanned = self._equations(x, wide) if self.impl == "eager" else self._fused(x, wide)
        mixed = self.out_norm(scanned.to(x.dtype))
        return self.out_proj(mixed * F.silu(gate[0]) if gate else mixed)

    def _equations(self, x: FeatureMap, wide: FeatureMap) -> FeatureMap:
        """Four copies of the map in the order of their paths, scanned token by token."""
        height, width, inner = x.shape[1:]
        paths, wide = (in_order(x), in_order(wide))
        projected = (paths @ self.x_proj.weight.view(PATHS, -1, inner).mT).to(wide.dtype)
        steps, b, c = projected.split(self.parts, dim=-1)
        to_delta, bias = self._to_delta(wide.dtype)
        delta = F.softplus(steps @ to_delta.mT + bias[:, None])
        d = self.Ds.view(PATHS, inner).to(wide.dtype)
        y = selective_scan(wide, delta, self._a(wide.dtype), b, c, d)
        by_rows, by_columns = (y[:, :2] + y[:, 2:].flip(2)).unbind(1)
        columns = by_columns.unflatten(1, (width, height)).transpose(1, 2)
        return by_rows.unflatten(1, (height, width)) + columns

    def _fused(self, x: FeatureMap, wide: FeatureMap) -> FeatureMap:
        """The same on the map itself: nothing is copied into the order of a path."""
        projected = self.x_proj(x).to(wide.dtype).unflatten(-1, (PATHS, -1))
        to_delta, bias = self._to_delta(wide.dtype)
        a = self._a(wide.dtype).mT
        mixed = wide * self.Ds.to(wide.dtype).view(PATHS, -1).sum(0)
        for axis in (2, 1):  # along rows, along columns
            read = list(mixed.unbind(axis))
            for path in (axis % 2, axis % 2 + 2):
                steps, b, c = projected[..., path, :].split(self.parts, dim=-1)
                delta = softplus(F.linear(steps, to_delta[path], bias[path]))
                update = (delta * wide)[..., None, :] * b[..., None]
                lines = Lines(delta[..., None, :], update, c[..., None], a[path])
                read = (lines if axis == 2 else lines.turned()).added_to(read, backwards=path > 1)
            mixed = torch.stack(read, axis)
        return mixed

    def _a(self, dtype: torch.dtype) -> Float[Tensor, "paths channels states"]:
        """Negative, so that states decay."""
        return -self.A_logs.to(dtype).exp().unflatten(0, (PATHS, -1))

    def _to_delta(
        self, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "paths channels rank"], Float[Tensor, "paths channels"]]:
        """What makes time steps: weights and biases of each path."""
        weights = self.dt_projs.weight.to(dtype).unflatten(0, (PATHS, -1))
        return weights, self.dt_projs_bias.to(dtype)


def in_order(x: FeatureMap) -> Float[Tensor, "batch paths tokens dim"]:
    """By rows, by columns, and both backwards."""
    both = torch.stack((x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)), 1)
    return torch.cat((both, both.flip(2)), 1)


class Lines(NamedTuple):
    """What a path computes from each token: the rows of a map, or its columns."""

    delta: Float[Tensor, "batch lines tokens 1 channels"]
    update: Float[Tensor, "batch lines tokens states channels"]
    c: Float[Tensor, "batch lines tokens states 1"]
    a: Float[Tensor, "states channels"]

    def turned(self) -> Lines:
        """Columns for rows."""
        delta, update, c = (part.transpose(1, 2) for part in self[:3])
        return Lines(delta, update, c, self.a)

    def added_to(
        self, read: list[Float[Tensor, "batch lines channels"]], *, backwards: bool
    ) -> list[Float[Tensor, "batch lines channels"]]:
        """c h added to each token of a line, of all lines at once; the path takes line after line.

        First every line alone, from an empty state, only to know where it ends; then the ends from
        line to line; then every line again, now from the state that it inherits. So a map of H x W
        tokens takes 2 W + H steps, not H W.
        """
        decay = self.delta * self.a
        decay = decay.exp() if torch.is_grad_enabled() else decay.exp_()
        whole = (self.delta.sum(2) * self.a).exp()
        decays, updates, weights = decay.unbind(2), self.update.unbind(2), self.c.unbind(2)
        order = range(len(read) - 1, -1, -1) if backwards else range(len(read))
        end = updates[order[0]]
        for token in order[1:]:
            end = torch.addcmul(updates[token], decays[token], end)
        state = inherited(whole, end, backwards=backwards)
        read = list(read)
        for token in order:
            state = torch.addcmul(updates[token], decays[token], state)
            read[token] = with_product(read[token], weights[token], state)
        return read


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) = max(x, 0) + 2 atanh(sigmoid(-|x| - log 2)), the way that is faster.

    In inference on a CPU that is the right side: torch takes the logarithm of softplus number by
    number, and ten times as long as for atanh, which it vectorises.
    """
    if not x.is_cpu or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.softplus(x)
    rest = x.abs().neg_().sub_(math.log(2)).sigmoid_().atanh_()
    return x.relu().add_(rest, alpha=2)


def inherited(whole: States, end: States, *, backwards: bool) -> States:
    """The state in which each line begins, by the decay over each and what it ends with alone."""
    lines = list(zip(whole.unbind(1), end.unbind(1), strict=True))
    if backwards:
        lines.reverse()
    states = [torch.zeros_like(lines[0][1])]
    for decay, update in lines[:-1]:
        states.append(torch.addcmul(update, decay, states[-1]))
    return torch.stack(states[::-1] if backwards else states, 1)


def with_product(
    x: Float[Tensor, "batch lines channels"],
    c: Float[Tensor, "batch lines states 1"],
    state: States,
) -> Float[Tensor, "batch lines channels"]:
    """x + c h; with one state there is no sum."""
    if state.shape[2] == 1:
        return torch.addcmul(x[:, :, None], c, state).squeeze(2)
    return x + (c * state).sum(2)


def first_steps(*shape: int) -> Tensor:
    """Biases of time steps between DT_MIN and DT_MAX, evenly by their logarithm."""
    log_step = torch.empty(shape).uniform_(math.log(DT_MIN), math.log(DT_MAX))
    return log_step.exp().expm1().log()  # softplus is undone


def inner_of(dim: int, params: Params) -> int:
    """The width of the scan."""
    return int(params.ssm_ratio * dim)


def rank_of(dim: int, params: Params) -> int:
    """What the time steps are computed from."""
    return math.ceil(dim / 16) if params.dt_rank is None else params.dt_rank


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """N D ((2 + g) C + 9 + 4 (2 R + 2 S) + 4 (4 S + 2) + 5).

    D is the width of the scan, S its states, R the rank of time steps, g 1 with a gate. Each of the
    four paths takes R + 2 S to project, R for its time steps and 4 S + 2 to scan.
    """
    inner, rank, states = inner_of(dim, params), rank_of(dim, params), params.d_state
    around = (2 if params.disable_z else 3) * dim + KERNEL**2 + 5
    scanned = PATHS * macs_of_scan(grid.tokens, inner, states)
    return grid.tokens * inner * (around + PATHS * (2 * rank + 2 * states)) + scanned


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.d_state < 1:
        return f"d_state must be at least 1, got {params.d_state}"
    if params.dt_rank is not None and params.dt_rank < 1:
        return f"dt_rank must be at least 1, got {params.dt_rank}"
    if not (math.isfinite(params.ssm_ratio) and inner_of(dim, params) >= 1):
        return f"ssm_ratio must leave at least one of {dim} channels, got {params.ssm_ratio}"
    return None


ATTENTION = AttentionSpec(
    module=SS2D,
    params=Params,
    family="state space",
    paper=Paper(
        title="VMamba: Visual State Space Model",
        arxiv="2401.10166",
        venue="NeurIPS 2024",
        code="https://github.com/MzeroMiko/VMamba",
    ),
    equation="W LN(sum over 4 paths of y), h_t = exp(D_t A) h_{t-1} + D_t B_t x_t, "
    "y_t = C_t h_t + D x_t; x = silu(DWConv3x3(W x)), B, C, D_t of x",
    cost="(2 + 1/2)NC^2 + (22 + 24S)NC, S states",
    size_rule="any",
    # Those of VMamba-T with ssm_ratio 1 (vmambav2v_tiny_224).
    settings={
        4: {"d_state": 1, "ssm_ratio": 1.0},
        8: {"d_state": 1, "ssm_ratio": 1.0},
        16: {"d_state": 1, "ssm_ratio": 1.0},
        32: {"d_state": 1, "ssm_ratio": 1.0},
    },
    space={"d_state": (1, 4, 16), "ssm_ratio": (1.0, 2.0)},
    impls=("eager", "fused"),
    kernels="line by line, all lines of the map at once, in elementwise operators",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the first VMamba has 16 states, ssm_ratio 2, conv_bias and a gate (disable_z false)",
        "older checkpoints name x_proj.weight x_proj_weight and dt_projs.weight dt_projs_weight, "
        "with one more dimension for the paths and the same numbers in the same order",
        "a scan counts 4 S + 2 for each token, channel and path, the products of its equations; "
        "the authors' formula counts 9 S + 1",
        "without their CUDA kernel the recurrence is one operator for each token, or line by line: "
        "its time is that of elementwise operators, which MACs do not tell",
        "a padded map is another map: states pass through the padding",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
