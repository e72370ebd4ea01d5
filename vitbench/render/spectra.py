"""The frequencies of output maps: the spectrum of each, and its energy by frequency."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from vitbench.analysis.spectrum import HIGH, Share, Spectrum
from vitbench.render import style
from vitbench.results.spectra import SpectraOf

# Spectra of one subject in a figure: a model has more layers than a page has room for.
_MOST = 12
_COLUMNS = 4
# Below this share of the largest magnitude all is black: 60 dB.
_FLOOR = 1e-3
_WIDTH = 7.0


def figures(subjects: Sequence[SpectraOf]) -> Iterator[tuple[str, Figure]]:
    """(file name, figure): for each subject its spectra, and the curves below them."""
    names = [one.subject for one in subjects]
    for index, one in enumerate(subjects):
        number = f"-{names[: index + 1].count(one.subject)}" if names.count(one.subject) > 1 else ""
        stem = "".join(c if c.isalnum() or c in "_-" else "-" for c in one.subject)
        yield f"spectrum-{stem[:80]}{number}", of_subject(one)


def label(spectrum: Spectrum) -> str:
    """What was read: the layer, and the heads."""
    return " ".join(filter(None, (spectrum.layer, spectrum.group))) or "output"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def percent(share: Share) -> str:
    """`31% (28% to 34%)`; of one image there is no interval."""
    if share.low is None or share.high is None:
        return _percent(share.mean)
    return f"{_percent(share.mean)} ({_percent(share.low)} to {_percent(share.high)})"


def caption(one: SpectraOf) -> str:
    """What was run on what."""
    weights = "random weights" if one.weights == "random" else f"weights {one.weights}"
    return f"{one.settings}; {weights}; {one.images}"


def of_subject(one: SpectraOf) -> Figure:
    """Magnitudes on a log scale, zero frequency in the centre; energy by radial frequency."""
    shown = _shown(one.spectra)
    columns = _columns(shown)
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(_WIDTH, 1.95 * rows + 3.2), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.95 * rows, 3.0])[:, 0]
    grid = above.subplots(rows, columns, squeeze=False)
    image = None
    for axes, spectrum in itertools.zip_longest(grid.flat, shown):
        axes.axis("off")
        if spectrum is not None:
            image = _magnitude(axes, spectrum)
    if image is not None:
        bar = above.colorbar(image, ax=grid, shrink=0.8, pad=0.01)
        bar.set_label("|F| over the largest, dB")
    above.suptitle(f"Spectrum of {one.subject}", x=0.01, ha="left", weight="bold")
    _curves(below.subplots(), shown)
    left = len(one.spectra) - len(shown)
    more = f"; {left} more in spectra.csv" if left else ""
    style.caption_below(figure, textwrap.fill(caption(one) + more, 95))
    return figure


def _shown(spectra: Sequence[Spectrum]) -> list[Spectrum]:
    """Of all layers, or of some from the first to the last, each with all its heads."""
    by_layer = [list(group) for _, group in itertools.groupby(spectra, lambda one: one.layer)]
    most = max(1, _MOST // max(map(len, by_layer)))
    if len(by_layer) > most:
        last = len(by_layer) - 1
        by_layer = [by_layer[round(index * last / (most - 1 or 1))] for index in range(most)]
    return [one for layer in by_layer for one in layer]


def _columns(spectra: Sequence[Spectrum]) -> int:
    """A row for each layer where it has groups of heads, unless all fit into one."""
    if len(spectra) <= _COLUMNS or not any(one.group for one in spectra):
        return _COLUMNS
    return max(sum(one.layer == other.layer for other in spectra) for one in spectra)


def _magnitude(axes: Axes, spectrum: Spectrum) -> object:
    values = 20 * np.log10(np.maximum(np.array(spectrum.magnitude), _FLOOR))
    axes.set_title(label(spectrum).replace(" ", "\n"), fontsize=8)
    return axes.imshow(values, cmap="inferno", vmin=20 * math.log10(_FLOOR), vmax=0)


def _curves(axes: Axes, spectra: Sequence[Spectrum]) -> None:
    """The energy in each ring, of that without the map's mean."""
    for index, spectrum in enumerate(spectra):
        x = np.array(spectrum.frequency)[1:]
        mean, low, high = (
            np.array([getattr(share, end) for share in spectrum.energy[1:]], dtype=float)
            for end in ("mean", "low", "high")
        )
        look = style.of_index(index)
        words = f"{label(spectrum)}: {spectrum.high.mean:.0%} above half"
        axes.plot(x, mean, color=look.colour, marker=look.marker, linestyle=look.line, label=words)
        if not np.isnan(low).any():
            axes.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
    axes.axvline(HIGH, color="#444444", linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:g}%"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("radial frequency over Nyquist's (dotted: half)")
    axes.set_ylabel("share of the energy")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
