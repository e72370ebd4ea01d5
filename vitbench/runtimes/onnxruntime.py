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
    extra="runtimes",
    converts=True,
    has_own_threads=True,
)
FILE = "model.onnx"
SCRIPT = '''\
{title}

from pathlib import Path

import numpy as np
import onnxruntime

file = Path(__file__).parent / {file!r}
model = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
name = model.get_inputs()[0].name


def run(x):
    """The outputs for an input, all of them arrays."""
    return model.run(None, {{name: x}})


if __name__ == "__main__":
    x = np.random.standard_normal({shape}).astype({dtype!r})
    print(*(y.shape for y in run(x)))
'''


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference on the CPU in float32."""
    return _artifact.refuses(RULES.name, device, dtype, mode, dtypes=("float32",))


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The model as one file, its constants folded and its changes of shape joined."""
    import torch
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules import common

    # Not optimize=True: that takes `x + 1e-15` for `x + 0`, and what is divided by it becomes NaN.
    program = torch.onnx.export(
        subject.module, (subject.x,), dynamo=True, verbose=False, optimize=False
    )
    assert program is not None
    optimizer.inline(program.model)
    for _ in range(2):  # what one round joins, the next one folds
        optimizer.fold_constants(program.model)
        rewriter.rewrite(program.model, [getattr(common, f"{rule}_rule") for rule in _RULES])
    program.save(folder / FILE)
    return {}


# Of onnxscript's rules, those that ONNX Runtime does not apply itself.
_RULES = (
    "cast_cast",
    "collapse_slice",
    "collapse_slice2",
    "flatten_to_reshape",
    "materialize_reshape_shape",
    "no_op_cast",
    "no_op_expand",
    "no_op_transpose",
    "one_reshape_matmul_reshape",
    "reshape_reshape",
    "slice_split",
    "squeeze_reshape_1d",
    "transpose_transpose",
    "two_reshapes_matmul_reshape",
    "unsqueeze_unsqueeze",
)


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
        artifact / FILE, options, providers=["CPUExecutionProvider"]
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

    return Loaded(call, artifact / FILE, onnxruntime.__version__, before_bytes)


# Of ONNX's names of types, what numpy and torch call them.
_ELEMENTS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
