"""A CUDA graph: the eager module's kernels, recorded once and replayed without the host."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitbench import devices
from vitbench.instruments import Column, correctness
from vitbench.runtimes import Prepared, Rules, Subject, Unsuitable
from vitbench.runtimes.compiled import Watched

if TYPE_CHECKING:
    from torch import Tensor

RULES = Rules(
    name="cuda-graph",
    summary="the eager call, replayed from a CUDA graph",
    columns=(
        Column(
            "graph_pool_bytes",
            "bytes",
            "memory that a CUDA graph keeps for itself, in whole blocks of the allocator; what the "
            "call needs of it is in the peak memory; empty where there is no graph",
            "int",
        ),
    ),
)
# Kernels that add up in any order round otherwise in each call; over a whole model that grows.
_LAYERS = 64


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It needs a device that records graphs."""
    if devices.rules(device).has_graphs:
        return None
    return f"CUDA graphs need a CUDA device, got {device}"


class Recorded(Watched):
    """The replay of an eager call, which was shown to follow its input."""

    is_dispatched = False

    def __init__(self, subject: Subject) -> None:
        eager = _Eager(subject)
        with _no_collection():
            try:
                self._graph = subject.device.capture(eager)
            except devices.NotRecordable as reason:
                raise Unsuitable(f"it cannot be recorded as a CUDA graph: {reason}") from None
        super().__init__(self._replay)
        self.kept_bytes = self._graph.peak_bytes
        self._check(subject, eager)

    def _replay(self) -> Any:
        self._graph.replay()
        return self._graph.output[0]

    def _check(self, subject: Subject, eager: _Eager) -> None:
        """Raises WrongOutput unless output and gradients of a replay follow a new input."""
        import torch

        x, seed = subject.x, torch.initial_seed()
        original = x.detach().clone()
        with torch.no_grad():
            x.copy_(torch.randn_like(original))
        torch.manual_seed(seed)  # what is drawn in a call is the same in both
        expected, gradients = eager()
        torch.manual_seed(seed)
        output, replayed = self._graph.output
        self._graph.replay()
        subject.device.synchronize()
        tensors = correctness.tensors_in
        pairs = {"output": (tensors(output), tensors(expected))}
        # Each of them may be nothing but rounding, as the gradient of a key's bias is.
        pairs |= {"gradients": (replayed, gradients)} if gradients else {}
        allowed = correctness.budget(x.dtype, tf32=subject.device.uses_tf32(), layers=_LAYERS)
        for name, (found, reference) in pairs.items():
            errors = correctness.joint_errors(found, reference)
            if not (errors.rms <= allowed.rms and errors.worst <= allowed.worst):
                raise correctness.WrongOutput(
                    f"replayed from a CUDA graph on a new input, the {name} must be those of an "
                    f"eager call, got {errors.rms:.2e} rms of difference, relative to their rms"
                )
        with torch.no_grad():
            x.copy_(original)

    def columns(self) -> Mapping[str, Any]:
        return {**super().columns(), "graph_pool_bytes": self._graph.pool_bytes}


class _Eager:
    """One eager call: its output, and the gradients that it makes, which it leaves nowhere else."""

    def __init__(self, subject: Subject) -> None:
        self._call = subject.calling(subject.runnable)
        self._leaves = (subject.x, *subject.runnable.parameters())

    def __call__(self) -> tuple[Any, list[Tensor]]:
        output = self._call()
        gradients = [leaf.grad for leaf in self._leaves if leaf.grad is not None]
        for leaf in self._leaves:
            leaf.grad = None
        return output, gradients


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage is collected before and not meanwhile: to free what is on a device breaks the
    recording."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """Records the call and checks the recording."""
    return Recorded(subject)
