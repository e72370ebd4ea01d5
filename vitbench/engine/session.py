"""From a suite and what the user changes of it to a plan, a run and its charts.

What the command line does, from Python:

    plan = make_plan("quick", device="cpu", axes={"resolution": (Resolution(224, 224),)})
    run = measure(plan, Path("reports/mine"))
    rows = read_records(Path("reports/mine"))
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attentions
from vitbench import devices
from vitbench.analysis import published
from vitbench.cases import backbone_names as models
from vitbench.cases import suite as suites
from vitbench.cases.case import Resolution, Sweep
from vitbench.cases.scalars import Scalar
from vitbench.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from vitbench.cases.case import Case
    from vitbench.cases.plan import Plan
    from vitbench.engine.runner import OnProgress
    from vitbench.instruments.timing import TimingRule
    from vitbench.results.journal import Run
    from vitbench.results.record import Record

Params = Mapping[str, Mapping[str, tuple[Scalar, ...]]]


def plugin_names(plugins: tuple[Path, ...]) -> dict[str, Path]:
    """Plugin files by mechanism name, their stem. Raises BadInput."""
    found: dict[str, Path] = {}
    for path in plugins:
        if not os.path.isfile(path):
            raise BadInput(f"plugin {path} is not a file")
        name = path.stem
        if not name.isidentifier():
            raise BadInput(f"plugin {path} needs a name that is a Python identifier, got {name!r}")
        if name in attentions.names() or name in found:
            raise BadInput(f"plugin {path} is called {name}, which is taken; rename the file")
        try:
            attentions.outline(path)
        except attentions.BrokenAttention as error:
            raise BadInput(f"plugin {path}: {error}") from None
        found[name] = path.resolve()
    return found


def is_backbone(path: Path) -> bool:
    """Whether a plugin defines a BACKBONE; else it is taken for a mechanism."""
    return re.search(r"^BACKBONE\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def backbone_name(text: str) -> str:
    """`litv2_s` of `litv2_s[attention=sra]`. Raises BadInput."""
    return models.parse(text)[0]


def weights_name(path: Path) -> str:
    """What a checkpoint is called in a plan: by its content. Raises BadInput."""
    try:
        with path.open("rb") as file:
            return f"weights_{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    except OSError as error:
        raise BadInput(f"weights {path} cannot be read: {error.strerror}") from None


def make_sweep(
    suite: suites.Suite,
    device: str,
    axes: Mapping[str, Any],
    params: Params,
    plugins: Mapping[str, Path],
    registry: Mapping[str, Path] | None = None,
    weights: str = "",
) -> Sweep:
    """The suite's axes on a device with the user's on top. Raises BadInput.

    A task that the user names is measured on its own images, unless they name others. A plugin is
    measured beside what the suite names, unless the user names what to measure; the suite's
    hyper-parameters hold for the mechanisms and backbones that are left.
    """
    merged = suite.axes_on(device) | dict(axes)
    if "attention" not in axes and "backbone" not in axes:
        models = [name for name, path in plugins.items() if is_backbone(path)]
        layers = [name for name in plugins if name not in models]
        merged["attention"] = (*merged.get("attention", ()), *layers)
        merged["backbone"] = (*merged.get("backbone", ()), *models)
    elif "attention" not in axes:
        merged["attention"] = ()
    elif "backbone" not in axes:
        merged["backbone"] = ()
    if "task" in axes and not merged.get("backbone"):
        raise BadInput("--task is of backbones, and none is measured: name one with --backbone")
    if "task" in axes and "resolution" not in axes and not merged.get("attention"):
        merged["resolution"] = ()
    named = {*merged.get("attention", ()), *map(backbone_name, merged.get("backbone", ()))}
    kept = {name: dict(v) for name, v in suite.params.items() if name in named}
    for name, values in params.items():
        kept[name] = kept.get(name, {}) | dict(values)
    there = attentions.files() if registry is None else registry
    sweep = Sweep(
        **merged, device=device, params=kept, plugins=plugins, registry=there, weights=weights
    )
    sweep.check()
    return sweep


def describe(
    name: str,
    *,
    resolution: Resolution = Resolution(224, 224),  # noqa: B008 - it is frozen
    stride: int = 16,
    dim: int = 384,
    num_heads: int = 12,
    params: Mapping[str, Scalar] | None = None,
    plugins: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """All that is known of a mechanism, with its counts at a size. Imports torch. Raises BadInput,
    for what is wrong in the question before that.
    """
    named = plugin_names(plugins)
    sweep = Sweep(
        attention=(name,),
        resolution=(resolution,),
        stride=(stride,),
        dim=(dim,),
        num_heads=(num_heads,),
        params={name: {key: (value,) for key, value in (params or {}).items()}},
        plugins=named,
    )
    sweep.check()
    from vitbench.subjects import describe as mechanism

    return mechanism.describe(
        name,
        named,
        resolution=resolution,
        stride=stride,
        dim=dim,
        num_heads=num_heads,
        params=params or {},
    )


def make_plan(
    suite: str = "quick",
    *,
    device: str = "auto",
    axes: Mapping[str, Any] | None = None,
    params: Params | None = None,
    plugins: tuple[Path, ...] = (),
    effort: str | None = None,
    rounds: int | None = None,
    rule: Mapping[str, float | None] | None = None,
    threads: int | None = None,
    timed: bool = True,
    registry: Mapping[str, Path] | None = None,
    weights: Path | None = None,
    **settings: Any,
) -> Plan:
    """The plan of a suite (by name or TOML file) with axes and hyper-parameters on top.

    axes      by name of a field of Sweep, each a tuple
    params    by mechanism, then hyper-parameter, each a tuple of values
    plugins   files that define ATTENTION or BACKBONE
    weights   a checkpoint for every backbone, read as tensors only
    effort    "quick", "default", "thorough"; the suite's own where None
    rule      fields of TimingRule that differ from the effort's
    registry  the mechanisms that there are: name -> file; ours where None
    timed     False: cases are checked, counted and their memory measured, once
    settings  seed, timeout_s, allocator, memory_limit_bytes, budget_s: fields of Plan; without a
              limit of memory a worker on the CPU gets 90% of what is available now (None: no
              limit), and with a budget the number of rounds follows from it

    Raises BadInput, before anything is measured or written.
    """
    devices.check(device)
    chosen = suites.load(suite)
    named = plugin_names(plugins)
    # What can be wrong whatever the device is answered before a process is asked for the device.
    placeholder = devices.host() if device == devices.AUTO else device
    kept = "" if weights is None else weights_name(weights)
    files = named if weights is None else named | {kept: weights.resolve()}
    first = make_sweep(chosen, placeholder, axes or {}, params or {}, named, registry, kept)
    if weights is not None and not first.backbone:
        raise BadInput("--weights are for backbones, and none is measured")
    if chosen.published is not None:
        published.read(chosen.published)

    from vitbench.cases import plan as plans
    from vitbench.engine import pool
    from vitbench.engine.messages import SetUp

    name = effort or chosen.effort

    def plan_on(device: str) -> Plan:
        sweep = make_sweep(chosen, device, axes or {}, params or {}, named, registry, kept)
        cases, timing = tuple(sweep.expand()), plans.rule_of(name, device, rule or {})
        return plans.Plan(
            title=_title(chosen.title, cases, axes or {}, params or {}),
            suite=Path(suite).stem,
            device=device,
            cases=cases,
            rounds=_rounds(rounds, name, device, settings.get("budget_s"), cases, timing)
            if timed
            else 1,
            rule=timing,
            timed=timed,
            threads=threads,
            published=chosen.published,
            reference=chosen.reference,
            plugins={name: str(path) for name, path in files.items()},
            **(_default_memory_limit(device) | settings),
        )

    plan = plan_on(placeholder)
    if weights is not None:
        setup = SetUp.of(plan, device=devices.host(), memory_limit_bytes=None)
        pool.check_weights(plan.cases, setup)
    return plan if device == devices.host() else plan_on(pool.probe(device, threads).device)


# Names of subjects in a title at most.
_NAMED = 5


def _title(
    of_suite: str,
    cases: Sequence[Case],
    axes: Mapping[str, Any],
    params: Mapping[str, Any],
) -> str:
    """The suite's title, as long as its words are true of these cases."""
    if "attention" in axes or "backbone" in axes:
        names = list(dict.fromkeys(case.attention or case.backbone for case in cases))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more
    changed = [name.replace("_", " ") for name in axes] + ["hyper-parameters"] * bool(params)
    return f"{of_suite}, with {', '.join(changed)} as asked" if changed else of_suite


def plan_again(
    records: Sequence[Record],
    *,
    title: str,
    plugins: tuple[Path, ...] = (),
    rounds: int | None = None,
    threads: int | None = None,
    timed: bool = True,
) -> Plan:
    """A plan of the cases that rows are of, with enough rounds to compare. Raises BadInput."""
    from vitbench.analysis import stats
    from vitbench.cases import plan as plans
    from vitbench.results import record as rows

    named = plugin_names(plugins)
    cases = []
    for number, record in enumerate(records, start=1):
        try:
            cases.append(rows.case_of(record))
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"row {number} of {title} is not a case: {error}") from None
    named_devices = sorted({case.device for case in cases})
    if len(named_devices) != 1:
        listed = ", ".join(named_devices) or "none"
        raise BadInput(f"{title} are of {len(named_devices)} devices: {listed}")
    device = named_devices[0]
    if device != devices.host():
        from vitbench.engine import pool

        pool.probe(device, threads)
    enough = max(stats.RANK_ROUNDS + 1, plans.rounds_of("default", device))
    return plans.Plan(
        title=title,
        suite="check",
        device=device,
        cases=tuple(dict.fromkeys(cases)),
        rounds=(rounds or enough) if timed else 1,
        rule=plans.rule_of("default", device, {"cap_s": 2.0}),
        threads=threads,
        timed=timed,
        plugins={name: str(path) for name, path in named.items()},
        **_default_memory_limit(device),
    )


def _rounds(
    asked: int | None,
    effort: str,
    device: str,
    budget_s: float | None,
    cases: tuple[Case, ...],
    rule: TimingRule,
) -> int:
    from vitbench.cases import plan as plans
    from vitbench.engine import budget

    if budget_s is None or not cases:
        return plans.rounds_of(effort, device) if asked is None else asked
    plans.effort(effort)  # an unknown one is refused with a budget too
    if asked is None:
        return budget.rounds_in(budget_s, cases, rule)
    budget.check(budget_s, cases, rule, asked)
    return asked


def _default_memory_limit(device: str) -> dict[str, Any]:
    """On the CPU nine tenths of what is available: beyond it the kernel would end some process,
    not always the one at fault. In whole GiB, so that two plans made in a row are the same."""
    from vitbench.instruments import host

    if not devices.rules(device).is_host:
        return {}
    return {"memory_limit_bytes": max(1, int(0.9 * host.available_memory_bytes() / 2**30)) * 2**30}


def measure(plan: Plan, folder: Path, on_progress: OnProgress | None = None) -> Run:
    """Carries out a plan into a new run folder. Raises BadInput, StorageFull."""
    from vitbench.engine import runner

    return runner.start(plan, folder, on_progress)


def resume(folder: Path, on_progress: OnProgress | None = None) -> Run:
    """Continues a run that was cut off. Raises BadInput, StorageFull."""
    from vitbench.engine import runner

    return runner.resume(folder, on_progress)


def examine(device: str = "auto", threads: int | None = None) -> tuple[dict[str, Any], Record]:
    """The environment, and the row of one small layer measured in three fresh processes: the noise
    floor of this machine at this moment. Raises BadInput.
    """
    axes = {"attention": ("msa",), "resolution": (Resolution(224, 224),)}
    plan = make_plan(device=device, threads=threads, axes=axes, rounds=3)
    with tempfile.TemporaryDirectory() as folder:
        run = measure(plan, Path(folder))
    return run.environment, run.records()[0]


def read_records(path: Path) -> pd.DataFrame:
    """The rows of a run folder or a records.csv as a data frame. Raises BadInput."""
    from vitbench.results import frame

    return frame.read(path)


def beside_published(run: Run, folder: Path) -> list[published.Figure]:
    """The published figures that belong to a run; writes published.csv, ours beside them.

    Raises BadInput, StorageFull.
    """
    from vitbench.errors import StorageFull
    from vitbench.results.csv import write_csv

    if run.plan.published is None:
        return []
    figures = published.read(run.plan.published)
    rows = [
        {
            **pair.figure.model_dump(),
            "case": pair.case,
            "published": pair.figure.value,
            "ours": pair.ours,
            "equal": pair.equal,
        }
        for pair in published.comparisons(run.records(), figures)
    ]
    columns = ("case", "name", "key", "settings", "quantity", "unit", "ours", "published", "equal")
    path = folder / "published.csv"
    try:
        write_csv(path, (*columns, "device", "source", "note"), rows)
    except OSError as error:
        raise StorageFull(f"{path} cannot be written: {error.strerror}") from error
    return figures


def draw(folder: Path, into: Path | None = None) -> list[Path]:
    """The charts of a run folder, as PNG and PDF; returns the PNG paths. Raises BadInput."""
    from vitbench.errors import StorageFull
    from vitbench.render import charts as plots
    from vitbench.results import frame
    from vitbench.results.folder import read_environment

    rows = frame.read(folder)
    name = str(read_environment(folder).get("device_name") or "unknown device")
    target = into or folder / "plots"
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{target} cannot be made: {error.strerror}") from None
    try:
        return plots.save_all(rows, name, target)
    except OSError as error:
        raise StorageFull(f"{target} cannot be written: {error.strerror}") from error
