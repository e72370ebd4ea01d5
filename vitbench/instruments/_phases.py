"""The operators of a call by what they do for attention, and how long each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitbench.instruments import Workload
from vitbench.instruments._dispatch import uncompiled

_PRODUCTS = {"addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "einsum", "_linear_pointwise"}
_CONVOLUTIONS = {"convolution", "conv1d", "conv2d", "_convolution_pointwise"}
# Whole attention in one operator.
_KERNELS = ("scaled_dot_product", "flash_attention", "flex_attention")
_SOFTMAX = {"softmax", "_softmax"}
_MOVING = {
    "copy_",
    "_to_copy",
    "to",
    "clone",
    "contiguous",
    "cat",
    "stack",
    "index",
    "index_select",
}
_MOVING |= {"gather", "roll", "pad", "constant_pad_nd", "fill_", "zeros", "reshape", "_unsafe_view"}
_MOVING |= {
    "view",
    "permute",
    "transpose",
    "expand",
    "split",
    "unbind",
    "slice",
    "select",
    "unfold",
}
_MOVING |= {"im2col", "unsqueeze", "squeeze", "flatten", "movedim", "chunk", "t", "take_along_dim"}
# How far data have come: nothing of attention, its first product, its result.
_BEFORE, _SCORES, _AFTER = range(3)
# Of a call so many times, or as often as this time allows.
_MOST_CALLS, _MOST_S = 3, 0.5


def seconds(workload: Workload) -> Mapping[str, float]:
    """Seconds of one call by phase; nothing for one that autograd records."""
    if torch.is_grad_enabled():
        return {}
    weights = [*workload.module.parameters(), *workload.module.buffers()]
    start = time.perf_counter()
    calls: list[Mapping[str, float]] = []
    while len(calls) < _MOST_CALLS and (not calls or time.perf_counter() - start < _MOST_S):
        with uncompiled(), _Timed(weights, workload.device.synchronize) as timed:
            workload.call()
        calls.append(timed.spent_s)
    # The first call may prepare something, and the machine may be busy in any.
    return {phase: min(spent[phase] for spent in calls) for phase in calls[0]}


class _Timed(TorchDispatchMode):
    """Times each operator, and follows the data: what a tensor holds is known by its storage."""

    supports_higher_order_operators = True

    def __init__(self, weights: Sequence[Tensor], synchronize: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has not typed it
        self.spent_s: dict[str, float] = {}
        self._weights = frozenset(_storage(tensor) for tensor in weights)
        self._derived: set[int] = set()  # from weights alone
        self._stages: dict[int, int] = {}
        self._synchronize = synchronize

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._synchronize()
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self._synchronize()
        spent_s = time.perf_counter() - start
        name = func._schema.name.partition("::")[2] if hasattr(func, "_schema") else str(func)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        phase = self._phase(name, args, inputs, outputs)
        self.spent_s[phase] = self.spent_s.get(phase, 0.0) + spent_s
        return result

    def _phase(
        self, name: str, args: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> str:
        """What the operator did; notes what its outputs hold."""
        data = [tensor for tensor in inputs if not self._is_weight(tensor)]
        # Indices that come from scores choose data; they are none.
        stages = [self._stages.get(_storage(t), _BEFORE) for t in data if t.is_floating_point()]
        stage = max(stages, default=_BEFORE)
        phase, after = classify(name, stage, len(data) < len(inputs), _kernel_of(name, args))
        for storage in map(_storage, outputs):
            self._stages[storage] = after
            (self._derived.discard if data or not inputs else self._derived.add)(storage)
        return phase

    def _is_weight(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return storage in self._weights or storage in self._derived


def classify(name: str, stage: int, is_weighted: bool, kernel: Sequence[int]) -> tuple[str, int]:
    """The phase of an operator, and how far its outputs have come.

    stage        of its data
    is_weighted  weights are among its inputs
    kernel       the size of a convolution's; a convolution of 1 x 1 is a product
    """
    is_product = name in _PRODUCTS or (name in _CONVOLUTIONS and set(kernel) <= {1})
    if any(kernel_name in name for kernel_name in _KERNELS):
        return "kernel", _AFTER
    if is_product and is_weighted:
        return ("output" if stage == _AFTER else "projections"), stage
    if is_product:
        return ("QK", _SCORES) if stage == _BEFORE else ("AV", _AFTER)
    if name in _CONVOLUTIONS:
        return "convolutions", stage
    if name in _SOFTMAX:
        return "softmax", stage
    return ("partition" if name in _MOVING else "elementwise"), stage


def _kernel_of(name: str, args: Any) -> tuple[int, ...]:
    """The size of a convolution's kernel."""
    return tuple(args[1].shape[2:]) if name in _CONVOLUTIONS else ()


def _storage(tensor: Tensor) -> int:
    """What tensors over the same memory share."""
    return tensor.untyped_storage().data_ptr()
