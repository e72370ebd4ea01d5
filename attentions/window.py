"""Window attention: self-attention inside non-overlapping windows.

arXiv 2103.14030 (Swin), W-MSA. Linear in tokens; nothing crosses a window's border. Parameter names
as in the authors' WindowAttention.
"""

from __future__ import annotations

from attentions._spec import AttentionSpec, Paper
from attentions._windows import (
    SwinAttention,
    SwinParams,
    swin_computed,
    swin_macs,
    swin_unsupported,
)

ATTENTION = AttentionSpec(
    module=SwinAttention,
    params=SwinParams,
    family="window",
    paper=Paper(
        title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        arxiv="2103.14030",
        venue="ICCV 2021",
        code="https://github.com/microsoft/Swin-Transformer",
    ),
    equation="softmax(Q K^T / sqrt(d) + B) V inside each w x w window",
    cost="4NC^2 + 2w^2NC",
    size_rule="pad",
    settings={
        4: {"window_size": 7},
        8: {"window_size": 7},
        16: {"window_size": 7},
        32: {"window_size": 7},
    },
    space={"window_size": (2, 4, 7, 14)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=swin_macs,
    computed=swin_computed,
    unsupported=swin_unsupported,
    traps=(
        "padding is attended to: padded tokens carry the bias of qkv, as in the authors' code",
        "a map no longer than the window is one window along that side",
    ),
)
