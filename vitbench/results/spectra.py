"""The files of spectra: spectra.json, which holds all of them, and spectra.csv, one row for each
ring of each. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbench.analysis.spectrum import Spectrum
from vitbench.errors import BadInput
from vitbench.results.csv import write_csv, write_json
from vitbench.results.folder import SPECTRA, SPECTRA_CSV

COLUMNS = (
    "subject",
    "settings",
    "weights",
    "images",
    "layer",
    "heads",
    "grid",
    "channels",
    "frequency_nyquist",
    "energy_share",
    "energy_low",
    "energy_high",
    "high_share",
    "high_low",
    "high_high",
    "varying_share",
)


@dataclass(frozen=True, slots=True)
class SpectraOf:
    """The spectra of one subject.

    subject   its name
    settings  hyper-parameters and size, in words
    weights   where they are from: "random", or the name of a checkpoint
    images    what it was run on, in words
    """

    subject: str
    settings: str
    weights: str
    images: str
    spectra: Sequence[Spectrum]


def write(folder: Path, subjects: Sequence[SpectraOf]) -> list[Path]:
    """Replaces both files; returns their paths. Raises OSError."""
    paths = [folder / SPECTRA, folder / SPECTRA_CSV]
    write_json(
        paths[0],
        [
            {
                "subject": one.subject,
                "settings": one.settings,
                "weights": one.weights,
                "images": one.images,
                "spectra": [spectrum.to_dict() for spectrum in one.spectra],
            }
            for one in subjects
        ],
    )
    write_csv(paths[1], COLUMNS, _rows(subjects))
    return paths


def read(folder: Path) -> list[SpectraOf]:
    """The inverse of write; [] where there are none. Raises BadInput."""
    path = folder / SPECTRA
    try:
        content: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [
            SpectraOf(**{**one, "spectra": [Spectrum.from_dict(s) for s in one["spectra"]]})
            for one in content
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None


def _rows(subjects: Sequence[SpectraOf]) -> Iterator[dict[str, Any]]:
    for one in subjects:
        for spectrum in one.spectra:
            height, width = spectrum.grid
            own = (one.subject, one.settings, one.weights, spectrum.images)
            where = (spectrum.layer, spectrum.group, f"{height}x{width}", spectrum.channels)
            high = spectrum.high
            for frequency, energy in zip(spectrum.frequency, spectrum.energy, strict=True):
                values = (*own, *where, frequency, energy.mean, energy.low, energy.high)
                ends = (high.mean, high.low, high.high, spectrum.varying.mean)
                yield dict(zip(COLUMNS, (*values, *ends), strict=True))
