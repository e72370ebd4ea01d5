"""Twins GSA: global sub-sampled attention, one key for each window, by a strided convolution.

arXiv 2104.13840 (Twins-SVT). Every token attends to the map reduced R times along each side; the
backbone alternates it with Twins LSA, which looks inside windows.
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
        title="Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
        arxiv="2104.13840",
        venue="NeurIPS 2021",
        code="https://github.com/Meituan-AutoML/Twins",
    ),
    equation="softmax(Q K'^T / sqrt(d)) V', K' and V' from LayerNorm(Conv_RxR(x))",
    cost="(3 + 2/R^2)NC^2 + 2N^2C/R^2",
    size_rule="floor",
    settings={4: {"sr_ratio": 8}, 8: {"sr_ratio": 4}, 16: {"sr_ratio": 2}, 32: {"sr_ratio": 1}},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=strided_reduction_macs,
    unsupported=strided_reduction_unsupported,
    traps=(
        "half of T-MSA: the backbone alternates it with twins_lsa, layer by layer",
        "the same function as sra, with the same parameters",
        "rows and columns beyond a multiple of R are seen by no key",
    ),
)
