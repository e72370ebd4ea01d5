"""Runtimes: how a module is run. A file here without an underscore is one runtime.

It has RULES, which are known without torch, and `prepare`, which works in the worker process. Its
name is the value of the axis `runtime`. One that runs a file made of the module has `convert` too,
which makes it, in a process of its own and once a run.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, cast

from vitbench import listed
from vitbench.devices import Call, Device
from vitbench.errors import BadInput, nearest
from vitbench.instruments import Column, memory

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

DEFAULT = "eager"
# A value of the axis `dtype` that says how products are computed: in 8 bits, by a runtime that
# quantizes. Weights and inputs of the module are in float32.
INT8 = "int8"
# What the columns `compiled` and `cuda_graph` of older files mean. Ids of cases still hold them.
OLD_FLAGS = {
    "eager": (False, False),
    "compile": (True, False),
    "cuda-graph": (False, True),
    "compile+cuda-graph": (True, True),
}
# The keys of older suites, and what says the same now.
OLD_KEYS = {"compiled": 'runtime = "compile"', "cuda_graph": 'runtime = "cuda-graph"'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for a runtime. Known without torch.

    summary          one line for a list
    columns          of records.csv that only this runtime fills
    conversion_s     what preparing a layer takes once, for estimates before a run
    int8_conversion_s  the same in int8, apart from calls of the module on samples
    model_conversions  how many times as long a whole model takes
    loading_s        what it takes in each process after that
    keeps_processes  it starts processes that serve the next case too
    packages         that it imports beside torch
    extra            of vitbench, which installs them
    int8_packages    that it quantizes with, beside those, which the extra `int8` installs; None: it
                     does not quantize
    converts         its file has `convert`
    """

    name: str
    summary: str
    columns: tuple[Column, ...] = ()
    conversion_s: float = 0.0
    int8_conversion_s: float = 0.0
    model_conversions: float = 6.0
    loading_s: float = 0.0
    keeps_processes: bool = False
    packages: tuple[str, ...] = ()
    extra: str = ""
    int8_packages: tuple[str, ...] | None = None
    converts: bool = False


COLUMNS = (
    Column("runtime_version", "", "version of the package that runs the call", "text"),
    Column(
        "fallback_share",
        "share",
        "operators of a converted module that its backend did not take, and slower code computes; "
        "empty where the runtime does not tell",
    ),
    Column(
        "conversion_s", "s", "converting the module, once a run; empty where nothing is converted"
    ),
    Column("artifact_bytes", "bytes", "size of what the module was converted into", "int"),
    Column("artifact", "", "its file in the run's folder", "text"),
    Column(
        "int8_share",
        "share",
        "products (of matrices, convolutions, attention) that are computed in int8, read back from "
        "what runs; empty where nothing was quantized",
    ),
    Column(
        "calibration", "", "inputs from which the ranges of a quantized module were taken", "text"
    ),
)


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs of a module, from which a runtime that quantizes takes its ranges.

    inputs  each of the shape of the module's input; read anew each time that they are iterated
    source  what they are, in words
    """

    inputs: Iterable[Tensor]
    source: str


class Subject(Protocol):
    """What is to be run: a module on its device, and its input."""

    @property
    def module(self) -> nn.Module: ...
    @property
    def runnable(self) -> nn.Module: ...
    @property
    def device(self) -> Device: ...
    @property
    def x(self) -> Tensor: ...
    @property
    def dtype(self) -> str:
        """In which it is to be computed: that of the tensors, or INT8."""

    def samples(self) -> Samples:
        """Inputs that are not `x`."""

    def calling(self, runnable: Callable[[Tensor], Any]) -> Call:
        """One forward pass, or one training step, of what runs the module."""


class Unsuitable(Exception):
    """A runtime cannot run this subject; the message is the reason, in words."""


class Prepared:
    """A subject that is ready to run.

    call           one call: what is checked, read and timed; its output may be in memory of the
                   runtime's, which the next call fills anew
    compile_s      what torch.compile and its first call took; None: nothing is compiled
    is_cached      an earlier process had compiled it, and this one only read the result
    is_dispatched  torch dispatches the operators of a call one by one, so they can be listed
    kept_bytes     memory in which a call works and that it keeps between calls: it is in the peak
    computed_dtype in which a call computes, read back; "": in that of the case, as torch does
    memory_source  where the memory of a call is read, see instruments.memory
    resident_before_bytes  of the process, before it held what a call needs
    """

    compile_s: float | None = None
    is_cached = False
    is_dispatched = True
    kept_bytes = 0
    computed_dtype = ""
    memory_source = memory.ALLOCATOR
    resident_before_bytes = 0

    def __init__(self, call: Call) -> None:
        self.call = call

    def begin(self) -> None:
        """The call is timed from now on."""

    def fault(self) -> str | None:
        """Why the time that was taken is not that of a call, where it is not."""
        return None

    def columns(self) -> Mapping[str, Any]:
        """What the runtime says of itself: its own columns."""
        import torch

        return {"runtime_version": torch.__version__}


class Runtime(Protocol):
    """A runtime's file."""

    RULES: Rules

    def refuses(self, device: str, dtype: str, mode: str) -> str | None:
        """Why it runs no such case, in words; None where it does. Without torch."""

    def prepare(self, subject: Subject, artifact: Path | None) -> Prepared:
        """Makes a subject ready to run, from the folder that `convert` filled where it converts.
        Raises Unsuitable, correctness.WrongOutput."""


class Converting(Runtime, Protocol):
    """The file of a runtime that converts.

    FILE  what it loads, by its name in the folder; other files there belong to that one
    """

    FILE: str

    def script(self, dtype: str) -> str:
        """Python that loads FILE with the runtime's own package and runs it on an input of that
        dtype; to be formatted with `title` (a literal), `file` (its name), `shape`, `dtype` and
        `device` of the input."""

    def convert(self, subject: Subject, folder: Path) -> Mapping[str, Any]:
        """Puts what it runs into an empty folder; returns columns. Raises Unsuitable."""


@functools.cache
def _runtimes() -> Mapping[str, Runtime]:
    files = listed.names(__path__)
    modules = [listed.load(__name__, file, needs="RULES") for file in files]
    runtimes = {module.RULES.name: cast("Runtime", module) for module in modules}
    return {DEFAULT: runtimes[DEFAULT], **runtimes}


def names() -> tuple[str, ...]:
    """The runtimes, the default first."""
    return tuple(_runtimes())


def load(name: str) -> Runtime:
    """The runtime of that name. Raises BadInput."""
    if name not in names():
        raise BadInput(f"no runtime is called {name!r}; {nearest(name, names())}")
    return _runtimes()[name]


def converting() -> Mapping[str, Converting]:
    """Those that convert, by name."""
    return {
        name: cast("Converting", runtime)
        for name, runtime in _runtimes().items()
        if runtime.RULES.converts
    }


def of_old_flags(compiled: bool, cuda_graph: bool) -> str:
    """The runtime that older releases wrote as two booleans."""
    return next(name for name, flags in OLD_FLAGS.items() if flags == (compiled, cuda_graph))


def columns() -> tuple[Column, ...]:
    """The columns that the runtimes fill."""
    own = tuple(column for runtime in _runtimes().values() for column in runtime.RULES.columns)
    return COLUMNS + own


def missing(name: str, dtype: str) -> str | None:
    """What to install for a runtime to compute in a dtype, as a sentence; None where it is all
    there. Raises BadInput."""
    rules = load(name).RULES
    needed = {rules.extra: rules.packages}
    if dtype == INT8:
        needed[INT8] = rules.int8_packages or ()
    absent = {
        extra: [package for package in packages if importlib.util.find_spec(package) is None]
        for extra, packages in needed.items()
    }
    packages = [package for names in absent.values() for package in names]
    if not packages:
        return None
    extras = ",".join(extra for extra, names in absent.items() if names)
    asked = f" in {INT8}" if absent.get(INT8) else ""
    return f"--runtime {name}{asked} needs {', '.join(packages)}: pip install 'vitbench[{extras}]'"


def packages(name: str, dtype: str) -> tuple[str, ...]:
    """What a runtime imports beside torch to compute in a dtype. Raises BadInput."""
    rules = load(name).RULES
    return rules.packages + ((rules.int8_packages or ()) if dtype == INT8 else ())


def all_packages() -> list[str]:
    """What any runtime imports beside torch, as it is imported."""
    return sorted({package for name in names() for package in packages(name, INT8)})


def versions() -> Mapping[str, str | None]:
    """Of `all_packages`; None for one that is not here."""
    return {name: _version(name) for name in all_packages()}


def _version(package: str) -> str | None:
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # it has another name where it is installed from
        distributions = metadata.packages_distributions().get(package, [])
        return metadata.version(distributions[0]) if distributions else None


def refusal(name: str, device: str, dtype: str, mode: str) -> str | None:
    """Why a runtime runs no such case, in words; None where it does. Raises BadInput."""
    if dtype == INT8 and load(name).RULES.int8_packages is None:
        able = [other for other in names() if load(other).RULES.int8_packages is not None]
        return f"{name} does not quantize: {INT8} is for {', '.join(able)}"
    return load(name).refuses(device, dtype, mode)
