"""SRA: spatial-reduction attention, keys and values from a strided convolution of the map.

arXiv 2102.12122 (PVT). Every token attends to the map reduced R times along each side.
Parameter names as in the authors' code: q, kv, sr, norm, proj.
"""

from __future__ import annotations

from attentions._reduction import (
    StridedReduction,
    StridedReductionParams,
    strided_reduction_macs,
    strided_reduction_unsupported,
)
from attentions._spec import AttentionSpec, Paper

ATTENTION = AttentionSpec(
    module=StridedReduction,
    params=StridedReductionParams,
    family="reduced",
    paper=Paper(
        title="Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction "
        "without Convolutions",
        arxiv="2102.12122",
        venue="ICCV 2021",
        code="https://github.com/whai362/PVT",
    ),
    equation="softmax(Q K'^T / sqrt(d)) V', K' and V' from LayerNorm(Conv_RxR(x))",
    cost="(3 + 2/R^2)NC^2 + 2N^2C/R^2",
    size_rule="floor",
    settings={4: {"sr_ratio": 8}, 8: {"sr_ratio": 4}, 16: {"sr_ratio": 2}, 32: {"sr_ratio": 1}},
    space={"sr_ratio": (1, 2, 7)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=strided_reduction_macs,
    unsupported=strided_reduction_unsupported,
    traps=(
        "the reduction has R^2 C^2 weights: at R = 2 as many as the whole of MSA",
        "rows and columns beyond a multiple of R are seen by no key",
    ),
)
