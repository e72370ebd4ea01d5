"""The parts of README.md that follow from the code and from the committed run.

    python -m tests.readme      writes them anew

They stand between `<!-- name -->` and `<!-- end -->`; test_readme.py holds README.md to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitbench.analysis import trust
from vitbench.cases.plan import EFFORTS, rounds_of, rule_of
from vitbench.instruments.timing import TimingRule
from vitbench.render import tables
from vitbench.results import frame
from vitbench.results.columns import COLUMNS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RUN = ROOT / "reports" / "cpu-quick"
BENCHMARKS = ROOT / "reports" / "benchmarks"

# Fields of TimingRule: the option that sets it, its unit and what it decides.
_KNOBS = {
    "warmup_calls": ("--warmup-calls", "calls", "least warm-up"),
    "warmup_s": ("--warmup", "s", "least warm-up"),
    "warmup_agree": ("--warmup-agree", "share", "then until two blocks of calls agree within this"),
    "warmup_cap_s": ("--warmup-cap", "s", "most warm-up"),
    "sample_s": ("--sample-time", "s", "calls are repeated until one sample lasts this long"),
    "min_samples": ("--min-samples", "samples", "least samples"),
    "min_s": ("--min-time", "s", "least sampling"),
    "target_noise": ("--noise", "share", "then until the noise is below this"),
    "cap_s": ("--cap", "s", "most sampling, whatever the noise"),
    "cap_samples": ("", "samples", "but at least this many samples"),
}


def device() -> str:
    """The machine of the committed run."""
    environment = json.loads((RUN / "environment.json").read_text())["environment"]
    return f"{environment['device_name']}, torch {environment['torch']['version']}"


def table() -> str:
    """The table of the committed run."""
    return tables.results_markdown(frame.records(frame.read(RUN)))


def knobs() -> str:
    """Every knob of the timing with its default, by effort and kind of device."""
    settings = [(effort, device) for effort in EFFORTS for device in ("cpu", "cuda")]
    rules = [rule_of(effort, device, {}) for effort, device in settings]
    header = ["knob", "unit", "decides", *(f"{effort}, {device}" for effort, device in settings)]
    rounds = [str(rounds_of(effort, device)) for effort, device in settings]
    rows = [["`--rounds`", "processes", "fresh worker processes", *rounds]]
    for field, (option, unit, meaning) in _KNOBS.items():
        defaults = [f"{getattr(rule, field):g}" for rule in rules]
        rows.append([f"`{option}`" if option else "(fixed)", unit, meaning, *defaults])
    return tables.markdown(header, rows, ["---"] * 3 + ["---:"] * len(settings))


def grades() -> str:
    """What lowers the trust grade."""

    def shown(limit: trust.Limit, value: float | None) -> str:
        return "" if value is None else f"{value * limit.scale:g}{limit.unit}"

    rows = [
        [
            f"`{limit.column}`",
            *(
                f"over {shown(limit, v)}" if v is not None else "never"
                for v in (limit.b, limit.c, limit.d)
            ),
        ]
        for limit in trust.LIMITS
    ]
    return tables.markdown(("column", "B", "C", "D"), rows)


def columns() -> str:
    """The columns of records.csv."""
    rows = [(f"`{column.name}`", column.unit, column.meaning) for column in COLUMNS]
    return tables.markdown(("column", "unit", "meaning"), rows)


def told(name: str) -> dict[str, Any]:
    """The figures of a benchmark's report."""
    found: dict[str, Any] = json.loads((BENCHMARKS / f"{name}.json").read_text())
    return found


def gate() -> str:
    """How often the gate is wrong, beside other tools."""
    found = told("gate")

    def of(key: str) -> str:
        return f"{found[key]:.0f}"

    return (
        f"of {of('same_drawn_n')} comparisons of five layers of identical code on a noisy 2-core "
        f"machine {of('same_drawn_called')} raised an alarm; a layer slowed by 5% (repeated work, "
        "its samples scaled to the percent) was found in "
        f"{of('five_drawn_called')} of {of('five_drawn_n')} ({of('five_drawn_s')} s at the "
        "median), "
        f"10% in {of('ten_drawn_called')} of {of('ten_drawn_n')} ({of('ten_drawn_s')} s). On the "
        "same layers pytest-benchmark's `median:5%` raised an alarm on identical code in "
        f"{of('pytest-benchmark_alarms')} of {of('pytest-benchmark_n')} and found a slowdown in "
        f"{of('pytest-benchmark_found')}; pyperf's `compare_to --min-speed 5` alarmed in "
        f"{of('pyperf_alarms')} of {of('pyperf_n')} and found {of('pyperf_found')}."
    )


def fused() -> str:
    """What the fused implementations gain."""
    found, other, profile = told("fused"), told("avx2/fused"), told("avx2/profile")
    return (
        f"over 22 mechanisms and three sizes the fused implementation is "
        f"{found['speed_float32']:.2f} times as fast as the equations in fp32 and "
        f"{found['speed_bfloat16']:.2f} times in bf16 (geometric means; never less than "
        f"{min(found['least_float32'], found['least_bfloat16']):.2f}), and "
        f"{found['system_float32']:.2f} and {found['system_bfloat16']:.2f} times where freed "
        "memory goes back to the kernel, as torch comes; in "
        f"{found['memory_float32']:.2f} of the peak memory. Were nothing but their MACs to take "
        f"time, it could be {found['bound_float32']:.2f} and {found['bound_bfloat16']:.2f} times. "
        "So far a CPU with AVX-512; on one with AVX2 ([report](reports/benchmarks/avx2/README.md)) "
        f"it is {other['speed_float32']:.2f} times as fast in fp32 (of {other['bound_float32']:.2f}"
        f") and {other['speed_bfloat16']:.1f} times in bf16, which that CPU emulates. There "
        "matrix products, convolutions and the attention kernel are "
        f"{profile['multiplying_eager_float32']:.0%} of the time of a layer by equations, and "
        f"{profile['multiplying_fused_float32']:.0%} of fused's."
    )


def litv2() -> str:
    """LITv2-S against itself by equations, and against its rivals."""

    def against(name: str, impl: str = "fused", page: str = "backbones") -> str:
        found = told(page)
        both = (found[f"{name}_{impl}_{dtype}"] for dtype in ("float32", "bfloat16"))
        return " and ".join(f"{one:.2f}" for one in both)

    rivals = ", ".join(
        f"{against(name)} times that of {name}"
        for name in ("resnet50", "swin_tiny", "pvt_v2_b2", "convnext_tiny")
    )
    return (
        f"On a 2-core machine, 224 x 224, LITv2-S fused is {against('litv2_s', 'eager')} times as "
        f"fast as by equations (fp32 and bf16), and its throughput is {rivals} "
        "([side by side](reports/benchmarks/README.md)). That CPU has AVX-512; on one with AVX2, "
        "which emulates bf16, fused is "
        f"{against('litv2_s', 'eager', 'avx2/backbones')} times as fast "
        "([report](reports/benchmarks/avx2/README.md))."
    )


def judged() -> str:
    """What make benchmarks found, in a sentence, from its report."""
    clock, overhead, repeat, kill = (told(n) for n in ("clock", "overhead", "repeat", "kill"))
    return (
        f"over five mechanisms our medians are {clock['ratio']:.3f} times those of "
        "torch.utils.benchmark, interleaved; peak memory equals an account by hand to the byte; "
        f"{overhead['share']:.0%} of a default CPU sweep is not measuring; the same plan run again "
        f"gives medians that lie {repeat['spread']:.0%} apart on that noisy machine, which is why "
        "both sides of a comparison belong in one run; and "
        f"{kill['kills']:.0f} real runs were killed and resumed without a difference."
    )


BLOCKS: Mapping[str, Callable[[], str]] = {
    "device": device,
    "table": table,
    "knobs": knobs,
    "grades": grades,
    "judged": judged,
    "gate": gate,
    "fused": fused,
    "litv2": litv2,
    "columns": columns,
}


def filled(text: str) -> str:
    """README.md with its blocks made anew. Raises ValueError for a block that is not there."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->)(\n?).*?(<!-- end -->)", re.DOTALL)
        match = pattern.search(text)
        if match is None:
            raise ValueError(f"README.md has no block <!-- {name} --> ... <!-- end -->")
        body = f"\n{make()}\n" if match[2] else make()
        text = text[: match.start()] + match[1] + body + match[3] + text[match.end() :]
    return text


def fields_without_a_knob() -> set[str]:
    """Fields of TimingRule that the table leaves out."""
    return set(TimingRule.__dataclass_fields__) - set(_KNOBS)


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
