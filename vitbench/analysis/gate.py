"""A policy over verdicts, and the exit status that a CI job ends with. Pure."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

import attentions
from vitbench import devices
from vitbench.analysis import compare
from vitbench.analysis.compare import Verdict
from vitbench.cases import backbone_names
from vitbench.cases.row import name_of, options_of
from vitbench.cases.scalars import share
from vitbench.errors import BadInput, nearest
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record, subject_of

PASSED, REGRESSION, UNDECIDED, NOTHING = 0, 3, 4, 5


Share = Annotated[float, BeforeValidator(share), Field(ge=0, lt=10)]


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


class Limits(BaseModel):
    """What may grow by how much before it is a regression.

    max_slowdown  of the median latency
    max_memory    of the peak memory; on a CPU it is exact, so any growth is seen, on an accelerator
                  growth beyond what equal code shows there (devices.Rules)
    max_macs, max_params
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=_hyphens, validate_by_name=True
    )

    max_slowdown: Share | None = None
    max_memory: Share | None = None
    max_macs: Share | None = None
    max_params: Share | None = None


class Policy(Limits):
    """The policy; `attention` holds what differs for single mechanisms or backbones.

    strict  undecided and incomparable cases fail too
    """

    strict: bool = False
    attention: dict[str, Limits] = {}

    def limit(self, subject: str, name: str, otherwise: float) -> float:
        """What holds for a mechanism."""
        for limits in (self.attention.get(subject, self), self):
            if (value := getattr(limits, name)) is not None:
                return float(value)
        return otherwise


def read_policy(path: Path) -> Policy:
    """[tool.vitbench.check] of a pyproject.toml, or a TOML file that holds nothing else.

    Raises BadInput.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"policy {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"policy {path} is not valid TOML: {error}") from None
    if "tool" in data or path.name == "pyproject.toml":
        for key in ("tool", "vitbench", "check"):
            others = data.keys() - {key} if key == "check" else ()
            if others:
                name = min(others)
                raise BadInput(f"policy {path}, tool.vitbench.{name}: no such key; known: {key}")
            data = data.get(key, {})
            if not isinstance(data, dict):
                raise BadInput(f"policy {path}: {key} must be a table, got {data!r}")
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        keys = [str(part) for part in fault["loc"]]
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            known = [_hyphens(name) for name in (Policy if len(keys) == 1 else Limits).model_fields]
            message = f"no such key; {nearest(keys[-1], known)}"
        raise BadInput(f"policy {path}, {'.'.join(keys)}: {message}") from None


def check_subjects(policy: Policy, path: Path, measured: Iterable[str]) -> None:
    """Raises BadInput for limits of a mechanism or backbone that does not exist.

    path      of the policy
    measured  names of what is judged, the user's own among them
    """
    known = {*attentions.names(), *backbone_names.NAMES, *measured}
    for name in policy.attention:
        if name not in known and ":" not in name:  # timm:NAME, module:factory
            raise BadInput(
                f"policy {path}, attention.{name}: no mechanism or backbone has this name, nor one "
                f"that is judged; {nearest(name, known)}"
            )


@dataclass(frozen=True, slots=True)
class Result:
    """What a check ends with."""

    verdicts: tuple[Verdict, ...]
    status: int
    sentence: str


def limits(records: Sequence[Record], policy: Policy) -> dict[str, float]:
    """The slowdown that is a regression, by case."""
    usual = {r["device"]: devices.rules(str(r["device"])).max_slowdown for r in records}
    return {
        name_of(record): policy.limit(subject_of(record), "max_slowdown", usual[record["device"]])
        for record in records
    }


def counted(records: Sequence[Record]) -> list[Record]:
    """Rows whose time is not looked at: params, MACs and peak memory need no quiet machine."""
    return [
        record | {"status": COUNTED} if record["status"] == MEASURED else record
        for record in records
    ]


def check(
    base: Sequence[Record],
    candidate: Sequence[Record],
    policy: Policy,
    across: Sequence[str] = (),
) -> Result:
    """Judges a candidate by a policy. Nothing measured is a failure, not a pass."""
    threshold = limits([*base, *candidate], policy)
    verdicts = compare.compare(base, candidate, threshold=threshold, across=across)
    return judge(verdicts, policy)


def judge(verdicts: Sequence[Verdict], policy: Policy, command: str = "vitbench run") -> Result:
    """What a policy makes of verdicts; `command` and a case's options measure it again."""
    judged = tuple(replace(one, faults=_faults(one, policy, command)) for one in verdicts)
    return Result(judged, *_status(judged, policy))


def _faults(verdict: Verdict, policy: Policy, command: str) -> tuple[str, ...]:
    faults = []
    if verdict.word == "slower":
        assert verdict.ratio is not None
        faults.append(
            f"{verdict.describe} is slower: {verdict.ratio.value:.3f} times the base's latency "
            f"(95% interval {verdict.ratio.low:.3f} to {verdict.ratio.high:.3f}, "
            f"limit +{verdict.threshold:.1%}){f', {verdict.why}' if verdict.why else ''}; "
            f"again: {command} {options_of(verdict.row)}"
        )
    names = {"peak_memory_bytes": "max_memory", "macs": "max_macs", "params": "max_params"}
    for column, (old, new) in verdict.changed.items():
        growth = _growth(old, new)
        if growth > policy.limit(verdict.subject, names[column], 0.0):
            faults.append(f"{verdict.describe}: {column} grew from {old} to {new} ({growth:+.1%})")
    return tuple(faults)


def _growth(old: object, new: object) -> float:
    before, after = float(str(old)), float(str(new))
    return after / before - 1 if before else float("inf") if after else 0.0


def _status(verdicts: Sequence[Verdict], policy: Policy) -> tuple[int, str]:
    number_of = Counter(case.word for case in verdicts)
    counts = ", ".join(f"{count} {word}" for word, count in number_of.most_common()) or "no case"
    decided = any(case.word in ("faster", "same", "slower", "changed") for case in verdicts)
    is_open = bool(number_of["undecided"] or number_of["incomparable"])
    if broken := sum(bool(case.faults) for case in verdicts):
        return REGRESSION, f"regression in {broken} of {len(verdicts)} cases ({counts})"
    failed = any(case.failed_side == "candidate" for case in verdicts)
    if failed or not (decided or is_open):
        return NOTHING, f"not everything was measured ({counts})"
    if not decided:
        return UNDECIDED, f"nothing was decided ({counts})"
    if policy.strict and is_open:
        return UNDECIDED, f"not everything was decided ({counts})"
    return PASSED, f"no regression ({counts})"


def summary(result: Result) -> Mapping[str, Any]:
    """The result as JSON can hold it."""
    cases = [
        {
            "case": case.describe,
            "subject": case.subject,
            "verdict": case.word,
            "ratio": None if case.ratio is None else _finite(asdict(case.ratio)),
            "threshold": case.threshold,
            "why": case.why,
            "failed_side": case.failed_side,
            "changed": {name: list(values) for name, values in case.changed.items()},
            "faults": list(case.faults),
        }
        for case in result.verdicts
    ]
    return {"status": result.status, "sentence": result.sentence, "cases": cases}


def _finite(value: Any) -> Any:
    """Numbers as JSON can hold them, also those of a dictionary."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return value if math.isfinite(value) else None
