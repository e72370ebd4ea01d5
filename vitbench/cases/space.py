"""What hyper-parameters may be: the values that go together, from which `tune` chooses. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from vitbench.cases import backbone_names as models
from vitbench.cases.axes import split
from vitbench.cases.case import Case
from vitbench.cases.scalars import Scalar, merged, parse_scalar
from vitbench.errors import BadInput

# Values by hyper-parameter, each of which goes with every value of the others.
Product = Mapping[str, tuple[Scalar, ...]]
_SIZES = ("dim", "num_heads")
_MOST_VALUES = 10_000


@dataclass(frozen=True, slots=True)
class Space:
    """Settings to choose from: a union of products, so that a value that makes another one
    meaningless stands in a product of its own.
    """

    products: tuple[Product, ...]

    @property
    def size(self) -> int:
        """How many settings there are, equal ones counted again."""
        return sum(math.prod(len(values) for values in each.values()) for each in self.products)

    @property
    def names(self) -> tuple[str, ...]:
        """The hyper-parameters, in the order of the products."""
        return tuple(dict.fromkeys(name for each in self.products for name in each))

    def settings(self) -> Iterator[dict[str, Scalar]]:
        """Each setting, product by product; the last hyper-parameter varies fastest."""
        for each in self.products:
            for values in itertools.product(*each.values()):
                yield dict(zip(each, values, strict=True))


def parse(items: Sequence[str]) -> Product:
    """`alpha=0:1:0.1`, both ends included, or `window_size=1,2,4,7`. Raises BadInput."""
    found: dict[str, tuple[Scalar, ...]] = {}
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not (name and equals and text):
            raise BadInput(
                "--space takes NAME=VALUES, such as window_size=1,2,4 or alpha=0:1:0.1 "
                f"(first:last:step), got {item!r}"
            )
        if name in found:
            raise BadInput(f"--space is given {name} twice")
        values = [value for word in split(text) for value in _values(word, item)]
        found[name] = tuple(dict.fromkeys(values))
    return found


def _values(word: str, item: str) -> Iterator[Scalar]:
    """Those of `0:1:0.1`, in decimal steps, so that they are the numbers that one would write."""
    if ":" not in word:
        yield parse_scalar(word)
        return
    try:
        first, last, step = map(Decimal, word.split(":"))
    except (InvalidOperation, ValueError):
        raise BadInput(
            f"a range is first:last:step, three numbers such as 0:1:0.1, got {word!r} in {item!r}"
        ) from None
    if not all(number.is_finite() for number in (first, last, step)) or step <= 0 or last < first:
        raise BadInput(f"a range goes up from first to last by steps above 0, got {word!r}")
    count = int((last - first) / step) + 1
    if count > _MOST_VALUES:
        raise BadInput(f"{word!r} has more than {_MOST_VALUES} values")
    is_whole = first == int(first) and step == int(step)
    for index in range(count):
        value = first + index * step
        yield int(value) if is_whole else float(value)


def case_with(case: Case, setting: Mapping[str, Scalar], mechanisms: Mapping[str, Path]) -> Case:
    """The case with these hyper-parameters; the others are the authors'. A backbone's that its
    mechanism does not have are left out.

    mechanisms  that there are: name -> file
    """
    if case.backbone:
        known = models.known_settings(case.backbone, setting, mechanisms)
        return replace(case, params=tuple(sorted(known.items())))
    own: dict[str, Any] = merged(dict(case.params), setting)
    dim, num_heads = (int(own.pop(name, getattr(case, name))) for name in _SIZES)
    return replace(case, params=tuple(sorted(own.items())), dim=dim, num_heads=num_heads)
