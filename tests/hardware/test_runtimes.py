"""Runtimes of a real GPU: the device's clock sees their work, and they compute what torch does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.hardware.conftest import CUDA
from tests.hardware.test_clock import device_s, product
from tests.vitbench.cli.test_convert import python
from tests.vitbench.examples import case, vitbench
from tests.vitbench.runtimes.test_converting import DTYPES, ON_CUDA, run
from vitbench import runtimes
from vitbench.devices import Device
from vitbench.results.outcome import Counted


def check_installed(runtime: str, dtype: str) -> None:
    """Skips where a package is missing, or is one that is built for the CPU alone."""
    if (missing := runtimes.missing(runtime, dtype)) is not None:
        pytest.skip(missing)
    if runtime == "onnxruntime":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("needs onnxruntime-gpu in place of onnxruntime")


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_the_clock_sees_a_side_stream(device: Device) -> None:
    """Work that a library queues there takes the time that it takes where torch queues it."""
    call, stream = product(device), device.side_stream()

    def work() -> torch.Tensor:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
            return call()

    plain_s = device_s(device, call, cold=False)
    assert device_s(device, stream.joined(work), cold=False) == pytest.approx(plain_s, rel=0.1)


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_a_side_stream_is_in_order_with_torch(device: Device) -> None:
    """What it reads was written before, and what torch reads next was written by it."""
    stream, x = device.side_stream(), torch.zeros(2**24, device=device.target)
    y = torch.empty_like(x)

    def work() -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
            y.copy_(x)

    call = stream.joined(work)
    for number in range(100):
        x.fill_(number)
        call()
        assert y.sum().item() == number * 2**24


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("runtime", sorted(ON_CUDA))
@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_a_converted_module(device: Device, tmp_path: Path, runtime: str, dtype: str) -> None:
    """It computes the same function on two inputs, in the case's dtype; what nothing tells of its
    memory is empty."""
    check_installed(runtime, dtype)
    outcome = run(case(runtime=runtime, dtype=dtype, device=device.name), tmp_path)
    assert isinstance(outcome, Counted), outcome
    found = outcome.facts.columns
    assert found["computed_dtype"] == dtype
    assert found["error_rms"] < (1e-5 if dtype == "float32" else 0.02)
    assert found["runtime_version"]
    assert not found["notes"]
    peak = found.get("peak_memory_bytes")
    assert peak is None or peak > 0


@pytest.mark.slow
@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_the_script_runs_an_engine(device: Device, tmp_path: Path) -> None:
    """From the files alone."""
    check_installed("tensorrt", "float16")
    words = ["convert", "msa", "--runtime", "tensorrt", "--resolution", "64", "--device", "cuda"]
    done = vitbench(tmp_path, *words, "--dtype", "float16", "--out", "model.engine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(1, 4, 4," in python(tmp_path, "model.py")
