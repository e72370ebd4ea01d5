"""What a mechanism file says about itself: AttentionSpec, Paper, Grid."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

STRIDES = (4, 8, 16, 32)

SizeRule = Literal["any", "pad", "floor", "divisible", "fixed"]
Layout = Literal["bhwc", "bchw", "bnc", "bnc_hw", "bnc_grid"]
Family = Literal[
    "global",
    "window",
    "reduced",
    "sparse",
    "linear",
    "channel",
    "convolution",
    "spectral",
    "state space",
]

# What a module takes in each layout, and gives in the same.
LAYOUTS: Mapping[str, str] = MappingProxyType(
    {
        "bhwc": "a channels-last map (batch, height, width, dim)",
        "bchw": "a channels-first map (batch, dim, height, width)",
        "bnc": "tokens (batch, height * width, dim)",
        "bnc_hw": "tokens (batch, height * width, dim), then height and width",
        "bnc_grid": "tokens (batch, height * width, dim), then the pair (height, width)",
    }
)

# What the mechanisms of a family have in common, in the order of lists.
FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "global": "every token attends to every token",
        "window": "every token attends to the tokens of a window, or to those around it",
        "reduced": "every token attends to fewer keys: pooled, strided or projected ones",
        "sparse": "every token attends to some tokens of the map, spread over it or chosen",
        "linear": "keys meet values first, and no map of tokens by tokens is formed",
        "channel": "channels attend to channels",
        "convolution": "convolutions, pooling and gates mix the tokens",
        "spectral": "tokens are mixed between a Fourier transform and its inverse",
        "state space": "a state is carried from token to token",
    }
)


@dataclass(frozen=True, slots=True)
class Grid:
    """A feature map's size in tokens."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a grid has at least 1 x 1 tokens, got {self.height} x {self.width}")

    @property
    def tokens(self) -> int:
        return self.height * self.width

    def padded_to(self, height: int, width: int) -> Grid:
        """The grid after padding right and bottom to multiples of `height` and `width`."""
        return Grid(-(-self.height // height) * height, -(-self.width // width) * width)

    def __str__(self) -> str:
        return f"{self.height} x {self.width}"


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a mechanism was published, and where its authors' code is."""

    title: str
    arxiv: str
    venue: str
    code: str

    @property
    def year(self) -> int:
        """The year of the arXiv identifier."""
        return year_of(self.arxiv)

    @property
    def link(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


def year_of(arxiv: str) -> int:
    """2022 for 2205.13213: its first two digits."""
    return 2000 + int(arxiv[:2])


@dataclass(frozen=True, slots=True)
class _WithKeywords:
    """`function(..., params)` as `function(..., **keywords)`."""

    function: Callable[..., Any]
    params: type[Any]

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.function(*arguments, self.params(**keywords))


def _no_settings() -> Mapping[int, Mapping[str, Any]]:
    return MappingProxyType({stride: MappingProxyType({}) for stride in STRIDES})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """One attention mechanism. `AttentionSpec(module=MyAttention)` alone is valid.

    module      class, or a function that gives a module; of dim, num_heads, grid and impl it takes
                those that it names, and its hyper-parameters; maps a feature map to one of the
                same shape
    layout      what the module takes and gives, one of LAYOUTS: a channels-last map, a
                channels-first map, or tokens, alone, with height and width, or with both as a pair
    params      frozen dataclass of the hyper-parameters and their defaults. Where it is given, the
                module and the functions below are written with one argument `params`, an object of
                this class, in place of the keywords; who calls the spec gives keywords either way
    family      what kind it is, one of FAMILIES; None: not said
    paper       where it was published
    equation    the mechanism in one line
    cost        multiply-accumulates in N (tokens) and C (dim), leading terms
    size_rule   what happens to a grid that does not fit: "any" size fits (`unsupported` may set
                a least one), "pad" with zeros (on the right and at the bottom, or on all sides
                where the authors do so), "floor" (a remainder is not seen by the keys),
                "divisible" sizes only, "fixed" to the grid it was built for
    settings    the authors' hyper-parameters by stage stride; a literal, so that it can be read
                without importing torch
    space       hyper-parameters that are worth trying, from which `vitbench tune` chooses: values
                by name, each of which goes with every value of the others; several such where a
                value of one makes another meaningless. A literal too
    impls       implementations; "eager" is the paper's equations op by op, "fused" the same
                function through the fastest kernels
    kernels     what the fused implementation runs on
    macs        closed form, `macs(dim, num_heads, grid, **params)`: MACs of one image
    computed    `computed(grid, **params)`: the grid after padding, where the mechanism pads
    unsupported `unsupported(dim, num_heads, grid, **params)`: a reason in words, or None
    fallback    `fallback(dim, num_heads, grid, dtype, **params)`: why the fused implementation runs
                the equations in this dtype ("float16") on this map, or None where it does not
    checked_with  hyper-parameters under which an output is compared with the definition, where the
                mechanism chooses: a choice near a tie turns on rounding, so that two right outputs
                may differ by more than rounding
    traps       what a reader of the paper or of its code may trip over
    """

    module: type[nn.Module]
    layout: Layout = "bhwc"
    params: type[Any] | None = None
    family: Family | None = None
    paper: Paper | None = None
    equation: str = ""
    cost: str = ""
    size_rule: SizeRule = "any"
    settings: Mapping[int, Mapping[str, Any]] = field(default_factory=_no_settings)
    space: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]] = ()
    impls: tuple[str, ...] = ("eager",)
    kernels: str = ""
    macs: Callable[..., int] | None = None
    computed: Callable[..., Grid] | None = None
    unsupported: Callable[..., str | None] | None = None
    fallback: Callable[..., str | None] | None = None
    checked_with: Mapping[str, Any] = field(default_factory=dict)
    traps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if hasattr(self.module, "forward") and not isinstance(self.module, type):
            name = type(self.module).__name__
            raise TypeError(
                f"module is a class, which vitbench builds at each size, got an object of it: "
                f"write module={name}, not module={name}(...)"
            )
        if not callable(self.module):
            raise TypeError(f"module is a class of torch.nn.Module, got {self.module!r}"[:200])
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        if self.family is not None and self.family not in FAMILIES:
            raise ValueError(f"family is one of {', '.join(FAMILIES)}, got {self.family!r}")
        if self.params is not None:
            for name in ("macs", "computed", "unsupported", "fallback"):
                function = getattr(self, name)
                if function is not None and not isinstance(function, _WithKeywords):
                    object.__setattr__(self, name, _WithKeywords(function, self.params))

    def settings_at(self, stride: int) -> dict[str, Any]:
        """The authors' hyper-parameters at `stride`, else those of the nearest stage they gave."""
        return settings_at(self.settings, stride)

    def build(self, dim: int, num_heads: int, grid: Grid, *, impl: str, **params: Any) -> nn.Module:
        """The module, of channels-last maps in any layout. Of dim, num_heads, grid and impl it gets
        those that it takes, by name.

        Raises ValueError where `unsupported` gives a reason, `impl` is not one of `impls`, or the
        module needs an argument that nobody gives.
        """
        if impl not in self.impls:
            raise ValueError(f"impl is one of {', '.join(self.impls)}, got {impl!r}")
        reason = self.reason_against(dim, num_heads, grid, **params)
        if reason is not None:
            raise ValueError(reason)
        if self.params is not None:
            params = {"params": self.params(**params)}
        taken = _parameters_of(self.module)
        offered = {"dim": dim, "num_heads": num_heads, "grid": grid, "impl": impl}
        params |= {name: value for name, value in offered.items() if name in taken}
        needed = [
            name
            for name, parameter in taken.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        name = getattr(self.module, "__name__", "the module")
        if missing := [argument for argument in needed if argument not in params]:
            raise ValueError(
                f"{name} needs {', '.join(missing)}; it is given dim, num_heads, "
                "grid, impl and its hyper-parameters, by these names"
            )
        positional = [
            params.pop(argument, parameter.default)
            for argument, parameter in taken.items()
            if parameter.kind is parameter.POSITIONAL_ONLY
        ]
        module = self.module(*positional, **params)
        from torch import nn

        if not isinstance(module, nn.Module):
            raise ValueError(f"{name} must give a torch.nn.Module, got {type(module).__name__}")
        if self.layout == "bhwc":
            return module
        from attentions._layouts import laid_out

        return laid_out(lambda: module, self.layout, dim, grid)

    def reason_against(self, dim: int, num_heads: int, grid: Grid, **params: Any) -> str | None:
        """Why this mechanism cannot run here, in words; None where it can."""
        if dim % num_heads:
            return f"dim must be divisible by num_heads, got {dim} and {num_heads}"
        if self.unsupported is None:
            return None
        return self.unsupported(dim, num_heads, grid, **params)


def _parameters_of(module: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a class or function takes, by name. One that takes any keyword, but no `dim`, passes
    it on: what the class above it takes counts too.
    """
    parameters = dict(inspect.signature(module).parameters)
    above = module.__mro__[1:] if isinstance(module, type) else ()
    for parent in above:
        kinds = {parameter.kind for parameter in parameters.values()}
        if "dim" in parameters or inspect.Parameter.VAR_KEYWORD not in kinds:
            break
        if (method := vars(parent).get("__init__")) is not None:
            _, *rest = inspect.signature(method).parameters.values()
            parameters |= {parameter.name: parameter for parameter in rest}
    return parameters


def settings_at(settings: Mapping[int, Mapping[str, Any]], stride: int) -> dict[str, Any]:
    """The entry of `settings` at `stride`, else at the stride nearest in ratio (finer on a tie)."""
    if not settings:
        return {}
    nearest = min(sorted(settings), key=lambda known: max(known / stride, stride / known))
    return dict(settings[nearest])
