"""LITv2: a pyramid of four stages, two without attention, one with HiLo, one with MSA.

arXiv 2205.13213 (NeurIPS 2022), after LIT, arXiv 2105.14217. Stages 1 and 2 are MLPs with a
depthwise convolution inside; stage 3 attends with HiLo; on the small map of stage 4 every head
attends to every token. Between stages a deformable convolution merges tokens. Parameters carry the
names of the authors' code, so that their checkpoints load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import StochasticDepth, deform_conv2d

import attentions
from attentions import Grid
from vitbench.cases import backbone_names
from vitbench.cases.class_names import outline_of
from vitbench.subjects.backbones import BackboneSpec, Unsuitable
from vitbench.subjects.classes import attention_of

Impl = Literal["eager", "fused"]

PATCH = 4
STAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LITv2Config:
    """One LITv2.

    dim        channels of the first stage; each next has twice as many
    depths     blocks of each stage
    heads      of each stage; only stages 3 and 4 attend
    drop_path  chance that the last block's residuals are dropped in training, from 0 in the first
    attention  the mechanism of stage 3, any of the registry; `a+b` takes them in turns
    params     hyper-parameters of stage 3, by mechanism
    stage4_attention, stage4_params  the same of stage 4. The authors' is HiLo with windows of one
               token, which is attention from every token to every token
    mlp_ratio  hidden channels of an MLP for each of its own
    """

    dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    drop_path: float
    attention: str = "hilo"
    params: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"hilo": {"window_size": 2, "alpha": 0.9}}
    )
    stage4_attention: str = "hilo"
    stage4_params: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"hilo": {"window_size": 1}}
    )
    mlp_ratio: int = 4

    def mechanism(self, stage: int, block: int) -> tuple[str, Mapping[str, Any]] | None:
        """(name, hyper-parameters) of a block's attention, both counted from 0; None for the first
        two stages."""
        if stage < 2:
            return None
        is_last = stage == STAGES - 1
        attention = self.stage4_attention if is_last else self.attention
        params = self.stage4_params if is_last else self.params
        names = attention.split("+")
        name = names[block % len(names)]
        return name, dict(params.get(name, {}))


CONFIGS = {
    "litv2_s": LITv2Config(dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), drop_path=0.2),
    "litv2_m": LITv2Config(dim=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24), drop_path=0.3),
    "litv2_b": LITv2Config(dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), drop_path=0.5),
}


def spec(name: str, plugins: Mapping[str, Path]) -> BackboneSpec:
    """The spec of LITv2-S, -M or -B; a plugin's mechanism can stand in stage 3."""

    def build(
        image_height: int,
        image_width: int,
        *,
        impl: Impl = "fused",
        features_only: bool = False,
        task: str = "",
        **params: Any,
    ) -> LITv2:
        config, size = configured(CONFIGS[name], params, plugins), (image_height, image_width)
        first = 1 if task == "detect" else 0
        return LITv2(
            config, *size, features_only=features_only, first_norm=first, impl=impl, plugins=plugins
        )

    def formula(image_height: int, image_width: int, **params: Any) -> int | None:
        config = configured(CONFIGS[name], params, plugins)
        return formula_macs(config, image_height, image_width, plugins)

    return BackboneSpec(build=build, impls=("eager", "fused"), formula=formula)


def configured(
    config: LITv2Config, params: Mapping[str, Any], plugins: Mapping[str, Path]
) -> LITv2Config:
    """The config with another attention, or other hyper-parameters of it, in stage 3 and, by names
    that begin with `stage4_`, in stage 4.

    Each mechanism takes the hyper-parameters that it knows; the rest are the authors' there.
    """
    own, last = (backbone_names.stage_of(params, prefix) for prefix in backbone_names.STAGES)
    attention, chosen = _chosen(config.attention, config.params, own, PATCH << 2, plugins)
    config = replace(config, attention=attention, params=chosen)
    if not last:
        return config
    attention, chosen = _chosen(config.stage4_attention, {}, last, PATCH << 3, plugins)
    return replace(config, stage4_attention=attention, stage4_params=chosen)


def _chosen(
    attention: str,
    usual: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Any],
    stride: int,
    plugins: Mapping[str, Path],
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The mechanism of a stage, and the hyper-parameters of each of those that it names."""
    others = dict(given)
    attention = str(others.pop("attention", attention))
    chosen = {}
    for name in attention.split("+"):
        outline = outline_of(name, {**attentions.files(), **plugins})
        known = outline.keywords
        own = {key: value for key, value in others.items() if known is None or key in known}
        chosen[name] = (dict(usual.get(name, {})) or outline.settings_at(stride)) | own
    return attention, chosen


def grids_on(image_height: int, image_width: int) -> list[Grid]:
    """The maps of the four stages: patches of the padded image, then halved, rounded down."""
    height, width = -(-image_height // PATCH), -(-image_width // PATCH)
    return [Grid(height >> stage, width >> stage) for stage in range(STAGES)]


class PatchEmbed(nn.Module):
    """Convolution 4 x 4 with stride 4, then LayerNorm. Names: proj, norm.

    Images that do not divide are padded with zeros on the right and at the bottom, as in the
    authors' code for dense prediction.
    """

    def __init__(self, dim: int, impl: Impl) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, images: Float[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch height width dim"]:
        bottom, right = -images.shape[2] % PATCH, -images.shape[3] % PATCH
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        if self.impl == "fused":
            # With its channels last the map goes to the norm as it is, else it is copied.
            images = images.contiguous(memory_format=torch.channels_last)
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class DepthwiseConv(nn.Module):
    """3 x 3, over the map that the tokens make. Name: dwconv."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch height width dim"]:
        return self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MLP(nn.Module):
    """Linear, depthwise convolution, GELU, linear. Names: fc1, dwconv, fc2."""

    def __init__(self, dim: int, hidden: int, impl: Impl) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch height width dim"]:
        hidden = self.dwconv(self.fc1(x))
        if self.impl == "fused" and not torch.is_grad_enabled():
            return self.fc2(torch.ops.aten.gelu_(hidden))  # nothing is kept for a backward pass
        return self.fc2(F.gelu(hidden))


class DeformableConv(nn.Module):
    """2 x 2 with stride 2, its four taps moved by offsets that another convolution gives.

    arXiv 1703.06211, without modulation. Names: weight, bias, conv_offset. An offset is (y, x) for
    each tap, in rows; they begin as zero.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_dim, dim, 2, 2))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.conv_offset = nn.Conv2d(dim, 8, kernel_size=2, stride=2)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch out_dim half_height half_width"]:
        offset = self.conv_offset(x)
        # The operator is there in fp32 and fp64; half precision is converted, the offsets too.
        dtype = torch.promote_types(x.dtype, torch.float32)
        parts = [part.to(dtype).contiguous() for part in (x, offset, self.weight, self.bias)]
        values, offset, weight, bias = parts
        return deform_conv2d(values, offset, weight, bias, stride=2).to(x.dtype)

    def gathered(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch half_height half_width out_dim"]:
        """The same on a channels-last map: the taps are weighted sums of rows, then one product.

        torchvision's operator on a CPU walks through one channel after the other, in fp32.
        """
        batch, height, width, dim = x.shape
        half_height, half_width = height // 2, width // 2
        taps = half_height * half_width * 4
        offset = self.conv_offset(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        offset = offset.to(torch.promote_types(x.dtype, torch.float32))
        offset = offset.reshape(batch, half_height, half_width, 2, 2, 2)
        where = x.device
        rows = torch.arange(2 * half_height, device=where).view(half_height, 1, 2, 1)
        columns = torch.arange(2 * half_width, device=where).view(1, half_width, 1, 2)
        y, x_ = offset[..., 0] + rows, offset[..., 1] + columns
        index, weight = corners(y.reshape(batch, taps), x_.reshape(batch, taps), height, width)
        image = torch.arange(batch, device=where)[:, None, None] * (height * width)
        index, weight = (index + image).reshape(-1, 4), weight.to(x.dtype).reshape(-1, 4)
        tokens = x.reshape(-1, dim)
        # Other runtimes have no embedding bag, or take it tap by tap; torch's own saves a copy.
        if torch.compiler.is_exporting():
            sampled = (tokens[index] * weight[:, :, None]).sum(dim=1)
        else:
            sampled = F.embedding_bag(index, tokens, mode="sum", per_sample_weights=weight)
        kernel = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(sampled.view(batch, half_height, half_width, 4 * dim), kernel, self.bias)


def corners(
    y: Float[Tensor, "batch taps"], x: Float[Tensor, "batch taps"], height: int, width: int
) -> tuple[Int[Tensor, "batch taps 4"], Float[Tensor, "batch taps 4"]]:
    """Rows of a flattened map and their weights, of which the value at (y, x) is the sum.

    Bilinear; what lies outside is zero.
    """
    top, left = y.floor(), x.floor()
    index, weight = [], []
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            there = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            index.append(there.long())
            weight.append(row_weight * column_weight * inside)
    return torch.stack(index, dim=-1), torch.stack(weight, dim=-1)


class TokenMerging(nn.Module):
    """Deformable token merging: convolution, BatchNorm, GELU. Names: dconv, norm_layer."""

    def __init__(self, dim: int, impl: Impl) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.dconv = DeformableConv(dim, 2 * dim)
        self.norm_layer = nn.BatchNorm2d(2 * dim)

    def forward(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch half_height half_width twice_dim"]:
        # A GPU has torchvision's kernel; what is gathered here costs memory in training.
        if self.impl == "fused" and x.is_cpu and not torch.is_grad_enabled():
            merged = self.dconv.gathered(x).permute(0, 3, 1, 2)
        else:
            merged = self.dconv(x.permute(0, 3, 1, 2))
        return F.gelu(self.norm_layer(merged)).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Attention, where the stage has one, and MLP, both normalised first and added. Names: norm1,
    attn, norm2, mlp."""

    def __init__(
        self, attention: nn.Module | None, dim: int, hidden: int, drop: float, impl: Impl
    ) -> None:
        super().__init__()
        if attention is not None:
            self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, hidden, impl)
        self.drop_path = StochasticDepth(drop, mode="row") if drop else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch height width dim"]:
        if self.attn is not None:
            x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class LITv2(nn.Module):
    """Images to class scores; with `features_only`, to the maps of all four stages. Names:
    patch_embed, layers (each of blocks, and downsample save in the last), norm, head.

    image_height, image_width  of what it is built for. Other sizes run too, unless the attention of
                               stage 3 is fixed to its map
    features_only  maps (batch, channels, height, width) at strides 4, 8, 16, 32, taken before the
                   merging, each through a LayerNorm of its own: norm0 to norm3 in place of norm and
                   head, as in the authors' code for segmentation
    first_norm     the first map that has such a norm: 1 in the authors' code for detection, whose
                   map at stride 4 is not normalised
    """

    def __init__(
        self,
        config: LITv2Config,
        image_height: int = 224,
        image_width: int = 224,
        *,
        num_classes: int = 1000,
        features_only: bool = False,
        first_norm: int = 0,
        impl: Impl = "fused",
        plugins: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.config = config
        self.features_only = features_only
        self.first_norm = first_norm
        self.patch_embed = PatchEmbed(config.dim, impl)
        blocks_after = sum(config.depths) - 1
        drops = [config.drop_path * i / max(1, blocks_after) for i in range(blocks_after + 1)]
        self.layers = nn.ModuleList()
        for stage, grid in enumerate(grids_on(image_height, image_width)):
            dim = config.dim << stage
            blocks = []
            for block in range(config.depths[stage]):
                attention = _attention(config, (stage, block), grid, impl, plugins)
                blocks.append(Block(attention, dim, config.mlp_ratio * dim, drops.pop(0), impl))
            layer = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
            if stage < STAGES - 1:
                layer["downsample"] = TokenMerging(dim, impl)
            self.layers.append(layer)
        self.channels = [config.dim << stage for stage in range(STAGES)]
        if features_only:
            for stage in range(first_norm, STAGES):
                self.add_module(f"norm{stage}", nn.LayerNorm(self.channels[stage]))
        else:
            self.norm = nn.LayerNorm(self.channels[-1])
            self.head = nn.Linear(self.channels[-1], num_classes) if num_classes else nn.Identity()
        self.apply(_initialise)

    def forward(self, images: Float[Tensor, "batch 3 image_height image_width"]) -> Any:
        x = self.patch_embed(images)
        maps = []
        for stage, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ModuleDict)
            for block in layer["blocks"].children():
                x = block(x)
            if self.features_only:
                has_norm = stage >= self.first_norm
                map_ = self.get_submodule(f"norm{stage}")(x) if has_norm else x
                maps.append(map_.permute(0, 3, 1, 2))
            if "downsample" in layer:
                x = layer["downsample"](x)
        return maps if self.features_only else self.head(self.norm(x).mean(dim=(1, 2)))


def _attention(
    config: LITv2Config, index: tuple[int, int], grid: Grid, impl: Impl, plugins: Mapping[str, Path]
) -> nn.Module | None:
    """The attention of a (stage, block). Raises Unsuitable where it cannot run on the map."""
    chosen = config.mechanism(*index)
    if chosen is None:
        return None
    name, params = chosen
    mechanism = attention_of(name, plugins)
    dim, heads = config.dim << index[0], config.heads[index[0]]
    reason = mechanism.reason_against(dim, heads, grid, **params)
    if reason is not None:
        raise Unsuitable(f"{name} in stage {index[0] + 1}: {reason}")
    available = impl if impl in mechanism.impls else mechanism.impls[0]
    return mechanism.build(dim, heads, grid, impl=available, **params)


def _initialise(module: nn.Module) -> None:
    """As the authors: linear layers from a truncated normal, depthwise ones by their fan out."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, DepthwiseConv):
        conv = module.dwconv
        fan_out = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels // conv.groups
        nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)


def formula_macs(
    config: LITv2Config,
    image_height: int,
    image_width: int,
    plugins: Mapping[str, Path] = MappingProxyType({}),
) -> int | None:
    """What the authors' `flops()` gives for LITv2; the closed form of what stands in stage 3. None
    where that has none.

    It counts what is not counted here, one operation for each element: biases of convolutions and
    the normalisations. It takes the offsets of a token merging for 12 channels where there are 8,
    and the pooling before the head for a sixteenth of the first map's tokens.
    """
    grids = grids_on(image_height, image_width)
    total = grids[0].tokens * config.dim * (3 * PATCH**2 + 1)
    for stage, grid in enumerate(grids):
        dim = config.dim << stage
        hidden = config.mlp_ratio * dim
        block = grid.tokens * (10 * hidden + 2 * dim * hidden + dim)
        total += config.depths[stage] * block
        for index in range(config.depths[stage]):
            chosen = config.mechanism(stage, index)
            if chosen is not None:
                macs = attention_of(chosen[0], plugins).macs
                if macs is None:
                    return None
                total += macs(dim, config.heads[stage], grid, **chosen[1]) + grid.tokens * dim
        if stage < STAGES - 1:
            merged = (grid.height // 2) * (grid.width // 2)
            total += merged * ((4 * dim + 1) * (12 + 2 * dim) + 2 * dim)
    last = config.dim << (STAGES - 1)
    return total + last * grids[0].tokens // 2**STAGES + last * 1000
