"""What torch.cuda is told, and what it was told by the environment."""

from __future__ import annotations

import os
from typing import Any

# Of scaled_dot_product_attention; torch chooses among them by the shapes.
_SDPA_BACKENDS = ("cudnn", "flash", "math", "mem_efficient")
# torch's own defaults, set since a module may have changed them.
_REDUCTIONS = {
    "allow_bf16_reduced_precision_reduction": True,
    "allow_fp16_reduced_precision_reduction": True,
    "allow_fp16_accumulation": False,
}
# What changes figures, and is read when CUDA or torch starts: it can only be recorded.
_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "MIOPEN_FIND_MODE",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_HIP_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
)


def set_switches(*, autotunes: bool) -> None:
    """fp32 is computed as fp32, reductions as torch has them by default, and attention may use all
    its kernels.

    torch has an old and a new set of switches for TF32 and refuses to read them where they
    disagree, as when only the new are set: so first the old, then the new.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    for part in ("conv", "rnn"):
        getattr(torch.backends.cudnn, part).fp32_precision = "ieee"
    torch.backends.cudnn.benchmark = autotunes
    for name, value in _REDUCTIONS.items():
        setattr(torch.backends.cuda.matmul, name, value)
    for name in _SDPA_BACKENDS:
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(True)


def uses_tf32() -> bool:
    """Whether fp32 products are rounded to TF32: as torch is set, unless NVIDIA's libraries are
    told otherwise."""
    import torch

    override = os.environ.get("NVIDIA_TF32_OVERRIDE", "")
    if override in ("0", "1"):
        return override == "1"
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def facts() -> dict[str, Any]:
    """What is in force, and the variables that are set."""
    import torch

    return {
        "tf32": uses_tf32(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        **{name: getattr(torch.backends.cuda.matmul, name) for name in _REDUCTIONS},
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
