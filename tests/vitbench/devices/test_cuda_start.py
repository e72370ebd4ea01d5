"""Why nothing can be computed on a GPU: one sentence each, with the remedy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from vitbench.devices import _cuda_start, _nvml
from vitbench.errors import BadInput

BUILT_FOR = ["sm_75", "sm_80", "sm_86", "sm_90a", "compute_90"]


class Gpu:
    """What NVML says of it."""

    def __init__(self, mode: str | None = "default", processes: set[int] | None = None) -> None:
        self.mode, self.others = mode, processes

    def compute_mode(self) -> str | None:
        return self.mode

    def processes(self) -> set[int] | None:
        return self.others


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU of torch's that computes."""
    found = SimpleNamespace(name="A GPU", major=8, minor=6, gcnArchName="A GPU")
    found.fault, found.is_integrated = None, 0
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT_FOR)
    ones = torch.ones(1)

    def zeros(size: int, device: torch.device) -> torch.Tensor:
        if found.fault is not None:
            raise found.fault
        return ones

    monkeypatch.setattr(torch, "zeros", zeros)
    for name in _cuda_start._BLOCKING:
        monkeypatch.delenv(name, raising=False)
    return found


def start(gpu: Gpu | None = None, workers: int = 1) -> None:
    stand_in: Any = gpu
    _cuda_start.start("cuda:1", torch.device("cuda:1"), stand_in, workers)


@pytest.mark.parametrize("gpu", [None, Gpu(None), Gpu("default", {1, 2}), Gpu("exclusive", set())])
def test_a_gpu_that_computes(gpu: Gpu | None) -> None:
    """Whether NVML reads it or not, it is started, beside others too where they may be there."""
    start(gpu)
    if gpu is None or gpu.mode != "exclusive":
        start(gpu, workers=2)


@pytest.mark.parametrize(("available", "share"), [(8, 0.45), (64, 1.0)])
def test_memory_that_is_the_hosts(
    monkeypatch: pytest.MonkeyPatch, card: SimpleNamespace, available: int, share: float
) -> None:
    """An integrated GPU gets 90% of what is available, since the kernel would end a process."""
    shares: list[float] = []
    card.is_integrated, card.total_memory = 1, 16 * 2**30
    memory = SimpleNamespace(available=available * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, _: shares.append(share)
    )
    start()
    assert shares == [pytest.approx(share)]


@pytest.mark.parametrize(
    ("gpu", "workers", "fault", "sentence"),
    [
        (Gpu("exclusive", {7}), 1, None, "exclusive, and another process holds it: wait"),
        (Gpu("exclusive", None), 1, torch.AcceleratorError("busy"), "another process holds it"),
        (Gpu("exclusive", set()), 2, None, "a comparison keeps 2 there at a time: nvidia-smi"),
        (Gpu("prohibited", set()), 1, None, "prohibited, so nothing can run there: nvidia-smi"),
        (None, 1, torch.AcceleratorError("no kernel image\n"), "no kernel image; try --device cpu"),
    ],
)
def test_what_keeps_a_process_from_it(
    card: SimpleNamespace, gpu: Gpu | None, workers: int, fault: Exception | None, sentence: str
) -> None:
    """Its compute mode, another process, or what torch says where a number is computed."""
    card.fault = fault
    with pytest.raises(BadInput, match=sentence) as refused:
        start(gpu, workers)
    assert str(refused.value).startswith("--device cuda:1")


@pytest.mark.parametrize(
    ("variable", "value", "is_refused"),
    [
        ("CUDA_LAUNCH_BLOCKING", "1", True),
        ("CUDA_LAUNCH_BLOCKING", "0", False),
        ("CUDA_LAUNCH_BLOCKING", "", False),
        ("HIP_LAUNCH_BLOCKING", "1", True),
        ("AMD_SERIALIZE_KERNEL", "3", True),
    ],
)
def test_launches_that_wait(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, is_refused: bool
) -> None:
    """A variable that makes each launch wait is refused, and one that is off is not."""
    monkeypatch.setenv(variable, value)
    if is_refused:
        with pytest.raises(BadInput, match=f"{variable}={value} .*: unset {variable}"):
            start()
    else:
        start()


@pytest.mark.parametrize(
    ("major", "minor", "built_for", "is_missing"),
    [
        (8, 6, BUILT_FOR, False),
        (8, 9, BUILT_FOR, False),  # runs what was built for 8.6
        (7, 0, BUILT_FOR, True),  # nothing for 7.5 runs on 7.0
        (6, 1, BUILT_FOR, True),
        (9, 0, BUILT_FOR, False),
        (12, 0, BUILT_FOR, False),  # the driver compiles compute_90
        (12, 0, ["sm_80", "sm_90a"], True),
        (9, 1, ["sm_90a"], True),
        (12, 1, ["sm_80", "sm_120"], False),
        (8, 6, [], False),  # it does not say
        (8, 6, ["something new"], False),
    ],
)
def test_kernels_for_the_architecture(
    monkeypatch: pytest.MonkeyPatch,
    card: SimpleNamespace,
    major: int,
    minor: int,
    built_for: list[str],
    is_missing: bool,
) -> None:
    """Those of the same major number and at most the minor run, and what the driver compiles."""
    card.major, card.minor = major, minor
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    if is_missing:
        sentence = (
            rf"A GPU has compute capability {major}.{minor}, and .*: install a build of torch"
        )
        with pytest.raises(BadInput, match=sentence):
            start()
    else:
        start()


@pytest.mark.parametrize(("own", "is_missing"), [("gfx942:sramecc+", False), ("gfx906", True)])
def test_kernels_for_an_amd_gpu(
    monkeypatch: pytest.MonkeyPatch, card: SimpleNamespace, own: str, is_missing: bool
) -> None:
    """By its own name, without its features."""
    card.gcnArchName = own
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx90a", "gfx942"])
    if is_missing:
        with pytest.raises(BadInput, match="A GPU is a gfx906, and this torch has kernels for gfx"):
            start()
    else:
        start()


@pytest.mark.parametrize(
    ("cuda", "hip", "driver", "said", "reason"),
    [
        (None, None, None, "", "this torch is built without CUDA"),
        ("13.0", None, (12, 4), "", "supports CUDA 12.4 at most, and .* CUDA 13.0: update the"),
        ("12.8", None, (12, 4), "Unexpected error.\nMore", "^Unexpected error$"),
        ("13.0", None, None, "Found no NVIDIA driver.", "^Found no NVIDIA driver$"),
        (None, "7.1", None, "No HIP GPUs are available", "^No HIP GPUs are available$"),
        ("13.0", None, (13, 0), "", "^$"),
    ],
)
def test_why_torch_finds_none(
    monkeypatch: pytest.MonkeyPatch,
    cuda: str | None,
    hip: str | None,
    driver: tuple[int, int] | None,
    said: str,
    reason: str,
) -> None:
    """Its build, a driver of an older major version, or torch's own reason."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(_nvml, "cuda_of_driver", lambda: driver)

    def init() -> None:
        if said:
            raise RuntimeError(said)

    monkeypatch.setattr(torch.cuda, "init", init)
    found = _cuda_start.reason_for_none()
    with pytest.raises(BadInput, match=reason):
        raise BadInput(found)
