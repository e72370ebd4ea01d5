"""Devices by name: what is known without torch, and what is here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from vitbench import devices, runtimes
from vitbench.cases.axes import AXES
from vitbench.cases.plan import EFFORTS
from vitbench.devices import cpu, cuda, mps, xpu
from vitbench.errors import BadInput
from vitbench.instruments.timing import TimingRule


@pytest.mark.parametrize("kind", devices.names())
def test_the_rules_are_complete(kind: str) -> None:
    """Rounds for every effort, a rate for every dtype of tensors, and a timing rule that is one."""
    rules = devices.rules(kind)
    assert set(rules.rounds) == set(EFFORTS)
    assert set(rules.macs_per_s) == set(AXES["dtype"].choices) - {runtimes.INT8}
    assert TimingRule(**rules.timing)


def test_names() -> None:
    """Accelerators stand first; an index names one of several of them."""
    assert devices.names() == ("cuda", "mps", "xpu", "cpu")
    assert devices.choices() == ("auto", "cpu", "cuda", "cuda:1", "mps", "xpu", "xpu:1")
    assert devices.kind_of("cuda:1") == "cuda"
    assert devices.rules("cuda:1") is cuda.RULES


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gpu", "nearest: xpu, cpu"),
        ("cud", "nearest: cuda"),
        ("", "known: auto, cpu, cuda, cuda:1, mps, xpu"),
        ("cuda:", "nearest: cuda"),
        ("cuda:x", "nearest: cuda"),
        ("cuda:" + 5000 * "9", "known"),
        ("cpu\n", "nearest: cpu"),
        ("cpu:0", "nearest: cpu"),
        ("_nvml", "known"),
    ],
)
def test_what_is_no_device_anywhere(name: str, hint: str) -> None:
    """One sentence, with the nearest that could be."""
    with pytest.raises(BadInput, match=f"no device is called .*{hint}"):
        devices.check(name)


def accelerator_error(code: int) -> Exception:
    """As torch raises it: the code is an attribute."""
    error = torch.AcceleratorError("CUDA error: whatever it says")
    error.error_code = code  # type: ignore[attr-defined] # torch has not typed it
    return error


class OutOfResources(Exception):
    """As Triton raises it."""


def raised(error: Exception, cause: Exception) -> Exception:
    """An error that was raised from another."""
    error.__cause__ = cause
    return error


def of_inductor(inner: Exception) -> Exception:
    """An error as torch.compile raises it: it holds what was raised, and has no cause."""
    error = RuntimeError("backend='inductor' raised")
    error.inner_exception = inner  # type: ignore[attr-defined] # as torch's have it
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("Tried to allocate 2 GiB"), True),
        (accelerator_error(2), True),
        (accelerator_error(700), False),
        (torch.AcceleratorError("out of memory"), False),
        (OutOfResources("shared memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("MPS backend out of memory (MPS allocated: 7 GiB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("it is out of memory, says the author"), False),
        (ValueError("CUBLAS_STATUS_ALLOC_FAILED"), False),
        (of_inductor(torch.OutOfMemoryError("while tuning")), True),
        (of_inductor(ValueError("of another kind")), False),
        (raised(ValueError("it failed"), MemoryError()), True),
    ],
    ids=repr,
)
def test_memory_that_ran_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: bool
) -> None:
    """Is told by class and attributes, by the status of a library, and by the one sentence of an
    allocator that has no class for it; inside what was raised of it too."""
    triton = SimpleNamespace(OutOfResources=OutOfResources)
    monkeypatch.setitem(sys.modules, "triton.runtime.errors", triton)
    assert devices.is_out_of_memory(error) is expected


def test_an_error_that_is_its_own_cause() -> None:
    """It is looked at once."""
    error = ValueError()
    error.__cause__ = error
    assert not devices.is_out_of_memory(error)


@pytest.mark.parametrize(("has_it", "dtype"), [(True, None), (False, "bfloat16")])
def test_dtypes_that_a_gpu_only_emulates(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, dtype: str | None
) -> None:
    """CUDA refuses bfloat16 where torch says that the GPU has no instructions for it."""

    def is_supported(*, including_emulation: bool) -> bool:
        return has_it or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(cuda.Device, "label", "Tesla T4")
    device = cuda.Device("cuda")
    refused = {name: device.refuses(name) for name in AXES["dtype"].choices}
    assert {name for name, reason in refused.items() if reason} == ({dtype} if dtype else set())
    if dtype:
        assert refused[dtype] == "Tesla T4 only emulates bfloat16: take float16 or float32"


def test_two_intel_gpus_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told apart, so that each has its lock, and a run is resumed on its own."""
    monkeypatch.setattr(
        torch.xpu, "get_device_properties", lambda target: SimpleNamespace(uuid=f"u{target.index}")
    )
    assert [xpu.Device(name).identity for name in ("xpu", "xpu:1")] == ["XPU-u0", "XPU-u1"]


@pytest.mark.parametrize("has_it", [True, False])
def test_gpus_without_float64(monkeypatch: pytest.MonkeyPatch, has_it: bool) -> None:
    """They refuse it, and outputs are compared on the host, which has it."""
    properties = SimpleNamespace(has_fp64=has_it)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(xpu.Device, "label", "Arc")
    found = xpu.Device("xpu")
    assert (found.refuses("float64") is None) is has_it
    assert found.reference().type == ("xpu" if has_it else "cpu")
    assert mps.Device("mps").reference() == torch.device("cpu")
    assert mps.Device("mps").refuses("float64")
    for device in (found, mps.Device("mps")):
        assert device.refuses("float32") is None


class Limited(cpu.Device):
    """A CPU whose memory holds 64 rows of a product and 1000 numbers of a copy; `fault` is raised
    in one dtype."""

    product_sizes: tuple[int, ...] = (32, 256)
    copy_numel = 2**14
    fault: Exception | None = None

    def _product_rate(self, dtype: torch.dtype, size: int, seconds: float) -> float:
        if self.fault is not None and dtype == torch.float16:
            raise self.fault
        self._take(size, 64)
        return 1e12 * size

    def _copy_rate(self, numel: int, seconds: float) -> float:
        self._take(numel, 1000)
        return float(numel)

    def _take(self, size: int, most: int) -> None:
        if size > most:
            raise torch.OutOfMemoryError("Tried to allocate too much")


def test_ceilings_that_do_not_fit_the_memory() -> None:
    """They are measured at the largest half that fits, and nothing is missing."""
    found, reasons = Limited().ceilings(["float32"], 1.0)
    assert found.flops_rate == {"float32": 64e12}
    assert found.bandwidth == 512
    assert reasons == ()


def test_ceilings_that_cannot_be_measured() -> None:
    """A dtype without kernels is left out, and the reason is said once; nothing else is."""
    device = Limited()
    device.fault = torch.AcceleratorError("no kernel image is available")
    found, reasons = device.ceilings(["float16", "float32"], 0.0)
    assert set(found.flops_rate) == {"float32"}
    assert reasons == ("AcceleratorError: no kernel image is available",)


def test_ceilings_where_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are none, and no exception."""

    def full(*_: object) -> None:
        raise MemoryError("nothing is left")

    monkeypatch.setattr(Limited, "_take", full)
    found, reasons = Limited().ceilings(["float32"], 0.0)
    assert (dict(found.flops_rate), found.bandwidth, found.cached) == ({}, None, ())
    assert reasons == ("MemoryError: nothing is left",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_each_product_of_the_ceilings_is_one(dtype: torch.dtype) -> None:
    """Each library that a rate is taken from multiplies the two matrices, one of them as it lies or
    transposed, and no less."""
    a, b = (torch.randn(64, 64, dtype=torch.float64).to(dtype) for _ in range(2))
    products = [product() for product in cpu.Device().products(a, b)]
    assert products
    for product in products:
        errors = [(product.double() - a.double() @ m.double()).abs().max() for m in (b, b.T)]
        assert min(errors) < 64 * 8 * torch.finfo(dtype).eps


def test_ceilings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of each size, which takes more than no time; the largest is not the fastest."""
    monkeypatch.setattr(cpu.Device, "product_sizes", (64,))
    monkeypatch.setattr(cpu.Device, "copy_numel", 2**20)
    found, reasons = cpu.Device().ceilings(["float32"], 0.001)
    assert reasons == ()
    sizes = [size for size, _ in found.cached]
    assert sizes == sorted(sizes)
    assert sizes[0] == 2**18
    rates = [rate for _, rate in found.cached]
    assert min(*rates, *found.flops_rate.values(), found.bandwidth or 0) > 0


@pytest.mark.parametrize(
    ("count", "asked", "answer"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (0, "cuda", "--device cuda: this machine has no CUDA device.*; try --device cpu"),
        (2, "auto", "cuda"),
        (2, "cuda:0", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda:2", "no CUDA device 'cuda:2' is there; known: cuda:0, cuda:1"),
    ],
)
def test_what_is_here(monkeypatch: pytest.MonkeyPatch, count: int, asked: str, answer: str) -> None:
    """`auto` is the first accelerator; what is not here is said in words."""
    monkeypatch.setattr(cuda.Device, "count", lambda: count)
    monkeypatch.setattr(cuda.Device, "reason_for_none", lambda: "for a reason")
    devices.connect.cache_clear()
    if " " in answer:
        with pytest.raises(BadInput, match=answer):
            devices.connect(asked)
    else:
        assert devices.connect(asked).name == answer
    devices.connect.cache_clear()
