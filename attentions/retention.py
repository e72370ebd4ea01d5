"""Retention: softmax attention that fades with the distance along the map, whole or by its axes.

arXiv 2309.11523 (RMT), Manhattan self-attention. Each head has a decay g: of two keys with one
score, the one that lies s steps further down and across weighs g^s as much. In all but the last
stages tokens attend along their row, then the results along their column. A depthwise convolution
of the values is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend
from attentions._rotary import angles, cos_and_sin, planes, turned, turned_planes
from attentions._spec import AttentionSpec, Grid, Paper

# Tokens in lines, by heads. The lines are the rows, the columns, or one that is the whole map.
Lines = Float[Tensor, "batch lines heads tokens head_dim"]
Decay = Float[Tensor, "heads tokens tokens"]

# On a CPU the equation is faster than the kernel for lines of up to so many tokens, and for those
# that are shorter than a vector of the CPU softmax is faster along columns than along rows.
_EQUATION, _VECTOR = 40, 16
# Of initial_value: the first head's decay is 7e-10.
_LEAST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    chunkwise_recurrent  attends along rows and then along columns, not over the whole map
    initial_value        the first head's decay is 1 - 2^-initial_value
    heads_range          head h of n has the decay 1 - 2^-(initial_value + heads_range h / n)
    """

    chunkwise_recurrent: bool = True
    initial_value: float = 2.0
    heads_range: float = 6.0


class Depthwise(nn.Module):
    """A depthwise convolution of a channels-last map. Named as in the authors' DWConv2d: conv."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Retention(nn.Module):
    """Manhattan self-attention. Names as in the authors' VisionRetentionChunk, VisionRetentionAll.

    They are q_proj, k_proj, v_proj, lepe and out_proj. What the blocks of a stage share is made
    here for the map: by how much queries and keys turn, and the logarithms of the weights that
    distances have. It follows from Relpos.angle and Relpos.decay of the stage in their checkpoints.
    """

    turn: Tensor
    decay: Tensor
    decay_down: Tensor | None

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.grid = grid
        self.num_heads = num_heads
        self.params = params
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.lepe = Depthwise(dim)
        self.out_proj = nn.Linear(dim, dim)
        tables = tables_of(dim // num_heads, num_heads, grid, params)
        for name, table in zip(("turn", "decay", "decay_down"), tables, strict=True):
            self.register_buffer(name, table, persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        turn, decay, decay_down = self._tables(x)
        lines = x if self.params.chunkwise_recurrent else x.flatten(1, 2)[:, None]
        q, k = self._queries_and_keys(lines, turn)
        values = self.v_proj(x)
        v = values.view(lines.shape).unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
        mixed = self._attend(q, k, v, decay)
        if decay_down is not None:
            q, k, v = (part.transpose(1, 3) for part in (q, k, mixed))
            mixed = self._attend(q, k, v, decay_down).transpose(1, 3)
        local = self.lepe(values).view(lines.shape).unflatten(-1, (self.num_heads, -1))
        return self.out_proj((local + mixed.transpose(2, 3)).view(x.shape))

    def _tables(self, x: FeatureMap) -> tuple[Tensor, Tensor, Tensor | None]:
        """Those of the map that the module was built for are kept."""
        grid = Grid(x.shape[1], x.shape[2])
        if grid == self.grid:
            return self.turn, self.decay, self.decay_down
        head_dim = x.shape[3] // self.num_heads
        turn, decay, down = tables_of(head_dim, self.num_heads, grid, self.params)
        return turn.to(x), decay.to(x), None if down is None else down.to(x)

    def _queries_and_keys(
        self,
        x: Float[Tensor, "batch lines tokens dim"],
        turn: Float[Tensor, "2 lines tokens pairs"],
    ) -> tuple[Lines, Lines]:
        """Turned by their positions; queries divided by the root of their width."""
        scale = (x.shape[3] // self.num_heads) ** -0.5
        if self.impl == "eager":
            q, k = (
                layer(x).unflatten(-1, (self.num_heads, -1)) for layer in (self.q_proj, self.k_proj)
            )
            q, k = (turned(part, turn[..., None, :]) for part in (q * scale, k))
            return q.transpose(2, 3), k.transpose(2, 3)
        weight, bias = (
            torch.cat((planes(of_q) * scale, planes(of_k)))
            for of_q, of_k in (
                (self.q_proj.weight, self.k_proj.weight),
                (self.q_proj.bias, self.k_proj.bias),
            )
        )
        q, k = F.linear(x, weight, bias).chunk(2, dim=-1)
        return turned_planes(q, turn, self.num_heads), turned_planes(k, turn, self.num_heads)

    def _attend(self, q: Lines, k: Lines, v: Lines, decay: Decay) -> Lines:
        """Within each line."""
        tokens = q.shape[3]
        if self.impl == "eager" or not q.is_cpu or tokens > _EQUATION:
            return attend(q, k, v, impl=self.impl, bias=decay, scale=1.0)
        lines = q.shape[:2]
        # Lines and heads stay apart: converters that fuse attention match its bias with them.
        q, k, v = (part.flatten(0, 1).contiguous() for part in (q, k, v))
        if tokens < _VECTOR:
            weights = (k @ q.mT).add_(decay).softmax(dim=-2).mT
        else:
            weights = (q @ k.mT).add_(decay).softmax(dim=-1)
        return (weights @ v).unflatten(0, lines)


def tables_of(
    head_dim: int, num_heads: int, grid: Grid, params: Params
) -> tuple[Float[Tensor, "2 lines tokens pairs"], Decay, Decay | None]:
    """How tokens turn, their decay along lines, and that along columns where lines are rows."""
    lines = grid.height if params.chunkwise_recurrent else 1
    turn = cos_and_sin(angles(grid.tokens, head_dim // 2).view(lines, -1, head_dim // 2))
    heads = torch.arange(num_heads, dtype=torch.float64) / num_heads
    decay = torch.log1p(-(2.0 ** -(params.initial_value + params.heads_range * heads)))
    down, across = (
        (decay[:, None, None] * distances(side)).to(torch.get_default_dtype())
        for side in (grid.height, grid.width)
    )
    if params.chunkwise_recurrent:
        return turn, across, down
    whole = down[:, :, None, :, None] + across[:, None, :, None, :]
    return turn, whole.flatten(3).flatten(1, 2), None


def distances(side: int) -> Float[Tensor, "side side"]:
    """Steps between each two positions of a line."""
    position = torch.arange(side, dtype=torch.float64)
    return (position[:, None] - position).abs()


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 25 N C, and 2 N (H + W) C along rows and columns, or 2 N^2 C over the whole map."""
    tokens = grid.tokens
    keys = grid.height + grid.width if params.chunkwise_recurrent else tokens
    return tokens * dim * (4 * dim + 25 + 2 * keys)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Heads without pairs of channels, and decays that are none."""
    if dim // num_heads % 2:
        return f"pairs of channels turn, so a head's width must be even, got {dim // num_heads}"
    first = params.initial_value
    if first < _LEAST:
        return (
            f"initial_value must be at least {_LEAST:g}, so that decays are over 0, got {first:g}"
        )
    if params.heads_range < 0:
        return f"heads_range must be at least 0, got {params.heads_range:g}"
    return None


ATTENTION = AttentionSpec(
    module=Retention,
    params=Params,
    family="global",
    paper=Paper(
        title="RMT: Retentive Networks Meet Vision Transformers",
        arxiv="2309.11523",
        venue="CVPR 2024",
        code="https://github.com/qhfan/RMT",
    ),
    equation="softmax(Q K^T / sqrt(d) + s log g) V + DWConv5x5(V), Q and K turned by position, "
    "s the steps between two tokens, g the decay of a head; along rows, then along columns",
    cost="4NC^2 + 2N(H + W)C, 4NC^2 + 2N^2C over the whole map",
    size_rule="any",
    # Those of RMT-S.
    settings={
        4: {"chunkwise_recurrent": True, "initial_value": 2.0, "heads_range": 4.0},
        8: {"chunkwise_recurrent": True, "initial_value": 2.0, "heads_range": 4.0},
        16: {"chunkwise_recurrent": True, "initial_value": 2.0, "heads_range": 6.0},
        32: {"chunkwise_recurrent": False, "initial_value": 2.0, "heads_range": 6.0},
    },
    space={"chunkwise_recurrent": (True, False)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention, but on short lines on a CPU; one product for queries "
    "and keys",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the decay is a bias of the scores before softmax: the weights still sum to 1, and nothing "
        "is left of the recurrence of RetNet",
        "positions are numbered row by row, so queries and keys turn W steps from a row to the "
        "next; the decay knows rows and columns",
        "the whole form has a decay for each head and pair of tokens, made once for the map",
        "along rows and columns, softmax normalises each line: it is no factor of the whole form",
        "the authors' RMT-T attends over the whole map at stride 16 already",
        "the convolution of values is inside; that of positions and the norm before it are out",
    ),
)
