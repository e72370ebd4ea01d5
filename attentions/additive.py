"""Additive attention: one global query for the whole map, which scales every key.

arXiv 2303.15446 (SwiftFormer), efficient additive attention. A learned vector scores each query;
the weighted sum of the queries is the global query. It multiplies the keys element by element, and
a linear layer takes the place of the values. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters. The mechanism has none."""


class Additive(nn.Module):
    """Efficient additive attention. Names as in the authors' EfficientAdditiveAttnetion.

    They are to_query, to_key, w_g, Proj and final. As in all their models there is one head, as
    wide as the map: `num_heads` has no effect.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.scale = dim**-0.5
        self.to_query = nn.Linear(dim, dim)
        self.to_key = nn.Linear(dim, dim)
        self.w_g = nn.Parameter(torch.randn(dim, 1))
        self.Proj = nn.Linear(dim, dim)
        self.final = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        tokens = x.flatten(1, 2)
        query = F.normalize(self.to_query(tokens), dim=-1)
        key = F.normalize(self.to_key(tokens), dim=-1)
        scores = F.normalize(query @ self.w_g * self.scale, dim=1)
        if self.impl == "fused":
            return self._fused(query, key, scores).view(x.shape)
        global_query = (scores * query).sum(dim=1, keepdim=True)
        return self.final(self.Proj(global_query * key) + query).view(x.shape)

    def _fused(self, query: Tensor, key: Tensor, scores: Tensor) -> Tensor:
        """The global query is a product, and the residual is added in that of Proj.

        The bias of Proj meets that of final: final(y + b) is y times its weights, plus final(b).
        """
        global_query = scores.transpose(1, 2) @ query
        key = global_query * key if torch.is_grad_enabled() else key.mul_(global_query)
        added = torch.addmm(query.flatten(0, 1), key.flatten(0, 1), self.Proj.weight.T)
        bias = self.final(self.Proj.bias[None])
        return F.linear(added, self.final.weight, bias[0])


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + N C, the last for the scores."""
    return 4 * grid.tokens * dim**2 + grid.tokens * dim


ATTENTION = AttentionSpec(
    module=Additive,
    params=Params,
    family="linear",
    paper=Paper(
        title="SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile "
        "Vision Applications",
        arxiv="2303.15446",
        venue="ICCV 2023",
        code="https://github.com/Amshaker/SwiftFormer",
    ),
    equation="W(P(g * K) + Q), g = sum of a_i Q_i, a = Q w / sqrt(C) over its length; "
    "Q_i, K_i of unit length",
    cost="4NC^2",
    size_rule="any",
    settings={4: {}, 8: {}, 16: {}, 32: {}},
    impls=("eager", "fused"),
    kernels="matmul; the residual is added by the product of Proj",
    macs=macs,
    traps=(
        "the weights of the tokens are no softmax: their squares sum to 1, and they may be "
        "negative",
        "there are no values: the queries are added instead",
        "the authors' encoder has a convolution before it and layer scales around it, which are "
        "out: alone, a token sees of the others only their one global query",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
