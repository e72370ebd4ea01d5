"""The parts of README.md and docs/ that follow from the code and from the committed reports.

    python -m tests.docs      writes them anew

They stand between `<!-- name -->` and `<!-- end -->`; test_docs.py checks that they are current.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command

import attentions
import vitbench
from tests import docs_runtimes
from vitbench import devices as device_kinds
from vitbench import runtimes as known_runtimes
from vitbench.analysis import advise as advising
from vitbench.analysis import trust
from vitbench.cases.axes import AXES
from vitbench.cases.limits import Limits
from vitbench.cases.plan import EFFORTS, START_S, rounds_of, rule_of
from vitbench.cases.row import select
from vitbench.cli import app, show
from vitbench.instruments.timing import TimingRule
from vitbench.render import advice as words
from vitbench.render import tables, units
from vitbench.results import frame
from vitbench.results.columns import COLUMNS
from vitbench.subjects.backbones import RIVALS

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "reports" / "README.md",
)
RUN = ROOT / "reports" / "cpu-quick"
DEPLOYED = [ROOT / "reports" / name for name in ("cpu-runtimes", "cpu-runtimes-backbones")]
BENCHMARKS = ROOT / "reports" / "benchmarks"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], figures: int = 0) -> str:
    """A Markdown table whose last `figures` columns are aligned to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    aligned = ["---"] * (len(header) - figures) + ["---:"] * figures
    return tables.markdown(header, cells, aligned)


def _listed(name: str) -> str:
    """A list of `vitbench list`."""
    header, rows, _ = show.LISTS[name]()
    return _table(header, [(_code(name), *rest) for name, *rest in rows])


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


# The committed run


def machine() -> str:
    """The machine of the committed run."""
    return docs_runtimes.machine_of(RUN)


def results() -> str:
    """The table of the committed run."""
    return tables.results_markdown(frame.records(frame.read(RUN)))


def advice() -> str:
    """What `vitbench advise` answers of the committed run of runtimes: the pick, and why the next
    ones lost."""
    asked = {"resolution": ["224"], "runtime": ["openvino"], "dtype": ["int8"]}
    found = advising.advise(select(frame.records(frame.read(DEPLOYED[0])), asked), Limits())
    lines = [*words.answer(found), *(f"- {line}" for line in words.rivals(found, most=5))]
    return "\n".join(["```text", *lines, "```"])


def picture() -> str:
    """What the chart of the committed run shows, in two sentences."""
    rows = {
        str(row["attention"]): row
        for row in frame.records(frame.read(RUN))
        if row["image_height"] == 768
    }

    def over(column: str) -> float:
        return float(str(rows["window"][column])) / float(str(rows["msa"][column]))

    return (
        f"The chart shows `vitbench run quick --effort default` on {machine()}. At 768 "
        f"pixels `window` needs {over('macs'):.2f} of the MACs of `msa`. It is "
        f"{over('throughput_img_s'):.1f} times as fast, and it takes "
        f"{over('peak_memory_bytes'):.1f} times the memory."
    )


def runs() -> str:
    """The committed runs, each with a chart."""
    rows = []
    for folder in sorted(path.parent for path in RUN.parent.glob("*/records.csv")):
        environment = json.loads((folder / "environment.json").read_text())
        plan, ran_on = environment["plan"], environment["environment"]
        records = frame.records(frame.read(folder))
        grades = trust.summary(Counter(str(record["trust"]) for record in records))
        plots = folder / "plots"
        chart = next(
            path for path in (plots / "overview.png", *sorted(plots.glob("*.png"))) if path.exists()
        )
        name, address = folder.name, chart.relative_to(RUN.parent).as_posix()
        picture = f'<img src="{address}" width="280" alt="A chart of {name}">'
        what = f"`{name}`: {plan['title']}"
        machine = f"{ran_on['device_name']}, torch {ran_on['torch']['version']}"
        row = (f"[{picture}]({address})", what, machine, str(len(records)), grades)
        rows.append(row)
    return _table(("chart", "run", "machine", "cases", "trust"), rows)


def deployed_chart() -> str:
    """The heat map of the committed run across runtimes."""
    return docs_runtimes.chart(DEPLOYED[0])


def speeds() -> str:
    """Every mechanism at three sizes, in eager and in the fastest runtime."""
    return docs_runtimes.speeds(ROOT / "reports" / "cpu-catalogue")


def deployed() -> str:
    """The committed runs across runtimes."""
    return docs_runtimes.report(*DEPLOYED)


# The code


def knobs() -> str:
    """Every knob of the timing with its default, by effort and kind of device; kinds that have all
    in common share their columns."""
    kinds: dict[object, list[str]] = {}
    for kind in sorted(device_kinds.names()):
        alike = [(rule_of(effort, kind, {}), rounds_of(effort, kind)) for effort in EFFORTS]
        kinds.setdefault(tuple(alike), []).append(kind)
    settings = [(effort, names[0]) for effort in EFFORTS for names in kinds.values()]
    rules = [rule_of(effort, device, {}) for effort, device in settings]
    titles = [f"{effort}, {' '.join(names)}" for effort in EFFORTS for names in kinds.values()]
    header = ["option", "decides", *titles]
    options = {option.name: option for option in _options("vitbench run")}
    rounds = [str(rounds_of(effort, device)) for effort, device in settings]
    rows = [["`--rounds`", _help(options["rounds"]), *rounds]]
    for field in TimingRule.__dataclass_fields__:
        knob = (
            [_code(options[field].opts[0]), _help(options[field])]
            if field in options
            else ["(fixed)", "Least number of samples where the time is up."]
        )
        rows.append([*knob, *(f"{getattr(rule, field):g}" for rule in rules)])
    return _table(header, rows, len(settings))


def grades() -> str:
    """What lowers the trust grade."""

    def shown(limit: trust.Limit, value: float | None) -> str:
        return "never" if value is None else f"over {value * limit.scale:g}{limit.unit}"

    rows = [
        [_code(limit.column), *(shown(limit, value) for value in (limit.b, limit.c, limit.d))]
        for limit in trust.LIMITS
    ]
    return _table(("column", "B", "C", "D"), rows)


def columns() -> str:
    """The columns of records.csv."""
    rows = [(_code(column.name), column.unit, column.meaning) for column in COLUMNS]
    return _table(("column", "unit", "meaning"), rows)


def mechanisms() -> str:
    """The mechanisms, from their files, by family."""
    parts = []
    for family, names in show.by_family().items():
        rows = []
        for name in names:
            outline = attentions.outline(attentions.path_of(name))
            rule, cost, equation = (
                outline.words.get(key, "") for key in ("size_rule", "cost", "equation")
            )
            about = (outline.summary, _code(equation), cost, rule or "any")
            rows.append((_code(name), str(outline.year or ""), *about))
        common = attentions.FAMILIES.get(family, "these name no family")
        parts += [f"### {family.capitalize() or 'Others'}", _sentence(common)]
        header = ("mechanism", "year", "what it is", "equation", "cost", "size rule")
        parts.append(_table(header, rows))
    return "\n\n".join(parts)


def layouts() -> str:
    """What a module takes in each layout."""
    calls = {"bnc_hw": "forward(x, height, width)", "bnc_grid": "forward(x, (height, width))"}
    rows = [
        (_code(name), _code(calls.get(name, "forward(x)")), text)
        for name, text in attentions.LAYOUTS.items()
    ]
    return _table(("layout", "called as", "with"), rows)


def _sentence(text: str) -> str:
    """With a capital, and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def devices() -> str:
    """The kinds of devices."""
    rows = []
    for kind in device_kinds.names():
        rules = device_kinds.rules(kind)
        values = _code(kind) + (f", {_code(f'{kind}:1')}" if rules.is_indexed else "")
        rows.append((values, rules.summary, f"{rules.max_slowdown:.0%}"))
    return _table(("device", "what it is", "default of `--max-slowdown`"), rows)


def runtimes() -> str:
    """The runtimes."""
    return _listed("runtimes")


def where() -> str:
    """What each runtime computes in on each device, as it says itself."""
    dtypes = AXES["dtype"].choices
    rows = []
    for name in known_runtimes.names():
        refuses = functools.partial(known_runtimes.refusal, name)
        able = {
            device: [dtype for dtype in dtypes if refuses(device, dtype, "forward") is None]
            for device in device_kinds.names()
        }
        trains = any(refuses(d, "float32", "forward_backward") is None for d in able)
        cells = [", ".join(dtypes_here) for dtypes_here in able.values()]
        rows.append((_code(name), *cells, "yes" if trains else ""))
    return _table(("runtime", *device_kinds.names(), "trains"), rows)


def formats() -> str:
    """The formats of exports."""
    return _listed("formats")


def suites() -> str:
    """The named sweeps."""
    return _listed("suites")


def backbones() -> str:
    """The whole models that have a short name."""
    return _listed("backbones")


_AXES = "Axes"  # the start of the name of the panel that holds the axes


def _commands(group: Any, prefix: str = "vitbench") -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _options(command: str) -> list[Any]:
    """The options of a command, and its arguments."""
    return list(dict(_commands(get_command(app)))[command].params)


def _is_axis(option: Any) -> bool:
    return (option.rich_help_panel or "").startswith(_AXES)


def _help(option: Any) -> str:
    """The help without the marks that keep rich from reading `[` as markup."""
    return (option.help or "").replace(r"\[", "[")


def _default(option: Any) -> str:
    return "" if option.default is None or option.default is False else _code(str(option.default))


def _argument(parameter: Any) -> str:
    """How an argument stands in the usage of its command; options are left out."""
    name = parameter.opts[0].upper()
    if name.startswith("-"):
        return ""
    name += "..." if parameter.nargs < 0 else ""
    return name if parameter.required else f"[{name}]"


def axes() -> str:
    """The axes of a sweep: the options that take several values."""
    options = filter(_is_axis, _options("vitbench run"))
    rows = [(_code(option.opts[0]), _help(option)) for option in options]
    return _table(("option", "values"), rows)


def commands() -> str:
    """Every command with its arguments and options, the axes apart."""
    parts = []
    for name, command in _commands(get_command(app)):
        words = [name, *map(_argument, command.params), "[OPTIONS]"]
        usage = " ".join(filter(None, words))
        parts += [f"### {name}", f"`{usage}`", inspect.cleandoc(command.help)]
        takes_axes = any(_is_axis(option) for option in command.params)
        rows = [
            (_code(option.opts[0]), _help(option), _default(option))
            for option in command.params
            if not _is_axis(option)
        ]
        if takes_axes:
            parts.append("It takes the [axes](#axes) and:")
        if rows:
            parts.append(_table(("option", "meaning", "default"), rows))
    return "\n\n".join(parts)


def api() -> str:
    """The public names, each with the first sentence of its docstring."""
    rows = []
    for name in vitbench.__all__:
        if not name.startswith("_"):
            text = inspect.getdoc(getattr(vitbench, name)) or ""
            rows.append((_code(name), re.split(r"(?<=\.)\s", text.replace("\n", " "))[0]))
    return _table(("name", "meaning"), rows)


# The benchmarks


def figures(name: str) -> dict[str, Any]:
    """The figures of a benchmark's report."""
    content: dict[str, Any] = json.loads((BENCHMARKS / f"{name}.json").read_text())
    return content


def fleet_cost() -> str:
    """What fleets of several sizes take, and their heads, from what one outcome takes."""
    measured, case_s, outcomes = figures("fleet"), 5.0, 30_000
    rows = []
    for nodes in (10, 100, 1000):
        per_s = nodes / case_s
        # Each node starts a worker and measures the control in each of three rounds.
        seconds = outcomes / per_s + 3 * (START_S + case_s)
        share = per_s * measured["head_cpu_ms"] / 1000
        rows.append((str(nodes), f"{per_s:g}", units.duration(seconds), f"{share:.1%}"))
    header = ("nodes", "outcomes a second", "the run takes", "of one CPU, the head takes")
    return (
        f"A case takes {case_s:g} s here with everything around it, and there are 10,000 cases in "
        f"3 rounds. An outcome takes {measured['head_cpu_ms']:.1f} ms of the head's CPU, "
        f"{measured['head_kb']:.0f} kB of its memory and "
        f"{measured['journal_kb']:.1f} kB of its disk, with ten samples: each more takes about 20 "
        "bytes.\n\n"
        f"{_table(header, rows, 3)}\n\n"
        f"As measured with 200 simulated nodes, the head takes {measured['per_s']:.0f} outcomes a "
        f"second at most, on a machine of two cores that simulated the nodes too. Four nodes gave "
        f"{measured['times_of_4']:.2f} times as many outcomes an hour as one "
        "([all figures](../reports/benchmarks/README.md))."
    )


def gate() -> str:
    """How often the gate is wrong, beside other tools."""
    counts = {
        key: f"{value:.0f}"
        for key, value in figures("gate").items()
        if isinstance(value, int | float)
    }
    kinds = {"same": "identical", "five": "5% slower", "ten": "10% slower"}
    rows = [
        [kind, *(counts[f"{head}_drawn_{key}"] for key in ("called", "n", "s"))]
        for head, kind in kinds.items()
    ]
    rows[0][-1] = ""  # where nothing is to be found no time is of interest
    header = ("of five layers, one is", "alarms", "of comparisons", "median time, s")
    return f"""{_table(header, rows, 3)}

The machine has two noisy cores. A slowdown is planted by scaling the samples of one layer. Other
tools timed the same layers, one of them made to wait for 5% of its time. pytest-benchmark's
`median:5%` raised an alarm on identical code in {counts["pytest-benchmark_alarms"]} of
{counts["pytest-benchmark_n"]} comparisons and found the slowdown in
{counts["pytest-benchmark_found"]}; pyperf's `compare_to --min-speed 5` raised one in
{counts["pyperf_alarms"]} of {counts["pyperf_n"]} and found {counts["pyperf_found"]}."""


_CPUS = {"": "with AVX-512 and AMX", "avx2/": "with AVX2, which emulates bf16"}


def fused() -> str:
    """What the fused implementations gain, on both CPUs."""
    rows = []
    for folder, cpu in _CPUS.items():
        content = figures(f"{folder}fused")
        for dtype in ("float32", "bfloat16"):
            names = ("speed", "least", "system", "bound", "memory")
            values = (content.get(f"{name}_{dtype}") for name in names)
            rows.append((cpu, dtype, *("" if v is None else f"{v:.2f}" for v in values)))
    over = ("fused over eager", "least", "with glibc's allocator", "at most possible")
    header = ("CPU", "dtype", *over, "peak memory")
    return f"""{_table(header, rows, 5)}

The figures are geometric means over all mechanisms and three sizes. *Least* is the mechanism and
size that gains least. *At most possible* is the gain if only the MACs took time."""


def litv2() -> str:
    """LITv2-S against itself by equations, and against its rivals."""
    names = {"litv2_s_eager": "`litv2_s`, eager"} | {f"{n}_fused": _code(n) for n in RIVALS}
    contents = [figures(f"{folder}backbones") for folder in _CPUS]
    rows = []
    for rival, name in names.items():
        keys = (f"{rival}_float32", f"{rival}_bfloat16")
        values = [content.get(key) for content in contents for key in keys]
        if None not in values:
            rows.append((name, *(f"{value:.2f}" for value in values)))
    header = ("throughput of LITv2-S over", "fp32", "bf16", "fp32, AVX2", "bf16, AVX2")
    return f"""{_table(header, rows, 4)}

LITv2-S is fused, the images have 224 x 224 pixels, and both models of a row run in alternation in
one process. The CPU of the first two columns has AVX-512 and AMX; the other one emulates
bf16 ([report](../reports/benchmarks/README.md), [AVX2](../reports/benchmarks/avx2/README.md))."""


def judged() -> str:
    """What make benchmarks found, from its report."""
    clock, overhead, repeat, kill = map(figures, ("clock", "overhead", "repeat", "kill"))
    return "\n".join(
        [
            f"- Over five mechanisms our medians are {clock['ratio']:.3f} times those of "
            "torch.utils.benchmark, in alternation.",
            "- The peak memory equals a count by hand to the byte.",
            f"- {overhead['share']:.0%} of the time of a default CPU sweep is not measuring.",
            f"- The same plan, run again, gives medians that lie {repeat['spread']:.0%} apart on "
            "that noisy machine. Both sides of a comparison therefore belong in one run.",
            f"- {kill['kills']:.0f} real runs were killed and resumed without a difference.",
        ]
    )


BLOCKS: Mapping[str, Callable[[], str]] = {
    block.__name__: block
    for block in (
        *(
            machine,
            results,
            advice,
            picture,
            runs,
            knobs,
            grades,
            columns,
            mechanisms,
            runtimes,
            devices,
        ),
        *(layouts, where, deployed_chart, deployed, speeds),
        *(suites, backbones, axes, commands, api, gate, fleet_cost, fused, litv2, judged, formats),
    )
}
_BLOCK = re.compile(r"<!-- (\w+) -->(\n?).*?<!-- end -->", re.DOTALL)


def filled(text: str) -> str:
    """A page with its blocks made anew. Raises KeyError for a block that nothing makes."""

    def make(match: re.Match[str]) -> str:
        body = BLOCKS[match[1]]()
        return f"<!-- {match[1]} -->" + (f"\n{body}\n" if match[2] else body) + "<!-- end -->"

    return _BLOCK.sub(make, text)


def blocks_of(text: str) -> list[str]:
    """The names of a page's blocks."""
    return [match[1] for match in _BLOCK.finditer(text)]


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
