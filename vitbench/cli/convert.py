"""`vitbench convert`: what a runtime is measured with, as files to ship."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench import devices, runtimes
from vitbench.cases.axes import AXES
from vitbench.cli import complete, options, parse, terminal
from vitbench.errors import BadInput, check_writable, writing

if TYPE_CHECKING:
    from vitbench.cases.case import Case
    from vitbench.results.record import Record


@options.grouped
def convert(
    subject: Annotated[
        str,
        typer.Argument(
            help="A mechanism, a backbone, a plugin's name, or a class of a package.",
            autocompletion=complete.mechanism,
        ),
    ],
    *,
    runtime: Annotated[str, typer.Option(help=f"One of {', '.join(runtimes.converting())}.")],
    axes: options.OneOfEach,
    param: Annotated[
        list[str] | None, typer.Option(help="Hyper-parameter, alpha=0.5; may be repeated.")
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="A file with your own mechanism or backbone.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint for the backbone; only tensors are read.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help=options.CALIBRATION)] = None,
    device: Annotated[str, typer.Option(help=options.DEVICE)] = devices.host(),
    timeout: Annotated[
        float, typer.Option(help="Longest wait for a worker's answer, seconds.")
    ] = 300.0,
    out: Annotated[
        Path | None, typer.Option(help="The file; by default `model` with the runtime's suffix.")
    ] = None,
) -> int:
    """Convert a module as `run` does, check it, and write it beside a script that runs it."""
    converting = _converting(runtime)
    out = Path(converting.FILE) if out is None else out
    _check_free(out, converting)
    from vitbench.cases.row import name_of
    from vitbench.engine import planning, runner
    from vitbench.results.outcome import COUNTED, UNSUPPORTED

    files = tuple(plugin or ())
    kind, name = parse.subject(subject, planning.plugin_files(files))
    if "task" not in axes:  # each task has a size of its own
        axes.setdefault("resolution", AXES["resolution"].defaults)
    own = {key: (value,) for key, value in parse.own_params(param or []).items()}
    plan = planning.make_plan(
        axes={**axes, kind: (subject,), "runtime": (runtime,)},
        params={name: own} if own else {},
        plugins=files,
        weights=weights,
        calibration=calibration,
        device=device,
        timeout_s=timeout,
        timed=False,
    )
    if len(plan.cases) != 1:
        raise BadInput(
            f"convert makes one file, and these options name {len(plan.cases)} cases: give one "
            "value of each"
        )
    (case,) = plan.cases
    with tempfile.TemporaryDirectory(prefix=".vitbench-", dir=out.parent) as folder:
        run = Path(folder, "run")
        (row,) = runner.measure(plan, run).records()
        if row["status"] == UNSUPPORTED:
            raise BadInput(f"{name_of(case)}: {row['message']}")
        if row["status"] != COUNTED:
            reason = f"vitbench: {name_of(case)}: {row['status']}: {row['message']}"
            typer.echo(reason, err=True)
            return 1
        with writing(out):
            _move(run / str(row["artifact"]), out)
            script = _script(case, row, out)
    _report(case, row, out, script)
    return 0


def _converting(name: str) -> runtimes.Converting:
    """The runtime of that name. Raises BadInput where it converts nothing."""
    converting = runtimes.converting()
    if name not in converting:
        raise BadInput(f"--runtime takes one that converts: {', '.join(converting)}; got {name!r}")
    return converting[name]


def _check_free(out: Path, runtime: runtimes.Converting) -> None:
    """Raises BadInput where the file, or the script beside it, cannot be made."""
    suffix = Path(runtime.FILE).suffix
    if out.suffix != suffix:
        raise BadInput(f"--out of {runtime.RULES.name} ends in {suffix}, got {out}")
    for path in (out, out.with_suffix(".py")):
        if os.path.lexists(path):
            raise BadInput(f"{path} exists; choose another --out")
    check_writable(out, BadInput)


def _move(file: Path, out: Path) -> None:
    """Moves what was converted. What belongs to it has its stem, and gets the new one; what it
    calls by name keeps that. Raises BadInput where a file is there already.
    """
    from vitbench.runtimes import _artifact

    targets = {
        path: out.with_suffix(path.suffix) if path.stem == file.stem else out.with_name(path.name)
        for path in _artifact.files_of(file.parent)
    }
    for target in targets.values():
        if os.path.lexists(target):
            raise BadInput(f"{target} exists; choose another --out")
    for path, target in targets.items():
        path.rename(target)


def _script(case: Case, row: Record, out: Path) -> Path:
    """Writes the script that runs the file."""
    from vitbench.cases.row import name_of

    title = f"{name_of(case)}, for {case.runtime} {row['runtime_version']}"
    script = out.with_suffix(".py")
    text = (
        runtimes.converting()[case.runtime]
        .script(case.tensor_dtype)
        .format(
            title=json.dumps(title),
            file=out.name,
            shape=case.input_shape,
            dtype=case.tensor_dtype,
            device=case.device,
        )
    )
    script.write_text(text, encoding="utf-8")
    return script


def _report(case: Case, row: Record, out: Path, script: Path) -> None:
    from vitbench.cases.row import name_of
    from vitbench.render import units

    console = terminal.console()
    size = units.mebibytes(float(str(row["artifact_bytes"])))
    console.print(f"{name_of(case)}, for {case.runtime} {row['runtime_version']}")
    console.print(
        f"{out}: {size} MiB; its output differs from {row['checked_against']} by "
        f"{float(str(row['error_rms'])):.1e} (rms)"
    )
    console.print(f"{script}: loads and runs it")
