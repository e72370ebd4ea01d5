"""OpenVINO on the CPU, with the module as torch exports it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitbench.instruments import host
from vitbench.runtimes import INT8, Prepared, Rules, Samples, Subject, Unsuitable, _artifact
from vitbench.runtimes._artifact import Loaded

if TYPE_CHECKING:
    from torch import Tensor

RULES = Rules(
    name="openvino",
    summary="OpenVINO, from torch.export",
    conversion_s=1.0,
    int8_conversion_s=2.0,
    loading_s=0.1,
    packages=("openvino",),
    extra="runtimes",
    int8_packages=("nncf",),
    converts=True,
)
FILE = "model.xml"
_SCRIPT = '''\
{title}

from pathlib import Path

import numpy as np
import openvino
from openvino.preprocess import PrePostProcessor

file = Path(__file__).parent / {file!r}
core = openvino.Core()
model = core.read_model(file)
steps = PrePostProcessor(model)  # arrays of float32 in and out, whatever dtype it has
for side in (steps.input(), *map(steps.output, range(len(model.outputs)))):
    side.tensor().set_element_type(openvino.Type.f32)
# In the precision that was checked: without it OpenVINO may take another one.
precision = dict(float32="f32", bfloat16="bf16", float16="f16")[{dtype!r}]
config = dict(INFERENCE_PRECISION_HINT=precision, PERFORMANCE_HINT="LATENCY")
model = core.compile_model(steps.build(), "CPU", config)


def run(x):
    """The outputs for an input, all of them arrays."""
    return list(model(x).values())


if __name__ == "__main__":
    x = np.random.standard_normal({shape}).astype(np.float32)
    print(*(y.shape for y in run(x)))
'''

# OpenVINO's names of a dtype: of its precision, and of what a CPU can do.
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference on the CPU; in which dtypes, the CPU says when it is asked."""
    return _artifact.refuses(RULES.name, device, dtype, mode, on_host=(*_PRECISIONS, INT8))


def _check_capability(dtype: str) -> None:
    """Raises Unsuitable where OpenVINO would compute in another dtype on this CPU."""
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[dtype] not in able:
        raise Unsuitable(f"OpenVINO computes in no {dtype} on this CPU, but in another dtype")


def script(dtype: str) -> str:
    """The same for every dtype."""
    return _SCRIPT


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The graph and its weights, which OpenVINO would halve if it was not told not to."""
    import openvino

    _check_capability(_dtype_of(subject.x))
    model = openvino.convert_model(_artifact.exported(subject))
    model.reshape(list(subject.x.shape))  # it takes the shapes of some modules for dynamic
    columns = {}
    if subject.dtype == INT8:
        samples = subject.samples()
        model, columns["calibration"] = _quantized(model, samples), samples.source
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)
    return columns


def _quantized(model: Any, samples: Samples) -> Any:
    """The model with its products in 8 bits, by NNCF's settings for transformers: weights by
    channel, softmax in float32. Without SmoothQuant, which gains a tenth of the time of a layer at
    most, and after which LITv2-S is off by a third of its output."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    inputs = [x.numpy() for x in samples.inputs]
    fix = nncf.OverflowFix.DISABLE if host.sums_products_exactly() else nncf.OverflowFix.ENABLE
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        # OpenVINO computes convolutions by channel in float32, with or without what this adds.
        ignored_scope=nncf.IgnoredScope(types=["GroupConvolution"], validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=fix,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
        ),
    )


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """A request with as many threads as torch, in one stream, whose input is the subject's."""
    import openvino
    import torch

    assert artifact is not None
    dtype = _dtype_of(subject.x)
    _check_capability(dtype)
    before_bytes = host.resident_bytes()
    # Without the precision OpenVINO computes in bfloat16 where the CPU has it.
    wanted = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(artifact / FILE, "CPU", wanted)
    request = compiled.create_infer_request()
    element = getattr(openvino.Type, _PRECISIONS[dtype])
    request.set_input_tensor(openvino.Tensor(_array(subject.x), list(subject.x.shape), element))
    outputs = [_tensor(request.get_output_tensor(i)) for i in range(len(compiled.outputs))]
    result = outputs[0] if len(outputs) == 1 else outputs

    def call() -> Any:
        request.infer(share_outputs=True)  # else it returns copies too
        return result

    prepared = Loaded(call, artifact / FILE, openvino.__version__, before_bytes)
    prepared.computed_dtype = _computed_dtype(compiled)
    if subject.dtype != INT8 and prepared.computed_dtype and dtype not in prepared.computed_dtype:
        raise Unsuitable(f"OpenVINO computes in {prepared.computed_dtype} here, and not in {dtype}")
    if subject.dtype == INT8:
        model = openvino.Core().read_model(artifact / FILE)
        prepared.more = _artifact.int8_columns(*_count_products(model, compiled))
    return prepared


def _count_products(model: Any, compiled: Any) -> tuple[int, int]:
    """How many products of a model are computed in 8 bits, and of how many.

    A layer of the compiled model names the operators that it computes. It takes so many products in
    8 bits as it has pairs of inputs in 8 bits.
    """
    products = {
        op.get_friendly_name(): _PRODUCTS_OF[op.get_type_name()]
        for op in model.get_ops()
        if op.get_type_name() in _PRODUCTS_OF
    }
    int8 = 0
    for layer in compiled.get_runtime_model().get_ops():
        info = layer.get_rt_info()
        names = str(info["originalLayersNames"].astype(str)).split(",")
        computed = {name.partition("/Dequantization")[0] for name in names}
        narrow = [entry.get_element_type().size == 1 for entry in layer.inputs()]
        count = sum(products[name] for name in computed & products.keys())
        int8 += min(count, sum(narrow) // 2)
    return int8, sum(products.values())


# Products that an operator takes. Attention multiplies by the keys and by the values.
_PRODUCTS_OF = {
    "Convolution": 1,
    "GroupConvolution": 1,
    "MatMul": 1,
    "ScaledDotProductAttention": 2,
}


def _dtype_of(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _array(x: Tensor) -> Any:
    """A tensor's memory. numpy has no bfloat16: two bytes are two bytes."""
    import torch

    x = x.detach()
    return x.view(torch.int16).numpy() if x.itemsize == 2 else x.numpy()


def _tensor(output: Any) -> Tensor:
    """The memory of one of OpenVINO's tensors."""
    import torch

    dtypes = {short: getattr(torch, name) for name, short in _PRECISIONS.items()}
    data, dtype = output.data, dtypes[output.element_type.get_type_name()]
    if data.itemsize == 2:
        return torch.from_numpy(data.view("int16")).view(dtype)
    return torch.from_numpy(data)


def _computed_dtype(compiled: Any) -> str:
    """Of the products, in which nearly all is computed; of all layers where there is none."""
    layers = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    named = [(str(info["layerType"].astype(str)), info) for info in layers if "layerType" in info]
    products = [info for name, info in named if name in _PRODUCTS]
    dtypes = {str(info["runtimePrecision"].astype(str)) for info in products}
    return ", ".join(sorted(_DTYPES.get(dtype, dtype) for dtype in dtypes))


_PRODUCTS = {"FullyConnected", "MatMul", "Convolution", "ScaledDotProductAttention"}
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "int8"}
