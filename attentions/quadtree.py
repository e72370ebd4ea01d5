"""QuadTree attention: from coarse to fine, each token only looks inside the regions that scored.

arXiv 2201.02767, type B, as in the paper's vision backbone. On the coarsest map every token attends
to every token. On each finer map a token attends to the children of the K regions that scored
highest for its parent. The messages of all levels are added, with a learned weight for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attentions._attend import FeatureMap, Heads, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    levels  maps in the pyramid; the coarsest has 2^(levels - 1) times fewer rows and columns
    topk    K, the regions that a token passes on to its children; all, where there are fewer
    lepe    adds a depthwise 3 x 3 convolution of the values to the message of each level
    """

    levels: int = 2
    topk: int = 8
    lepe: bool = True
    qkv_bias: bool = True


class QuadTree(nn.Module):
    """QuadTree attention, type B. Parameter names as in the authors' QuadtreeAttention.

    In: the projections, the value branches that make the coarser values, and py_att. Their two CUDA
    operators are a gather and a product here. Out: type A. Their float() of q, k and v is out as
    well: those operators needed it. `levels` is their sr_ratio. A choice of regions has no
    gradient, and near a tie it turns on a rounding error.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.levels = params.levels
        self.q_proj = nn.Conv2d(dim, dim, kernel_size=1, bias=params.qkv_bias)
        self.k_proj = nn.Conv2d(dim, dim, kernel_size=1, bias=params.qkv_bias)
        self.v_proj = nn.Conv2d(dim, dim, kernel_size=1, bias=params.qkv_bias)
        self.py_att = TreeAttention(
            dim, num_heads, params.levels, topk=params.topk, lepe=params.lepe, impl=impl
        )
        self.value_branchs = nn.ModuleList(value_branch(dim) for _ in range(params.levels - 1))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        x = x.permute(0, 3, 1, 2)
        queries, keys, values = [self.q_proj(x)], [self.k_proj(x)], [self.v_proj(x)]
        for branch in self.value_branchs:
            queries.append(F.avg_pool2d(queries[-1], 2))
            keys.append(F.avg_pool2d(keys[-1], 2))
            values.append(branch(values[-1]))
        message = self.py_att(queries[::-1], keys[::-1], values[::-1])
        return self.proj(from_tree(message, self.levels - 1, x.shape[2], x.shape[3]))


def value_branch(dim: int) -> nn.Sequential:
    """Makes the values of the next coarser level: 2 x 2 convolution, then 1 x 1, pre-activated."""
    return nn.Sequential(
        nn.GroupNorm(1, dim),
        nn.GELU(),
        nn.Conv2d(dim, dim, kernel_size=2, stride=2),
        nn.GroupNorm(1, dim),
        nn.GELU(),
        nn.Conv2d(dim, dim, kernel_size=1),
    )


class TreeAttention(nn.Module):
    """The attention over a pyramid, coarsest map first. Names as in the authors' QTAttB.

    Tokens lie in tree order: the four children of token p are 4p to 4p + 3 of the next level. That
    holds for the rows of all heads of a batch too, one after the other, by which regions are named.
    """

    siblings: Tensor

    def __init__(
        self, dim: int, num_heads: int, levels: int, *, topk: int, lepe: bool, impl: Impl
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.topk = topk
        self.lepe = lepe
        self.impl: Impl = impl
        if lepe:
            self.get_vs = nn.ModuleList(
                nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim) for _ in range(levels)
            )
        self.weight = nn.Parameter(torch.randn(levels))
        self.register_buffer("siblings", torch.arange(4), persistent=False)

    def forward(
        self, queries: list[Tensor], keys: list[Tensor], values: list[Tensor]
    ) -> Float[Tensor, "batch tokens dim"]:
        weights = self.weight.softmax(dim=0)
        total, chosen = None, None
        for depth, maps in enumerate(zip(queries, keys, values, strict=True)):
            q, k, v = (split_heads(in_tree(part, depth), self.num_heads) for part in maps)
            finest = depth == len(queries) - 1
            message, chosen = self.level(q, k, v, chosen, finest=finest)
            message = merge_heads(message)
            if self.lepe:
                message = message + in_tree(self.get_vs[depth](maps[2]), depth)
            message = message * weights[depth]
            if total is not None:  # a token takes its parent's message along
                message = (message.unflatten(1, (-1, 4)) + total[:, :, None]).flatten(1, 2)
            total = message
        assert total is not None
        return total

    def level(
        self,
        q: Heads,
        k: Heads,
        v: Heads,
        chosen: Int[Tensor, "batch heads parents regions"] | None,
        *,
        finest: bool,
    ) -> tuple[
        Heads,
        Int[Tensor, "batch heads tokens regions"] | None,
    ]:
        """(attention to the children of the chosen regions, the regions chosen for the next level).

        On the coarsest level nothing is chosen yet: attention to all tokens.
        """
        if chosen is not None:
            q = q.unflatten(2, (-1, 4))  # the four children of a parent share its regions
            k, v = children_of(k, chosen), children_of(v, chosen)
        if finest:
            # A fused kernel works in tiles far larger than 4 queries by 4 K keys: at K = 8 it took
            # twice (fp32) and 2.7 times (bf16) as long as batched products on a CPU.
            message = attend(q, k, v, impl=self.impl if chosen is None else "eager")
            return (message if chosen is None else message.flatten(2, 3)), None
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        message = scores.softmax(dim=-1) @ v
        best = scores.topk(min(self.topk, scores.shape[-1]), dim=-1, sorted=False).indices
        if chosen is None:
            batch, heads, tokens = k.shape[:3]
            first = torch.arange(0, batch * heads * tokens, tokens, device=k.device)
            return message, best + first.view(batch, heads, 1, 1)
        candidates = (4 * chosen[..., None] + self.siblings).flatten(-2)
        picked = candidates[..., None, :].expand(scores.shape).gather(-1, best)
        return message.flatten(2, 3), picked.flatten(2, 3)


def in_tree(
    x: Float[Tensor, "batch dim height width"], depth: int
) -> Float[Tensor, "batch tokens dim"]:
    """A map's tokens in tree order; its coarsest ancestor, `depth` levels up, is row-major."""
    dim = x.shape[1]
    x = x.permute(0, 2, 3, 1)
    for _ in range(depth):
        x = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).transpose(2, 3).flatten(3)
    return x.reshape(x.shape[0], -1, dim)


def from_tree(
    x: Float[Tensor, "batch tokens dim"], depth: int, height: int, width: int
) -> FeatureMap:
    """The inverse of `in_tree`, channels last."""
    rows, columns = height >> depth, width >> depth
    x = x.reshape(x.shape[0], rows, columns, -1)
    for _ in range(depth):
        x = x.unflatten(3, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x


def children_of(
    x: Heads,
    regions: Int[Tensor, "batch heads parents regions"],
) -> Float[Tensor, "batch heads parents children head_dim"]:
    """The four children of each region: a gather of whole rows, four tokens each."""
    rows = x.unflatten(2, (-1, 4)).flatten(3).flatten(0, 2)
    gathered = rows.index_select(0, regions.flatten())
    return gathered.reshape(*regions.shape[:3], 4 * regions.shape[3], x.shape[3])


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N_0^2 C + sum of 2 N_i 4K C, with 9 N_i C (LePE) at each level.

    Each value branch adds N_i C^2 (5/4) and 5 N_i C (5/4), N_i the tokens of the finer level.
    """
    total = 4 * grid.tokens * dim**2
    for depth, tokens, keys in _levels(grid, params.levels, params.topk):
        total += 2 * tokens * keys * dim
        if params.lepe:
            total += 9 * tokens * dim
        if depth:
            coarser = tokens // 4
            total += (tokens + coarser) * dim**2 + 5 * (tokens + coarser) * dim
    return total


def _levels(grid: Grid, levels: int, topk: int) -> list[tuple[int, int, int]]:
    """(depth, tokens, keys of a token) of each level, coarsest first."""
    rows, keys = [], 0
    for depth in range(levels):
        tokens = grid.tokens >> 2 * (levels - 1 - depth)
        keys = 4 * min(topk, keys) if depth else tokens
        rows.append((depth, tokens, keys))
    return rows


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range, and maps that cannot be halved levels - 1 times."""
    if params.levels < 1:
        return f"levels must be at least 1, got {params.levels}"
    if params.topk < 1:
        return f"topk must be at least 1, got {params.topk}"
    factor = 2 ** (params.levels - 1)
    if grid.height % factor or grid.width % factor:
        return f"{params.levels} levels need a map divisible by {factor}, got {grid}"
    return None


def fallback(dim: int, num_heads: int, grid: Grid, dtype: str, params: Params) -> str | None:
    """Where tokens choose their keys."""
    if params.levels > 1:
        return "a fused kernel is slower on the few keys that four tokens share"
    return None


ATTENTION = AttentionSpec(
    module=QuadTree,
    params=Params,
    family="sparse",
    paper=Paper(
        title="QuadTree Attention for Vision Transformers",
        arxiv="2201.02767",
        venue="ICLR 2022",
        code="https://github.com/Tangshitao/QuadtreeAttention",
    ),
    equation="sum over levels of w_i (softmax(Q_i K_i^T / sqrt(d)) V_i + DWConv(V_i)), K_i and V_i "
    "the children of the top-K of level i - 1",
    cost="4NC^2 + 8KNC(1 + 1/4 + ...) + 2N^2C/16^(L-1) + (5/4)NC^2(1 + 1/4 + ...), L levels",
    size_rule="divisible",
    settings={
        4: {"levels": 4, "topk": 8},
        8: {"levels": 3, "topk": 8},
        16: {"levels": 2, "topk": 8},
        32: {"levels": 1, "topk": 8},
    },
    space={"topk": (2, 4, 8, 16)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention (one level), gather and batched matmul (more)",
    macs=macs,
    unsupported=unsupported,
    fallback=fallback,
    checked_with={"topk": 2**20},  # all there are: no choice is left
    traps=(
        "the published MACs leave out both CUDA operators, the products of the finer levels",
        "the value branches hold 5 C^2 weights a level: with two levels more than half of all",
        "a choice near a tie turns on rounding: two precisions may attend to different tokens",
        "the authors' code needs K tokens on the coarsest map; here fewer are all kept",
        "the authors' detection code has K = 32, and ReLU for GELU in the value branches",
    ),
)
