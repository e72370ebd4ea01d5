"""How a run looks for the best setting, in place of measuring every case in every round. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vitbench.cases.limits import Limits
from vitbench.cases.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The rounds of a plan, from the first one on: those that begin by drawing settings, all in
    which settings are given up, and those in which what is left is compared.

    space         what settings may be
    limits        what a setting has to keep to
    defaults      ids of the cases with the authors' settings, which are never given up
    drawn         settings that are drawn from the space; 0: the plan has all of them
    draws         rounds that begin by drawing
    narrowing     rounds after which settings are given up, those that draw among them
    """

    space: Space
    limits: Limits
    defaults: tuple[str, ...]
    drawn: int = 0
    draws: int = 0
    narrowing: int = 5

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        products = [{key: list(values) for key, values in p.items()} for p in self.space.products]
        return asdict(self) | {"space": products}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tuning:
        """The inverse of to_dict. Raises TypeError for a field too many or too few."""
        products = ({key: tuple(values) for key, values in p.items()} for p in data["space"])
        fields = {
            "space": Space(tuple(products)),
            "limits": Limits(**data["limits"]),
            "defaults": tuple(data["defaults"]),
        }
        return cls(**{**data, **fields})
