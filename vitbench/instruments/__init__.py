"""Instruments: each file reads one thing off a callable or a module, and none knows of Case.

A file here without an underscore is one instrument. Its COLUMNS are known without torch. Where it
has an ORDER, its `read` is called once for each case, beside the timing, in that order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from vitbench import listed
from vitbench.devices import Call, Device

if TYPE_CHECKING:
    from torch import Tensor, nn

Type = Literal["text", "bool", "int", "float"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of records.csv.

    exact   deterministic: two runs of one plan on one machine give the same bytes
    signed  a number below 0 has a meaning
    """

    name: str
    unit: str
    meaning: str
    type: Type = "float"
    exact: bool = False
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """What the MACs of one image are counted from.

    Each is asked for when it is wanted, and may raise whatever the subject raises.

    parts        the eager module and its input's shape, batch 1; a model's parts under a head,
                 which is the part called "head"
    closed_form  MACs by the subject's own formula; None where it has none
    formula      MACs by the formula that its authors publish figures by; None where there is none
    """

    parts: Callable[[], Mapping[str, tuple[nn.Module, tuple[int, ...]]]]
    closed_form: Callable[[], int | None]
    formula: Callable[[], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What an instrument reads: a module on a device, its input, and one call of it.

    images         in one call
    is_dispatched  torch dispatches the operators of a call one by one
    kept_bytes     memory that the call works in and keeps, so that it is not seen to be taken
    memory_source  where the memory of the call is read: a constant of `memory`
    resident_held_bytes  by which the process grew as it loaded the module and called it once
    energy_s       how long energy may be read; 0: it is not asked for
    counts         what MACs are counted from
    """

    device: Device
    module: nn.Module
    x: Tensor
    call: Call
    images: int
    is_dispatched: bool
    kept_bytes: int
    memory_source: str
    resident_held_bytes: int
    energy_s: float
    counts: Counts


# What an instrument read, by column, and under NOTES what it could not read of it, in words.
Read = Callable[[Workload], Mapping[str, Any]]
NOTES = "notes"


@functools.cache
def _instruments() -> Mapping[str, ModuleType]:
    """The files by name: those that read in their order, then those that others call."""
    names = listed.names(__path__)
    modules = {name: listed.load(__name__, name) for name in names}
    names.sort(key=lambda name: (getattr(modules[name], "ORDER", math.inf), name))
    return {name: modules[name] for name in names}


def names() -> tuple[str, ...]:
    """The instruments."""
    return tuple(_instruments())


def columns() -> tuple[Column, ...]:
    """The columns that they fill."""
    declared = [getattr(module, "COLUMNS", ()) for module in _instruments().values()]
    return tuple(column for columns in declared for column in columns)


def readers() -> Mapping[str, Read]:
    """Those that are read beside the timing, in their order."""
    return {name: m.read for name, m in _instruments().items() if hasattr(m, "ORDER")}
