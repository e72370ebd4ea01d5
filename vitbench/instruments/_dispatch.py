"""Which operators a call dispatches, and the attention kernels among them."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that scaled_dot_product_attention becomes, by what it is built on.
_KERNELS = {
    "_scaled_dot_product_flash_attention_for_cpu": "flash",
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_efficient_attention": "efficient",
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_scaled_dot_product_fused_attention_overrideable": "device's own",
}


@dataclass(frozen=True, slots=True)
class Operators:
    """What one call dispatched.

    names    how often each operator, views included
    kernels  how often scaled_dot_product_attention ran on which kernel; "math" is none of the fused
    """

    names: Mapping[str, int]
    kernels: Mapping[str, int]

    @property
    def calls(self) -> int:
        """Operators, views included."""
        return sum(self.names.values())


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """While this lasts, what is under torch.compile runs as it was written; flex_attention too,
    which compiles itself.
    """
    if {"torch._dynamo", "torch.nn.attention.flex_attention"} & sys.modules.keys():
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


class _Dispatched(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has not typed it
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.scaled_dot_product_attention.default:
            # Without autograd it arrives whole; the kernel that it chooses is what is asked for.
            with self:
                return func.decompose(*args, **(kwargs or {}))
        is_operator = isinstance(func, torch._ops.OpOverload)  # else it gets functions
        self.names[func._schema.name.partition("::")[2] if is_operator else str(func)] += 1
        return func(*args, **(kwargs or {}))


class _Asked(TorchFunctionMode):
    """Counts scaled_dot_product_attention before it becomes a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.attentions += func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


def trace(call: Callable[[], Any]) -> Operators:
    """Runs the call once and tells what it dispatched, parts under torch.compile uncompiled."""
    with uncompiled(), _Dispatched() as dispatched, _Asked() as asked:
        call()
    kernels: Counter[str] = Counter()
    for name, count in dispatched.names.items():
        if name in _KERNELS:
            kernels[_KERNELS[name]] += count
    rest = asked.attentions - kernels.total()
    if rest > 0:
        kernels["math"] = rest
    return Operators(dict(dispatched.names), dict(sorted(kernels.items())))
