"""TensorRT on NVIDIA GPUs, with the module as torch exports it to ONNX."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitbench.instruments import memory
from vitbench.runtimes import Prepared, Rules, Subject, _artifact
from vitbench.runtimes._artifact import Loaded

RULES = Rules(
    name="tensorrt",
    summary="TensorRT, from torch.onnx.export",
    conversion_s=30.0,
    packages=("tensorrt", "onnx", "onnxscript"),
    extra="tensorrt",
    converts=True,
)
FILE = "model.engine"
_SCRIPT = '''\
{title}

from pathlib import Path

import tensorrt
import torch

file = Path(__file__).parent / {file!r}
# The engine runs on GPUs of the kind that it was built on, with the same TensorRT.
engine = tensorrt.Runtime(tensorrt.Logger()).deserialize_cuda_engine(file.read_bytes())
context, stream = engine.create_execution_context(), torch.cuda.Stream()
names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
INPUT, DTYPES = tensorrt.TensorIOMode.INPUT, {{
    getattr(tensorrt, name): getattr(torch, name) for name in ("float32", "float16", "bfloat16")
}}


def run(x):
    """The outputs for an input, all of them tensors on the GPU."""
    tensors = {{
        name: x.contiguous()
        if engine.get_tensor_mode(name) == INPUT
        else x.new_empty(
            tuple(engine.get_tensor_shape(name)), dtype=DTYPES[engine.get_tensor_dtype(name)]
        )
        for name in names
    }}
    for name, tensor in tensors.items():
        context.set_tensor_address(name, tensor.data_ptr())
    stream.wait_stream(torch.cuda.current_stream())
    context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return [tensors[name] for name in names if engine.get_tensor_mode(name) != INPUT]


if __name__ == "__main__":
    x = torch.randn({shape}, dtype=torch.{dtype}, device={device!r})
    print(*(tuple(y.shape) for y in run(x)))
'''

_DTYPES = ("float32", "float16", "bfloat16")


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference on NVIDIA GPUs."""
    return _artifact.refuses(RULES.name, device, dtype, mode, on_cuda=_DTYPES)


def _log() -> Any:
    """A logger that keeps what went wrong, in words."""
    import tensorrt

    severities = tensorrt.ILogger.Severity

    class Log(tensorrt.ILogger):  # type: ignore[misc] # TensorRT's classes have no types
        """The errors, in order."""

        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                self.errors.append(msg)

    return Log()


def _failed(what: str, log: Any) -> RuntimeError:
    """TensorRT returns nothing where it fails, and says why in its log."""
    return RuntimeError("; ".join([f"TensorRT {what}", *log.errors[:1]]))


def script(dtype: str) -> str:
    """The same for every dtype."""
    return _SCRIPT


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The engine, whose kernels are chosen by their time on this GPU. It takes every operator, or
    there is none."""
    import tensorrt

    from vitbench.runtimes import _onnx

    log = _log()
    builder = tensorrt.Builder(log)
    # Each tensor keeps the dtype that the module has; since TensorRT 11 nothing else is possible.
    typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = tensorrt.OnnxParser(network, log)
    with tempfile.TemporaryDirectory() as parsed:
        file = Path(parsed, "model.onnx")
        _onnx.save(subject, file)
        if not parser.parse_from_file(str(file)):
            errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            raise RuntimeError("; ".join(["TensorRT cannot parse the module", *errors[:1]]))
        config = builder.create_builder_config()
        if not subject.device.uses_tf32():
            config.clear_flag(tensorrt.BuilderFlag.TF32)
        # The engine tells in which dtype each layer computes.
        config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
        engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _failed("builds no engine", log)
    (folder / FILE).write_bytes(engine)
    return {"fallback_share": 0.0}


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """A context whose input and outputs are bound to tensors, in order with torch's work."""
    import tensorrt
    import torch

    assert artifact is not None
    log = _log()
    runtime = tensorrt.Runtime(log)
    engine = runtime.deserialize_cuda_engine((artifact / FILE).read_bytes())
    if engine is None:
        raise _failed("cannot load the engine", log)
    context = engine.create_execution_context()
    if context is None:
        raise _failed("cannot make the engine's context", log)
    # What an engine tells of its layers, it would tell a profiler too, in each call.
    context.nvtx_verbosity = tensorrt.ProfilingVerbosity.NONE
    dtypes = {getattr(tensorrt, name): getattr(torch, name) for name in _DTYPES}
    outputs = []
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        tensor = subject.x
        if engine.get_tensor_mode(name) != tensorrt.TensorIOMode.INPUT:
            shape, dtype = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            tensor = torch.empty(shape, dtype=dtypes[dtype], device=subject.x.device)
            outputs.append(tensor)
        if not context.set_tensor_address(name, tensor.data_ptr()):
            raise _failed(f"cannot bind {name}", log)
    result = outputs[0] if len(outputs) == 1 else outputs
    stream = subject.device.side_stream()

    def call() -> Any:
        if not context.execute_async_v3(stream.handle):
            raise _failed("cannot queue a call", log)
        return result

    prepared = Loaded(stream.joined(call), artifact / FILE, tensorrt.__version__)
    prepared.memory_source = memory.RUNTIME
    prepared.kept_bytes = engine.device_memory_size_v2 + sum(y.nbytes for y in outputs)
    prepared.computed_dtype = _computed_dtype(engine)
    return prepared


def _computed_dtype(engine: Any) -> str:
    """Of the inputs of the products, in which nearly all is computed, as the engine tells; "" where
    it does not."""
    import tensorrt

    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON)
    layers = [layer for layer in json.loads(text).get("Layers", ()) if isinstance(layer, dict)]
    products = (layer for layer in layers if _PRODUCT.search(str(layer.get("LayerType", ""))))
    return ", ".join(sorted({dtype for layer in products for dtype in _dtypes_in(layer)}))


def _dtypes_in(layer: Mapping[str, Any]) -> Iterator[str]:
    """Of a layer's inputs: before TensorRT 11 one field said the format and the dtype."""
    for tensor in layer.get("Inputs", ()):
        text = " ".join(str(value) for key, value in tensor.items() if _DTYPE.search(key))
        yield from (dtype for dtype, word in _WORDS.items() if re.search(word, text))


_PRODUCT = re.compile(r"gemm|conv(?!ert)|matrix|mha|attention", re.IGNORECASE)
_DTYPE = re.compile(r"data_?type", re.IGNORECASE)
# What the engine calls a dtype.
_WORDS = {
    "float32": r"\b(Float|FP32)\b",
    "float16": r"\b(Half|FP16)\b",
    "bfloat16": r"\b(BFloat16|BF16)\b",
}
