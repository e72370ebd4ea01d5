"""MACs of a module: each operator that one forward pass dispatches, counted by its shapes.

The convention is fvcore's, so that published tables compare: products, convolutions, einsum,
normalisation, grid sampling and what fvcore adds to them count, the rest does not. What fvcore
scores as zero counts as what it computes: scaled_dot_product_attention and flex_attention as their
two products, a Fourier transform of N points as 5 N log2 N flops, a deformable convolution as its
convolution and sampling.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vitbench.instruments._dispatch import uncompiled

# What neither computes nor reads values: new memory, and copies of what is there.
_MOVES = {
    *("empty", "empty_like", "empty_strided", "new_empty", "zeros", "zeros_like", "new_zeros"),
    *("ones", "ones_like", "new_ones", "full", "full_like", "new_full", "scalar_tensor", "arange"),
    *("cat", "stack", "clone", "contiguous", "to_copy", "copy", "lift_fresh", "lift_fresh_copy"),
    *("unsafe_view", "detach", "alias", "device", "sym_size", "fill", "zero"),
}
# Namespaces of operators that count as they stand here. Any other has operators of its own.
_KNOWN_NAMESPACES = {"aten", "prims", "prim", "profiler", "torchvision"}
# Operators of torch with products inside, of which we have no formula.
_UNKNOWN = {
    *("_trilinear", "_cudnn_rnn", "miopen_rnn", "_native_multi_head_attention"),
    *("_transformer_encoder_layer_fwd", "_triton_multi_head_attention"),
    *("cholesky", "cholesky_inverse", "cholesky_solve", "geqrf", "lu_solve", "ormqr", "orgqr"),
    *("triangular_solve", "lobpcg", "_spsolve"),
    *("_sparse_mm_reduce_impl", "_sparse_sparse_matmul", "hspmm", "_cslt_sparse_mm"),
    *("_sparse_semi_structured_mm", "_sparse_semi_structured_addmm"),
    *("_sparse_semi_structured_linear", "_mixed_dtypes_linear", "mkldnn_linear"),
    *("mkldnn_convolution", "_foreach_mm", "_grouped_mm", "_scaled_grouped_mm"),
    *("_scaled_grouped_mm_v2", "_weight_int8pack_mm", "_weight_int4pack_mm"),
    *("_weight_int4pack_mm_for_cpu", "_weight_int4pack_mm_with_scales_and_zeros"),
    *("_dyn_quant_matmul_4bit", "quantized_lstm", "quantized_gru"),
}
# Of linalg_ those that are no product and no factorisation.
_PLAIN_LINALG = {"linalg_vector_norm", "linalg_cross"}
# Where values leave torch.
_LEAVES_TORCH = {Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__}
_THREAD = "a thread"
# Events of the interpreter by which work leaves the process.
_STARTS_PROCESS = {"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one image.

    counted      by operator
    uncounted    operators that count nothing by convention (softmax, elementwise), with how often
    overlapping  of `counted`, convolutions whose kernels are laid closer than they are wide
    unknown      what may compute more, of which nothing is known: with any, `total` is a lower
                 bound
    """

    counted: Mapping[str, int]
    uncounted: Mapping[str, int]
    unknown: tuple[str, ...] = ()
    overlapping: int = 0

    @property
    def total(self) -> int:
        """MACs of all operators."""
        return sum(self.counted.values())


def joined(parts: Iterable[Macs]) -> Macs:
    """The counts of a model's parts together."""
    counted: Counter[str] = Counter()
    uncounted: Counter[str] = Counter()
    unknown: set[str] = set()
    overlapping = 0
    for part in parts:
        overlapping += part.overlapping
        counted.update(part.counted)
        uncounted.update(part.uncounted)
        unknown.update(part.unknown)
    return Macs(dict(counted), dict(sorted(uncounted.items())), tuple(sorted(unknown)), overlapping)


def count(module: nn.Module, input_shape: tuple[int, ...]) -> Macs:
    """Counts `module` on one input of `input_shape` (batch 1). The module itself is not touched,
    unless it holds what cannot be copied.

    Runs on the meta device: any size, no arithmetic. What cannot run there is run on tensors that
    pretend to be on the CPU, and what needs values, with values. Raises what the last way raises.
    """
    found = _count_once(module, input_shape)
    # A thread that stood idle may have been woken by chance, to end, but not twice.
    return _count_once(module, input_shape) if _THREAD in found.unknown else found


# How a module is run: it gets the module and its input's shape.
Way = Callable[[nn.Module, tuple[int, ...]], "_Counter"]


def _count_once(module: nn.Module, shape: tuple[int, ...]) -> Macs:
    unseen: set[str] = set()
    with _plain(), _watching(unseen), torch.inference_mode():
        counter = _first_that_runs(
            module, shape, _on_meta, _on_fake_tensors, _with_values, _with_gradients
        )
    return counter.macs(unseen)


def _first_that_runs(module: nn.Module, shape: tuple[int, ...], way: Way, *others: Way) -> _Counter:
    try:
        return way(module, shape)
    # An operator without a meta kernel raises whatever its author chose.
    except Exception:
        if not others:
            raise
    return _first_that_runs(module, shape, *others)


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """Nothing is compiled or fused into one operator, and no warning is given: none is news."""
    from torch.backends import mha

    fast_path = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with uncompiled(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mha.set_fastpath_enabled(fast_path)


def _on_meta(module: nn.Module, shape: tuple[int, ...]) -> _Counter:
    with torch.inference_mode(False):
        bare = copy.deepcopy(module).to("meta").float().eval()
    with torch.device("meta"):
        return _counted(bare, torch.empty(shape))


def _on_fake_tensors(module: nn.Module, shape: tuple[int, ...]) -> _Counter:
    from torch._subclasses.fake_tensor import FakeTensorMode

    bare = _on_host(module)
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _counted(bare, torch.empty(shape))


def _with_values(module: nn.Module, shape: tuple[int, ...]) -> _Counter:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return _counted(_on_host(module), x)


def _with_gradients(module: nn.Module, shape: tuple[int, ...]) -> _Counter:
    with torch.inference_mode(False), torch.enable_grad():  # a module may ask for its gradients
        return _with_values(module, shape)


def _counted(module: nn.Module, x: Tensor) -> _Counter:
    with _Counter() as counter:
        module(x)
    return counter


def _on_host(module: nn.Module) -> nn.Module:
    """A copy in fp32; the module itself where it holds what cannot be copied, such as a lock."""
    with torch.inference_mode(False):
        try:
            module = copy.deepcopy(module)
        except Exception:  # whatever it holds may raise anything
            return module.eval()
        return module.cpu().float().eval()


class _Counter(TorchDispatchMode):
    """Counts what is dispatched while it is entered.

    Under inference_mode an operator that torch composes of others arrives whole. It is counted so
    where fvcore does, and else as the operators that it is composed of.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has not typed it
        self.counted: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.overlapping = 0
        self._einsums = 0

    def macs(self, unseen: Iterable[str]) -> Macs:
        """What was counted, when this was not seen."""
        uncounted = {name: n for name, n in sorted(self.uncounted.items()) if name not in _MOVES}
        unknown = tuple(sorted({*self.unknown, *unseen}))
        return Macs(dict(self.counted), uncounted, unknown, self.overlapping)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # made of tensors, as nested ones are: those come here next
        if not isinstance(func, torch._ops.OpOverload):
            return self._higher_order(func, args, kwargs)
        # What an operator computes is the same in place.
        name = func._schema.name.partition("::")[2].rstrip("_")
        formula = _formula(func, name)
        is_question = func is torch.ops.prim.device.default
        if formula is None and not is_question and func._can_decompose():
            self._einsums += name == "einsum"
            with self:
                output = func.decompose(*args, **kwargs)
            self._einsums -= name == "einsum"
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if formula is not None:
            macs = formula(output, *args, **kwargs)
            self.counted[name.strip("_")] += macs
            self.overlapping += macs * (formula is _convolution and _overlaps(*args))
        elif self._einsums and name == "mul":  # a product that sums nothing
            self.counted["einsum"] += output.numel() * _reals(output)
        elif name in _UNKNOWN or _is_solver(name):
            self.unknown.add(name)
        elif func.namespace not in _KNOWN_NAMESPACES:
            self.unknown.add(func._schema.name)
        elif not func.is_view:
            self.uncounted[name.strip("_")] += 1
        return output

    def _higher_order(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator that gets functions: of flex_attention, what they do to a score."""
        if func is torch.ops.higher_order.flex_attention:
            self.counted["flex_attention"] += _attention(None, *args)
        else:
            self.unknown.add(str(func))
        return func(*args, **kwargs)


class _Leaving(TorchFunctionMode):
    """Sees where a tensor's values leave torch."""

    def __init__(self, unknown: set[str]) -> None:
        super().__init__()
        self.unknown = unknown

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        listed = func is Tensor.tolist and args[0].is_floating_point()  # whole numbers are sizes
        if listed or func in _LEAVES_TORCH:
            self.unknown.add(f"what follows {func.__name__}()")
        return func(*args, **(kwargs or {}))


# What is counted now, the innermost last.
_watched: list[set[str]] = []


def _audit(event: str, _: object) -> None:
    if _watched and event in _STARTS_PROCESS:
        _watched[-1].add("a process")


# A hook stays for the life of the process; it does nothing where nothing is counted.
sys.addaudithook(_audit)


@contextlib.contextmanager
def _watching(unknown: set[str]) -> Iterator[None]:
    """Adds to `unknown` what is computed where no operator is seen."""

    def in_new_thread(*_: object) -> None:
        unknown.add(_THREAD)
        sys.setprofile(None)

    profile, before = threading.getprofile(), _computed_by_others()
    threading.setprofile(in_new_thread)
    _watched.append(unknown)
    try:
        with _Leaving(unknown):
            yield
    finally:
        _watched.pop()
        threading.setprofile(profile)
        if before - _computed_by_others():
            unknown.add(_THREAD)


def _computed_by_others() -> set[tuple[int | None, str]]:
    """Each other thread of Python's, with how long it has run; none where the system does not tell,
    as outside of Linux.
    """
    times = set()
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            times.add((thread.native_id, text.split()[0]))
    return times


# Formulas: each gets the output and the arguments of an operator.

Formula = Callable[..., int]


def _reals(x: Tensor) -> int:
    """Real products of one product."""
    return 4 if x.is_complex() else 1


def _values(x: Tensor) -> int:
    """How many numbers a tensor holds: of a sparse one, those that are not left out."""
    if x.layout is torch.strided:
        return x.numel()
    from torch._subclasses.fake_tensor import FakeTensor

    values = x._values() if x.layout is torch.sparse_coo else x.values()
    if values.is_meta or isinstance(values, FakeTensor):
        raise NotImplementedError("a sparse tensor without data holds no numbers")
    return values.numel()


def _product(_: Tensor, a: Tensor, b: Tensor, **options: Any) -> int:
    """a (..., rows, inner) by b (..., inner, columns), or by a vector (inner)."""
    if b.layout is not torch.strided:
        if a.layout is not torch.strided:
            raise NotImplementedError("a product of two sparse tensors")
        return a.numel() // a.shape[-1] * _values(b) * _reals(a)
    columns = b.shape[-1] if b.dim() > 1 else 1
    return _values(a) * columns * _reals(a)


def _sampled_product(_: Tensor, pattern: Tensor, a: Tensor, *rest: Any, **options: Any) -> int:
    """Of a product only what a sparse tensor holds."""
    return _values(pattern) * a.shape[-1] * _reals(a)


def _added_product(_: Tensor, bias: Tensor, a: Tensor, b: Tensor, **options: Any) -> int:
    return _product(_, a, b)


def _convolution(
    out: Tensor, x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, *rest: Any
) -> int:  # fmt: skip
    """Kernel elements times the positions at which the kernel is laid."""
    laid_on = x if transposed else out
    return laid_on.shape[0] * math.prod(laid_on.shape[2:]) * weight.numel() * _reals(out)


def _overlaps(x: Tensor, weight: Tensor, bias: Any, stride: Sequence[int], *rest: Any) -> bool:
    """Whether a convolution's kernel is laid closer than it is wide; one stride may stand for all
    directions."""
    strides = itertools.cycle(stride)
    return any(size > step for size, step in zip(weight.shape[2:], strides, strict=False))


def _conv_tbc(out: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    return out.shape[0] * out.shape[1] * weight.numel()


def _deformable(out: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    """A convolution, and 4 for each value that is sampled for it."""
    positions = out.shape[0] * math.prod(out.shape[2:])
    return positions * (weight.numel() + 4 * x.shape[1] * math.prod(weight.shape[2:]))


def _attention(_: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> int:
    """Every query with every key, whatever the mask: two products."""
    sizes = itertools.zip_longest(q.shape[-3::-1], k.shape[-3::-1], fillvalue=1)  # broadcast
    heads = math.prod(max(pair) for pair in sizes)
    return heads * q.shape[-2] * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _fourier(out: Tensor, x: Tensor, dim: list[int], *rest: Any) -> int:
    """Half of 5 N log2 N flops for each transform of N points, real or complex."""
    points = out if x.is_complex() else x
    size = math.prod(points.shape[axis] for axis in dim)
    return round(2.5 * points.numel() * math.log2(size)) if size else 0


def _rnn_layer(out: Tensor, x: Tensor, to_gates: Tensor, from_hidden: Tensor, *rest: Any) -> int:
    """Both products of every step; x is (steps, batch, features)."""
    return x.shape[0] * x.shape[1] * (to_gates.numel() + from_hidden.numel())


def _norm(x: Tensor, weight: Tensor | None) -> int:
    """fvcore's estimate: 5 for each element, 4 without weights."""
    return x.numel() * (4 if weight is None else 5)


def _layer_norm(_: Any, x: Tensor, shape: Any, weight: Any = None, *rest: Any, **more: Any) -> int:
    return _norm(x, weight)


def _instance_norm(_: Any, x: Tensor, weight: Any = None, *rest: Any, **more: Any) -> int:
    return _norm(x, weight)


def _group_norm(_: Any, x: Tensor, groups: int, weight: Any = None, *rest: Any, **more: Any) -> int:
    return _norm(x, weight)


def _batch_norm(
    _: Any, x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *rest: Any
) -> int:
    return _norm(x, weight) if training else _inferring_batch_norm(_, x, weight)


def _inferring_batch_norm(_: Any, x: Tensor, weight: Any, *rest: Any) -> int:
    """A scale and a shift that are known."""
    return x.numel() * (1 if weight is None else 2)


def _distances(_: Any, a: Tensor, b: Tensor, *rest: Any) -> int:
    """Of each row of a to each of b, one for each channel."""
    return a.numel() * b.shape[-2]


def _sampling_positions(out: Tensor, theta: Tensor, *rest: Any) -> int:
    """Each coordinate is a product with a row of theta."""
    return out.numel() * theta.shape[-1]


def _each_output(cost: int) -> Formula:
    return lambda out, *args, **options: cost * out.numel()


def _each_input(_: Any, x: Tensor, *rest: Any, **options: Any) -> int:
    return x.numel()


_FORMULAS: Mapping[str, Formula] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_scaled_mm"), _product),
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "addbmm"), _added_product),
    **dict.fromkeys(("_addmm_activation", "_sparse_addmm"), _added_product),
    "sparse_sampled_addmm": _sampled_product,
    "convolution": _convolution,
    "_convolution": _convolution,
    "conv_tbc": _conv_tbc,
    "deform_conv2d": _deformable,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    **dict.fromkeys(("_fft_c2c", "_fft_r2c", "_fft_c2r"), _fourier),
    "mkldnn_rnn_layer": _rnn_layer,
    **dict.fromkeys(("layer_norm", "native_layer_norm"), _layer_norm),
    "group_norm": _group_norm,
    **dict.fromkeys(("instance_norm", "native_group_norm"), _instance_norm),
    **dict.fromkeys(("batch_norm", "native_batch_norm", "cudnn_batch_norm"), _batch_norm),
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _inferring_batch_norm,
    **dict.fromkeys(("_cdist_forward", "_euclidean_dist"), _distances),
    "affine_grid_generator": _sampling_positions,
    "upsample_nearest2d": _each_output(1),
    **dict.fromkeys(("upsample_bilinear2d", "grid_sampler"), _each_output(4)),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), _each_output(4)),
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _each_input),
}


def _formula(func: Any, name: str) -> Formula | None:
    """Ours, else the one that an operator's author registered with torch."""
    if func.namespace in ("aten", "torchvision"):
        return _FORMULAS.get(name)
    from torch.utils.flop_counter import flop_registry

    flops = flop_registry.get(func._overloadpacket)
    if flops is None:
        return None
    return lambda out, *args, **options: flops(*args, **options, out_val=out) // 2


def _is_solver(name: str) -> bool:
    return name.strip("_").startswith("linalg_") and name not in _PLAIN_LINALG
