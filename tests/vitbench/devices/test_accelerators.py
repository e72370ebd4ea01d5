"""What every accelerator promises, over stand-ins for torch.cuda, torch.xpu and torch.mps.

Their queue is simulated, so their times are known; none of them was verified on hardware here.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.simulated.allocator import MIB, rounded
from tests.simulated.backend import Backend
from tests.simulated.queue import Clocks
from vitbench import devices
from vitbench.devices import Call, _accelerator
from vitbench.devices._accelerator import Accelerator
from vitbench.errors import BadInput
from vitbench.instruments import memory, timing
from vitbench.instruments.timing import TimingRule

KINDS = ("cuda", "xpu", "mps")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """In place of all three; host time and products are those of its queue."""
    found = Backend()
    for kind in KINDS:
        found.install(getattr(torch, kind), monkeypatch.setattr)
    monkeypatch.setattr(_accelerator, "time", SimpleNamespace(perf_counter=found.queue.now))

    def mm(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        found.queue.launch(2 * len(a) ** 3 / 1e13)
        return out

    monkeypatch.setattr(torch, "mm", mm)
    return found


def layer(backend: Backend, nbytes: int) -> Call:
    """A call that makes a product of so many bytes."""

    def call() -> None:
        backend.allocator.product()
        backend.allocator.repeat([nbytes, -nbytes])
        backend.queue.launch(1e-4)

    return call


def device_of(kind: str) -> Accelerator:
    """The device, whose tensors stay on the host here."""
    device: Accelerator = importlib.import_module(f"vitbench.devices.{kind}").Device(kind)
    device.target = torch.device("cpu")
    return device


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("launches", "kernel_s"), [(1, 1e-4), (60, 2e-6), (400, 5e-6)])
def test_the_clock(backend: Backend, kind: str, launches: int, kernel_s: float) -> None:
    """The device's own time, and the steady state of the slower of host and device."""
    queue = backend.queue
    reading = device_of(kind).clock(cold=False).read(queue.call_of([kernel_s] * launches), 20)
    assert reading.device_s == pytest.approx(launches * kernel_s, rel=0.01)
    assert reading.latency_s == pytest.approx(launches * max(kernel_s, queue.launch_s), rel=0.06)


def test_a_clock_that_rises_after_its_rate_was_learnt(backend: Backend) -> None:
    """A GPU that ran three times slower when it was idle: the time is true all the same."""
    clock = device_of("cuda").clock(cold=False)
    call = backend.queue.call_of([3e-6] * 50)
    clock.read(call, 10)
    backend.hertz *= 3
    assert clock.read(call, 10).device_s == pytest.approx(50 * 3e-6, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("launches", "waits"), [(20, True), (3000, False)])
def test_gaps_that_cannot_be_hidden(
    backend: Backend, kind: str, launches: int, waits: bool
) -> None:
    """A call that waits for the device, and one that its queue does not hold: no device time, or a
    true one."""
    call = backend.queue.call_of([2e-6] * launches, waits=waits)
    device_s = device_of(kind).clock(cold=False).read(call, 5).device_s
    assert device_s is None or not waits
    assert device_s is None or device_s == pytest.approx(launches * 2e-6, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_warm_up_reaches_the_full_clock(backend: Backend, kind: str) -> None:
    """Of a device whose clock rises under load: both times are those at its full clock."""
    backend.queue.clocks = Clocks(idle=0.2, rise_s=0.4)
    rule = TimingRule(**devices.rules(kind).timing)
    call = backend.queue.call_of([2e-5] * 50)
    found = timing.measure(call, device_of(kind).clock(cold=False), rule)
    assert found.samples == pytest.approx([1e-3] * len(found.samples), rel=0.01)
    assert found.device_samples == pytest.approx([1e-3] * len(found.samples), rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_free_is_given_back(backend: Backend, kind: str) -> None:
    """The reserve goes with the case that needed it; what is still held stays."""
    device = device_of(kind)
    backend.allocator.allocate(3 * MIB)
    backend.allocator.repeat([100 * MIB, -100 * MIB])
    device.release()
    assert backend.allocator.reserved == 20 * MIB


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_device_raises_when_it_is_waited_for(backend: Backend, kind: str) -> None:
    """A kernel's fault is not seen before, and after it every wait fails."""
    device = device_of(kind)
    backend.is_broken = True
    for _ in range(2):
        with pytest.raises(torch.AcceleratorError):
            device.clock(cold=False).latency_s(backend.queue.call_of([1e-6]), 1)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_memory_is_the_layers_alone(backend: Backend, kind: str) -> None:
    """What a library keeps for the process, from the first call on, is not the layer's."""
    module, x = nn.Linear(8, 8, bias=False), torch.zeros(2, 8)
    found = memory.measure(device_of(kind), layer(backend, 7 * MIB), module, (x,))
    assert found.activation == 7 * MIB
    assert found.peak == 7 * MIB + 4 * (64 + 16)
    assert found.rss is None


@given(st.lists(st.integers(1, 64 * MIB), min_size=1, max_size=20), st.randoms())
def test_memory_by_hand(sizes: list[int], random: Random) -> None:
    """Whatever is taken and given back in whatever order: the highest level above what was there
    before, in units of 512 bytes, and a reserve that holds it."""
    events, taken = [], list[int]()
    for size in sizes:
        events.append(size)
        taken.append(size)
        while taken and random.random() < 0.4:
            events.append(-taken.pop(random.randrange(len(taken))))
    with pytest.MonkeyPatch.context() as patch:
        found = Backend()
        found.install(torch.cuda, patch.setattr)
        found.allocator.allocate(3 * MIB)  # of another case
        read = device_of("cuda").memory(lambda: found.allocator.repeat(events), held_bytes=100)
    level = highest = 0
    for size in events:
        level += (size > 0) * rounded(size) - (size < 0) * rounded(-size)
        highest = max(highest, level)
    assert (read.peak, read.activation) == (100 + highest, highest)
    assert read.reserved is not None
    assert read.reserved >= highest + 3 * MIB


def test_mps_does_not_tell_its_highest_level(backend: Backend) -> None:
    """It raises, so that the columns stay empty and the row says why."""
    with pytest.raises(NotImplementedError, match="highest level"):
        device_of("mps").memory(layer(backend, 1), held_bytes=0)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
@pytest.mark.parametrize(("name", "index"), [("{}:1", 1), ("{}", 0)])
def test_the_device_is_the_current_one(backend: Backend, kind: str, name: str, index: int) -> None:
    """Events and kernels without a device of their own go there, the first one's too."""
    settings = torch.get_num_threads(), torch.get_float32_matmul_precision()
    device = importlib.import_module(f"vitbench.devices.{kind}").Device(name.format(kind))
    try:
        device.configure(settings[0])
    finally:  # what a device sets for its process
        torch.set_flush_denormal(False)
    assert backend.current == torch.device(kind, index)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == settings


def test_tf32_is_off_in_the_old_switches_and_the_new(backend: Backend) -> None:
    """torch raises where they disagree, at any later use of `cudnn.flags`."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        importlib.import_module("vitbench.devices.cuda").Device("cuda").configure(
            torch.get_num_threads()
        )
    finally:
        torch.set_flush_denormal(False)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    with torch.backends.cudnn.flags(enabled=True):
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"


@pytest.mark.parametrize("autotunes", [True, False])
def test_kernels_are_chosen_by_trying_them_only_where_asked(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, autotunes: bool
) -> None:
    """What cuDNN takes then differs from process to process."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not autotunes)
    device = importlib.import_module("vitbench.devices.cuda").Device("cuda")
    device.autotunes = autotunes
    try:
        device.configure(torch.get_num_threads())
    finally:
        torch.set_flush_denormal(False)
    assert torch.backends.cudnn.benchmark == autotunes


def test_attention_may_use_all_its_kernels(backend: Backend) -> None:
    """Whatever an earlier module left."""
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_math_sdp(False)
    try:
        importlib.import_module("vitbench.devices.cuda").Device("cuda").configure(
            torch.get_num_threads()
        )
    finally:
        torch.set_flush_denormal(False)
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.math_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_a_driver_that_this_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One sentence; none where the device can be used, or there is no driver."""
    module = importlib.import_module("vitbench.devices.cuda")
    monkeypatch.setattr(module.Device, "reason_for_none", staticmethod(lambda: "it is too old"))
    found = []
    for driver, count in ((tmp_path, 0), (tmp_path, 1), (tmp_path / "no", 0)):
        rules = dataclasses.replace(module.RULES, driver=str(driver))
        monkeypatch.setattr(module, "RULES", rules)
        monkeypatch.setattr(module.Device, "count", staticmethod(lambda count=count: count))
        found.append(devices.unused())
    assert found == [["a driver of CUDA devices is here, and it is too old"], [], []]


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_here(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, with the reason where torch is it."""
    module = importlib.import_module(f"vitbench.devices.{kind}")
    monkeypatch.setattr(module.Device, "count", staticmethod(lambda: 0))
    devices.connect.cache_clear()
    with pytest.raises(BadInput, match=r"this machine has no .* device.*--device cpu"):
        devices.connect(kind)
