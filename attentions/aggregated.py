"""Aggregated attention: each token attends to its neighbours and to the pooled map at once.

arXiv 2311.17132 (TransNeXt). One softmax weighs the K x K tokens around a query, as the fovea sees
them, and the keys of a pooled map, as peripheral vision does. Queries and keys are normalised, a
learned query is added to each, and scores grow with the number of keys. Weights that each query
makes for its neighbours without looking at them are added after the softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attentions._attend import (
    FeatureMap,
    Heads,
    Impl,
    apart,
    attend,
    merge_heads,
    split_heads,
)
from attentions._conv_norm import convolve
from attentions._spec import AttentionSpec, Grid, Paper

HIDDEN = 512  # channels inside the perceptron that makes position biases

# Of the neighbours of each token, for each head.
Neighbours = Float[Tensor, "batch heads tokens neighbours"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    window_size    K, side of the neighbourhood in tokens, odd
    sr_ratio       how many times fewer rows and columns the pooled map has; at 1 every token
                   attends to all tokens, and nothing else, as in the authors' last stage
    pretrain_size  side in tokens of the maps that the weights were trained on, by which positions
                   are measured; the map's own unless given
    """

    window_size: int = 3
    sr_ratio: int = 2
    pretrain_size: int | None = None
    qkv_bias: bool = True


@dataclass(frozen=True, slots=True)
class Positions:
    """What follows from the size of the map alone.

    offsets  (rows, 2): the offsets between a query and a key, down and to the right, in log scale
    index    (tokens, keys): the row of `offsets` for each pair; of a key that is no token, the row
             after the last
    length   (tokens, 1): logarithm of the number of keys
    outside  (tokens, neighbours): -inf where a neighbour is outside the map, else 0
    """

    offsets: Float[Tensor, "rows two"]
    index: Int[Tensor, "tokens keys"]
    length: Float[Tensor, "tokens one"]
    outside: Float[Tensor, "tokens neighbours"]


class Aggregated(nn.Module):
    """Aggregated attention. Names as in the authors' AggregatedAttention, and at sr_ratio 1 as in
    their Attention.

    They are q, kv (at sr_ratio 1: qkv), temperature, query_embedding, cpb_fc1, cpb_fc2 and proj;
    of the pooled map sr and norm; of the neighbours relative_pos_bias_local, learnable_tokens and
    learnable_bias. Out: pooling to a fixed size, which no published model has.
    """

    _one_more: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.params = params
        head_dim, neighbours = dim // num_heads, params.window_size**2
        start = torch.full((num_heads, 1, 1), 1 / 0.24).expm1().log()  # softplus makes it 1 / 0.24
        self.temperature = nn.Parameter(start)
        self.query_embedding = normal(num_heads, 1, head_dim)
        self.cpb_fc1 = nn.Linear(2, HIDDEN)
        self.cpb_fc2 = nn.Linear(HIDDEN, num_heads)
        self.proj = nn.Linear(dim, dim)
        if params.sr_ratio == 1:
            self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        else:
            self.q = nn.Linear(dim, dim, bias=params.qkv_bias)
            self.kv = nn.Linear(dim, 2 * dim, bias=params.qkv_bias)
            self.sr = nn.Conv2d(dim, dim, 1)
            self.norm = nn.LayerNorm(dim)
            self.relative_pos_bias_local = normal(num_heads, neighbours, std=0.0004)
            self.learnable_tokens = normal(num_heads, head_dim, neighbours)
            self.learnable_bias = nn.Parameter(torch.zeros(num_heads, 1, neighbours))
        self._one_key_more = impl == "fused" and params.sr_ratio > 1
        if self._one_key_more:
            one = F.pad(torch.ones(2), (head_dim, 0))
            self.register_buffer("_one_more", one, persistent=False)
        self._grid = grid
        positions = positions_on(grid, params, one_key_more=self._one_key_more)
        for name in ("offsets", "index", "length", "outside"):
            self.register_buffer(f"_{name}", getattr(positions, name), persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        grid = Grid(x.shape[1], x.shape[2])
        positions = self._positions(grid, like=x)
        if self.params.sr_ratio == 1:
            mixed = self._over_all(x.flatten(1, 2), positions)
        elif self.impl == "eager":
            mixed = self._equations(x, positions)
        else:
            mixed = self._fused(x, positions)
        return self.proj(mixed).unflatten(1, x.shape[1:3])

    def _positions(self, grid: Grid, *, like: Tensor) -> Positions:
        if grid == self._grid:
            names = ("_offsets", "_index", "_length", "_outside")
            return Positions(*(self.get_buffer(name) for name in names))
        made = positions_on(grid, self.params, one_key_more=self._one_key_more)
        return Positions(
            made.offsets.to(like),
            made.index.to(like.device),
            made.length.to(like),
            made.outside.to(like),
        )

    def _over_all(
        self, x: Float[Tensor, "batch tokens dim"], positions: Positions
    ) -> Float[Tensor, "batch tokens dim"]:
        if self.impl == "eager":
            parts = list(self.qkv(x).chunk(3, dim=-1))
        else:
            parts = [F.linear(x, *part) for part in apart(self.qkv, 3)]
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        scaled = self._scaled(F.normalize(q, dim=-1), positions)
        bias = self._bias(positions)
        k = F.normalize(k, dim=-1)
        return merge_heads(attend(scaled, k, v, impl=self.impl, bias=bias, scale=1.0))

    def _scaled(self, q: Heads, positions: Positions) -> Heads:
        """Normalised queries, as scores need them."""
        return (q + self.query_embedding) * (F.softplus(self.temperature) * positions.length)

    def _bias(self, positions: Positions) -> Float[Tensor, "heads tokens keys"]:
        """A bias for each pair of a token and a key on the pooled map, by their offset."""
        table = self.cpb_fc2(self.cpb_fc1(positions.offsets).relu()).mT
        if self._one_key_more:
            table = F.pad(table, (0, 1))
        return table[:, positions.index]

    def _equations(self, x: FeatureMap, positions: Positions) -> Float[Tensor, "batch tokens dim"]:
        tokens, image = x.flatten(1, 2), x.permute(0, 3, 1, 2)
        heads = self.num_heads
        q = F.normalize(split_heads(self.q(tokens), heads), dim=-1)
        scaled = self._scaled(q, positions)
        k, v = (split_heads(part, heads) for part in self.kv(tokens).chunk(2, dim=-1))
        k_local, v_local = (
            unfolded(merge_heads(part).mT.unflatten(2, image.shape[2:]), self.params.window_size)
            .unflatten(1, (heads, -1))
            .permute(0, 1, 4, 2, 3)
            for part in (F.normalize(k, dim=-1), v)
        )
        pooled = F.adaptive_avg_pool2d(F.gelu(self.sr(image)), self._pooled(x))
        parts = self.kv(self.norm(pooled.flatten(2).mT)).chunk(2, dim=-1)
        k_pool, v_pool = (split_heads(part, heads) for part in parts)
        local = (scaled[..., None, :] @ k_local).squeeze(-2) + self._bias_local(positions)
        far = scaled @ F.normalize(k_pool, dim=-1).mT + self._bias(positions)
        weights = torch.cat((local, far), dim=-1).softmax(dim=-1)
        local, far = weights.split((local.shape[-1], far.shape[-1]), dim=-1)
        local = local + (q @ self.learnable_tokens + self.learnable_bias)
        return merge_heads((local[..., None, :] @ v_local.mT).squeeze(-2) + far @ v_pool)

    def _pooled(self, x: FeatureMap) -> tuple[int, int]:
        return pooled_to(Grid(x.shape[1], x.shape[2]), self.params)

    def _bias_local(self, positions: Positions) -> Float[Tensor, "heads tokens neighbours"]:
        return self.relative_pos_bias_local[:, None] + positions.outside

    def _fused(self, x: FeatureMap, positions: Positions) -> Float[Tensor, "batch tokens dim"]:
        """The pooled map through a fused kernel, the neighbours by shifted maps.

        Both share one softmax. So the kernel gets one key more, for all neighbours together. Its
        score is the logarithm of their summed exponentials: the largest of their scores and what
        the sum adds to it, in one channel each, since their sum would be rounded more. Its value is
        1 in these channels, where its weight comes out.
        """
        heads = self.num_heads
        q = F.linear(x.flatten(1, 2), self.q.weight, self.q.bias)
        q = F.normalize(split_heads(q, heads), dim=-1)
        scaled = self._scaled(q, positions)
        k, v = (F.linear(x, *part).unflatten(3, (heads, -1)) for part in apart(self.kv, 2))
        local = self._scores(scaled, F.normalize(k, dim=-1)) + self._bias_local(positions)
        largest = local.detach().amax(dim=-1, keepdim=True)
        local = (local - largest).exp()
        summed = local.sum(dim=-1, keepdim=True)
        far = self._attend_far(x, torch.cat((scaled, largest, summed.log()), dim=-1), positions)
        far, share, _ = far.split((q.shape[-1], 1, 1), dim=-1)
        local = local * (share / summed) + (q @ self.learnable_tokens + self.learnable_bias)
        near = weighted(local.transpose(1, 2).unflatten(1, x.shape[1:3]), v)
        return merge_heads(far) + near.flatten(3).flatten(1, 2)

    def _scores(
        self, scaled: Heads, k: Float[Tensor, "batch height width heads head_dim"]
    ) -> Neighbours:
        """Those of a query and its neighbours; zero outside the map."""
        queries = scaled.transpose(1, 2).unflatten(1, k.shape[1:3])
        products = [(queries * part).sum(-1) for part in shifted(k, self.params.window_size)]
        return torch.stack(products, dim=-1).flatten(1, 2).transpose(1, 2)

    def _attend_far(self, x: FeatureMap, queries: Heads, positions: Positions) -> Heads:
        """Attention to the keys of the pooled map and to the one for all neighbours."""
        image = convolve(x, self.sr.weight, self.sr.bias, groups=1).permute(0, 3, 1, 2)
        pooled = F.adaptive_avg_pool2d(F.gelu(image), self._pooled(x))
        tokens = self.norm(pooled.flatten(2).mT)
        k, v = (split_heads(F.linear(tokens, *part), self.num_heads) for part in apart(self.kv, 2))
        one_more = self._one_more.expand(*k.shape[:2], 1, -1)
        k, v = (
            torch.cat((F.pad(part, (0, 2)), one_more), dim=2)
            for part in (F.normalize(k, dim=-1), v)
        )
        return attend(queries, k, v, impl="fused", bias=self._bias(positions), scale=1.0)


def normal(*shape: int, std: float = 0.02) -> nn.Parameter:
    """As the authors begin with."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=std))


def unfolded(
    image: Float[Tensor, "batch channels height width"], size: int
) -> Float[Tensor, "batch channels neighbours tokens"]:
    """The neighbours of each token, zeros outside the map."""
    return F.unfold(image, size, padding=size // 2).unflatten(1, (image.shape[1], -1))


def shifted(x: Float[Tensor, "batch height width *channels"], size: int) -> list[Tensor]:
    """The map of each neighbour, as views of one padded map."""
    height, width = x.shape[1:3]
    around = size // 2
    padded = F.pad(x, (0, 0) * (x.dim() - 3) + (around, around) * 2)
    return [
        padded[:, row : row + height, column : column + width]
        for row in range(size)
        for column in range(size)
    ]


def weighted(
    weights: Float[Tensor, "batch height width heads neighbours"],
    v: Float[Tensor, "batch height width heads head_dim"],
) -> Float[Tensor, "batch height width heads head_dim"]:
    """The weighted sum of the neighbours of each token."""
    size = round(weights.shape[-1] ** 0.5)
    total, *rest = zip(weights.unbind(-1), shifted(v, size), strict=True)
    out = total[0][..., None] * total[1]
    for weight, part in rest:
        out = torch.addcmul(out, weight[..., None], part)
    return out


def pooled_to(grid: Grid, params: Params) -> tuple[int, int]:
    """Rows and columns of the pooled map."""
    return grid.height // params.sr_ratio, grid.width // params.sr_ratio


def positions_on(grid: Grid, params: Params, *, one_key_more: bool) -> Positions:
    """Positions on this map, with the keys of its pooled map and, if asked for, one more."""
    pooled_height, pooled_width = pooled_to(grid, params)
    down, rows = offsets_along(grid.height, pooled_height)
    right, columns = offsets_along(grid.width, pooled_width)
    index = len(right) * torch.tensor(rows)[:, None, :, None] + torch.tensor(columns)[:, None]
    index = index.flatten(2).flatten(0, 1)
    if one_key_more:
        index = F.pad(index, (0, 1), value=len(down) * len(right))
    trained_on = params.pretrain_size
    offsets = torch.cartesian_prod(
        in_log_scale(down, trained_on or grid.height),
        in_log_scale(right, trained_on or grid.width),
    )
    inside = unfolded(torch.ones(1, 1, grid.height, grid.width), params.window_size)[0, 0].mT
    pooled_keys = pooled_height * pooled_width
    neighbours = 0 if params.sr_ratio == 1 else inside.sum(dim=1, keepdim=True)
    length = torch.as_tensor(neighbours + pooled_keys).float().expand(grid.tokens, 1).log()
    outside = torch.zeros_like(inside).masked_fill(inside == 0, float("-inf"))
    return Positions(offsets, index, length, outside)


def offsets_along(side: int, pooled: int) -> tuple[list[float], list[list[int]]]:
    """The different offsets between a pooled key's middle and a query, in tokens, and which of
    them each pair (query, key) has."""
    middles = [
        (key * side // pooled + -(-(key + 1) * side // pooled) - 1) / 2 for key in range(pooled)
    ]
    different = sorted({query - middle for query in range(side) for middle in middles})
    place = {offset: index for index, offset in enumerate(different)}
    return different, [[place[query - middle] for middle in middles] for query in range(side)]


def in_log_scale(offsets: list[float], side: int) -> Float[Tensor, " rows"]:
    """Eight times the offsets as shares of a side, in a scale that is finer for small ones."""
    shares = torch.tensor(offsets) / max(side - 1, 1) * 8
    return shares.sign() * (shares.abs() + 1).log2() / 3


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """5 N C^2 + 2 P C^2 + 2 N P C + 3 K^2 N C + N C + 5 P C and the biases of positions, U 512
    (h + 2), N tokens, P pooled ones, U different offsets, h heads.

    N C of it are fvcore's for averages, 5 P C for the norm. At sr_ratio 1: 4 N C^2 + 2 N^2 C and
    the biases.
    """
    tokens, (height, width) = grid.tokens, pooled_to(grid, params)
    pooled, neighbours = height * width, params.window_size**2
    different = 1
    for side, keys in ((grid.height, height), (grid.width, width)):
        different *= len(offsets_along(side, keys)[0])
    biases = different * HIDDEN * (num_heads + 2)
    if params.sr_ratio == 1:
        return 4 * tokens * dim**2 + 2 * tokens**2 * dim + biases
    products = 5 * tokens * dim + 2 * pooled * dim + 2 * tokens * pooled + 3 * neighbours * tokens
    return dim * (products + tokens + 5 * pooled) + biases


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range, and maps without a pooled token."""
    if params.window_size < 1 or params.window_size % 2 == 0:
        return f"window_size must be odd, got {params.window_size}"
    if params.sr_ratio < 1:
        return f"sr_ratio must be at least 1, got {params.sr_ratio}"
    if params.pretrain_size is not None and params.pretrain_size < 1:
        return f"pretrain_size must be at least 1, got {params.pretrain_size}"
    if min(grid.height, grid.width) < params.sr_ratio:
        return f"a {grid} map has no pooled token at sr_ratio {params.sr_ratio}"
    return None


ATTENTION = AttentionSpec(
    module=Aggregated,
    params=Params,
    family="reduced",
    paper=Paper(
        title="TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
        arxiv="2311.17132",
        venue="CVPR 2024",
        code="https://github.com/DaiShiResearch/TransNeXt",
    ),
    equation="(softmax(t log(n) (q + e) [K_near, K_pool]^T + B) + [q T + b, 0]) [V_near, V_pool], "
    "q and K of norm 1, n keys",
    cost="(5 + 2/r^2)NC^2 + (2/r^2)N^2C + 27NC",
    size_rule="any",
    # Those of TransNeXt-Tiny, trained at 224 x 224.
    settings={
        4: {"sr_ratio": 8, "pretrain_size": 56},
        8: {"sr_ratio": 4, "pretrain_size": 28},
        16: {"sr_ratio": 2, "pretrain_size": 14},
        32: {"sr_ratio": 1, "pretrain_size": 7},
    },
    space={"window_size": (3, 5, 7), "sr_ratio": (1, 2, 7)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention over pooled keys and one that stands for all neighbours; "
    "shifted maps for these",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "weights of neighbours are not a distribution: those made by the query alone are added "
        "after the softmax, and may be negative",
        "a token near an edge has fewer neighbours and so a smaller scale of scores; weights that "
        "the query makes for neighbours outside the map meet zeros there",
        "the biases of positions are made at each call by a perceptron over all different offsets, "
        "(2H - r)(2W - r) of them: its cost grows with heads and tokens and not with the batch",
        "offsets are shares of the map that weights were trained on; pretrain_size keeps them on "
        "larger maps",
        "the last stage is MSA of normalised queries and keys; another checkpoint layout: qkv",
    ),
)
