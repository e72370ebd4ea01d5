"""Peak memory: a running sum of the allocator's events, and MSA's recomputed by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import attentions
from attentions import Grid
from vitbench import devices
from vitbench.devices import _accelerator, cpu
from vitbench.instruments import host, memory

CPU = cpu.Device()


@given(st.lists(st.integers(-100, 100)))
@example([10, -10, 10, 5, -15])
def test_peak_of_events_is_the_highest_prefix(events: list[int]) -> None:
    """Of all levels that the running sum reaches, zero at the start included."""
    assert cpu.peak_of_events(events) == max(sum(events[:end]) for end in range(len(events) + 1))


def test_allocations_of_one_tensor() -> None:
    """One allocation, one release, of the tensor's bytes."""
    assert cpu.allocations(lambda: torch.empty(1000)) == [4000, -4000]
    assert cpu.allocations(lambda: None) == []


def test_held_bytes_count_storage_once() -> None:
    """Parameters, buffers and inputs; what two tensors share counts once."""
    module = nn.BatchNorm1d(10)  # weight, bias, mean, variance and a count of 8 bytes
    x = torch.zeros(5, 10)
    assert memory.held_bytes(module, (x,)) == 4 * 10 * 4 + 8 + 200
    assert memory.held_bytes(module, (x, x.T, x[1:])) == 4 * 10 * 4 + 8 + 200
    tied = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    tied[1].weight = tied[0].weight
    assert memory.held_bytes(tied, ()) == 8 * 8 * 4


def msa(batch: int, grid: Grid, dim: int, heads: int) -> tuple[nn.Module, Tensor]:
    """Eager MSA and an input of zeros: bytes do not depend on values."""
    module = attentions.load("msa").build(dim, heads, grid, impl="eager").eval()
    return module, torch.zeros(batch, grid.height, grid.width, dim)


def msa_peak_by_hand(batch: int, grid: Grid, dim: int, heads: int) -> int:
    """Bytes above weights and input at the worst moment of eager MSA, from its equations.

    A map of all channels has M numbers, the scores S. The joint q, k, v (3 M) live throughout.
    While the scores are made, so do the scaled q (M) and, where a batch of heads is no view of
    the heads' interleaved channels (batch > 1), copies of q and k for the product (2 M). While
    v is mixed, so do scores and softmax (2 S), a copy of v (M, batch > 1) and the result (M).
    """
    m = batch * grid.tokens * dim
    s = batch * heads * grid.tokens**2
    copies = batch > 1
    scoring = 3 * m + m + 2 * m * copies + s
    mixing = 3 * m + 2 * s + m * copies + m
    return 4 * max(scoring, mixing)


@pytest.mark.parametrize(
    ("batch", "grid", "dim", "heads"),
    [
        (1, Grid(4, 4), 32, 2),
        (2, Grid(5, 7), 48, 3),  # the scores weigh more than the maps
        (3, Grid(3, 3), 64, 2),  # the maps weigh more than the scores
        (8, Grid(14, 14), 96, 3),
    ],
)
def test_msa_by_hand(batch: int, grid: Grid, dim: int, heads: int) -> None:
    """Equal to the byte to an account of the same call that was made on paper."""
    module, x = msa(batch, grid, dim, heads)
    with torch.inference_mode():
        found = memory.measure(CPU, lambda: module(x), module, (x,))
    weights = 4 * ((3 * dim * dim + 3 * dim) + (dim * dim + dim))
    assert found.activation == msa_peak_by_hand(batch, grid, dim, heads)
    assert found.peak == found.activation + weights + x.nbytes
    assert found.reserved is None


@pytest.mark.parametrize("name", ["msa", "hilo", "window", "shifted_window", "sra"])
@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_the_same_twice(name: str, impl: str) -> None:
    """Two measurements of one layer are equal, event by event."""
    spec = attentions.load(name)
    module = spec.build(32, 2, Grid(8, 8), impl=impl, **spec.settings_at(16)).eval()
    x = torch.randn(2, 8, 8, 32)
    with torch.inference_mode():
        first, second = (memory.measure(CPU, lambda: module(x), module, (x,)) for _ in range(2))
        assert cpu.allocations(lambda: module(x)) == cpu.allocations(lambda: module(x))
    assert (first.peak, first.activation) == (second.peak, second.activation)


def test_caches_are_filled_before() -> None:
    """What the first call leaves behind is not the call's: a cache counts in no later one."""
    kept: list[Tensor] = []

    def call() -> Tensor:
        if not kept:
            kept.append(torch.zeros(10**6))
        return torch.zeros(10)

    assert memory.measure(CPU, call, nn.Identity(), (torch.zeros(1),)).activation == 40


def test_resident_set() -> None:
    """VmHWM: more than nothing, and at least what a large tensor touches."""
    if host.highest_resident_bytes(lambda: None) is None:
        pytest.skip("this platform has no /proc/self/status")
    found = memory.measure(CPU, lambda: torch.ones(2**25), nn.Identity(), (torch.zeros(1),))
    assert found.rss is not None
    assert found.rss > found.activation == 2**27


class _Gradients:
    """What torch.cuda tells of an allocator in which there are gradients only."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors, self._highest = tensors, 0

    def note(self) -> None:
        """The level is what it is now."""
        self._highest = max(self._highest, self.memory_allocated())

    def memory_allocated(self, device: object = None) -> int:
        return sum(tensor.grad.nbytes for tensor in self._tensors if tensor.grad is not None)

    def reset_peak_memory_stats(self, device: object) -> None:
        self._highest = self.memory_allocated()

    def max_memory_allocated(self, device: object) -> int:
        return self._highest

    max_memory_reserved = max_memory_allocated

    def synchronize(self, device: object) -> None:
        """There is no queue."""

    def empty_cache(self) -> None:
        """And no cache."""


@pytest.mark.parametrize("on_host", [True, False])
def test_the_gradients_of_a_training_step_are_in_its_memory(on_host: bool) -> None:
    """On a CPU and on an accelerator, though those of the step before are there when it begins."""
    module = nn.Linear(300, 500, bias=False)
    x = torch.zeros(700, 300, requires_grad=True)
    backend = _Gradients(module.weight, x)

    class Accelerator(_accelerator.Accelerator):
        """Which drives that allocator."""

        def __init__(self) -> None:
            self.backend, self.target = backend, torch.device("cpu")

        @staticmethod
        def count() -> int:
            return 1

    def step() -> None:
        module.weight.grad = x.grad = None
        module.weight.grad = torch.zeros_like(module.weight)
        x.grad = torch.zeros_like(x)
        backend.note()

    found = memory.measure(CPU if on_host else Accelerator(), step, module, (x,))
    assert found.activation == module.weight.nbytes + x.nbytes
    assert found.peak == 2 * found.activation


@pytest.mark.cuda
@pytest.mark.parametrize("trained", [False, True])
def test_cuda_equals_a_bare_script(trained: bool) -> None:
    """Weights and input, and by how much the allocator's level rises over one call, workspaces of
    libraries being there already: a training step with its gradients, which are made anew.
    """
    spec = attentions.load("msa")
    module = spec.build(64, 2, Grid(14, 14), impl="eager").train(trained).cuda()
    x = torch.zeros(4, 14, 14, 64, device="cuda", requires_grad=trained)

    def call() -> None:
        with torch.set_grad_enabled(trained):
            output = module(x)
            if trained:
                output.sum().backward()

    found = memory.measure(devices.connect("cuda"), call, module, (x,))
    module.zero_grad()
    x.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    assert found.activation == torch.cuda.max_memory_allocated() - before
    weights = sum(parameter.nbytes for parameter in module.parameters())
    assert found.peak == found.activation + weights + x.nbytes
