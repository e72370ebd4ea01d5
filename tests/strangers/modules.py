"""Small modules as users write them, each with its MACs worked out by hand beside it.

x is (1, 4, 6, 16): 24 tokens of 16 channels. AT_LEAST marks what nobody can count by looking.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint
from torchvision.ops import deform_conv2d

SHAPE = (1, 4, 6, 16)
N, C = 24, 16  # tokens, channels
HEADS, D = 2, 8  # heads, channels of one

Function = Callable[[Tensor], object]


class Layer(nn.Module):
    """A function of the map, with the modules that it needs."""

    def __init__(self, function: Callable[..., object], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> object:
        return self.function(x, *self.parts)


def tokens(x: Tensor) -> Tensor:
    """(1, 24, 16)."""
    return x.flatten(1, 2)


def image(x: Tensor) -> Tensor:
    """(1, 16, 4, 6)."""
    return x.permute(0, 3, 1, 2)


def heads(x: Tensor) -> Tensor:
    """(1, 2, 24, 8)."""
    return tokens(x).unflatten(-1, (HEADS, D)).transpose(1, 2)


def conv(layer: nn.Module) -> Layer:
    """A convolution of the image."""
    return Layer(lambda x, own: own(image(x)), layer)


class Sparse(nn.Module):
    """It holds a matrix of which 24 numbers are left."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pattern", torch.eye(N).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.pattern, tokens(x)[0])


def compressed(x: Tensor) -> Tensor:
    """A sparse matrix made in forward; torch warns that such are new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(N).to_sparse_csr() @ tokens(x)[0]


def nested(x: Tensor, layer: nn.Module) -> Tensor:
    """Two sequences of different lengths as one jagged tensor."""
    parts = [tokens(x)[0, :20], tokens(x)[0, 20:]]
    output = layer(torch.nested.nested_tensor(parts, layout=torch.jagged))
    return output.to_padded_tensor(0.0)


def into(x: Tensor) -> Tensor:
    """A product into memory that is there."""
    out = x.new_empty(1, N, N)
    torch.bmm(tokens(x), tokens(x).mT, out=out)
    return out


def parameter(*shape: int) -> Tensor:
    """A weight that no module knows: a tensor in a closure, on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def sdpa(**options: Any) -> Layer:
    """Fused self-attention of the heads."""

    def attend(x: Tensor) -> Tensor:
        q = heads(x)
        return F.scaled_dot_product_attention(q, q, q, **options)

    return Layer(attend)


def masked(x: Tensor) -> Tensor:
    """Under a mask that is made in forward."""
    q, mask = heads(x), torch.ones(N, N, dtype=torch.bool)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)


def to_six(x: Tensor) -> Tensor:
    """Six keys for all queries."""
    q, k = heads(x), heads(x)[:, :, :6]
    return F.scaled_dot_product_attention(q, k, k)


def flexible(x: Tensor) -> Tensor:
    """Through flex_attention."""
    q = heads(x)
    return flex_attention(q, q, q)


def grouped(x: Tensor) -> Tensor:
    """Two heads of queries share one of keys."""
    q = heads(x)
    return F.scaled_dot_product_attention(q, q[:, :1], q[:, :1], enable_gqa=True)


def attention(need_weights: bool) -> Layer:
    """torch's own, on its fast path where it may take it."""
    layer = nn.MultiheadAttention(C, HEADS, batch_first=True)
    return Layer(lambda x, own: own(*[tokens(x)] * 3, need_weights=need_weights), layer)


def scripted(layer: nn.Module) -> nn.Module:
    """By TorchScript, which torch has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(layer)


def compiled(x: Tensor, layer: nn.Module) -> object:
    """A part under torch.compile."""
    return torch.compile(layer, backend="eager")(x)


def twice(x: Tensor, layer: nn.Module) -> object:
    """One module, called two times."""
    return layer(layer(x))


def tied(x: Tensor, layer: nn.Linear) -> Tensor:
    """One weight, forth and back."""
    return F.linear(layer(x), layer.weight.t())


def checkpointed(use_reentrant: bool) -> Layer:
    """A block that is computed anew for its gradients."""
    return Layer(
        lambda x, own: checkpoint(own, x, use_reentrant=use_reentrant), nn.Linear(C, 4 * C)
    )


def deformed(x: Tensor) -> Tensor:
    """3 x 3, from 16 to 5 channels, its taps moved by nothing."""
    offset = x.new_zeros(1, 2 * 9, 4, 6)
    return deform_conv2d(image(x), offset, parameter(5, C, 3, 3).to(x.device), padding=1)


def per_sample(x: Tensor) -> Tensor:
    """A matrix for each row of the map."""
    weights = parameter(4, C, 3).to(x.device)
    return torch.func.vmap(torch.matmul)(x[0], weights)


def complex_product(x: Tensor) -> Tensor:
    """(24, 16) by (16, 24) in complex numbers."""
    z = torch.complex(tokens(x), tokens(x))
    return z @ z.mT


def by_value(x: Tensor) -> Tensor:
    """What it computes depends on a value."""
    return tokens(x) @ tokens(x).mT if bool((x * 0 == 0).all()) else x


class Doubled(torch.autograd.Function):
    """A product with a gradient of its own."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x @ x.mT

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


class ByNumpy(torch.autograd.Function):
    """The same, computed by numpy."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        array = x.detach().numpy()
        return torch.from_numpy(array @ array.swapaxes(1, 2))

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


@torch.library.custom_op("strangers::product", mutates_args=())
def unknown_product(x: Tensor) -> Tensor:
    """A kernel of the user's own."""
    return x @ x.mT


@unknown_product.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], x.shape[1])


WORKERS = ThreadPoolExecutor(1)


def in_the_pool(x: Tensor) -> Tensor:
    """A product by a thread that was there before."""
    return WORKERS.submit(lambda: tokens(x) @ tokens(x).mT).result()


def in_a_shell(x: Tensor) -> Tensor:
    """What a shell computes, nobody knows."""
    os.system("true")
    return x


def listed(x: Tensor) -> Tensor:
    """Sums of the rows, by Python."""
    return torch.tensor([sum(row) for row in tokens(x)[0].tolist()])


def in_a_thread(x: Tensor) -> Tensor:
    """A product that another thread computes."""
    results: list[Tensor] = []
    thread = threading.Thread(target=lambda: results.append(tokens(x) @ tokens(x).mT))
    thread.start()
    thread.join()
    return results[0]


class InAPool(nn.Module):
    """The same by a pool that the module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = ThreadPoolExecutor(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool.submit(lambda: tokens(x) @ tokens(x).mT).result()


EXACT: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "linear": (lambda: nn.Linear(C, 24), N * C * 24),
    "no bias": (lambda: nn.Linear(C, 24, bias=False), N * C * 24),
    "conv": (lambda: conv(nn.Conv2d(C, 5, 3, padding=1)), N * 5 * C * 9),
    "conv, padding by a word": (lambda: conv(nn.Conv2d(C, 5, 3, padding="same")), N * 5 * C * 9),
    "conv, circular": (
        lambda: conv(nn.Conv2d(C, 5, 3, padding=1, padding_mode="circular")),
        N * 5 * C * 9,
    ),
    "conv, strided": (lambda: conv(nn.Conv2d(C, 5, 2, stride=2)), 2 * 3 * 5 * C * 4),
    "conv, grouped": (lambda: conv(nn.Conv2d(C, 8, 3, padding=1, groups=4)), N * 8 * 4 * 9),
    "conv, depthwise": (lambda: conv(nn.Conv2d(C, C, 3, padding=1, groups=C)), N * C * 9),
    "conv, dilated": (lambda: conv(nn.Conv2d(C, 5, 2, dilation=2)), 2 * 4 * 5 * C * 4),
    "conv, transposed": (lambda: conv(nn.ConvTranspose2d(C, 5, 2, stride=2)), N * C * 5 * 4),
    "conv, transposed and grouped": (
        lambda: conv(nn.ConvTranspose2d(C, 8, 3, stride=2, groups=2)),
        N * C * 4 * 9,
    ),
    "conv, one-dimensional": (
        lambda: Layer(lambda x, own: own(tokens(x).mT), nn.Conv1d(C, 5, 3)),
        22 * 5 * C * 3,
    ),
    "conv, three-dimensional": (
        lambda: Layer(lambda x, own: own(image(x)[:, None]), nn.Conv3d(1, 2, 3)),
        14 * 2 * 4 * 2 * 27,
    ),
    "functional conv": (
        lambda: Layer(lambda x: F.conv2d(image(x), parameter(5, C, 1, 1).to(x.device))),
        N * 5 * C,
    ),
    "a constant on the CPU": (
        lambda: Layer(functools.partial(torch.matmul, other=parameter(C, 5))),
        N * C * 5,
    ),
    "a constant made in forward": (lambda: Layer(lambda x: x @ torch.ones(C, 5)), N * C * 5),
    "deformable conv": (lambda: Layer(deformed), N * 5 * C * 9 + 4 * N * C * 9),
    "einsum": (lambda: Layer(lambda x: torch.einsum("bhwc,bhvc->bhwv", x, x)), 4 * 6 * 6 * C),
    "einsum, repeated": (
        lambda: Layer(lambda x: torch.einsum("ii,ic->c", tokens(x)[0, :C], tokens(x)[0, :C])),
        C * C,
    ),
    "einsum, elementwise": (lambda: Layer(lambda x: torch.einsum("bhwc,bhwc->bhwc", x, x)), N * C),
    "einsum, outer": (lambda: Layer(lambda x: torch.einsum("i,j->ij", *[x[0, 0, 0]] * 2)), C * C),
    "einsum, broadcast": (
        lambda: Layer(lambda x: torch.einsum("...c,cd->...d", x, parameter(C, 5).to(x.device))),
        N * C * 5,
    ),
    "einsum, three operands": (  # from left to right: rows, then columns
        lambda: Layer(
            lambda x: torch.einsum(
                "bnc,cd,de->bne",
                tokens(x),
                parameter(C, 5).to(x.device),
                parameter(5, 3).to(x.device),
            )
        ),
        N * C * 5 + N * 5 * 3,
    ),
    "einsum, one operand": (lambda: Layer(lambda x: torch.einsum("bhwc->bc", x)), 0),
    "mm": (lambda: Layer(lambda x: torch.mm(tokens(x)[0], tokens(x)[0].mT)), N * C * N),
    "mv": (lambda: Layer(lambda x: torch.mv(tokens(x)[0], x[0, 0, 0])), N * C),
    "dot": (lambda: Layer(lambda x: torch.dot(x[0, 0, 0], x[0, 0, 0])), C),
    "bmm": (lambda: Layer(lambda x: torch.bmm(tokens(x), tokens(x).mT)), N * C * N),
    "addmm": (
        lambda: Layer(lambda x: torch.addmm(x[0, 0, 0], *[tokens(x)[0, :C]] * 2, alpha=2)),
        C * C * C,
    ),
    "baddbmm": (
        lambda: Layer(lambda x: torch.baddbmm(*[tokens(x)[:, :C]] * 3, beta=0.5)),
        C * C * C,
    ),
    "addbmm": (lambda: Layer(lambda x: torch.addbmm(x[0, 0, 0], *[tokens(x)[:, :C]] * 2)), C**3),
    "addmm in place": (
        lambda: Layer(lambda x: tokens(x)[0, :C].clone().addmm_(*[tokens(x)[0, :C]] * 2)),
        C * C * C,
    ),
    "bmm into memory": (lambda: Layer(into), N * C * N),
    "sparse": (Sparse, N * C),
    "sparse, compressed": (lambda: Layer(compressed), N * C),
    "nested": (lambda: Layer(nested, nn.Linear(C, 5)), N * C * 5),
    "matmul, broadcast": (lambda: Layer(lambda x: x @ parameter(4, C, 3).to(x.device)), N * C * 3),
    "matmul by a vector": (lambda: Layer(lambda x: x @ x[0, 0, 0]), N * C),
    "tensordot": (lambda: Layer(lambda x: torch.tensordot(x, x, ([3], [3]))), N * C * N),
    "multi-head": (lambda: attention(True), 4 * N * C * C + 2 * N * N * C),
    "multi-head, fast path": (lambda: attention(False), 4 * N * C * C + 2 * N * N * C),
    "encoder layer, fast path": (  # attention, 4 -> 32 -> 16, two norms of 5 an element
        lambda: Layer(
            lambda x, own: own(tokens(x)),
            nn.TransformerEncoderLayer(C, HEADS, 32, batch_first=True),
        ),
        4 * N * C * C + 2 * N * N * C + 2 * N * C * 32 + 2 * 5 * N * C,
    ),
    "attention": (sdpa, 2 * HEADS * N * N * D),
    "attention, causal": (lambda: sdpa(is_causal=True), 2 * HEADS * N * N * D),
    "attention, dropout": (lambda: sdpa(dropout_p=0.1), 2 * HEADS * N * N * D),
    "attention, mask": (lambda: Layer(masked), 2 * HEADS * N * N * D),
    "attention, grouped query": (lambda: Layer(grouped), 2 * HEADS * N * N * D),
    "attention, narrow values": (
        lambda: Layer(
            lambda x: F.scaled_dot_product_attention(heads(x), heads(x), heads(x)[..., :3])
        ),
        HEADS * N * N * (D + 3),
    ),
    "attention over pooled keys": (lambda: Layer(to_six), 2 * HEADS * N * 6 * D),
    "flex attention": (lambda: Layer(flexible), 2 * HEADS * N * N * D),
    "layer norm": (lambda: nn.LayerNorm(C), 5 * N * C),
    "layer norm, no weights": (lambda: nn.LayerNorm(C, elementwise_affine=False), 4 * N * C),
    "batch norm": (lambda: conv(nn.BatchNorm2d(C)), 2 * N * C),
    "batch norm, no weights": (lambda: conv(nn.BatchNorm2d(C, affine=False)), N * C),
    "group norm": (lambda: conv(nn.GroupNorm(4, C)), 5 * N * C),
    "group norm, no weights": (lambda: conv(nn.GroupNorm(4, C, affine=False)), 4 * N * C),
    "instance norm": (lambda: conv(nn.InstanceNorm2d(C)), 4 * N * C),
    "distances": (lambda: Layer(lambda x: torch.cdist(tokens(x), tokens(x))), N * N * C),
    "positions of a grid": (  # 2 coordinates, each from 3 numbers
        lambda: Layer(lambda x: F.affine_grid(x[:, :2, 0, :3], [1, C, 4, 6], align_corners=False)),
        N * 2 * 3,
    ),
    "grid sampling": (
        lambda: Layer(lambda x: F.grid_sample(image(x), x[..., :2], align_corners=False)),
        4 * N * C,
    ),
    "bilinear": (
        lambda: Layer(lambda x: F.interpolate(image(x), scale_factor=2, mode="bilinear")),
        4 * 4 * N * C,
    ),
    "global pooling": (lambda: conv(nn.AdaptiveAvgPool2d(1)), N * C),
    "pooling, softmax, gelu": (
        lambda: Layer(lambda x: F.gelu(F.avg_pool2d(image(x), 2).softmax(1))),
        0,
    ),
    "embedding bag": (
        lambda: Layer(
            lambda x, own: own(torch.zeros(3, 5, dtype=torch.long)), nn.EmbeddingBag(7, 3)
        ),
        0,
    ),
    "RNN cell": (
        lambda: Layer(lambda x, own: own(tokens(x)[0]), nn.RNNCell(C, 5)),
        N * 5 * (C + 5),
    ),
    "GRU cell": (
        lambda: Layer(lambda x, own: own(tokens(x)[0]), nn.GRUCell(C, 5)),
        N * 3 * 5 * (C + 5),
    ),
    "LSTM cell": (
        lambda: Layer(lambda x, own: own(tokens(x)[0])[0], nn.LSTMCell(C, 5)),
        N * 4 * 5 * (C + 5),
    ),
    "LSTM over tokens": (
        lambda: Layer(lambda x, own: own(tokens(x))[0], nn.LSTM(C, 5, batch_first=True)),
        N * 4 * 5 * (C + 5),
    ),
    "LSTM over values": (  # which torch computes by one kernel of oneDNN
        lambda: Layer(lambda x, own: own(by_value(x)[..., :C])[0], nn.LSTM(C, 5, batch_first=True)),
        N * C * N + N * 4 * 5 * (C + 5),
    ),
    "FFT": (lambda: Layer(lambda x: torch.fft.fft(x)), round(N * 2.5 * C * log2(C))),
    "FFT of real numbers": (
        lambda: Layer(lambda x: torch.fft.rfft2(image(x))),
        round(C * 2.5 * N * log2(N)),
    ),
    "FFT mixer": (
        lambda: Layer(lambda x: torch.fft.irfft2(torch.fft.rfft2(image(x)), s=(4, 6))),
        2 * round(C * 2.5 * N * log2(N)),
    ),
    "checkpointed": (lambda: checkpointed(False), N * C * 4 * C),
    "checkpointed, reentrant": (lambda: checkpointed(True), N * C * 4 * C),
    "tied weights": (lambda: Layer(tied, nn.Linear(C, 5)), 2 * N * C * 5),
    "called twice": (lambda: Layer(twice, nn.Linear(C, C)), 2 * N * C * C),
    "vmap": (lambda: Layer(per_sample), N * C * 3),
    "complex product": (lambda: Layer(complex_product), 4 * N * C * N),
    "complex convolution": (  # which torch computes as three of real numbers
        lambda: Layer(
            lambda x, own: own(image(torch.complex(x, x))),
            nn.Conv2d(C, 5, 1, dtype=torch.complex64),
        ),
        3 * N * C * 5,
    ),
    "by a value": (lambda: Layer(by_value), N * C * N),
    "own gradient": (lambda: Layer(lambda x: Doubled.apply(tokens(x))), N * C * N),
    "scripted": (lambda: scripted(nn.Linear(C, 24)), N * C * 24),
    "compiled": (lambda: Layer(compiled, nn.Linear(C, 24)), N * C * 24),
}

AT_LEAST: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a kernel of one's own": (
        lambda: Layer(lambda x, own: unknown_product(tokens(own(x))), nn.Linear(C, C)),
        N * C * C,
    ),
    "numpy": (
        lambda: Layer(lambda x, own: ByNumpy.apply(tokens(own(x))), nn.Linear(C, C)),
        N * C * C,
    ),
    "a thread": (lambda: Layer(lambda x, own: in_a_thread(own(x)), nn.Linear(C, C)), N * C * C),
    "a thread of before": (
        lambda: Layer(lambda x, own: in_the_pool(own(x)), nn.Linear(C, C)),
        N * C * C,
    ),
    "a shell": (lambda: Layer(lambda x, own: in_a_shell(own(x)), nn.Linear(C, C)), N * C * C),
    "a list": (lambda: Layer(lambda x, own: listed(own(x)), nn.Linear(C, C)), N * C * C),
    "a pool of threads": (lambda: nn.Sequential(nn.Linear(C, C), InAPool()), N * C * C),
    "a solver": (
        lambda: Layer(lambda x, own: torch.linalg.pinv(tokens(own(x))), nn.Linear(C, C)),
        N * C * C,
    ),
}
