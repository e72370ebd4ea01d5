"""QuadTree attention (arXiv 2201.02767, type B)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import depthwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "levels": [1, 2, 3],
    "topk": [1, 2, 8, 1000],
    "lepe": [True, False],
    "qkv_bias": [True, False],
}
COUNTS = [
    # Each of 196 tokens meets the 32 children of its 8 regions, once for scores, once for values:
    # the two CUDA operators of the authors, which the published 613.25 M MACs leave out.
    (case("quadtree", 768, 12, 14, 14, levels=2), 5_331_458, 613_251_072 + 2 * 196 * 32 * 768)
]
_PROJECTIONS = layers({"proj": (8, 8)} | {f"{name}_proj": (8, 8, 1, 1) for name in ("q", "k", "v")})
STATES = [  # the authors' QuadtreeAttention; without LePE no get_vs
    (
        case("quadtree", 8, 2, 4, 4, levels=2),
        _PROJECTIONS
        | layers({f"value_branchs.0.{norm}": (8,) for norm in (0, 3)})
        | layers({"value_branchs.0.2": (8, 8, 2, 2), "value_branchs.0.5": (8, 8, 1, 1)})
        | layers({f"py_att.get_vs.{level}": (8, 1, 3, 3) for level in (0, 1)})
        | {"py_att.weight": (2,)},
    ),
    (case("quadtree", 8, 2, 4, 4, levels=1, lepe=False), _PROJECTIONS | {"py_att.weight": (1,)}),
]
LOOPS = [
    case("quadtree", 8, 2, height, width, levels=levels, topk=topk, lepe=lepe)
    for height, width, levels, topk in ((3, 2, 1, 8), (4, 6, 2, 2), (8, 4, 3, 1), (4, 8, 3, 3))
    for lepe in (True, False)
]
REFUSED = [
    (case("quadtree", 8, 2, 13, 28, levels=3), "3 levels need a map divisible by 4, got 13 x 28"),
    (case("quadtree", 8, 2, 13, 29, levels=1), None),
    (case("quadtree", 8, 2, 50, 80), None),
    (case("quadtree", 8, 2, 4, 4, levels=0), "levels must be at least 1, got 0"),
    (case("quadtree", 8, 2, 4, 4, topk=0), "topk must be at least 1, got 0"),
]

QUADTREE = attentions.load("quadtree")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Level by level, head by head, query by query, in coordinates of rows and columns."""
    levels, topk = draw.params["levels"], draw.params["topk"]
    pyramid = pyramid_of(module, x, levels)
    weights = module.py_att.weight.softmax(0)
    out = torch.zeros(1, 1, 8, dtype=x.dtype)
    chosen: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for level, (q, k, v) in enumerate(pyramid):
        message = torch.empty_like(q)
        following = {}
        for i in range(q.shape[0]):
            for j in range(q.shape[1]):
                for head in (0, 1):
                    part = slice(4 * head, 4 * head + 4)
                    places = candidates(chosen, level, i, j, head, q)
                    scores = torch.stack([q[i, j, part] @ k[r, c, part] / 2 for r, c in places])
                    values = torch.stack([v[r, c, part] for r, c in places])
                    message[i, j, part] = scores.softmax(0) @ values
                    best = scores.argsort(descending=True)[:topk].tolist()
                    following[i, j, head] = [places[n] for n in best]
        if module.py_att.lepe:
            message = message + depthwise(module.py_att.get_vs[level], v)
        if level:
            out = out.repeat_interleave(2, 0).repeat_interleave(2, 1)
        out = out + weights[level] * message
        chosen = following
    return module.proj(out)[None]


def candidates(
    chosen: dict[tuple[int, int, int], list[tuple[int, int]]],
    level: int,
    i: int,
    j: int,
    head: int,
    q: Tensor,
) -> list[tuple[int, int]]:
    """The keys of a query: all on the coarsest map, else the children of its parent's choice."""
    if level == 0:
        return [(r, c) for r in range(q.shape[0]) for c in range(q.shape[1])]
    parents = chosen[i // 2, j // 2, head]
    return [(2 * r + a, 2 * c + b) for r, c in parents for a in (0, 1) for b in (0, 1)]


def pyramid_of(module: Any, x: Tensor, levels: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """q, k and v of one image, channels last, coarsest map first."""
    maps = tuple(proj(x.permute(0, 3, 1, 2)) for proj in (module.q_proj, module.k_proj))
    v = module.v_proj(x.permute(0, 3, 1, 2))
    finest_first = []
    for level in range(levels):
        finest_first.append(tuple(map_[0].permute(1, 2, 0) for map_ in (*maps, v)))
        if level < levels - 1:
            maps = tuple(quarters(map_).mean(-1) for map_ in maps)
            v = branched(module.value_branchs[level], v)
    return [(q, k, v) for q, k, v in reversed(finest_first)]


def quarters(map_: Tensor) -> Tensor:
    """The 2 x 2 children of each token in a last dimension."""
    return torch.stack([map_[:, :, a::2, b::2] for a in (0, 1) for b in (0, 1)], dim=-1)


def branched(branch: Any, v: Tensor) -> Tensor:
    """Norm over the whole image, GELU, a weight for each child; then the same for each token."""
    conv, mix = branch[2], branch[5]
    hidden = quarters(F.gelu(normed(branch[0], v)))
    hidden = torch.einsum("oin,bihwn->bohw", conv.weight.flatten(2), hidden)
    hidden = F.gelu(normed(branch[3], hidden + conv.bias[:, None, None]))
    hidden = torch.einsum("oi,bihw->bohw", mix.weight[:, :, 0, 0], hidden)
    return hidden + mix.bias[:, None, None]


def normed(norm: Any, v: Tensor) -> Tensor:
    scaled = (v - v.mean()) / (v.var(correction=0) + norm.eps).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 3), columns=st.integers(1, 3), topk=st.integers(1, 10), data=st.data())
def test_a_token_attends_to_the_children_of_k_regions(
    rows: int, columns: int, topk: int, data: st.DataObject
) -> None:
    """The values that reach a token are whole 2 x 2 blocks, K of them, the same for siblings."""
    grid = Grid(2 * rows, 2 * columns)
    params = {"levels": 2, "topk": topk, "lepe": False}
    module: Any = QUADTREE.build(8, 1, grid, impl="fused", **params).double()
    i, j = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    maps = torch.randn(6, 1, 8, grid.height, grid.width, dtype=torch.float64)
    coarse = [F.avg_pool2d(map_, 2) for map_ in maps[:3]]
    seen = []
    for a in (0, 1):
        for b in (0, 1):
            values = maps[2].clone().requires_grad_()
            out = module.py_att([coarse[0], maps[0]], [coarse[1], maps[1]], [coarse[2], values])
            (gradient,) = torch.autograd.grad(from_tree(out, grid)[2 * i + a, 2 * j + b], values)
            seen.append(gradient[0].abs().sum(0) > 0)
    blocks = seen[0].unflatten(0, (rows, 2)).unflatten(2, (columns, 2)).sum((1, 3))
    kept, regions = min(topk, rows * columns), rows * columns
    assert sorted(blocks.flatten().tolist()) == [0] * (regions - kept) + [4] * kept
    assert all(torch.equal(own, seen[0]) for own in seen)


def from_tree(out: Tensor, grid: Grid) -> Tensor:
    """The sum over channels of each token's message, in rows and columns, for two levels."""
    blocks = out[0].sum(-1).view(grid.height // 2, grid.width // 2, 2, 2)
    return blocks.transpose(1, 2).reshape(grid.height, grid.width)


def test_a_token_takes_its_parents_message_along() -> None:
    """With the weight on the coarsest level alone, siblings have the same output."""
    torch.manual_seed(0)
    module: Any = QUADTREE.build(8, 2, Grid(8, 4), impl="fused", levels=3).double()
    with torch.no_grad():
        module.py_att.weight[0] += 1e4
        out = module(torch.randn(1, 8, 4, 8, dtype=torch.float64))
    coarse = out[:, ::4, ::4]
    assert torch.equal(out, coarse.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert not torch.equal(coarse[:, 0], coarse[:, 1])
