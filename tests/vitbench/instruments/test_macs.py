"""MACs by fvcore: what counts, what is listed, and that nothing is left changed."""

from __future__ import annotations

import gc
from collections.abc import Callable

import psutil
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import attentions
from attentions import Grid
from vitbench.instruments import _fvcore, _macs, macs


class Layer(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def total(function: Callable[[Tensor], Tensor] | nn.Module, *shape: int) -> int:
    """MACs of a function or module on one input, by our counter and by fvcore."""
    module = function if isinstance(function, nn.Module) else Layer(function)
    found = _macs.count(module, shape)
    assert found.unknown == ()
    assert found.total == _fvcore.count(module, shape)
    return found.total


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(8, 24), (1, 10, 8), 10 * 8 * 24),
        (nn.Conv2d(4, 6, 3), (4, 5, 7), 3 * 5 * 4 * 6 * 9),  # without a batch: it is run
        (nn.Linear(8, 24, bias=False), (1, 3, 4, 8), 12 * 8 * 24),
        (nn.Conv2d(8, 16, 3, padding=1), (1, 8, 5, 7), 5 * 7 * 8 * 16 * 9),
        (nn.Conv2d(8, 16, 2, stride=2), (1, 8, 6, 8), 3 * 4 * 8 * 16 * 4),
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), (1, 8, 5, 5), 5 * 5 * 8 * 49),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 3, 3), 3 * 3 * 4 * 6 * 4),
    ],
)
def test_layers_with_weights(module: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    """Linear and convolution: one MAC for each product of a weight with an input."""
    assert total(module, *shape) == expected


@pytest.mark.parametrize(
    ("module", "share"),
    [
        (nn.Conv2d(8, 16, 3, padding=1), 1),
        (nn.Conv2d(8, 16, 3, stride=2), 1),
        (nn.Conv2d(8, 16, 3, padding="same"), 1),
        (nn.Conv2d(8, 16, (1, 3)), 1),
        (nn.Conv2d(8, 16, 1), 0),
        (nn.Conv2d(8, 16, 2, stride=2), 0),
        (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 72, 1)), 0.5),
    ],
)
def test_convolutions_whose_kernels_overlap(module: nn.Module, share: float) -> None:
    """They are counted apart; patches and products of channels are none."""
    found = _macs.count(module, (1, 8, 6, 6))
    assert found.overlapping / found.total == pytest.approx(share)


@given(data=st.data())
@settings(max_examples=40)
def test_convolutions_without_data(data: st.DataObject) -> None:
    """On the meta device a convolution has the size and the count that it has with numbers."""
    sides = data.draw(st.integers(1, 3), label="sides")
    transposed = data.draw(st.booleans(), label="transposed")
    number = st.integers(1, 3)
    groups = data.draw(number, label="groups")
    channels = [groups * data.draw(number, label="channels") for _ in range(2)]
    name = f"Conv{'Transpose' if transposed else ''}{sides}d"
    stride, dilation = (data.draw(number, label=word) for word in ("stride", "dilation"))
    layer: nn.Module = getattr(nn, name)(
        *channels,
        kernel_size=data.draw(st.tuples(*[number] * sides), label="kernel"),
        stride=stride,
        padding=data.draw(st.integers(0, 2), label="padding"),
        dilation=dilation,
        groups=groups,
    )
    size = (1, channels[0], *data.draw(st.tuples(*[st.integers(7, 9)] * sides), label="size"))
    module = nn.Sequential(layer, nn.ReLU())
    without, with_numbers = (_fvcore._analysis(module, size, device) for device in ("meta", "cpu"))
    assert without.total() == with_numbers.total() > 0
    assert without.unsupported_ops() == with_numbers.unsupported_ops()


@pytest.mark.parametrize(("padding", "positions"), [("same", 5 * 7), ("valid", 3 * 5)])
def test_padding_by_a_word(padding: str, positions: int) -> None:
    """Counts as the padding that it means, with and without data."""
    module = nn.Conv2d(4, 6, 3, padding=padding)
    for device in ("meta", "cpu"):
        assert _fvcore._analysis(module, (1, 4, 5, 7), device).total() == positions * 4 * 6 * 9


# Whose transforms and scans fvcore scores as zero; docs/method.md defines what they cost.
DEFINED = {"circulant", "ss2d"}


@pytest.mark.parametrize("name", attentions.names())
def test_mechanisms_are_counted_without_data(name: str) -> None:
    """No mechanism needs the slow way, which takes the memory of a real call."""
    spec = attentions.load(name)
    grid, params = Grid(14, 14), spec.settings_at(16)
    module = spec.build(96, 6, grid, impl="eager", **params)
    analysis = _fvcore._analysis(module, (1, 14, 14, 96), "meta")
    assert spec.macs is not None
    macs = spec.macs(96, 6, grid, **params)
    if name in DEFINED:
        assert 0 < analysis.total() < macs
    else:
        assert analysis.total() == macs


def test_products_of_activations() -> None:
    """matmul, bmm, baddbmm and einsum: rows x inner x columns of every matrix of the batch."""
    product = 2 * 3 * 5 * 7 * 5
    assert total(lambda x: x @ x.transpose(-2, -1), 2, 3, 5, 7) == product
    assert total(lambda x: torch.einsum("bhnd,bhmd->bhnm", x, x), 2, 3, 5, 7) == product
    assert total(lambda x: torch.bmm(x, x.mT), 6, 5, 7) == product
    assert total(lambda x: torch.baddbmm(x @ x.mT, x, x.mT), 6, 5, 7) == 2 * product


def test_normalisation_and_sampling_follow_fvcore() -> None:
    """As in published tables: a layer norm counts, grid sampling 4 per output element."""
    assert total(nn.LayerNorm(16), 1, 10, 16) > 0
    assert total(nn.BatchNorm2d(16).eval(), 1, 16, 5, 5) > 0
    grid = torch.zeros(1, 3, 4, 2)

    def sample(x: Tensor) -> Tensor:
        return F.grid_sample(x, grid.to(x.device), align_corners=False)

    assert total(sample, 1, 8, 5, 5) == 4 * 8 * 3 * 4


@pytest.mark.parametrize(
    ("function", "uncounted"),
    [
        (lambda x: (x.exp() * x).softmax(-1).view(1, -1), {"exp": 1, "mul": 1, "softmax": 1}),
        (lambda x: x.mean((1, 2)).relu(), {"mean": 1, "relu": 1}),
    ],
)
def test_what_does_not_count_is_listed(
    function: Callable[[Tensor], Tensor], uncounted: dict[str, int]
) -> None:
    """Softmax and elementwise operators count nothing and stand in the list, views do not."""
    found = _macs.count(Layer(function), (1, 2, 9, 4))
    assert (found.total, found.counted, found.uncounted) == (0, {}, uncounted)


def test_the_sum_is_over_kinds() -> None:
    """`counted` by operator adds up to the total."""
    layer = attentions.load("msa").build(32, 2, Grid(4, 4), impl="eager")
    found = _macs.count(layer, (1, 4, 4, 32))
    assert found.total == sum(found.counted.values()) == 4 * 16 * 32**2 + 2 * 16**2 * 32
    assert found.total == _fvcore.count(layer, (1, 4, 4, 32))
    assert found.counted.keys() == {"addmm", "bmm"}
    assert "softmax" in found.uncounted


def test_the_module_is_left_alone() -> None:
    """A layer in bf16 and training mode stays there, with its weights and without gradients."""
    layer = nn.Linear(8, 8).to(torch.bfloat16).train()
    weight = layer.weight.detach().clone()
    assert total(layer, 1, 3, 8) == 3 * 8 * 8
    assert layer.training
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=0, atol=0)


def test_counting_under_inference_mode() -> None:
    """The engine measures inside inference_mode, in which tracing alone would fail."""
    with torch.inference_mode():
        assert total(nn.Linear(8, 24), 1, 10, 8) == 10 * 8 * 24
        assert torch.is_inference_mode_enabled()


def test_huge_maps_cost_no_memory() -> None:
    """A map whose scores would take 64 TB is counted without them."""
    grid = Grid(2048, 2048)
    layer = attentions.load("msa").build(32, 1, grid, impl="eager")
    gc.collect()
    before = psutil.Process().memory_info().rss
    assert (
        total(layer, 1, grid.height, grid.width, 32)
        == 4 * grid.tokens * 32**2 + 2 * grid.tokens**2 * 32
    )
    assert psutil.Process().memory_info().rss - before < 2**28


def test_a_broken_layer() -> None:
    """Raises its own error, and torch traces nothing afterwards."""

    def convolve(x: Tensor) -> Tensor:
        return F.conv2d(x, torch.zeros(4, 3, 2, 2, device=x.device))

    for count in (_macs.count, _fvcore.count):
        with pytest.raises(RuntimeError, match="channels"):
            count(Layer(convolve), (1, 4, 8, 8))
    assert torch._C._get_tracing_state() is None


def test_an_operator_without_a_meta_kernel_is_run() -> None:
    """What depends on values cannot run without them: it is counted on the CPU."""

    def choose(x: Tensor) -> Tensor:
        if x.device.type == "meta":
            raise NotImplementedError("no meta kernel")
        return x @ x.mT

    assert total(choose, 1, 6, 4) == 6 * 4 * 6


def test_params_are_the_trainable_ones() -> None:
    """Frozen weights and buffers do not count."""
    layer = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    assert macs.params(layer) == 8 * 4 + 4 + 4 + 4
    layer[0].weight.requires_grad_(False)
    assert macs.params(layer) == 12
