"""One style of all charts: colours of mechanisms and models, fonts, and how a figure is saved."""

from __future__ import annotations

import contextlib
import hashlib
import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from vitbench.results.replacing import replace_bytes

# The index of a mechanism, or of a whole model, gives its colour: append, never reorder.
_ORDER = (
    "msa hilo window shifted_window sra linear_sra cross_window neighborhood grid xca "
    "twins_lsa twins_gsa dat focal quadtree lka gnconv performer linformer efficient "
    "relu_linear pooling additive separable single_head repmixer focal_modulation mobile_mqa "
    "differential cascaded_group global_context mask_unit conv_attention agent "
    "rank_augmented retention circulant ss2d mlla focused_linear polarized bi_level aggregated "
    "hsm_ssd",
    "resnet50 litv2_s swin_tiny pvt_v2_b2 convnext_tiny twins_pcpvt_small twins_svt_small "
    "xcit_small_12_p16 coatnet_0 cait_xs24 tnt_s maxvit_tiny efficientvit_b1 poolformer_s24 "
    "vit_small litv2_m litv2_b",
)
KNOWN = frozenset(name for names in _ORDER for name in names.split())
_INDEX = {name: index for names in _ORDER for index, name in enumerate(names.split())}
# Characters of a line of a label.
_LABEL_WIDTH = 36
# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow (too
# light for a line), and three more.
_PALETTE = (
    "#222222",
    "#D55E00",
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#CC79A7",
    "#8C564B",
    "#7A5FBF",
    "#9A9A00",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
LINES = ("-", "--", "-.", ":")
# Mechanisms that lie on another's curve wherever the shift or the transpose costs nothing.
_DASHED = {"shifted_window", "grid", "twins_lsa"}

RC_PARAMS: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are text, dollars too
    "svg.hashsalt": "vitbench",  # the same chart, the same file
}


# A chart as wide as a column of a paper; its letters are those of the paper's captions.
COLUMN_WIDTH = 3.4
_COLUMN_DPI = 300
COLUMN: Any = {
    "figure.dpi": _COLUMN_DPI,
    "text.hinting": "no_hinting",  # letters are as wide at every resolution
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.titlepad": 4,
    "axes.labelpad": 2,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.0,
}


_DARK = (
    b"<style>@media (prefers-color-scheme: dark) "
    b"{ svg { filter: invert(0.93) hue-rotate(180deg); } }</style>\n "
)


@dataclass(frozen=True, slots=True)
class Style:
    """How a mechanism is drawn."""

    colour: str
    marker: str
    line: str


def style_of(subject: str) -> Style:
    """The same for a mechanism in every chart; one of the user's own gets one from its name."""
    index = _INDEX.get(subject)
    if index is None:
        digest = hashlib.sha256(subject.encode()).digest()
        index = len(_PALETTE) * 4 + digest[0] % len(_PALETTE)
    return of_index(index, dashed=subject in _DASHED)


def of_index(index: int, *, dashed: bool = False) -> Style:
    """Of the curves of a chart that are no mechanisms, by their number."""
    cycle, colour = divmod(index, len(_PALETTE))
    line = LINES[1 if dashed else cycle % len(LINES)]
    return Style(_PALETTE[colour], _MARKERS[(index + cycle * 3) % len(_MARKERS)], line)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """One style for all charts, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC_PARAMS)
        yield


@contextlib.contextmanager
def for_a_column() -> Iterator[None]:
    """Charts that are drawn meanwhile are for a column of a paper."""
    with mpl.rc_context(COLUMN):
        yield


def save(figure: Figure, folder: Path, name: str) -> Path:
    """A figure as PDF, SVG and PNG. Returns the path of the PNG. Raises OSError.

    On a dark page the SVG turns dark by itself: its lightness is turned over, its hues stay.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # once for all three
    formats = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": None}
    for suffix, metadata in formats.items():
        content = io.BytesIO()  # drawn first: libraries that meet a full disk raise anything
        dpi = _COLUMN_DPI if figure.get_figwidth() <= COLUMN_WIDTH else None
        figure.savefig(content, format=suffix, metadata=metadata, dpi=dpi)
        data = content.getvalue()
        if suffix == "svg":
            data = data.replace(b"<defs>", _DARK + b"<defs>", 1)
        replace_bytes(folder / f"{name}.{suffix}", data)
    return folder / f"{name}.png"


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def wrapped(label: str) -> str:
    """In lines that leave the chart its room."""
    return textwrap.fill(label, _LABEL_WIDTH, break_long_words=False, break_on_hyphens=False)


def caption_below(figure: Figure, caption: str) -> None:
    """In small letters, from the left edge on; in a narrow figure on as many lines as it takes."""
    size = 8.5
    if figure.get_figwidth() <= COLUMN_WIDTH:
        size = 5.5
        width = round(figure.get_figwidth() * 72 / (0.55 * size))  # characters of a line
        caption = "\n".join(textwrap.fill(line, width) for line in caption.splitlines())
    figure.supxlabel(caption, fontsize=size, color="#555555", x=0.01, ha="left")
