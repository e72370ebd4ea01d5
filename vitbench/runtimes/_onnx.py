"""The module as ONNX: what ONNX Runtime loads, and TensorRT parses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common
from torch import Tensor
from torch.fx import Node

from vitbench.runtimes import Subject, _artifact
from vitbench.runtimes._rewritten import Rewritten

# Of onnxscript's rules, those that the runtimes do not apply themselves.
_RULES = (
    "cast_cast",
    "collapse_slice",
    "collapse_slice2",
    "flatten_to_reshape",
    "materialize_reshape_shape",
    "no_op_cast",
    "no_op_expand",
    "no_op_transpose",
    "one_reshape_matmul_reshape",
    "reshape_reshape",
    "slice_split",
    "squeeze_reshape_1d",
    "transpose_transpose",
    "two_reshapes_matmul_reshape",
    "unsqueeze_unsqueeze",
)


_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def save(subject: Subject, file: Path) -> None:
    """Exports what runs the module, its constants folded and its changes of shape joined."""
    exported = _artifact.exported(subject)
    if any(_is_of_another_shape(node) for node in exported.graph.nodes):
        module = Rewritten(exported.module(), {_ATTENTION: _with_four_dimensions})
        exported = torch.export.export(module, (subject.x,))
    # Not optimize=True: that takes `x + 1e-15` for `x + 0`, and what is divided by it becomes NaN.
    program = torch.onnx.export(exported, dynamo=True, verbose=False, optimize=False)
    assert program is not None
    optimizer.inline(program.model)
    for _ in range(2):  # what one round joins, the next one folds
        optimizer.fold_constants(program.model)
        rewriter.rewrite(program.model, [getattr(common, f"{rule}_rule") for rule in _RULES])
    program.save(file)


def _is_of_another_shape(node: Node) -> bool:
    """Whether it is attention of other than 4 dimensions, which torch does not export to ONNX."""
    q = node.args[0] if node.target is _ATTENTION else None
    return isinstance(q, Node) and q.meta["val"].ndim != 4


def _with_four_dimensions(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """The same attention, of tensors (batch, heads, tokens, head_dim)."""
    if q.ndim == 4:
        return NotImplemented
    if mask is not None and mask.ndim > 3:
        mask = _joined(mask.expand(*q.shape[:-3], *mask.shape[-3:]))
    output = _ATTENTION(_joined(q), _joined(k), _joined(v), mask, *args, **kwargs)
    return output.view(*q.shape[:-1], v.shape[-1])


def _joined(x: Tensor) -> Tensor:
    """With one dimension before the last three."""
    x = x if x.ndim > 2 else x.unsqueeze(0)
    return x.reshape(-1, *x.shape[-3:])
