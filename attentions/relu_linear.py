"""ReLU linear attention: ReLU in place of softmax, over two scales of queries, keys and values.

arXiv 2205.14756 (EfficientViT), the authors' LiteMLA. Without softmax the product of keys and
values comes first. Convolutions over each token's neighbourhood make a second set of heads that
is local, since ReLU attention alone cannot focus. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, merge_heads, pointwise, projected
from attentions._spec import AttentionSpec, Grid, Paper

EPS = 1e-15  # where every weight is zero the result is zero


class ConvNorm(nn.Module):
    """A pointwise convolution without bias, and a batch norm or none. Names: conv, norm."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        return self.norm(self.conv(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    scale  side of the aggregating depthwise convolution
    """

    scale: int = 5


class ReLULinear(nn.Module):
    """Multi-scale linear attention. Parameter names as in the authors' LiteMLA.

    They are qkv, aggreg, proj, with the batch norm of proj inside. The residual is out: the
    authors' block adds it around the module. One scale of aggregation, as in all their models.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.head_dim = dim // num_heads
        self.qkv = ConvNorm(dim, 3 * dim, norm=False)
        neighbours = nn.Conv2d(
            3 * dim, 3 * dim, params.scale, padding=params.scale // 2, groups=3 * dim, bias=False
        )
        mixing = nn.Conv2d(3 * dim, 3 * dim, 1, groups=3 * num_heads, bias=False)
        self.aggreg = nn.ModuleList([nn.Sequential(neighbours, mixing)])
        self.proj = ConvNorm(2 * dim, dim, norm=True)

    def forward(self, x: FeatureMap) -> FeatureMap:
        linear = is_linear(self.head_dim, x.shape[1] * x.shape[2])
        # A batch norm in training needs the statistics of the whole batch, and its own kernel.
        if self.impl == "fused" and linear and not self.training and x.dtype != torch.float16:
            return self._fused(x)
        qkv = self.qkv(x.permute(0, 3, 1, 2))
        both = torch.cat((qkv, self.aggreg[0](qkv)), dim=1).flatten(2)
        q, k, v = both.unflatten(1, (-1, 3, self.head_dim)).unbind(dim=2)
        attend = linear_form if linear else quadratic_form
        mixed = attend(q.relu(), k.relu(), v).to(x.dtype)
        return self.proj(mixed.flatten(1, 2).unflatten(2, x.shape[1:3])).permute(0, 2, 3, 1)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Channels last; the two scales are never joined, and the batch norm is in the weights."""
        scale = self.aggreg[0]
        assert isinstance(scale, nn.Sequential)
        neighbours, mixing = scale
        qkv = pointwise(x, self.qkv.conv)
        local = mixing(neighbours(qkv.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        weight, bias = self._folded()
        dim = x.shape[3]
        own = projected(self._attend(qkv), weight[:, :dim], bias)
        return own.add_(projected(self._attend(local), weight[:, dim:])).view(x.shape)

    def _attend(
        self, qkv: Float[Tensor, "batch height width three_dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """ReLU attention of one scale."""
        heads = qkv.flatten(1, 2).unflatten(-1, (-1, 3, self.head_dim))
        q, k, v = (heads[..., part, :].transpose(1, 2) for part in range(3))
        context = k.relu().transpose(-2, -1) @ F.pad(v, (0, 1), value=1.0)
        mixed = q.relu() @ context
        if mixed.dtype == torch.bfloat16:
            mixed = mixed.float()
        mixed = mixed[..., :-1] / (mixed[..., -1:] + EPS)
        return merge_heads(mixed).to(qkv.dtype)

    def _folded(self) -> tuple[Float[Tensor, "dim two_dim"], Float[Tensor, " dim"]]:
        """Weight and bias of proj with its batch norm, in eval mode."""
        norm = self.proj.norm
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.proj.conv.weight.flatten(1) * scale[:, None]
        return weight, norm.bias - norm.running_mean * scale


def is_linear(head_dim: int, tokens: int) -> bool:
    """Whether the form that is linear in tokens is taken: the authors' rule."""
    return tokens > head_dim


def linear_form(
    q: Float[Tensor, "batch heads head_dim tokens"],
    k: Float[Tensor, "batch heads head_dim tokens"],
    v: Float[Tensor, "batch heads head_dim tokens"],
) -> Float[Tensor, "batch heads head_dim tokens"]:
    """(V K^T) Q, divided by (1 K^T) Q, which is a row of ones appended to V.

    fp16 is computed in fp32, and bf16 divided in fp32, as in the authors' code: sums over the
    tokens leave the range of fp16, and EPS lies below it.
    """
    if q.dtype == torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    mixed = F.pad(v, (0, 0, 0, 1), value=1.0) @ k.transpose(-2, -1) @ q
    if mixed.dtype == torch.bfloat16:
        mixed = mixed.float()
    return mixed[..., :-1, :] / (mixed[..., -1:, :] + EPS)


def quadratic_form(
    q: Float[Tensor, "batch heads head_dim tokens"],
    k: Float[Tensor, "batch heads head_dim tokens"],
    v: Float[Tensor, "batch heads head_dim tokens"],
) -> Float[Tensor, "batch heads head_dim tokens"]:
    """V (K^T Q), each column of K^T Q divided by its sum: the same function."""
    weights = k.transpose(-2, -1) @ q
    if weights.dtype in (torch.float16, torch.bfloat16):
        weights = weights.float()
    weights = weights / (weights.sum(dim=-2, keepdim=True) + EPS)
    return v @ weights.to(v.dtype)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """5 N C^2 + 3 N C (R^2 + d) + 2 N C, R the scale, d = C / heads, and the attention.

    That is 4 N C (d + 1), or 4 N^2 C in the quadratic form, taken where N <= d.
    """
    head_dim = dim // num_heads
    inner = head_dim + 1 if is_linear(head_dim, grid.tokens) else grid.tokens
    per_token = 5 * dim**2 + 3 * dim * (params.scale**2 + head_dim) + 2 * dim + 4 * dim * inner
    return grid.tokens * per_token


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """A neighbourhood without a centre."""
    if params.scale < 1 or params.scale % 2 == 0:
        return f"scale must be odd, so that a token is at its centre, got {params.scale}"
    return None


def fallback(dim: int, num_heads: int, grid: Grid, dtype: str, params: Params) -> str | None:
    """Where the sums over tokens leave the range, and where the quadratic form is cheaper."""
    if dtype == "float16":
        return "fp16 does not hold the sums over tokens"
    if not is_linear(dim // num_heads, grid.tokens):
        return f"{grid.tokens} tokens are no more than head_dim: the quadratic form is cheaper"
    return None


ATTENTION = AttentionSpec(
    module=ReLULinear,
    params=Params,
    family="linear",
    paper=Paper(
        title="EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
        arxiv="2205.14756",
        venue="ICCV 2023",
        code="https://github.com/mit-han-lab/efficientvit",
    ),
    equation="relu(Q) (relu(K)^T V) / relu(Q) (relu(K)^T 1), on Q, K, V and on their aggregation",
    cost="5NC^2 + 7NCd + 3R^2 NC, d = C / heads",
    size_rule="any",
    # The authors use no attention at strides 4 and 8.
    settings={16: {"scale": 5}, 32: {"scale": 5}},
    space={"scale": (3, 5, 7)},
    impls=("eager", "fused"),
    kernels="batched matmul and depthwise convolution on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    fallback=fallback,
    traps=(
        "the quadratic form is cheaper with no more tokens than head_dim, and is taken there",
        "the authors use a head_dim of 16 or 32, whatever dim; here it is dim / num_heads",
        "proj ends in a batch norm: measured in eval mode, with its running statistics",
        "the product is taken in fp32 where the input is fp16",
        "a query with no positive channel gives 0, one with the least positive channel a full "
        "average: where rounding crosses zero the output jumps",
    ),
)
