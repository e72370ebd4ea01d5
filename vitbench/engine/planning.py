"""From a suite and the user's changes to a plan: what is measured, how, and on which device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import attentions
from vitbench import devices, runtimes
from vitbench.analysis import published, stats
from vitbench.cases import backbone_names as models
from vitbench.cases import calibration as images
from vitbench.cases import class_names
from vitbench.cases import plan as plans
from vitbench.cases import suite as suites
from vitbench.cases.axes import find
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.cases.row import case_of
from vitbench.cases.scalars import Scalar
from vitbench.cases.sweep import Sweep
from vitbench.engine import budget, child, pool
from vitbench.engine.messages import SetUp
from vitbench.errors import BadInput
from vitbench.instruments import host
from vitbench.instruments.timing import TimingRule
from vitbench.results.record import Record
from vitbench.subjects.plugins import is_backbone

Planned = TypeVar("Planned")
Params = Mapping[str, Mapping[str, tuple[Scalar, ...]]]

# Of the memory that is available now; beyond it the kernel would end some process, not always the
# one at fault.
_MEMORY_SHARE = 0.9
# The least limit: half is for torch and the libraries beside it, most of the rest for the copy that
# the device's bandwidth is measured with.
_WORKER_BYTES = 3 * 2**29
# Names of subjects in a title at most.
_NAMED = 5


def make_plan(
    suite: str = "quick",
    *,
    device: str = devices.AUTO,
    axes: Mapping[str, Any] | None = None,
    params: Params | None = None,
    plugins: tuple[Path, ...] = (),
    weights: Path | None = None,
    calibration: Path | None = None,
    registry: Mapping[str, Path] | None = None,
    elsewhere: bool = False,
    effort: str | None = None,
    rule: Mapping[str, float | None] | None = None,
    rounds: int | None = None,
    timed: bool = True,
    budget_s: float | None = None,
    threads: int | None = None,
    memory_limit_bytes: int | Literal["default"] | None = "default",
    allocator: devices.Allocator = "steady",
    timeout_s: float = 300.0,
    seed: int = 0,
    resolve: Callable[[str, int | None], str] | None = None,
    on_note: Callable[[str], object] = lambda note: None,
) -> Plan:
    """The plan of a suite (by name or TOML file) with axes and hyper-parameters on top.

    axes      values by name of an axis: {"resolution": (224, "800x1280"), "dim": (96,)}
    params    by mechanism, then hyper-parameter, each a tuple of values
    plugins   files that define ATTENTION or BACKBONE
    weights   a checkpoint for every backbone, read as tensors only
    calibration  a folder of images for backbones in int8; scikit-image's where None
    registry  the mechanisms that exist: name -> file; ours where None
    elsewhere  whether other Pythons measure, with packages of their own
    effort    "quick", "default", "thorough"; the suite's own where None
    rule      fields of TimingRule that differ from the effort's
    rounds    the effort's, or as many as fit into the budget, where None
    timed     False: cases are checked, counted and their memory measured, once
    memory_limit_bytes  of a worker on a CPU: by default 90% of what is available; None: no limit
    budget_s, threads, allocator, timeout_s, seed  fields of Plan
    resolve   says which device a name means where other machines measure, of which nothing is
              checked here; this machine is asked where None
    on_note   gets sentences: what was done to the names in a checkpoint, and which runtimes `all`
              leaves out

    Raises BadInput, before anything is measured or written. A mistake that can be seen without the
    device is found before a process is asked for the device.
    """
    devices.check(device)
    axes = {name: find(name).values(values) for name, values in (axes or {}).items()}
    params, rule = params or {}, rule or {}
    if budget_s is not None and rule.get("energy_s") is None:
        rule = {**rule, "energy_s": 0.0}  # the budget is for the times
    check_machine(threads, memory_limit_bytes, is_here=resolve is None)
    files = plugin_files(plugins)
    loaded = suites.load(suite, [*files, *_subjects(axes)])
    if loaded.published is not None:
        published.read(loaded.published)
    checkpoint = "" if weights is None else _weights_name(weights)
    effort = effort or loaded.effort
    settings: dict[str, Any] = {"threads": threads, "timeout_s": timeout_s, "budget_s": budget_s}
    plans.check_settings(allocator=allocator, rounds=rounds, **settings)

    def planned_on(device: str) -> tuple[tuple[Case, ...], TimingRule, list[str]]:
        """The cases and the timing rule of a device, and what is left out on it."""
        sweep = make_sweep(
            loaded, device, axes, params, files, registry, checkpoint, elsewhere=elsewhere
        )
        return tuple(sweep.expand()), plans.rule_of(effort, device, rule), sweep.left_out()

    possible, planned = _on_any(device, planned_on)
    device = (resolve or _resolve)(device, threads)
    cases, timing, left_out = planned if device == possible else planned_on(device)
    for sentence in left_out:
        on_note(sentence)
    chosen = _calibration(cases, calibration)
    if not timed:
        rounds = 1
    elif budget_s is None or not cases:
        rounds = plans.rounds_of(effort, device) if rounds is None else rounds
    elif rounds is None:
        rounds = budget.rounds_in(budget_s, cases, timing, chosen)
    else:
        budget.check(budget_s, cases, timing, rounds, chosen)
    plan = Plan(
        title=_title(loaded.title, cases, axes, params),
        suite=Path(suite).stem,
        device=device,
        cases=cases,
        rounds=rounds,
        rule=timing,
        timed=timed,
        published=loaded.published,
        reference=loaded.reference,
        plugins=files,
        weights=weights and weights.resolve(),
        calibration=chosen,
        memory_limit_bytes=_memory_limit(memory_limit_bytes, device),
        allocator=allocator,
        seed=seed,
        **settings,
    )
    if checkpoint:
        setup = SetUp.of(plan, device=devices.host(), memory_limit_bytes=None)
        if note := pool.check_weights(plan.cases, setup):
            on_note(f"weights {weights}: {note}")
    return plan


def plan_again(
    records: Sequence[Record],
    *,
    title: str,
    plugins: tuple[Path, ...] = (),
    rounds: int | None = None,
    threads: int | None = None,
    timed: bool = True,
) -> Plan:
    """A plan of the cases of these rows, with enough rounds to compare. Raises BadInput."""
    check_machine(threads)
    files = plugin_files(plugins)
    cases = []
    for number, record in enumerate(records, start=1):
        try:
            cases.append(case_of(record))
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"row {number} of {title} is not a case: {error}") from None
    names = sorted({case.device for case in cases})
    if len(names) != 1:
        raise BadInput(f"{title} are of {len(names)} devices: {', '.join(names) or 'none'}")
    device = _resolve(names[0], threads)
    enough = max(stats.RANK_ROUNDS + 1, plans.rounds_of("default", device))
    return Plan(
        title=title,
        suite="check",
        device=device,
        cases=tuple(dict.fromkeys(cases)),
        rounds=(rounds or enough) if timed else 1,
        rule=plans.rule_of("default", device, {"cap_s": 2.0, "energy_s": 0.0}),
        threads=threads,
        timed=timed,
        plugins=files,
        calibration=_calibration(cases, None),
        memory_limit_bytes=default_memory_limit(device),
    )


def check_machine(
    threads: int | None, memory_limit_bytes: int | str | None = None, *, is_here: bool = True
) -> None:
    """Raises BadInput for what no worker on this machine can be given, and where none can start;
    of workers elsewhere, that is seen there."""
    if not is_here:
        return
    child.check_system()
    try:
        os.getcwd()
    except FileNotFoundError:
        raise BadInput("the current folder is not there any more; go to another") from None
    cores = host.usable_cores()
    if threads is not None and threads > cores:
        have = "the one core" if cores == 1 else f"the {cores} cores"
        raise BadInput(f"--threads {threads} is more than {have} that this process may use")
    if isinstance(memory_limit_bytes, int) and not host.limits_memory():
        raise BadInput("--memory-limit needs Linux: this system does not hold a process to it")
    if isinstance(memory_limit_bytes, int) and 0 < memory_limit_bytes < _WORKER_BYTES:
        raise BadInput(
            f"--memory-limit must be at least {_WORKER_BYTES / 2**30:g}GiB, most of which a worker "
            f"takes before it measures anything, got {memory_limit_bytes} bytes"
        )


def plugin_files(plugins: tuple[Path, ...]) -> dict[str, Path]:
    """Plugin files by the name of what they define, their stem. Raises BadInput."""
    files: dict[str, Path] = {}
    for path in plugins:
        if not os.path.isfile(path):
            raise BadInput(f"plugin {path} is not a file")
        name = path.stem
        if not name.isidentifier():
            raise BadInput(f"plugin {path} needs a name that is a Python identifier, got {name!r}")
        if name in attentions.names() or name in files:
            raise BadInput(f"plugin {path} is called {name}, which is taken; rename the file")
        try:
            attentions.outline(path)
        except attentions.BrokenAttention as error:
            raise BadInput(f"plugin {path}: {error}") from None
        files[name] = path.resolve()
    return files


def _weights_name(path: Path) -> str:
    """The name of a checkpoint in cases, by its content. Raises BadInput."""
    try:
        with path.open("rb") as file:
            return f"weights_{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    except OSError as error:
        raise BadInput(f"weights {path} cannot be read: {error.strerror}") from None


def _calibration(cases: Iterable[Case], folder: Path | None) -> Calibration | None:
    """The images that backbones in int8 are calibrated on. Raises BadInput."""
    if any(case.backbone and case.dtype == runtimes.INT8 for case in cases):
        return images.read(folder)
    if folder is not None:
        raise BadInput(
            f"--calibration is for backbones in {runtimes.INT8}, and none is measured: attention "
            "layers take their ranges from normal inputs"
        )
    return None


def _on_any(device: str, planned_on: Callable[[str], Planned]) -> tuple[str, Planned]:
    """What is planned on the first device that may be meant and that can do it. Raises BadInput for
    what is wrong on all of them."""
    for kind in devices.names() if device == devices.AUTO else (device,):
        try:
            return kind, planned_on(kind)
        except BadInput as error:
            fault = error
    raise fault


def make_sweep(
    suite: suites.Suite,
    device: str,
    axes: Mapping[str, Any],
    params: Params,
    plugins: Mapping[str, Path],
    registry: Mapping[str, Path] | None = None,
    weights: str = "",
    *,
    elsewhere: bool = False,
) -> Sweep:
    """The suite's axes for a device with the user's on top. Raises BadInput.

    The suite's hyper-parameters hold for the mechanisms and backbones that are left.
    """
    merged = _merge(suite.axes_on(device), axes, plugins)
    if weights and not merged["backbone"]:
        raise BadInput("--weights are for backbones, and none is measured")
    subjects = _subjects(merged)
    swept = {name: dict(values) for name, values in suite.params.items() if name in subjects}
    for name, values in params.items():
        swept[name] = swept.get(name, {}) | dict(values)
    known = attentions.files() if registry is None else registry
    return Sweep(
        **merged,
        device=device,
        params=swept,
        plugins=plugins,
        registry=known,
        weights=weights,
        elsewhere=elsewhere,
    )


def _subjects(axes: Mapping[str, Any]) -> set[str]:
    """The mechanisms and backbones that some axes name. Raises BadInput."""
    backbones = (models.parse(text)[0] for text in axes.get("backbone", ()))
    return {*map(class_names.name_in, axes.get("attention", ())), *backbones}


def _merge(
    suite_axes: Mapping[str, Any], axes: Mapping[str, Any], plugins: Mapping[str, Path]
) -> dict[str, Any]:
    """The suite's axes with the user's on top. Raises BadInput.

    A task that the user names is measured on its own images, unless they name others. A plugin is
    measured beside what the suite names, unless the user names what to measure.
    """
    merged = {**suite_axes, **axes}
    if "attention" not in axes and "backbone" not in axes:
        backbones = [name for name, path in plugins.items() if is_backbone(path)]
        layers = [name for name in plugins if name not in backbones]
        merged["attention"] = (*merged.get("attention", ()), *layers)
        merged["backbone"] = (*merged.get("backbone", ()), *backbones)
    elif "attention" not in axes:
        merged["attention"] = ()
    elif "backbone" not in axes:
        merged["backbone"] = ()
    if "task" in axes and not merged["backbone"]:
        raise BadInput("--task is of backbones, and none is measured: name one with --backbone")
    if "task" in axes and "resolution" not in axes and not merged["attention"]:
        merged["resolution"] = ()
    return merged


def _resolve(device: str, threads: int | None) -> str:
    """The device that this machine has under that name. Raises BadInput where it has none."""
    return device if device == devices.host() else pool.probe(device, threads).device


def _title(
    suite_title: str, cases: Sequence[Case], axes: Mapping[str, Any], params: Mapping[str, Any]
) -> str:
    """The suite's title, as long as it is true of these cases."""
    if "attention" in axes or "backbone" in axes:
        names = list(dict.fromkeys(case.subject for case in cases))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more
    changed = [name.replace("_", " ") for name in axes] + ["hyper-parameters"] * bool(params)
    return f"{suite_title}, with {', '.join(changed)} as asked" if changed else suite_title


def _memory_limit(asked: int | Literal["default"] | None, device: str) -> int | None:
    """Raises BadInput for a limit beside a device that has memory of its own."""
    if isinstance(asked, int) and not devices.rules(device).is_host:
        raise BadInput(
            f"--memory-limit is for workers that compute on the host, and {device} has memory of "
            f"its own: leave it out, or measure with --device {devices.host()}"
        )
    return default_memory_limit(device) if asked == "default" else asked


def default_memory_limit(device: str) -> int | None:
    """None where the device has memory of its own, or the system does not hold a process to it. In
    whole GiB, so that two plans made in a row are equal."""
    if not devices.rules(device).is_host or not host.limits_memory():
        return None
    return max(1, int(_MEMORY_SHARE * host.available_memory_bytes() / 2**30)) * 2**30
