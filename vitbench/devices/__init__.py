"""Devices: where a case runs. A file here without an underscore is one kind of device.

It has RULES, which are known without torch, and a class Device, which works in the worker process.
"""

from __future__ import annotations

import abc
import functools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from vitbench import listed
from vitbench.errors import BadInput, causes, named, nearest

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from vitbench.devices._side_stream import SideStream
    from vitbench.results.outcome import Ceilings, FailureKind

Call = Callable[[], Any]

# Steady state over the device's own time, above which the device waits for the host.
LAUNCH_BOUND_RATIO = 1.2

AUTO = "auto"  # the first accelerator that is here, else the host

_INDEX = re.compile("[0-9]{1,3}")

# Numbers in the copies that may fit a cache: 256 KiB to 128 MiB are read and written.
_CACHED = (2**15, 2**18, 2**21, 2**24)
_COPY_BYTES = 8  # of each number, in fp32
_CEILING_SAMPLE_S = 1e-3

# What the C library of a worker does with freed memory, see _malloc.set_allocator.
Allocator = Literal["steady", "system"]
ALLOCATORS: tuple[Allocator, ...] = ("steady", "system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for a kind of device. Known without torch, and on machines without the device.

    title         its name in a sentence
    summary       one line for a list
    max_slowdown  the gate's limit where a policy sets none
    macs_per_s    what such devices reach, by dtype: for estimates before a run
    rounds        by effort
    energy_s      by effort: how long energy is read; 0: it is not
    timing        fields of TimingRule that differ from their defaults
    is_host       it computes in the worker's own threads and memory, so it is on every machine: a
                  worker gets a limit of memory, and a low share of CPU time lowers the trust
    has_graphs    it records graphs of calls
    has_cuda      CUDA's libraries compute there
    is_indexed    there may be several: `cuda:1`
    memory_tolerance_bytes, memory_tolerance_share  by how much peak memory may differ between two
                  runs of equal code, whichever is more; 0: it is exact
    driver        a path that is there where a driver of theirs is loaded; "": none is known
    resource      what Ray calls such a device where it deals machines out; "": it knows none
    ruined_by     failures after which every later call of the process fails too
    """

    title: str
    summary: str
    max_slowdown: float
    macs_per_s: Mapping[str, float]
    rounds: Mapping[str, int] = field(
        default_factory=lambda: {"quick": 2, "default": 2, "thorough": 4}
    )
    # Of quick runs it would take the most time; beside the others it is short.
    energy_s: Mapping[str, float] = field(
        default_factory=lambda: {"quick": 0.0, "default": 2.0, "thorough": 2.0}
    )
    timing: Mapping[str, Any] = field(default_factory=dict)
    is_host: bool = False
    has_graphs: bool = False
    has_cuda: bool = False
    is_indexed: bool = False
    memory_tolerance_bytes: int = 0
    memory_tolerance_share: float = 0.0
    driver: str = ""
    resource: str = ""
    ruined_by: tuple[FailureKind, ...] = ()

    def is_same_memory(self, base: float, candidate: float) -> bool:
        """Whether two peaks, in bytes, differ by no more than equal code does."""
        share = self.memory_tolerance_share * base
        return abs(candidate - base) <= max(self.memory_tolerance_bytes, share)


@dataclass(frozen=True, slots=True)
class Reading:
    """One sample. Seconds of one call, averaged over the calls of the sample.

    latency_s  steady state: calls one behind another, until the last result is there
    device_s   the device's own time, with no gap between launches; None where the host computes, or
               the gaps could not be hidden
    """

    latency_s: float
    device_s: float | None = None


class Clock(Protocol):
    """Reads the time of a number of calls."""

    def read(self, call: Call, calls: int) -> Reading:
        """One sample of so many calls."""

    def latency_s(self, call: Call, calls: int) -> float:
        """The steady state alone."""

    def device_s(self, call: Call, calls: int) -> float | None:
        """The device's own time alone, after the steady state was read."""

    def now(self) -> float:
        """Seconds, for the stopping rule."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes.

    peak        highest allocator level during the call, weights and inputs included
    activation  the same, less weights and inputs
    reserved    what the device's allocator holds (None where it keeps no reserve)
    rss         the process's highest resident set during the call (None where unknown)
    """

    peak: int
    activation: int
    reserved: int | None
    rss: int | None


class Unreadable(Exception):
    """A reading that a device cannot give. The message says why, and names no path."""


@dataclass(frozen=True, slots=True)
class Energy:
    """Of one call.

    joules      that it takes
    ticks       steps of the counter that they were read from; None where they are not counted
    busy_share  of the time, in which the device computed; None where the host computes
    """

    joules: float
    ticks: int | None = None
    busy_share: float | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """A call that a device recorded. Bytes.

    replay      does all that the call did, on the same memory, and nothing else
    output      what the call returned, which a replay fills anew
    peak_bytes  by how much the allocator's level rose while it was recorded; a replay raises it no
                further
    pool_bytes  what the graph keeps for itself, in whole blocks of the allocator
    """

    replay: Call
    output: Any
    peak_bytes: int
    pool_bytes: int


class NotRecordable(Exception):
    """A call does what no graph can hold, such as waiting for the device; the message says what."""


class Watch:
    """Reads the state of a device while a case is timed. This one has nothing to read."""

    read: Callable[[], dict[str, Any]] | None = None

    def restart(self) -> None:
        """The samples of the next reading begin now."""

    def cool_down(self) -> None:
        """Waits before samples are taken again."""

    def is_suspect(self, reading: Mapping[str, Any]) -> bool:
        """Whether the samples before this reading should be taken again."""
        return False

    def columns(self, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The worst of the readings, as columns of a record."""
        return {}

    def neighbours(self) -> dict[str, Any]:
        """What other processes did on the device since the watch began, as columns."""
        return {}


class Device(abc.ABC):
    """One device, in a worker process. What a kind of device does not have, it leaves as here.

    name       "cpu", "cuda", "cuda:1"; the first has no index
    target     where torch puts tensors
    autotunes  libraries may try their kernels and take the fastest, which differs from process to
               process; takes effect in `configure`
    """

    autotunes = True
    _has_libraries = False

    # Sides of the square matrix products, numbers in the copy, that the ceilings are taken from.
    product_sizes: tuple[int, ...]
    copy_numel: int

    # What a plain RuntimeError says, as a pattern, where torch has no class for memory that ran
    # out: the status of a library, or the one sentence of an allocator.
    no_memory = ""

    def __init__(self, name: str) -> None:
        import torch

        self.name = name
        self.target = torch.device(name)

    @staticmethod
    @abc.abstractmethod
    def count() -> int:
        """How many of them this machine and this torch have."""

    @staticmethod
    def reason_for_none() -> str:
        """Why `count` may be zero, where torch itself is the reason."""
        return ""

    def start(self, workers: int) -> None:
        """Begins to use it, as one of so many workers at a time. Raises BadInput where nothing can
        be computed there, or no time would be true, with the remedy."""
        self.synchronize()

    @classmethod
    def is_out_of_memory(cls, error: BaseException) -> bool:
        """Whether the error says that memory of such a device ran out, by its class, or else by
        `no_memory`: nothing but this hangs on the words of a message."""
        import torch

        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        is_plain = bool(cls.no_memory) and type(error) is RuntimeError
        return is_plain and re.search(cls.no_memory, str(error)) is not None

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What a chart's caption calls the device."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Waits until all that was queued is done."""

    @abc.abstractmethod
    def clock(self, *, cold: bool) -> Clock:
        """A clock; a cold one empties the caches before each sample, outside the time."""

    @abc.abstractmethod
    def memory(self, call: Call, held_bytes: int) -> Memory:
        """The memory of one call, when weights and inputs take `held_bytes`."""

    def configure(self, threads: int) -> None:
        """Sets what would otherwise be inherited: threads, denormals, and what a mechanism may have
        left changed: default dtype and device, and whether gradients are kept."""
        import torch

        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)

    def set_allocator(self, asked: Allocator) -> Allocator:
        """Sets the C library's allocator for the rest of the process; returns what is in force."""
        from vitbench.devices import _malloc

        return _malloc.set_allocator(asked)

    def load_libraries(self) -> None:
        """Has torch load, once, what the first calls of a process load: the libraries of matrix
        products and convolutions, and its threads. The first case would take them for its own."""
        if self._has_libraries:
            return
        import torch
        from torch.nn import functional

        x = torch.ones(1, 8, 8, 8, dtype=torch.float32, device=self.target)
        functional.linear(x, x[0, 0], x[0, 0, 0])
        functional.conv2d(x, x.reshape(8, 8, 8, 1)[:, :, :3])
        self.synchronize()
        self._has_libraries = True

    def release(self) -> None:
        """Gives free memory back, so that what one case held does not count as the next one's."""
        from vitbench.devices import _malloc

        _malloc.trim()

    def keeps_much(self) -> bool:
        """Whether it keeps so much free memory that a process which takes turns with this one on
        the device might find too little."""
        return False

    def fingerprint(self, plugins: Mapping[str, Path]) -> dict[str, Any]:
        """All that a figure may depend on, in software and hardware."""
        from vitbench.devices import _fingerprint

        return _fingerprint.fingerprint(self, plugins)

    def facts(self) -> dict[str, Any]:
        """What the fingerprint says of this kind of device alone."""
        return {}

    @property
    def identity(self) -> str:
        """What tells it from others of its name; "" where it is the machine's only one."""
        return ""

    def idle(self) -> dict[str, Any]:
        """What others do on it while this process does nothing there, as columns of which the
        highest counts. Read before the first call, between cases and after them."""
        return {}

    def watch(self) -> Watch:
        """A watch over the device, which begins now."""
        return Watch()

    def energy(self, call: Call, seconds: float) -> Energy | None:
        """Of one call, over so many seconds of calls; None where nothing counts it, which the facts
        say. Raises Unreadable where it cannot be told of this call."""
        return None

    def refuses(self, dtype: str) -> str | None:
        """Why cases in a dtype are not measured here, in words; None where they are."""
        return None

    def reference(self) -> torch.device:
        """Where the definition is computed in float64, which outputs are compared with.

        The device itself: float64 is slow on many GPUs, 1/64 of the rate in float32, but the large
        ones of those still compute it faster than a host does.
        """
        return self.target

    def uses_tf32(self) -> bool:
        """Whether fp32 matrix products round their inputs to TF32."""
        return False

    def capture(self, call: Call) -> Graph:
        """The call, run a few times and recorded as a graph.

        Raises NotRecordable where the call cannot be recorded, NotImplementedError where the device
        has no graphs.
        """
        raise NotImplementedError(f"{self.name} has no graphs of calls")

    def side_stream(self) -> SideStream:
        """A stream for a library that queues its work itself. Raises NotImplementedError where the
        device has none."""
        raise NotImplementedError(f"{self.name} has no streams")

    def scratch(self, nbytes: int) -> Call:
        """Overwrites so much memory, which empties the caches."""
        import torch

        return torch.empty(nbytes, dtype=torch.int8, device=self.target).zero_

    def ceilings(
        self, dtypes: Sequence[str], seconds: float = 0.3
    ) -> tuple[Ceilings, tuple[str, ...]]:
        """What the device reaches: a large matrix product for each dtype, a large copy, and copies
        that may fit a cache. And why some of it could not be measured, in words.

        The best of several repetitions each, as a ceiling has to be. What does not fit the memory
        is measured at half the size, and so on.
        """
        import torch

        from vitbench.results.outcome import Ceilings

        reasons: dict[str, None] = {}

        def reached(rate: Callable[[int, float], float], size: int, seconds: float) -> float | None:
            while True:
                try:
                    return rate(size, seconds)
                # A library without a kernel for the device or dtype raises whatever it has.
                except Exception as error:
                    is_full, reason = is_out_of_memory(error), named(error)
                if not is_full or size < 2:
                    reasons[reason] = None
                    return None
                self.release()
                size //= 2

        rates: dict[str, float] = {}
        with torch.inference_mode():
            for name in dtypes:
                product = functools.partial(self._product_rate, getattr(torch, name))
                for size in self.product_sizes:
                    # A larger one takes too long where the dtype is emulated.
                    if name in rates and 2 * size**3 / rates[name] > seconds:
                        continue
                    found = reached(product, size, seconds)
                    if found is not None:
                        rates[name] = max(found, rates.get(name, 0.0))
            bandwidth = reached(self._copy_rate, self.copy_numel, seconds)
            small = {numel: reached(self._copy_rate, numel, seconds / 3) for numel in _CACHED}
        self.release()
        cached = [(_COPY_BYTES * numel, rate) for numel, rate in small.items() if rate is not None]
        return Ceilings(rates, bandwidth, tuple(cached)), tuple(reasons)

    def _product_rate(self, dtype: torch.dtype, size: int, seconds: float) -> float:
        """FLOP/s of a square product, by the fastest library."""
        import torch

        a, b = (torch.randn(size, size, device=self.target).to(dtype) for _ in range(2))
        products = self.products(a, b)
        best_s = min(self._best_s(product, seconds / len(products)) for product in products)
        return 2 * size**3 / best_s

    def products(self, a: Tensor, b: Tensor) -> Sequence[Call]:
        """The product of two square matrices, (size, size) each, by each library that has one."""
        import torch

        return [functools.partial(torch.mm, a, b, out=torch.empty_like(a))]

    def _copy_rate(self, numel: int, seconds: float) -> float:
        """bytes/s of a copy of so many numbers in fp32, reads and writes counted."""
        import torch

        source = torch.randn(numel, device=self.target)
        target = torch.empty_like(source)
        return _COPY_BYTES * numel / self._best_s(lambda: target.copy_(source), seconds)

    def _best_s(self, call: Call, seconds: float) -> float:
        """The device's own time of a call, where it has one: a small copy is done before the next
        is launched."""
        clock, best_s = self.clock(cold=False), math.inf
        for _ in range(2):  # the first loads what it needs
            call_s = clock.latency_s(call, 1)
        calls = max(1, round(_CEILING_SAMPLE_S / max(call_s, 1e-6)))
        start_s = clock.now()
        while clock.now() - start_s < seconds or best_s == math.inf:
            reading = clock.read(call, calls)
            best_s = min(best_s, reading.latency_s, reading.device_s or math.inf)
        return best_s


@functools.cache
def names() -> tuple[str, ...]:
    """The kinds of devices, accelerators first."""
    kinds = listed.names(__path__)
    return tuple(sorted(kinds, key=lambda kind: (_module(kind).RULES.is_host, kind)))


def choices() -> tuple[str, ...]:
    """What one may ask for, with an example of an index: auto, cpu, cuda, cuda:1."""
    indexed = [f"{kind}:1" for kind in names() if rules(kind).is_indexed]
    return (AUTO, *sorted((*names(), *indexed)))


def check(asked: str) -> None:
    """Raises BadInput for what can be no device anywhere, nor `auto`."""
    if asked != AUTO:
        _module(asked)


def host() -> str:
    """The device that is on every machine."""
    return next(kind for kind in names() if rules(kind).is_host)


def rules(device: str) -> Rules:
    """The rules of a device by its name: `cpu`, `cuda:1`. Raises BadInput for no such kind."""
    found: Rules = _module(device).RULES
    return found


def kind_of(device: str) -> str:
    """`cuda` of `cuda:1`. Raises BadInput."""
    return _module(device).__name__.rpartition(".")[2]


def unused() -> list[str]:
    """Devices whose driver is loaded and that this torch cannot use, a sentence each."""
    sentences = []
    for kind in names():
        module = _module(kind)
        driver = module.RULES.driver
        if driver and os.path.exists(driver) and not module.Device.count():
            reason = module.Device.reason_for_none() or "this torch finds no device"
            sentences.append(f"a driver of {module.RULES.title} devices is here, and {reason}")
    return sentences


@functools.cache
def _module(device: str) -> ModuleType:
    kind, colon, index = device.partition(":")
    if kind in listed.names(__path__):
        module = listed.load(__name__, kind, needs="RULES")
        if not colon or (module.RULES.is_indexed and _INDEX.fullmatch(index)):
            return module
    raise BadInput(f"no device is called {device!r}; {nearest(device, choices())}")


@functools.cache
def connect(asked: str) -> Device:
    """The device of that name, of `auto` the first accelerator that is here, else the host.

    Imports torch. Raises BadInput.
    """
    if asked == AUTO:
        asked = next(kind for kind in names() if _module(kind).Device.count())
    kind, _, index = asked.partition(":")
    module = _module(asked)
    count = module.Device.count()
    title = module.RULES.title
    if count == 0:
        reason = module.Device.reason_for_none()
        why = f" ({reason})" if reason else ""
        remedy = f"try --device {host()}"
        raise BadInput(f"--device {asked}: this machine has no {title} device{why}; {remedy}")
    number = int(index or 0)
    if number >= count:
        known = ", ".join(f"{kind}:{n}" for n in range(count))
        raise BadInput(f"no {title} device {asked!r} is there; known: {known}")
    # The first has one name, so that its rows compare whichever was asked for.
    device: Device = module.Device(f"{kind}:{number}" if number else kind)
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the host's or a device's; also inside what torch.compile raises of it
    and what was raised from it."""
    kinds = [_module(kind).Device for kind in names()]
    return any(kind.is_out_of_memory(cause) for cause in causes(error) for kind in kinds)
