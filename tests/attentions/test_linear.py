"""Linear layers through oneDNN, and attention by products in parts."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import attentions
from attentions import Grid, _attend, _linear
from attentions._attend import attend, by_products
from attentions._linear import OneDNNLinear, linear, through_onednn
from vitbench.instruments import operators

KERNELS = ("_linear_pointwise", "convolution", "addmm")
SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@given(SHAPES, st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_it_is_a_linear_layer(shape: list[int], wide: int, out: int, biased: bool) -> None:
    """Any leading dimensions, with bias or without, in fp32 and bf16."""
    torch.manual_seed(wide * 41 + out)
    x, weight = torch.randn(*shape, wide), torch.randn(out, wide)
    bias = torch.randn(out) if biased else None
    with torch.inference_mode():
        expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        found = linear(x, weight, bias)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
        halves = (None if one is None else one.bfloat16() for one in (x, weight, bias))
        narrow = linear(*halves)  # type: ignore[arg-type] # of the three only the bias can be None
        assert narrow.dtype == torch.bfloat16
        scale = expected.abs().max().item() + 1
        assert (narrow.double() - expected).abs().max().item() < 0.03 * scale


def test_a_slice_is_taken_as_it_is() -> None:
    """Views that are not contiguous, channels first among them."""
    x = torch.randn(2, 5, 6, 8)
    weight, bias = torch.randn(3, 5), torch.randn(3)
    first = x.permute(0, 2, 3, 1)
    with torch.inference_mode():
        torch.testing.assert_close(linear(first, weight, bias), F.linear(first, weight, bias))
        part = x[..., 1:6]
        torch.testing.assert_close(linear(part, weight, bias), F.linear(part, weight, bias))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    ("tokens", "channels", "kernel"),
    [(99, 4, "_linear_pointwise"), (100, 4, "convolution"), (100, 51, "_linear_pointwise")],
    ids=["few", "many", "not for so many channels"],
)
def test_which_kernel_runs(
    recorded: bool, tokens: int, channels: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN's, the convolution for many tokens; the layer's own where something is recorded for a
    backward pass."""
    monkeypatch.setattr(_linear, "MANY_TOKENS", 100)
    monkeypatch.setattr(_linear, "instructions", lambda: "AVX512")
    layer = through_onednn(nn.Sequential(nn.Linear(channels, 4)))
    with torch.set_grad_enabled(recorded):
        found = operators.trace(lambda: layer(torch.randn(tokens, channels)))
    ran = {one for one in KERNELS if _has(found, one)}
    assert ran == {"addmm" if recorded else kernel}


@pytest.mark.parametrize(
    ("instructions", "sizes", "kernel"),
    [
        ("AVX2", (199, 4, 9), "addmm"),
        ("AVX2", (200, 4, 9), "convolution"),
        ("AVX2", (99, 4, 10), "_linear_pointwise"),
        ("AVX2", (100, 4, 10), "convolution"),
        ("AVX2", (199, 6, 9), "addmm"),
        ("AVX2", (200, 6, 9), "_linear_pointwise"),
        ("AVX512", (200, 5, 9), "convolution"),
        ("AVX512", (200, 6, 9), "_linear_pointwise"),
        ("SVE256", (200, 4, 10), "addmm"),
    ],
)
def test_which_kernel_runs_elsewhere(
    instructions: str, sizes: tuple[int, int, int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The BLAS library's where it is the faster one, or where nothing else was measured; no
    convolution of too many channels. Sizes are tokens, channels in and out."""
    for name, limit in (("MANY_TOKENS", 100), ("MANY_OUTPUTS", 10), ("MOST_INPUTS", 5)):
        monkeypatch.setattr(_linear, name, limit)
    monkeypatch.setattr(_linear, "instructions", lambda: instructions)
    tokens, inside, out = sizes
    layer = through_onednn(nn.Sequential(nn.Linear(inside, out)))
    with torch.no_grad():
        found = operators.trace(lambda: layer(torch.randn(tokens, inside)))
    assert {one for one in KERNELS if _has(found, one)} == {kernel}


def _has(found: operators.Operators, part: str) -> bool:
    return any(part in name for name in found.names)


def test_a_module_keeps_its_parameters() -> None:
    """Names, values and types; what is no plain linear layer is left alone."""

    class Own(nn.Linear):
        pass

    module = nn.ModuleDict({"a": nn.Linear(2, 3), "b": Own(2, 3), "c": nn.LayerNorm(3)})
    before = {name: one.clone() for name, one in module.state_dict().items()}
    assert through_onednn(module) is module
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    kinds = [type(one) for one in module.values()]
    assert kinds == [OneDNNLinear, Own, nn.LayerNorm]


@pytest.mark.parametrize("name", attentions.names())
def test_ours_are_built_so(name: str) -> None:
    """Fused ones only: the eager one is what the paper says."""
    spec = attentions.load(name)
    for impl in spec.impls:
        module = spec.build(48, 6, Grid(16, 16), impl=impl, **spec.settings_at(16))
        kinds = {type(part) for part in module.modules() if isinstance(part, nn.Linear)}
        assert kinds <= {OneDNNLinear if impl == "fused" else nn.Linear}


def drawn(*shape: int) -> Tensor:
    """Random numbers in fp64."""
    return torch.randn(*shape, dtype=torch.float64)


@given(
    st.integers(1, 3),
    st.sampled_from([(), (2,)]),
    st.integers(1, 3),
    st.integers(1, 90),
    st.integers(1, 12),
    st.sampled_from(["none", "one", "heads", "windows", "all"]),
    st.sampled_from([1, 2000, 2**22]),
)
def test_products_in_parts(
    images: int,
    windows: tuple[int, ...],
    heads: int,
    queries: int,
    keys: int,
    kind: str,
    limit: int,
) -> None:
    """Whatever part is taken at a time, and however a bias broadcasts: the equation's result."""
    torch.manual_seed(queries)
    batch = (images, *windows)
    q, k, v = (drawn(*batch, heads, count, width) for count, width in _sizes(queries, keys))
    shapes = {
        "one": (1, queries, keys),
        "heads": (heads, queries, keys),
        "windows": (*windows, heads, queries, keys),
        "all": (*batch, heads, queries, keys),
    }
    bias = None if kind == "none" else drawn(*shapes[kind])
    expected = attend(q, k, v, impl="eager", bias=bias, scale=0.3)
    with mock.patch.multiple(_attend, _CACHED_BYTES=limit, _SCORES_BYTES=limit, _QUERIES=3):
        found = by_products(q, k, v, bias, 0.3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("instructions", "queries", "keys", "by"),
    [
        ("AVX2", 49, 49, "products"),
        ("AVX2", 784, 1, "products"),
        ("AVX2", 784, 49, "kernel"),
        ("AVX512", 784, 49, "products"),
        ("AVX512", 784, 65, "kernel"),
    ],
)
def test_products_or_the_kernel(
    instructions: str, queries: int, keys: int, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever takes less time on such a CPU; the result is the same."""
    monkeypatch.setattr(_attend, "instructions", lambda: instructions)
    q, k, v = (torch.randn(2, 3, count, 8) for count in (queries, keys, keys))
    with torch.no_grad():
        found = operators.trace(lambda: attend(q, k, v, impl="fused"))
        torch.testing.assert_close(
            attend(q, k, v, impl="fused"), attend(q, k, v, impl="eager"), rtol=1e-4, atol=1e-5
        )
    assert bool(found.kernels) == (by == "kernel")


def _sizes(queries: int, keys: int) -> tuple[tuple[int, int], ...]:
    return (queries, 4), (keys, 4), (keys, 5)
