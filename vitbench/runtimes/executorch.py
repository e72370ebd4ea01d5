"""ExecuTorch with XNNPACK on the CPU, as phones run it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitbench.instruments import host
from vitbench.runtimes import INT8, Prepared, Rules, Samples, Subject, _artifact
from vitbench.runtimes._artifact import Loaded

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

RULES = Rules(
    name="executorch",
    summary="ExecuTorch with XNNPACK, as phones run it",
    conversion_s=3.5,
    int8_conversion_s=6.5,
    model_conversions=20.0,  # its passes take longer than the graph is larger
    loading_s=0.2,
    packages=("executorch",),
    extra="runtimes",
    int8_packages=("torchao",),
    converts=True,
)
FILE = "model.pte"
_SCRIPT = '''\
{title}

from pathlib import Path

import torch
from executorch.runtime import Runtime

file = Path(__file__).parent / {file!r}
model = Runtime.get().load_program(file).load_method("forward")


def run(x):
    """The outputs for an input, all of them tensors: copies, which vitbench does not time."""
    return model.execute([x])


if __name__ == "__main__":
    x = torch.randn({shape}, dtype=torch.{dtype}, device={device!r})
    print(*(tuple(y.shape) for y in run(x)))
'''


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference on the CPU in float32 and, quantized, in int8."""
    return _artifact.refuses(RULES.name, device, dtype, mode, on_host=("float32", INT8))


def script(dtype: str) -> str:
    """The same for every dtype."""
    return _SCRIPT


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The program. Operators that XNNPACK does not take run in ExecuTorch's portable kernels, which
    are many times slower: their share is told."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from vitbench.runtimes import _xnnpack

    # ExecuTorch takes scaled_dot_product_attention apart. Exported with torch's fused kernel, whose
    # output lies otherwise in memory, the module has views that then fail. torch's cache of layouts
    # does not know which kernel was chosen.
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    with sdpa_kernel(SDPBackend.MATH), uncached, torch.no_grad():
        module = _artifact.exported(subject).module()
        _fold_weights(module)
        program = torch.export.export(_xnnpack.rewritten(module), (subject.x,))
        columns: dict[str, Any] = {}
        if subject.dtype == INT8:
            samples = subject.samples()
            module, columns["calibration"] = _quantized(program.module(), samples), samples.source
            _xnnpack.keep_pads_in_float(module)
            program = torch.export.export(module, (subject.x,))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    graph = lowered.exported_program().graph_module
    if subject.dtype == INT8:
        columns |= _artifact.int8_columns(*_count_products(graph))
    columns["fallback_share"] = _left_share(graph)
    (folder / FILE).write_bytes(lowered.to_executorch().buffer)
    return columns


def _fold_weights(module: GraphModule) -> None:
    """Puts together once what is made of weights alone: XNNPACK takes no weights that are made in
    each call."""
    import torch
    from torchao.quantization.pt2e.constant_fold import constant_fold

    constant_fold(module)
    for name, value in list(module.named_buffers()):
        setattr(module, name, value.clone(memory_format=torch.contiguous_format))  # no views


def _left_share(graph: GraphModule) -> float:
    """Of the operators of a lowered program, what XNNPACK did not take."""
    from executorch.devtools.backend_debug import get_delegation_info

    counts = get_delegation_info(graph).delegation_by_operator
    counts = {name: count for name, count in counts.items() if name != "getitem"}
    left = sum(count.non_delegated for count in counts.values())
    return left / max(1, left + sum(count.delegated for count in counts.values()))


def _quantized(module: GraphModule, samples: Samples) -> GraphModule:
    """The module with its linear layers and convolutions in 8 bits, as XNNPACK has them: weights by
    channel. Sums and products of elements stay in float32: in 8 bits they took performer's output
    off by 17% of its rms, and its time did not change."""
    import torch
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer

    # Registers what computes the changes to and from 8 bits that XNNPACK does not take.
    from executorch.kernels import quantized  # noqa: F401 - it works by being imported
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
    quantizer = xnnpack_quantizer.XNNPACKQuantizer()
    for operator in (
        *xnnpack_quantizer.LINEAR_TARGETS,
        *xnnpack_quantizer.CONV_TARGETS,
        *xnnpack_quantizer.CONV_TRANSPOSE_TARGETS,
    ):
        quantizer.set_operator_type(operator, config)
    with torch.no_grad():
        observed = prepare_pt2e(module, quantizer)
        for x in samples.inputs:
            observed(x)
        return convert_pt2e(observed)


def _count_products(graph: GraphModule) -> tuple[int, int]:
    """How many products of a lowered program XNNPACK computes in 8 bits, from operands that are
    there in 8 bits, and of how many."""
    int8 = products = 0
    parts = [graph]
    for part in graph.children():  # what XNNPACK takes
        if (program := getattr(part, "original_module", None)) is not None:
            parts.append(program.graph_module)
    for part in parts:
        for node in part.graph.nodes:
            if (name := _operator(node)) in _FACTORS:
                factors = node.args[_FACTORS[name]]
                products += 1
                int8 += part is not graph and all(_operator(x) in _WIDENED for x in factors)
    return int8, products


def _operator(node: Node) -> str:
    """`aten::mm`; "" where it is none."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name)


# Where operators that multiply have their factors, and those that make floats of 8 bits, which
# XNNPACK does not compute where a product of 8 bits follows.
_FACTORS = {
    "aten::addmm": slice(1, 3),
    "aten::baddbmm": slice(1, 3),
    "aten::bmm": slice(2),
    "aten::convolution": slice(2),
    "aten::linear": slice(2),
    "aten::mm": slice(2),
}
_WIDENED = {
    "quantized_decomposed::dequantize_per_channel",
    "quantized_decomposed::dequantize_per_tensor",
}


@contextlib.contextmanager
def _noting_log() -> Iterator[None]:
    """Notes why ExecuTorch fails: its log says so, its exceptions do not."""
    with io.StringIO() as log, contextlib.redirect_stderr(log):
        try:
            yield
        except Exception as error:
            error.add_note(log.getvalue().partition("\n")[0])
            raise


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """The program, with as many threads as torch. Its outputs stay where it computes them.

    By default ExecuTorch's Python returns copies, which torch's threads make; they then wait
    busily, beside XNNPACK's. On two cores a call of MSA (8 x 14 x 14 x 384) took 12.4 ms so, and
    7.1 ms without the copies, which a program in C++ does not make.
    """
    import torch
    from executorch.extension.pybindings import portable_lib

    assert artifact is not None
    before_bytes = host.resident_bytes()
    portable_lib._unsafe_reset_threadpool(torch.get_num_threads())
    inputs = [subject.x]
    with _noting_log():
        method = portable_lib._load_program(str(artifact / FILE)).load_method("forward")
    if method is None:
        raise RuntimeError("ExecuTorch finds no method 'forward' in the program")

    def call() -> Any:
        outputs = method.call(inputs, clone_outputs=False)
        return outputs[0] if len(outputs) == 1 else outputs

    return Loaded(call, artifact / FILE, metadata.version("executorch"), before_bytes)
