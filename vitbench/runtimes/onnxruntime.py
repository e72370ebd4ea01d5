"""ONNX Runtime on the CPU and on NVIDIA GPUs, with the module as torch exports it to ONNX."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitbench import devices
from vitbench.devices import Call
from vitbench.instruments import host, memory
from vitbench.runtimes import INT8, Prepared, Rules, Samples, Subject, Unsuitable, _artifact
from vitbench.runtimes._artifact import Loaded

if TYPE_CHECKING:
    from torch import Tensor

RULES = Rules(
    name="onnxruntime",
    summary="ONNX Runtime, from torch.onnx.export",
    conversion_s=1.0,
    int8_conversion_s=1.5,
    loading_s=0.1,
    packages=("onnxruntime", "onnx", "onnxscript"),
    extra="runtimes",
    int8_packages=(),
    converts=True,
)
FILE = "model.onnx"
_SCRIPT = '''\
{title}

from pathlib import Path

import numpy as np
import onnxruntime

file = Path(__file__).parent / {file!r}
providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
able = [name for name in providers if name in onnxruntime.get_available_providers()]
model = onnxruntime.InferenceSession(file, providers=able)
name = model.get_inputs()[0].name


def run(x):
    """The outputs for an input, all of them arrays."""
    return model.run(None, {{name: np.asarray(x, np.{dtype})}})


if __name__ == "__main__":
    x = np.random.standard_normal({shape})
    print(*(y.shape for y in run(x)))
'''
# numpy has no bfloat16, and torch has.
_SCRIPT_IN_BFLOAT16 = '''\
{title}

from pathlib import Path

import onnxruntime
import torch
from onnxruntime import OrtValue

file = Path(__file__).parent / {file!r}
providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
able = [name for name in providers if name in onnxruntime.get_available_providers()]
model = onnxruntime.InferenceSession(file, providers=able)
name = model.get_inputs()[0].name


def run(x):
    """The outputs for an input, all of them tensors."""
    values = model.run_with_ort_values(None, {{name: OrtValue.from_dlpack(x.contiguous())}})
    return [torch.from_dlpack(value) for value in values]


if __name__ == "__main__":
    x = torch.randn({shape}, dtype=torch.{dtype}, device={device!r})
    print(*(tuple(y.shape) for y in run(x)))
'''

_HALVES = ("bfloat16", "float16")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Of ONNX's types: what torch calls them, and their numbers in ONNX.
_ELEMENTS = {
    "tensor(float)": ("float32", 1),
    "tensor(float16)": ("float16", 10),
    "tensor(double)": ("float64", 11),
    "tensor(bfloat16)": ("bfloat16", 16),
}


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference, on the CPU in float32 and, quantized, in int8."""
    rules = devices.rules(device)
    if rules.is_host and mode == "forward" and dtype in _HALVES:
        return (
            f"{RULES.name} has no products in {dtype} on the {rules.title}: it computes them in "
            "float32, or not at all"
        )
    on_cuda = ("float32", *_HALVES)
    on_host = ("float32", INT8)
    return _artifact.refuses(RULES.name, device, dtype, mode, on_host=on_host, on_cuda=on_cuda)


def script(dtype: str) -> str:
    """With numpy alone, where that has the dtype."""
    return _SCRIPT_IN_BFLOAT16 if dtype == "bfloat16" else _SCRIPT


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The model as one file."""
    from vitbench.runtimes import _onnx

    _check_provider(subject)
    _onnx.save(subject, folder / FILE)
    if subject.dtype != INT8:
        return {}
    samples = subject.samples()
    _quantize(folder / FILE, samples)
    return {"calibration": samples.source}


def _quantize(file: Path, samples: Samples) -> None:
    """Has the products with weights computed in 8 bits, by channel of the weights.

    Those of two activations, in attention, stay in float32: ONNX Runtime has no fast kernel for two
    operands without a sign. So do outputs, which would be rounded and at once made floats again. A
    linear layer is first made one operator with its bias, which has a kernel of that kind.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static, shape_inference

    shape_inference.quant_pre_process(file, file, skip_symbolic_shape=True)
    graph = onnx.load(file).graph
    constants = {entry.name: entry for entry in graph.initializer}
    constants |= {
        node.output[0]: onnx.helper.get_node_attr_value(node, "value")
        for node in graph.node
        if node.op_type == "Constant"
    }
    kinds = ("Conv", "Gemm", "MatMul")
    with_weights = [
        node.name
        for node in graph.node
        if node.op_type in kinds
        for weight in [constants.get(name) for name in node.input[:2]]
        # It has no kernel by channel for several matrices, as of a mechanism with one a head.
        if weight is not None and (node.op_type == "Conv" or len(weight.dims) <= 2)
    ]
    if not with_weights:  # an empty list would mean all
        return
    quantize_static(
        file,
        file,
        _Reader(graph.input[0].name, samples),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=with_weights,
        op_types_to_quantize=list(kinds),
        per_channel=True,
        reduce_range=not host.sums_products_exactly(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )


class _Reader:
    """Samples as ONNX Runtime reads them."""

    def __init__(self, name: str, samples: Samples) -> None:
        self._name, self._inputs = name, iter(samples.inputs)

    def get_next(self) -> dict[str, Any] | None:
        """The next one; None where there is no more."""
        x = next(self._inputs, None)
        return None if x is None else {self._name: x.numpy()}


def _check_provider(subject: Subject) -> None:
    """Raises Unsuitable where the package that is installed is for other devices."""
    import onnxruntime

    provider = _provider(subject)
    if provider not in onnxruntime.get_available_providers():
        raise Unsuitable(
            f"the onnxruntime that is installed has no {provider}: pip uninstall onnxruntime, then "
            "pip install onnxruntime-gpu"
        )


def _provider(subject: Subject) -> str:
    """What has to take the operators."""
    return _CUDA if devices.rules(subject.device.name).has_cuda else _CPU


class OnnxRuntime(Loaded):
    """A session whose input and outputs are bound to tensors."""

    def __init__(
        self, call: Call, file: Path, fallback_share: float, before_bytes: int | None
    ) -> None:
        import onnxruntime

        super().__init__(call, file, onnxruntime.__version__, before_bytes)
        self._fallback_share = fallback_share

    def columns(self) -> Mapping[str, Any]:
        return {**super().columns(), "fallback_share": self._fallback_share}


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """A session with as many threads as torch."""
    assert artifact is not None
    _check_provider(subject)
    on_gpu = _provider(subject) == _CUDA
    return _on_gpu(subject, artifact / FILE) if on_gpu else _on_host(subject, artifact / FILE)


def _on_host(subject: Subject, file: Path) -> Prepared:
    import onnxruntime

    before_bytes = host.resident_bytes()
    more: Mapping[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, FILE) if subject.dtype == INT8 else None
        session = _session(file, (_CPU, {}), optimized=optimized)
        if optimized is not None:
            more = _artifact.int8_columns(*_count_products(optimized))
    call = _bound(session, subject.x, onnxruntime.RunOptions())
    prepared = OnnxRuntime(call, file, _left_share(session, _CPU), before_bytes)
    prepared.more = more
    return prepared


def _count_products(file: Path) -> tuple[int, int]:
    """How many products of a model, as a session saved what it runs, are in 8 bits, and of how
    many."""
    import onnx

    kinds = [node.op_type for node in onnx.load(file).graph.node]
    int8 = sum(kind in _INT8_PRODUCTS for kind in kinds)
    return int8, int8 + sum(kind in _PRODUCTS for kind in kinds)


# ONNX Runtime's operators that multiply, in floating point and in 8 bits.
_PRODUCTS = {
    "Conv",
    "ConvTranspose",
    "Einsum",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "Gemm",
    "MatMul",
    "NhwcFusedConv",
}
_INT8_PRODUCTS = {
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}


def _on_gpu(subject: Subject, file: Path) -> Prepared:
    """In order with torch's work. Nothing tells of the memory that the session takes there."""
    import onnxruntime

    stream = subject.device.side_stream()
    own = {
        "device_id": str(subject.x.device.index or 0),
        "user_compute_stream": str(stream.handle),
        "use_tf32": str(int(subject.device.uses_tf32())),
    }
    session = _session(file, (_CUDA, own), (_CPU, {}))
    fallback_share = _left_share(session, _CUDA)
    if fallback_share == 1:
        raise Unsuitable(
            f"ONNX Runtime's {_CUDA} takes none of its operators, which the CPU would compute: "
            "where it cannot be loaded, the log of the session says why"
        )
    options = onnxruntime.RunOptions()
    # Else each call waits for the device in the end.
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    call = stream.joined(_bound(session, subject.x, options))
    prepared = OnnxRuntime(call, file, fallback_share, None)
    prepared.memory_source = memory.UNKNOWN
    return prepared


def _session(
    file: Path, *providers: tuple[str, Mapping[str, str]], optimized: Path | None = None
) -> Any:
    """Of the providers, the first has to take the operators; it tells which it took.

    optimized  where it saves the graph that it runs; None: nowhere
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 3  # it warns that the file is for this CPU only
    return onnxruntime.InferenceSession(file, options, providers=list(providers))


def _left_share(session: Any, provider: str) -> float:
    """Of the operators, what the provider did not take; 0 where there is none."""
    groups = session.get_provider_graph_assignment_info()
    counts = {group.ep_name: 0 for group in groups}
    for group in groups:
        counts[group.ep_name] += len(group.get_nodes())
    total = sum(counts.values())
    return 1 - counts.get(provider, 0) / total if total else 0.0


def _bound(session: Any, x: Tensor, options: Any) -> Call:
    """A call on the input's memory; what it returns is filled anew by each."""
    import torch

    binding = session.io_binding()
    place = (x.device.type, x.device.index or 0)

    def bind(bind_entry: Callable[..., None], entry: Any, tensor: Tensor) -> None:
        number = _ELEMENTS[entry.type][1]
        bind_entry(entry.name, *place, number, tensor.shape, tensor.data_ptr())

    (entry,) = session.get_inputs()
    bind(binding.bind_input, entry, x)
    outputs = []
    for entry in session.get_outputs():
        dtype = getattr(torch, _ELEMENTS[entry.type][0])
        outputs.append(torch.empty(entry.shape, dtype=dtype, device=x.device))
        bind(binding.bind_output, entry, outputs[-1])
    result = outputs[0] if len(outputs) == 1 else outputs

    def call() -> Any:
        session.run_with_iobinding(binding, options)
        return result

    return call
