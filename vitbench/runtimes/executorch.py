"""ExecuTorch with XNNPACK on the CPU, as phones run it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from vitbench.instruments import host
from vitbench.runtimes import Prepared, Rules, Subject, _artifact
from vitbench.runtimes._artifact import Loaded

RULES = Rules(
    name="executorch",
    summary="ExecuTorch with XNNPACK, as phones run it",
    conversion_s=5.0,
    loading_s=0.2,
    packages=("executorch",),
    extra="runtimes",
    converts=True,
)
FILE = "model.pte"
SCRIPT = '''\
{title}

from pathlib import Path

import torch
from executorch.runtime import Runtime

file = Path(__file__).parent / {file!r}
model = Runtime.get().load_program(file).load_method("forward")


def run(x):
    """The outputs for an input, all of them tensors."""
    return model.execute([x])


if __name__ == "__main__":
    x = torch.randn({shape}, dtype=torch.{dtype}, device={device!r})
    print(*(tuple(y.shape) for y in run(x)))
'''


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference on the CPU in float32."""
    return _artifact.refuses(RULES.name, device, dtype, mode, on_host=("float32",))


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The program. Operators that XNNPACK does not take run in ExecuTorch's portable kernels, which
    are many times slower: their share is told."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # ExecuTorch takes scaled_dot_product_attention apart. Exported with torch's fused kernel, whose
    # output lies otherwise in memory, the module has views that then fail. torch's cache of layouts
    # does not know which kernel was chosen.
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    with sdpa_kernel(SDPBackend.MATH), uncached:
        program = _artifact.exported(subject)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    info = get_delegation_info(lowered.exported_program().graph_module)
    (folder / FILE).write_bytes(lowered.to_executorch().buffer)
    taken, left = info.num_delegated_nodes, info.num_non_delegated_nodes
    return {"fallback_share": left / (taken + left)}


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """The program's method, with as many threads as torch. It returns copies of its outputs."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    assert artifact is not None
    before_bytes = host.resident_bytes()
    portable_lib._unsafe_reset_threadpool(torch.get_num_threads())
    method = Runtime.get().load_program(artifact / FILE).load_method("forward")
    if method is None:
        raise RuntimeError("ExecuTorch finds no method 'forward' in the program")
    inputs = [subject.x]

    def call() -> Any:
        outputs = method.execute(inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    return Loaded(call, artifact / FILE, metadata.version("executorch"), before_bytes)
