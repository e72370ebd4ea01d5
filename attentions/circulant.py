"""Circulant attention: a weight depends on the distance alone, so that Fourier transforms apply it.

arXiv 2512.21542. Each channel has one softmax over all distances on the map, whose opposite edges
meet (a torus): how well queries match the keys that far away, summed over the map. These weights
then add up the values at all distances from a token. Both are correlations, and so products between
a 2-D Fourier transform and its inverse: N log N in tokens. A gate multiplies the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, apart
from attentions._spec import AttentionSpec, Grid, Paper

Spectrum = Complex[Tensor, "batch height half_width dim"]
# The same in real numbers: real and imaginary parts.
Parts = Float[Tensor, "batch height 2 half_width dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """None: a head is one channel in all of the authors' models, and queries have no bias."""


class Circulant(nn.Module):
    """Circulant attention. Names as in the authors' CirculantAttention: qkv, gate.0, proj.

    There are no heads: `num_heads` has no effect. In fp16 and bf16 the Fourier transforms of the
    equations are computed in fp32, as in the authors' code: few devices have them in these.
    """

    along: Tensor
    down: Tensor
    up: Tensor
    back: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.grid = grid
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.gate = nn.Sequential(nn.Linear(dim, dim), nn.SiLU())
        self.proj = nn.Linear(dim, dim)
        if impl == "fused":
            for name, matrix in fourier_matrices(grid)._asdict().items():
                self.register_buffer(name, matrix.float(), persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        mixed = self._equations(x) if self.impl == "eager" else self._fused(x)
        return self.proj(mixed * self.gate(x))

    def _equations(self, x: FeatureMap) -> FeatureMap:
        size = (x.shape[1], x.shape[2])
        q, k, v = (spectrum(part) for part in self.qkv(x).chunk(3, dim=-1))
        scores = torch.fft.irfft2(q.conj() * k, s=size, dim=(1, 2)) / math.prod(size) ** 0.5
        weights = scores.flatten(1, 2).softmax(dim=1).view(x.shape)
        return torch.fft.irfft2(spectrum(weights).conj() * v, s=size, dim=(1, 2)).to(x.dtype)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Transforms by matrices, and transforms x before it is projected, once for q, k and v.

        On maps of up to some thousand tokens the products are as fast as a fast transform, and
        their numbers are real, which every runtime can compute. The matrices are unitary: so the
        scores are scaled as they should be, and the weights have to be scaled.
        """
        matrices = self._matrices(x)
        parts = to_spectrum(x, matrices)
        q, k, v = (F.linear(parts, weight) for weight, _ in apart(self.qkv, 3))
        scores = to_map(correlated(q, k), matrices)
        weights = scores.flatten(1, 2).softmax(dim=1).view(x.shape)
        scale = math.prod(x.shape[1:3]) ** 0.5
        return to_map(correlated(to_spectrum(weights, matrices, scale), v), matrices)

    def _matrices(self, x: FeatureMap) -> Matrices:
        """Those of the grid; made anew for another one, and in fp64, of which they hold half."""
        grid = Grid(x.shape[1], x.shape[2])
        if grid == self.grid and x.dtype != torch.float64:
            return Matrices(self.along, self.down, self.up, self.back)
        return Matrices(*(matrix.to(x) for matrix in fourier_matrices(grid)))


class Matrices(NamedTuple):
    """A unitary 2-D Fourier transform of real maps in real numbers, and its inverse.

    Along the width half of the frequencies say all, for the map is real. Along the height numbers
    are complex, and a matrix takes both parts at once. Nothing is copied between the two.
    """

    along: Float[Tensor, "twice_half_width width"]
    down: Float[Tensor, "twice_height twice_height"]
    up: Float[Tensor, "twice_height twice_height"]
    back: Float[Tensor, "width twice_half_width"]


def fourier_matrices(grid: Grid) -> Matrices:
    """In fp64. Parts follow one another along the width, and alternate along the height."""
    width, height = grid.width, grid.height
    half = width // 2 + 1
    cosine, sine = waves(half, width)
    # A frequency stands for its negative too, but for zero and, at an even width, the highest.
    twice = torch.full((half, 1), 2.0, dtype=torch.float64)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    back = torch.cat((cosine * twice, -sine * twice)).T.contiguous()
    down = torch.empty(height, 2, height, 2, dtype=torch.float64)
    down_cosine, down_sine = waves(height, height)
    down[:, 0, :, 0] = down[:, 1, :, 1] = down_cosine
    down[:, 0, :, 1], down[:, 1, :, 0] = down_sine, -down_sine
    down = down.view(2 * height, 2 * height)
    return Matrices(torch.cat((cosine, -sine)), down, down.T.contiguous(), back)


def waves(
    frequencies: int, length: int
) -> tuple[Float[Tensor, "frequencies length"], Float[Tensor, "frequencies length"]]:
    """cos and sin of each frequency along a side, divided by the root of its length."""
    turns = torch.arange(frequencies)[:, None] * torch.arange(length) % length
    angle = turns.double() * (2 * math.pi / length)
    return angle.cos() / length**0.5, angle.sin() / length**0.5


def to_spectrum(x: FeatureMap, matrices: Matrices, scale: float = 1.0) -> Parts:
    """scale times the transform."""
    batch, height, _, dim = x.shape
    parts = matrices.along @ x
    return ((matrices.down * scale) @ parts.view(batch, 2 * height, -1)).view(
        batch, height, 2, -1, dim
    )


def to_map(parts: Parts, matrices: Matrices) -> FeatureMap:
    """The inverse of to_spectrum."""
    batch, height, _, half_width, dim = parts.shape
    columns = matrices.up @ parts.view(batch, 2 * height, -1)
    return matrices.back @ columns.view(batch, height, 2 * half_width, dim)


def correlated(a: Parts, b: Parts) -> Parts:
    """conj(a) b."""
    (a_real, a_imaginary), (b_real, b_imaginary) = a.unbind(2), b.unbind(2)
    real = torch.addcmul(a_real * b_real, a_imaginary, b_imaginary)
    imaginary = torch.addcmul(a_real * b_imaginary, a_imaginary, b_real, value=-1)
    return torch.stack((real, imaginary), dim=2)


def spectrum(x: FeatureMap) -> Spectrum:
    """The 2-D Fourier transform, of a real map half of it, in fp32 at least."""
    return torch.fft.rfft2(x.to(torch.promote_types(x.dtype, torch.float32)), dim=(1, 2))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """5 N C^2 + 15 N C log2 N: six Fourier transforms, of queries, keys, values and weights, and
    back for scores and result. One of N points counts half of 5 N log2 N flops, as everywhere.
    """
    tokens = grid.tokens
    fourier = sum(round(2.5 * tokens * dim * math.log2(tokens)) for _ in range(6))
    return 5 * tokens * dim**2 + fourier


ATTENTION = AttentionSpec(
    module=Circulant,
    params=Params,
    family="spectral",
    paper=Paper(
        title="Vision Transformers are Circulant Attention Learners",
        arxiv="2512.21542",
        venue="AAAI 2026",
        code="https://github.com/LeapLabTHU/Circulant-Attention",
    ),
    equation="W(F^-1(conj(F(softmax(a))) F(V)) * silu(W x)), "
    "a = F^-1(conj(F(Q)) F(K)) / sqrt(N) for each channel, F the 2-D Fourier transform",
    cost="5NC^2 + 15NC log2 N",
    size_rule="any",
    settings={4: {}, 8: {}, 16: {}, 32: {}},
    impls=("eager", "fused"),
    kernels="matmul with the matrices of the Fourier transform",
    macs=macs,
    traps=(
        "the map is a torus: the left edge is beside the right one, whatever an image shows there",
        "scores are divided by the root of N, as the authors' code has it; so their scale follows "
        "the size of the map",
        "MACs are those of the equations with fast transforms; fused takes one transform of x for "
        "those of Q, K and V, and (H + W) times as many products as a map has numbers for each, so "
        "that it loses to fast transforms on maps far larger than 80 tokens a side",
        "the authors' block has a depthwise convolution before its first norm, which is not here",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
