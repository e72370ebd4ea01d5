"""ONNX Runtime on the CPU, with the module as torch exports it to ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitbench.instruments import host
from vitbench.runtimes import Prepared, Rules, Subject, _artifact
from vitbench.runtimes._artifact import Loaded

RULES = Rules(
    name="onnxruntime",
    summary="ONNX Runtime, from torch.onnx.export",
    conversion_s=5.0,
    packages=("onnxruntime", "onnx", "onnxscript"),
    converts=True,
    has_own_threads=True,
)
_FILE = "model.onnx"


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference on the CPU in float32."""
    return _artifact.refuses(RULES.name, device, dtype, mode, dtypes=("float32",))


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The model as one file."""
    import torch

    program = torch.onnx.export(subject.module, (subject.x,), dynamo=True, verbose=False)
    assert program is not None
    program.save(folder / _FILE)
    return {"fallback_share": 0.0}


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """A session with as many threads as torch, whose input and outputs are bound to tensors."""
    import onnxruntime
    import torch

    assert artifact is not None
    before_bytes = host.resident_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        artifact / _FILE, options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    x = subject.x
    (entry,) = session.get_inputs()
    binding.bind_input(entry.name, "cpu", 0, _ELEMENTS[entry.type], x.shape, x.data_ptr())
    outputs = []
    for entry in session.get_outputs():
        output = torch.empty(entry.shape, dtype=getattr(torch, _ELEMENTS[entry.type]))
        outputs.append(output)
        binding.bind_output(
            entry.name, "cpu", 0, _ELEMENTS[entry.type], output.shape, output.data_ptr()
        )
    result = outputs[0] if len(outputs) == 1 else outputs

    def call() -> Any:
        session.run_with_iobinding(binding)
        return result

    return Loaded(call, artifact / _FILE, onnxruntime.__version__, before_bytes)


# Of ONNX's names of types, what numpy and torch call them.
_ELEMENTS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
