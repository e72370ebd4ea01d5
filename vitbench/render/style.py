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

# The index of a mechanism, or of a whole model, gives its colour: append, never reorder.
_ORDER = (
    "msa hilo window shifted_window sra linear_sra cross_window neighborhood grid xca "
    "twins_lsa twins_gsa dat focal quadtree lka gnconv performer linformer efficient "
    "relu_linear pooling",
    "resnet50 litv2_s swin_tiny pvt_v2_b2 convnext_tiny twins_pcpvt_small twins_svt_small "
    "xcit_small_12_p16 coatnet_0 cait_xs24 tnt_s maxvit_tiny efficientvit_b1 poolformer_s24 "
    "vit_small litv2_m litv2_b",
)
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
}


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
        index = len(_PALETTE) * 2 + digest[0] % len(_PALETTE)
    cycle, colour = divmod(index, len(_PALETTE))
    line = LINES[1 if subject in _DASHED else cycle % len(LINES)]
    return Style(_PALETTE[colour], _MARKERS[(index + cycle * 3) % len(_MARKERS)], line)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """One style for all charts, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC_PARAMS)
        yield


def save(figure: Figure, folder: Path, name: str) -> Path:
    """A figure as PDF and PNG. Returns the path of the PNG. Raises OSError."""
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", None)):
        content = io.BytesIO()  # drawn first: libraries that meet a full disk raise anything
        figure.savefig(content, format=suffix, metadata=metadata)
        (folder / f"{name}.{suffix}").write_bytes(content.getvalue())
    return folder / f"{name}.png"


def wrapped(label: str) -> str:
    """In lines that leave the chart its room."""
    return textwrap.fill(label, _LABEL_WIDTH, break_long_words=False, break_on_hyphens=False)


def caption_below(figure: Figure, caption: str) -> None:
    """In small letters, from the left edge on."""
    figure.supxlabel(caption, fontsize=8.5, color="#555555", x=0.01, ha="left")
