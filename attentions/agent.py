"""Agent attention: a few pooled queries gather from all tokens, and all tokens ask them.

arXiv 2312.08874. The agents are the pooled queries. They attend to all keys, and their results
are the values of a second softmax attention, in which every query attends to the agents: linear
in tokens. A depthwise convolution of the values gives back what is local.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, apart, attend, merge_heads, split_heads
from attentions._conv_norm import convolve
from attentions._spec import AttentionSpec, Grid, Paper

TABLE = 7  # side of the position biases that are learned, and resized to the map


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    agent_num  A, the number of agents, a square: they are the queries pooled to its side
    """

    agent_num: int = 49
    qkv_bias: bool = True


class Agent(nn.Module):
    """Agent attention over the whole map. Names as in AgentAttention of the authors' Agent-Swin.

    They are qkv, proj, dwc, and the biases of agents by position: an_bias, ah_bias and aw_bias
    where agents ask, na_bias, ha_bias and wa_bias where they are asked. Biases belong to the grid
    they were built for. As in their models the window is the map.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.grid = grid
        self.num_heads = num_heads
        agents = params.agent_num
        self.side = math.isqrt(agents)
        self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.an_bias = bias(num_heads, agents, TABLE, TABLE)
        self.na_bias = bias(num_heads, agents, TABLE, TABLE)
        self.ah_bias = bias(1, num_heads, agents, grid.height, 1)
        self.aw_bias = bias(1, num_heads, agents, 1, grid.width)
        self.ha_bias = bias(1, num_heads, grid.height, 1, agents)
        self.wa_bias = bias(1, num_heads, 1, grid.width, agents)

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "eager":
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            q, k, v = (F.linear(x, *part) for part in apart(self.qkv, 3))
        pooled = F.adaptive_avg_pool2d(q.permute(0, 3, 1, 2), self.side).flatten(2).mT
        agents, queries, keys, values = (
            split_heads(part, self.num_heads)
            for part in (pooled, q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2))
        )
        gathered = attend(agents, keys, values, impl=self.impl, bias=self.bias_of_agents())
        mixed = attend(queries, agents, gathered, impl=self.impl, bias=self.bias_of_queries())
        local = convolve(v, self.dwc.weight, self.dwc.bias, groups=x.shape[3])
        return self.proj(merge_heads(mixed).view(x.shape) + local)

    def bias_of_agents(self) -> Float[Tensor, "heads agents tokens"]:
        """Added where an agent scores a key, by the key's position."""
        return self._resized(self.an_bias) + (self.ah_bias + self.aw_bias)[0].flatten(2)

    def bias_of_queries(self) -> Float[Tensor, "heads tokens agents"]:
        """Added where a query scores an agent, by the query's position."""
        return self._resized(self.na_bias).mT + (self.ha_bias + self.wa_bias)[0].flatten(1, 2)

    def _resized(
        self, table: Float[Tensor, "heads agents rows columns"]
    ) -> Float[Tensor, "heads agents tokens"]:
        size = (self.grid.height, self.grid.width)
        return F.interpolate(table, size=size, mode="bilinear").flatten(2)


def bias(*shape: int) -> nn.Parameter:
    """As the authors begin with."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 4 N A C + 10 N C + 8 N A h, A agents, h heads.

    The convolution is 9 N C of it; fvcore counts one for each element that is pooled, and four for
    each bias that is interpolated.
    """
    agents = params.agent_num
    return grid.tokens * (4 * dim**2 + (4 * agents + 10) * dim + 8 * agents * num_heads)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    agents = params.agent_num
    if agents < 1 or math.isqrt(agents) ** 2 != agents:
        return f"agent_num must be a square number, such as 9 or 49, got {agents}"
    return None


ATTENTION = AttentionSpec(
    module=Agent,
    params=Params,
    family="reduced",
    paper=Paper(
        title="Agent Attention: On the Integration of Softmax and Linear Attention",
        arxiv="2312.08874",
        venue="ECCV 2024",
        code="https://github.com/LeapLabTHU/Agent-Attention",
    ),
    equation="softmax(Q A^T / sqrt(d) + B2) softmax(A K^T / sqrt(d) + B1) V + DWConv3x3(V), "
    "A = AvgPool(Q)",
    cost="4NC^2 + 4ANC",
    size_rule="fixed",
    # Those of Agent-Swin-T, whose last stage has window attention.
    settings={4: {"agent_num": 9}, 8: {"agent_num": 16}, 16: {"agent_num": 49}},
    space={"agent_num": (9, 16, 25, 49)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention twice, with few keys and with few queries",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "position biases belong to a map: published weights load at their own resolution only",
        "agents are pooled after the projection of queries, and have no projection of their own",
        "the biases are made anew at each call, also where they could be kept; their cost grows "
        "with heads, agents and tokens and not with the batch",
        "with fewer tokens than agents, pooling repeats tokens",
    ),
)
