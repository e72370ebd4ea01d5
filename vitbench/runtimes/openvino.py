"""OpenVINO on the CPU, with the module as torch exports it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitbench.instruments import host
from vitbench.runtimes import Prepared, Rules, Subject, _artifact
from vitbench.runtimes._artifact import Loaded

RULES = Rules(
    name="openvino",
    summary="OpenVINO, from torch.export",
    conversion_s=5.0,
    packages=("openvino",),
    extra="runtimes",
    converts=True,
    has_own_threads=True,
)
FILE = "model.xml"
SCRIPT = '''\
{title}

from pathlib import Path

import numpy as np
import openvino

file = Path(__file__).parent / {file!r}
# In the precision that was checked: without it OpenVINO may take bfloat16.
config = dict(INFERENCE_PRECISION_HINT="f32", PERFORMANCE_HINT="LATENCY")
model = openvino.Core().compile_model(file, "CPU", config)


def run(x):
    """The outputs for an input, all of them arrays."""
    return list(model(x).values())


if __name__ == "__main__":
    x = np.random.standard_normal({shape}).astype({dtype!r})
    print(*(y.shape for y in run(x)))
'''


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference on the CPU in float32."""
    return _artifact.refuses(RULES.name, device, dtype, mode, dtypes=("float32",))


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The graph and its weights, which OpenVINO would halve if it was not told not to."""
    import openvino

    model = openvino.convert_model(_artifact.exported(subject))
    model.reshape(list(subject.x.shape))  # it takes the shapes of some modules for dynamic
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)
    return {}


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """A request with as many threads as torch, in one stream, whose input is the subject's."""
    import openvino
    import torch

    assert artifact is not None
    before_bytes = host.resident_bytes()
    # Without the precision OpenVINO computes in bfloat16 where the CPU has it.
    wanted = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(artifact / FILE, "CPU", wanted)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(subject.x.detach().numpy(), shared_memory=True))
    outputs = [
        torch.from_numpy(request.get_output_tensor(i).data) for i in range(len(compiled.outputs))
    ]
    result = outputs[0] if len(outputs) == 1 else outputs

    def call() -> Any:
        request.infer()
        return result

    prepared = Loaded(call, artifact / FILE, openvino.__version__, before_bytes)
    prepared.computed_dtype = _computed_dtype(compiled)
    return prepared


def _computed_dtype(compiled: Any) -> str:
    """Of the products, in which nearly all is computed; of all layers where there is none."""
    layers = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    named = [(str(info["layerType"].astype(str)), info) for info in layers if "layerType" in info]
    products = [info for name, info in named if name in _PRODUCTS]
    dtypes = {str(info["runtimePrecision"].astype(str)) for info in products}
    return ", ".join(sorted(_DTYPES.get(dtype, dtype) for dtype in dtypes))


_PRODUCTS = {"FullyConnected", "MatMul", "Convolution", "ScaledDotProductAttention"}
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "int8"}
