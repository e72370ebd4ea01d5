"""A module in operators that XNNPACK takes. Others run in ExecuTorch's portable kernels, and each
ends a part of the program that XNNPACK runs at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from vitbench.runtimes._rewritten import Rewritten

_ATEN = torch.ops.aten
_ATTENTION = _ATEN.scaled_dot_product_attention.default


def rewritten(module: GraphModule) -> Rewritten:
    """The same function as a module that torch exported, to be exported again."""
    guarded = {node.name for node in module.graph.nodes if _is_guarded(module, node)}
    return Rewritten(module, _REWRITES, guarded)


def _is_guarded(module: GraphModule, node: Node) -> bool:
    """Whether all keys of a query may be masked: torch makes zeros of what softmax makes NaN of
    then."""
    if node.target is not _ATTENTION:
        return False
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    if mask is None:
        return False
    if not isinstance(mask, Node) or mask.op != "get_attr":  # it is made in each call
        return True
    value = module.get_buffer(str(mask.target))
    return value.dtype is torch.bool or bool(value.isneginf().all(dim=-1).any())


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Without what guards softmax of nothing, which took half the time of a layer."""
    if dropout_p or is_causal or enable_gqa:
        return NotImplemented
    scores = _matmul(q * (q.shape[-1] ** -0.5 if scale is None else scale), k.transpose(-2, -1))
    scores = scores if attn_mask is None else scores + attn_mask
    return _matmul(scores.softmax(dim=-1), v)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """Without copies that broadcast what is of the same size already."""
    if left.ndim < 3 or left.shape[:-2] != right.shape[:-2]:
        return left @ right
    product = torch.bmm(left.flatten(0, -3), right.flatten(0, -3))
    return product.unflatten(0, left.shape[:-2])


def _split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """Slices, which XNNPACK takes."""
    starts = itertools.accumulate(sizes, initial=0)
    return [x.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=False)]


def _split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    length = x.shape[dim]
    return _split_with_sizes(x, [min(size, length - at) for at in range(0, length, size)], dim)


def _chunk(x: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    return _split(x, -(-x.shape[dim] // chunks), dim)


def _with_scalar(operator: Callable[..., Tensor]) -> Callable[..., Any]:
    """Sums and products of whole numbers, such as indices, with a number: the quantizer makes that
    a float where the operator is of two tensors."""

    def compute(x: Any, y: Any) -> Any:
        whole = isinstance(x, Tensor) and not x.is_floating_point() and isinstance(y, int)
        return operator(x, y) if whole else NotImplemented

    return compute


_REWRITES: Mapping[Any, Callable[..., Any]] = {
    _ATTENTION: _attention,
    _ATEN.matmul.default: _matmul,
    _ATEN.add.Tensor: _with_scalar(_ATEN.add.Scalar),
    _ATEN.mul.Tensor: _with_scalar(_ATEN.mul.Scalar),
    _ATEN.chunk.default: _chunk,
    _ATEN.split.Tensor: _split,
    _ATEN.split_with_sizes.default: _split_with_sizes,
}


def keep_pads_in_float(module: GraphModule) -> None:
    """Has a map that was in 8 bits padded with what is zero to all that follows, and is not 0: of
    zeros XNNPACK makes a pad in 8 bits of an input in float32, and then loads no such program."""
    for node in module.graph.find_nodes(op="call_function", target=_ATEN.pad.default):
        x, widths, *how = node.args
        is_zero = how in ([], ["constant"], ["constant", None], ["constant", 0])
        if is_zero and not node.kwargs and "dequantize" in str(x):
            node.args = (x, widths, "constant", _NEARLY_ZERO)
    module.recompile()


# No product with a weight leaves the normal numbers, which are the fast ones.
_NEARLY_ZERO = 1e-30
