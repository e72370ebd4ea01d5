"""`vitbench spectrum`: which spatial frequencies the output of attention holds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from vitbench import devices
from vitbench.cases.axes import AXES, text_of
from vitbench.cli import complete, options, parse, terminal
from vitbench.errors import BadInput, writing
from vitbench.results.folder import JOURNAL, PLOTS, SPECTRA_CSV, make, make_folder, new_folder

if TYPE_CHECKING:
    from vitbench.analysis.spectrum import Spectrum
    from vitbench.cases.case import Case
    from vitbench.results.spectra import SpectraOf

_REPORTS = Path("reports")


class Size(options.Axes):
    """A group of options: the size of each subject's input."""

    panel = "Size (one value of each)"
    defaults: ClassVar[Mapping[str, str | None]] = {
        name: text_of(AXES[name].default) for name in ("stride", "dim", "num_heads")
    } | {"resolution": None}


@options.grouped
def spectrum(
    subjects: Annotated[
        list[str],
        typer.Argument(
            help="Mechanisms, backbones, names of plugins, or classes of packages; one or more.",
            autocompletion=complete.mechanism,
        ),
    ],
    *,
    axes: Size,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Modules of a backbone, such as 'blocks.*.attn'; may be repeated."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="A folder of .png and .jpg; else scikit-image's.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint for the backbone; only tensors are read.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(help="Hyper-parameter, such as hilo.alpha=0.5; may be repeated."),
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="A file with your own mechanism or backbone.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder, or that of a run, whose report then shows the spectra."),
    ] = None,
    json: options.AsJson = False,
) -> None:
    """Read the frequencies of output maps over images: spectra, curves, and the share of high ones.

    A layer is given the images as patches of its stride, projected by random weights.
    """
    from vitbench.cases import calibration
    from vitbench.engine import inquiry, planning
    from vitbench.render import charts, report
    from vitbench.render.spectra import figures
    from vitbench.results import spectra

    files = tuple(plugin or ())
    named: dict[str, tuple[str, ...]] = {}
    for subject in subjects:
        kind, _ = parse.subject(subject, planning.plugin_files(files))
        named[kind] = (*named.get(kind, ()), subject)
    if layer and "backbone" not in named:
        raise BadInput("--layer names modules of backbones, and none is named")
    axes.setdefault("resolution", AXES["resolution"].defaults)
    plan = planning.make_plan(
        axes={**axes, **named, "batch_size": (1,)},
        params=parse.params(param or []),
        plugins=files,
        weights=weights,
        device=devices.host(),
        timed=False,
    )
    if len(plan.cases) != len({*subjects}):
        raise BadInput(
            f"a subject has one spectrum, and these options name {len(plan.cases)} cases of "
            f"{len({*subjects})} subjects: give one value of each"
        )
    pictures = calibration.read(images, "--images", "spectrum")
    folder = out or new_folder(_REPORTS, "spectrum", plan.device)
    is_run = os.path.exists(folder / JOURNAL)
    made = [] if is_run else make(folder)
    try:
        if not is_run:
            make_folder(folder)
        read = [
            _of(case, found, pictures.source)
            for case, found in inquiry.spectra(plan, pictures, layer or ())
        ]
    except BadInput:
        for path in made:
            path.rmdir()
        raise
    with writing(folder, BadInput):
        spectra.write(folder, read)
    drawn = charts.save_all(figures(read), folder / PLOTS, BadInput)
    pages = report.write([folder]) if is_run else []
    if json:
        terminal.echo_json([asdict(one) for one in read])
        return
    _print(read)
    for path in (folder / SPECTRA_CSV, *drawn, *pages):
        print(path)


def _of(case: Case, found: Sequence[Spectrum], images: str) -> SpectraOf:
    from vitbench.results.spectra import SpectraOf

    size = f"{case.resolution} px"
    if case.attention:
        size += f", {case.grid} tokens, dim {case.dim}, {case.num_heads} heads"
    settings = " ".join(filter(None, (case.settings, size)))
    return SpectraOf(case.subject, settings, case.weights or "random", images, found)


def _print(read: Sequence[SpectraOf]) -> None:
    """The share of high frequencies in each output."""
    from vitbench.render.listing import listing
    from vitbench.render.spectra import caption, label, percent

    console = terminal.console()
    header = (
        "output",
        "tokens",
        "channels",
        "images",
        "beside the mean",
        "above half of Nyquist's",
    )
    for one in read:
        console.print(f"{one.subject}: {caption(one)}", soft_wrap=True)
        rows = [
            (
                label(each),
                f"{each.grid[0]} x {each.grid[1]}",
                str(each.channels),
                str(each.images),
                percent(each.varying),
                percent(each.high),
            )
            for each in one.spectra
        ]
        console.print(listing(header, rows))
