"""A simulated TensorRT: what vitbench calls of it, with the names and the habits of the real one.

An engine is the ONNX model that it was built from, computed by onnx's reference evaluator on the
memory whose addresses it gets. A failure returns nothing, and its reason goes to the log.
"""

from __future__ import annotations

import ctypes
import enum
import io
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator

__version__ = "11.4.0.simulated"

# What the parser does not know, and how much memory a context takes.
UNKNOWN_OPERATORS: set[str] = set()
CONTEXT_BYTES = 4096
_HEAD = b"engine\n"

DataType = enum.Enum("DataType", "FLOAT HALF BF16")
float32, float16, bfloat16 = DataType.FLOAT, DataType.HALF, DataType.BF16
_ELEMENTS = {1: DataType.FLOAT, 10: DataType.HALF, 16: DataType.BF16}
_TORCH = {
    DataType.FLOAT: torch.float32,
    DataType.HALF: torch.float16,
    DataType.BF16: torch.bfloat16,
}
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED NONE")
LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON")
BuilderFlag = enum.Enum("BuilderFlag", "TF32 REFIT")
NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag", ["EXPLICIT_BATCH", "STRONGLY_TYPED"], start=0
)


class ILogger:
    """What a user derives a logger from."""

    Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError('Tried to call pure virtual function "ILogger::log"')


def _fail(logger: ILogger, text: str) -> None:
    logger.log(ILogger.Severity.WARNING, "that is a warning")
    logger.log(ILogger.Severity.ERROR, text)


class BuilderConfig:
    """How an engine is built."""

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)


class Builder:
    """Builds engines."""

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> Any:
        return SimpleNamespace(flags=flags, model=None)

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def build_serialized_network(self, network: Any, config: BuilderConfig) -> memoryview | None:
        assert network.flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        if network.model is None:
            _fail(self.logger, "the network has no layers")
            return None
        head = {
            "tf32": BuilderFlag.TF32 in config.flags,
            "detailed": config.profiling_verbosity is ProfilingVerbosity.DETAILED,
        }
        model = network.model.SerializeToString()
        return memoryview(_HEAD + json.dumps(head).encode() + b"\n" + model)


class OnnxParser:
    """Reads a model into a network."""

    def __init__(self, network: Any, logger: ILogger) -> None:
        self.network, self._errors = network, list[str]()

    def parse_from_file(self, model: str) -> bool:
        assert isinstance(model, str)  # the real one takes no path
        parsed = onnx.load(model)
        onnx.checker.check_model(parsed)
        self._errors = [
            f"No importer registered for op: {node.op_type}"
            for node in parsed.graph.node
            if node.op_type in UNKNOWN_OPERATORS
        ]
        if not self._errors:
            self.network.model = parsed
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: self._errors[index])


class Runtime:
    """Loads engines."""

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        if not serialized_engine.startswith(_HEAD):
            _fail(self.logger, "Error Code 1: Serialization (magic tag does not match)")
            return None
        _, head, model = serialized_engine.split(b"\n", 2)
        return Engine(json.loads(head), onnx.load(io.BytesIO(model)), self.logger)


class Engine:
    """A model, whose tensors have names."""

    device_memory_size_v2 = CONTEXT_BYTES

    def __init__(self, head: Mapping[str, bool], model: onnx.ModelProto, logger: ILogger) -> None:
        self.head, self.model, self.logger = head, model, logger
        self.inputs = {entry.name: entry.type.tensor_type for entry in model.graph.input}
        self.outputs = {entry.name: entry.type.tensor_type for entry in model.graph.output}
        self._types = {**self.inputs, **self.outputs}
        self.num_io_tensors = len(self._types)

    def get_tensor_name(self, index: int) -> str:
        return list(self._types)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim.dim_value for dim in self._types[name].shape.dim)

    def get_tensor_dtype(self, name: str) -> Any:
        return _ELEMENTS[self._types[name].elem_type]

    def create_execution_context(self) -> Context | None:
        return Context(self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=self._information)

    def _information(self, wanted: Any) -> str:
        """Of each node, in the words of TensorRT 11; only names where no more was asked for."""
        assert wanted is LayerInformationFormat.JSON
        if not self.head["detailed"]:
            return json.dumps({"Layers": [node.name for node in self.model.graph.node]})
        word = {DataType.FLOAT: "Float", DataType.HALF: "Half", DataType.BF16: "BFloat16"}
        dtype = word[self.get_tensor_dtype(self.get_tensor_name(0))]
        kinds = {"MatMul": "gemm", "Gemm": "gemm", "Conv": "CaskConvolution"}
        layers = [
            {
                "Name": node.name,
                "LayerType": kinds.get(node.op_type, "kgen"),
                "Inputs": [{"Name": name, "Format": "Row major", "DataType": dtype}],
            }
            for node in self.model.graph.node
            for name in node.input[:1]
        ]
        return json.dumps({"Layers": layers})


class Context:
    """Computes an engine on the memory that it is told."""

    def __init__(self, engine: Engine) -> None:
        self.nvtx_verbosity = ProfilingVerbosity.DETAILED
        self._engine, self._memory = engine, dict[str, torch.Tensor]()
        self._arrays = dict[str, np.ndarray[Any, Any]]()  # of the same memory
        self._evaluator = ReferenceEvaluator(engine.model)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        shape = self._engine.get_tensor_shape(name)
        dtype = _TORCH[self._engine.get_tensor_dtype(name)]
        nbytes = int(np.prod(shape)) * dtype.itemsize
        buffer = (ctypes.c_byte * nbytes).from_address(memory)
        self._memory[name] = torch.frombuffer(buffer, dtype=dtype).reshape(shape)
        self._arrays[name] = _to_numpy(self._memory[name])
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        """One launch for each output. Not on the default stream, which it would wait for."""
        assert stream_handle
        inputs = {name: self._arrays[name] for name in self._engine.inputs}
        results = self._evaluator.run(None, inputs)
        for name, array in zip(self._engine.outputs, results, strict=True):
            self._arrays[name][...] = array
            self._memory[name].copy_(self._memory[name])  # the launch, which allocates nothing
        return True


def _to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """In the tensor's dtype, of which numpy knows all but one itself."""
    import ml_dtypes

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
