"""Agent attention (arXiv 2312.08874)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import attend, depthwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"agent_num": [1, 4, 9, 49], "qkv_bias": [True, False]}
STATES = [  # AgentAttention of the authors' Agent-Swin
    (
        case("agent", 8, 2, 5, 6, agent_num=4),
        layers({"qkv": (24, 8), "proj": (8, 8), "dwc": (8, 1, 3, 3)})
        | {
            "an_bias": (2, 4, 7, 7),
            "na_bias": (2, 4, 7, 7),
            "ah_bias": (1, 2, 4, 5, 1),
            "aw_bias": (1, 2, 4, 1, 6),
            "ha_bias": (1, 2, 5, 1, 4),
            "wa_bias": (1, 2, 1, 6, 4),
        },
    )
]
LOOPS = [
    case("agent", 8, 2, height, width, agent_num=4)
    for height, width in ((4, 6), (5, 3), (7, 7), (1, 1))
]
REFUSED = [
    (
        case("agent", 8, 2, 4, 4, agent_num=agents),
        f"agent_num must be a square number, such as 9 or 49, got {agents}",
    )
    for agents in (0, 8, -1)
]

AGENT = attentions.load("agent")


def read(table: Tensor, row: int, column: int, grid: Grid) -> Tensor:
    """A table (agents, 7, 7) between its entries, at a token of a map that it covers."""
    places = []
    for index, side in ((row, grid.height), (column, grid.width)):
        place = max(0.0, (index + 0.5) * 7 / side - 0.5)
        first = min(int(place), 6)
        places.append((first, min(first + 1, 6), place - first))
    (top, bottom, down), (left, right, across) = places
    above = table[:, top, left] * (1 - across) + table[:, top, right] * across
    below = table[:, bottom, left] * (1 - across) + table[:, bottom, right] * across
    return above * (1 - down) + below * down


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Agents pooled cell by cell; each asks all keys, then each query asks the agents."""
    height, width, heads = x.shape[1], x.shape[2], draw.num_heads
    q, k, v = module.qkv(x[0]).chunk(3, dim=-1)
    tokens = [(i, j) for i in range(height) for j in range(width)]
    agents = []
    for a in range(2):
        for b in range(2):
            rows = slice(a * height // 2, -(-(a + 1) * height // 2))
            columns = slice(b * width // 2, -(-(b + 1) * width // 2))
            agents.append(q[rows, columns].mean((0, 1)))

    def both(first: Tensor, second: Tensor, tables: Tensor, i: int, j: int) -> Tensor:
        """Biases of a token (agents, heads)."""
        resized = torch.stack([read(table, i, j, draw.grid) for table in tables], dim=-1)
        return resized + (first + second).T

    asking = torch.stack(
        [
            both(module.ah_bias[0, :, :, i, 0], module.aw_bias[0, :, :, 0, j], module.an_bias, i, j)
            for i, j in tokens
        ]
    )  # (tokens, agents, heads)
    gathered = [
        attend(agent, k.flatten(0, 1), v.flatten(0, 1), heads, asking[:, number])
        for number, agent in enumerate(agents)
    ]
    out = torch.empty_like(x)
    for i, j in tokens:
        asked = both(module.ha_bias[0, :, i, 0], module.wa_bias[0, :, 0, j], module.na_bias, i, j)
        out[0, i, j] = attend(q[i, j], torch.stack(agents), torch.stack(gathered), heads, asked)
    return module.proj(out[0] + depthwise(module.dwc, v))[None]


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_as_many_agents_as_tokens_is_msa(impl: str) -> None:
    """Where every token is its own agent and asks that one alone, what is left is MSA."""
    draw = case("agent", 12, 3, 7, 7, agent_num=49)
    module: Any = draw.exact(impl)
    with torch.no_grad():
        for name in ("an_bias", "ah_bias", "aw_bias", "dwc.weight", "dwc.bias"):
            module.get_parameter(name).zero_()
        own = 1e4 * torch.eye(49).unflatten(1, (7, 7))
        module.na_bias.copy_(own.expand_as(module.na_bias))
    msa: Any = case("msa", 12, 3, 7, 7).exact()
    msa.load_state_dict({name: module.state_dict()[name] for name in msa.state_dict()})
    x = draw.input(batch=2).double()
    with torch.inference_mode():
        torch.testing.assert_close(module(x), msa(x), rtol=0, atol=1e-11)


def test_cost_is_linear_in_tokens() -> None:
    """Each token more costs the same, however large the map."""
    assert AGENT.macs is not None
    counts = [AGENT.macs(64, 2, Grid(side, 10)) for side in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0]
