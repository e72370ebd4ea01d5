"""How latency grows with the number of tokens: an exponent for each mechanism. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitbench.analysis.groups import SIZE, groups, latency_s, trusted
from vitbench.analysis.stats import CONFIDENCE, Interval, student_quantile
from vitbench.results.record import Record

# With fewer sizes a straight line always fits.
MIN_SIZES = 3


@dataclass(frozen=True, slots=True)
class Exponent:
    """latency ~ tokens ** value, over the sizes that were measured.

    records  the rows, smallest first
    within   the 95% interval: wide where the latency is no power of the tokens
    """

    records: tuple[Record, ...]
    value: float
    within: Interval


def tokens(record: Record) -> float:
    """Of a layer its grid; of a backbone as many as 16 x 16 pixels make."""
    grid = float(record["grid_height"] or 0) * float(record["grid_width"] or 0)
    return grid or float(record["image_height"] or 0) * float(record["image_width"] or 0) / 256


def exponents(records: Sequence[Record]) -> list[Exponent]:
    """One for each subject and setting with rows of three sizes or more; the steepest first."""
    found = []
    for rows in groups(records, SIZE):
        by_size = {tokens(record): record for record in trusted(rows)}
        if len(by_size) >= MIN_SIZES:
            ordered = [by_size[size] for size in sorted(by_size)]
            found.append(_fit(ordered))
    return sorted(found, key=lambda exponent: -exponent.value)


def _fit(ordered: Sequence[Record]) -> Exponent:
    """Least squares on logarithms: Student's interval of the slope."""
    x = np.log([tokens(record) for record in ordered])
    y = np.log([latency_s(record) for record in ordered])
    x, y = x - x.mean(), y - y.mean()
    square = float(x @ x)
    slope = float(x @ y) / square
    rest, freedom = y - slope * x, len(ordered) - 2
    error = math.sqrt(float(rest @ rest) / freedom / square)
    reach = student_quantile((1 - CONFIDENCE) / 2, freedom) * error
    return Exponent(tuple(ordered), slope, Interval(slope - reach, slope + reach))
