"""The module as ONNX: what ONNX Runtime loads, and TensorRT parses."""

from __future__ import annotations

from pathlib import Path

import torch
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common

from vitbench.runtimes import Subject

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


def save(subject: Subject, file: Path) -> None:
    """Exports what runs the module, its constants folded and its changes of shape joined."""
    # Not optimize=True: that takes `x + 1e-15` for `x + 0`, and what is divided by it becomes NaN.
    program = torch.onnx.export(
        subject.runnable, (subject.x,), dynamo=True, verbose=False, optimize=False
    )
    assert program is not None
    optimizer.inline(program.model)
    for _ in range(2):  # what one round joins, the next one folds
        optimizer.fold_constants(program.model)
        rewriter.rewrite(program.model, [getattr(common, f"{rule}_rule") for rule in _RULES])
    program.save(file)
