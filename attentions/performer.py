"""Performer: softmax attention estimated with positive random features (FAVOR+).

arXiv 2009.14794. exp(q k) is the mean over random directions of phi(q) phi(k); with m features
keys and values are summed once, and every query reads that sum. Linear in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Heads, Impl, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper

KeyMax = Literal["head", "batch"]

EPS = 1e-4  # keeps every feature positive, as in the reference


class FastAttention(nn.Module):
    """FAVOR+ on queries, keys and values; one buffer, projection_matrix (features x head_dim)."""

    projection_matrix: Tensor

    def __init__(
        self, head_dim: int, nb_features: int, key_max: KeyMax, *, detach_max: bool
    ) -> None:
        super().__init__()
        self.key_max = key_max
        self.detach_max = detach_max
        self.register_buffer("projection_matrix", orthogonal_directions(nb_features, head_dim))

    def forward(self, q: Heads, k: Heads, v: Heads) -> Heads:
        q = self.features(q, largest_over=(-1,))
        # Cancels in the result. Without it the product of two small features leaves fp16.
        q = q / q.sum(dim=-1, keepdim=True)
        k = self.features(k, largest_over=(-2, -1) if self.key_max == "head" else (0, 1, 2, 3))
        normaliser = q @ k.sum(dim=-2).unsqueeze(-1)
        return q @ (k.transpose(-2, -1) @ v) / normaliser

    def fused(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """The same function with fewer passes over the features.

        EPS is multiplied out, (phi + EPS) A = phi A + EPS 1 A, and the normaliser is a column of
        ones beside the values.
        """
        q = self.exponentials(q, largest_over=(-1,))
        k = self.exponentials(k, largest_over=(-2, -1) if self.key_max == "head" else (0, 1, 2, 3))
        v = F.pad(v, (0, 1), value=1.0)
        context = k.transpose(-2, -1) @ v + EPS * v.sum(dim=-2, keepdim=True)
        mixed = q @ context + EPS * context.sum(dim=-2, keepdim=True)
        return mixed[..., :-1] / mixed[..., -1:]

    def exponentials(
        self, x: Heads, *, largest_over: tuple[int, ...]
    ) -> Float[Tensor, "batch heads tokens features"]:
        """The features without EPS."""
        head_dim = x.shape[-1]
        x = x.contiguous()
        along = F.linear(x, self.projection_matrix * head_dim**-0.25)
        length = x.square().sum(dim=-1, keepdim=True) / (2 * head_dim**0.5)
        shift = length + self.largest(along, largest_over)
        return (along - shift).exp() if torch.is_grad_enabled() else along.sub_(shift).exp_()

    def features(
        self, x: Heads, *, largest_over: tuple[int, ...]
    ) -> Float[Tensor, "batch heads tokens features"]:
        """phi(x) of arXiv 2009.14794, lemma 1, divided by its largest exponential, plus EPS.

        The division keeps exp in range. It would cancel in the result but for EPS, so gradients
        go through the maximum too, unless detach_max follows the reference: they are those of what
        is computed. The lemma's 1 / sqrt(m) cancels, and is left out.
        """
        head_dim = x.shape[-1]
        along = (x * head_dim**-0.25) @ self.projection_matrix.T
        length = x.square().sum(dim=-1, keepdim=True) / (2 * head_dim**0.5)
        return (along - length - self.largest(along, largest_over)).exp() + EPS

    def largest(self, along: Tensor, over: tuple[int, ...]) -> Tensor:
        """The maximum over these dimensions, which are kept."""
        largest = along.amax(dim=over, keepdim=True)
        return largest.detach() if self.detach_max else largest


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    nb_features  m, random directions for each head; int(d ln d) unless given
    key_max      what the keys are scaled by: the largest exponential of the "head" in its own
                 image, or of the whole "batch", which makes an image's output depend on the
                 others
    detach_max   no gradient goes through that exponential, nor through that of the queries, as in
                 the reference: then the gradient is not the derivative of what is computed
    """

    nb_features: int | None = None
    key_max: KeyMax = "head"
    detach_max: bool = False
    qkv_bias: bool = True


class Performer(nn.Module):
    """Performer self-attention. Names as in lucidrains' SelfAttention.

    They are to_q, to_k, to_v, to_out and the buffer fast_attention.projection_matrix. Out are
    causal attention, local heads and other kernels than softmax, which are off by default there,
    and drawing new directions every 1000 training steps, which the surrounding model does.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.impl: Impl = impl
        self.fast_attention = FastAttention(
            dim // num_heads,
            features_of(dim // num_heads, params.nb_features),
            params.key_max,
            detach_max=params.detach_max,
        )
        self.to_q = nn.Linear(dim, dim, bias=params.qkv_bias)
        self.to_k = nn.Linear(dim, dim, bias=params.qkv_bias)
        self.to_v = nn.Linear(dim, dim, bias=params.qkv_bias)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        # fp16 holds neither a product of two small features nor the sum of many.
        is_eager = self.impl == "eager" or x.dtype == torch.float16
        attention = self.fast_attention if is_eager else self.fast_attention.fused
        tokens = x.flatten(1, 2)
        parts = (self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        return self.to_out(merge_heads(attention(q, k, v))).view(x.shape)


def orthogonal_directions(rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """Random rows, orthogonal in blocks of `columns`, as long as normal vectors are."""
    blocks = [_orthogonal(columns) for _ in range(-(-rows // columns))]
    lengths = torch.randn(rows, columns).norm(dim=1, keepdim=True)
    return lengths * torch.cat(blocks)[:rows]


def _orthogonal(size: int) -> Float[Tensor, "size size"]:
    """Gram-Schmidt on normal columns: every direction is equally likely.

    LAPACK's QR is that but for the signs of the diagonal of R, which it leaves mostly negative;
    without the correction the first coordinate of the first row is never positive.
    """
    q, r = torch.linalg.qr(torch.randn(size, size))
    return (q * r.diagonal().sign()).T


def features_of(head_dim: int, nb_features: int | None) -> int:
    """The number of random features, by the reference's rule unless given."""
    return int(head_dim * math.log(head_dim)) if nb_features is None else nb_features


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 4 N m C + N m heads, m features; the last term is the normaliser."""
    features = features_of(dim // num_heads, params.nb_features)
    return grid.tokens * (4 * dim**2 + 4 * features * dim + features * num_heads)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.key_max not in ("head", "batch"):
        return f"key_max is head or batch, got {params.key_max!r}"
    head_dim = dim // num_heads
    if params.nb_features is None and features_of(head_dim, None) < 1:
        return f"d ln d gives no feature for a head_dim of {head_dim}: set nb_features"
    if params.nb_features is not None and params.nb_features < 1:
        return f"nb_features must be at least 1, got {params.nb_features}"
    return None


def fallback(dim: int, num_heads: int, grid: Grid, dtype: str, params: Params) -> str | None:
    """Where the sums of features leave the range."""
    if dtype == "float16":
        return "fp16 does not hold the sums of features that the fused form leaves unscaled"
    return None


ATTENTION = AttentionSpec(
    module=Performer,
    params=Params,
    family="linear",
    paper=Paper(
        title="Rethinking Attention with Performers",
        arxiv="2009.14794",
        venue="ICLR 2021",
        code="https://github.com/lucidrains/performer-pytorch",
    ),
    equation="phi(Q) (phi(K)^T V) / phi(Q) (phi(K)^T 1), phi(x) = exp(W x - |x|^2 / 2) / sqrt(m)",
    cost="4NC^2 + 4mNC, m features",
    size_rule="any",
    settings={
        4: {"nb_features": 256},
        8: {"nb_features": 256},
        16: {"nb_features": 256},
        32: {"nb_features": 256},
    },
    space={"nb_features": (32, 64, 128, 256)},
    impls=("eager", "fused"),
    kernels="batched matmul",
    macs=macs,
    unsupported=unsupported,
    fallback=fallback,
    traps=(
        "the random directions are a buffer: weights without it give another function",
        "keys are scaled by their largest exponential. The reference takes it for each image and "
        "head (the default here); its older code, and the benchmark published with HiLo, over the "
        "whole batch (key_max batch), so that an image's output depends on its neighbours",
        "the reference detaches the maximum, so that its gradient is not the derivative of what it "
        "computes (10% to 60% off); here it is, unless detach_max follows the reference",
        "the reference draws its directions from an uncorrected QR, so that they lean to one side "
        "and the estimate does not converge to softmax; here all directions are equally likely, as "
        "in the paper. Directions that are loaded are taken as they are",
        "the published count, 617.24 M, holds half a MAC for each element that the normaliser "
        "divides, N C / 2 = 0.08 M, which is no product of matrices; here it is 617.16 M",
    ),
)
