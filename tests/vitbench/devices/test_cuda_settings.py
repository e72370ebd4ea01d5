"""What torch.cuda is told, and what the environment tells NVIDIA's libraries."""

from __future__ import annotations

import pytest
import torch

from vitbench.devices import _cuda_settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is set here."""
    for name in _cuda_settings._VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_reductions_are_torchs_own() -> None:
    """Whatever an earlier module left."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = False
    matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_fp16_accumulation = True
    _cuda_settings.set_switches(autotunes=torch.backends.cudnn.benchmark)
    facts = _cuda_settings.facts()
    assert facts["allow_bf16_reduced_precision_reduction"]
    assert facts["allow_fp16_reduced_precision_reduction"]
    assert not facts["allow_fp16_accumulation"]


@pytest.mark.parametrize(("override", "tf32"), [("1", True), ("0", False), ("", False)])
def test_an_override_of_tf32(monkeypatch: pytest.MonkeyPatch, override: str, tf32: bool) -> None:
    """It goes over torch's switch in NVIDIA's libraries, so the check of outputs knows it."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    assert _cuda_settings.uses_tf32() is tf32


def test_variables_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that change figures, where they are set."""
    assert _cuda_settings.facts()["variables"] == {}
    found = {"PYTORCH_CUDA_ALLOC_CONF": "a:1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert _cuda_settings.facts()["variables"] == found
