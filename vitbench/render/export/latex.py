r"""LaTeX: a table with booktabs, to \input into a paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vitbench.analysis.groups import head_of
from vitbench.cases.row import CONDITIONS
from vitbench.render import tables, text, units
from vitbench.render.export import Format, Results
from vitbench.render.export._figures import published
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record

FORMAT = Format(
    name="latex", summary="a booktabs table, the best of each setting in bold", suffix=".tex"
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "'": r"\symbol{39}",
    "`": r"\symbol{96}",
    # At the start of a row these would belong to the end of the last one.
    "[": "{[}",
    "*": "{*}",
}
# Of letters the Latin ones: no font of a paper has all the others.
_LAST_LETTER = "\u017f"
# What rows share that compete for the best figure: not how the case is run.
_SETTING = ("image_height", "image_width", "device", "device_name", *CONDITIONS)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of figures.

    ends    columns of the ends of its interval; figures whose intervals overlap are equals
    better  1: more is better, -1: less is, 0: neither
    """

    title: str
    column: str
    scale: float = 1.0
    ends: tuple[str, str] | None = None
    better: int = 0


def render(results: Results) -> Mapping[str, bytes]:
    """The rows of a setting together; a comment on top says what it needs and what bold means."""
    records = [record | published(record) for record in results.records]
    titles, names = tables.identified(records)
    columns = _columns(records)
    best = _best(records, columns)
    lines = [*_comments(records), *_head(titles, columns)]
    for number, indices in enumerate(_by_setting(range(len(records)), records).values()):
        lines += [r"\midrule"] if number else []
        for index in indices:
            is_best = [index in best[column.column] for column in columns]
            figures = _figures(records[index], columns, is_best)
            lines.append(" & ".join([*map(escaped, names[index]), *figures]) + r" \\")
    return {"": "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]).encode()}


def escaped(content: str) -> str:
    """As LaTeX that prints the text."""
    printed = "".join(_SPECIAL.get(char) or _letter(char) for char in text.visible(content))
    return printed.replace("--", "-{}-").replace("--", "-{}-")  # not a dash of another length


def _letter(char: str) -> str:
    return char if char <= _LAST_LETTER else f"U+{ord(char):04X}"


def _columns(records: Sequence[Record]) -> list[_Column]:
    """Those of which there are figures; counts in one unit each."""
    throughput = ("throughput_low_img_s", "throughput_high_img_s")
    columns = [
        _Column("Latency (ms)", "latency_s", 1e3, ("latency_low_s", "latency_high_s"), -1),
        _Column("$\\pm$ (\\%)", "noise", 100),
        _Column("Throughput (images/s)", "throughput_img_s", 1, throughput, 1),
        *(
            _Column(f"{title} ({prefix})", column, scale, None, -1)
            for title, column in (("MACs", "macs"), ("Parameters", "params"))
            for prefix, scale in [_prefix(records, column)]
        ),
        _Column("Peak memory (MiB)", "peak_memory_bytes", 1 / 2**20, None, -1),
        _Column("Top-1, published (\\%)", "published_top1_percent", 1, None, 1),
    ]
    return [
        column
        for column in columns
        if column.column in ("latency_s", "throughput_img_s")
        or any(record[column.column] is not None for record in records)
    ]


def _prefix(records: Sequence[Record], column: str) -> tuple[str, float]:
    largest = max((float(str(r[column])) for r in records if r[column] is not None), default=0)
    return ("G", 1e-9) if largest >= 1e9 else ("M", 1e-6)


def _comments(records: Sequence[Record]) -> Iterator[str]:
    yield "% Needs \\usepackage{booktabs}. Latency and throughput are medians; +- is half the width"
    yield "% of the median's 95% interval. Bold: the best of each setting, and what noise does not"
    yield "% tell from it. Dagger: too uncertain to compare (trust D)."
    remarks = {(str(r["backbone"]), r["published_top1_remark"]) for r in records}
    for name, remark in sorted((name, str(remark)) for name, remark in remarks if remark):
        yield f"% * top-1 of {text.visible(name)}: {text.visible(remark)}"


def _head(titles: Sequence[str], columns: Sequence[_Column]) -> Iterator[str]:
    yield f"\\begin{{tabular}}{{{'l' * len(titles)}{'r' * len(columns)}}}"
    yield r"\toprule"
    own = [title if title == "px" else title.capitalize() for title in titles]
    yield " & ".join([*map(escaped, own), *(column.title for column in columns)]) + r" \\"
    yield r"\midrule"


def _figures(record: Record, columns: Sequence[_Column], is_best: Sequence[bool]) -> Iterator[str]:
    if record["status"] not in (MEASURED, COUNTED):
        reason = escaped(str(record["status"]).replace("_", " "))
        yield f"\\multicolumn{{{len(columns)}}}{{l}}{{\\emph{{{reason}}}}}"
        return
    for column, bold in zip(columns, is_best, strict=True):
        value = record[column.column]
        if value is None:
            yield ""
            continue
        cell = units.significant(float(str(value)) * column.scale)
        if column.column == "published_top1_percent":
            cell = f"{value:.1f}" + ("*" if record["published_top1_remark"] else "")
        if column.column == "latency_s" and record["trust"] == "D":
            cell += r"\textsuperscript{\textdagger}"
        yield f"\\textbf{{{cell}}}" if bold else cell


def _best(records: Sequence[Record], columns: Sequence[_Column]) -> Mapping[str, set[int]]:
    """The rows whose figure is the best among those of one setting, or is not told from it by
    noise. Rows of trust D, and rows that differ from no other, do not compete."""
    able = [
        index
        for index, record in enumerate(records)
        if record["status"] == MEASURED and record["trust"] != "D"
    ]
    settings = _by_setting(able, records)
    return {
        column.column: {
            index for rivals in settings.values() for index in _winners(records, rivals, column)
        }
        for column in columns
    }


def _by_setting(
    indices: Iterable[int], records: Sequence[Record]
) -> Mapping[tuple[object, ...], list[int]]:
    settings: dict[tuple[object, ...], list[int]] = {}
    for index in indices:
        settings.setdefault(_setting(records[index]), []).append(index)
    return settings


def _setting(record: Record) -> tuple[object, ...]:
    """Whole models with different heads do different tasks."""
    return (head_of(record), *(record[name] for name in _SETTING))


def _winners(records: Sequence[Record], rivals: Sequence[int], column: _Column) -> list[int]:
    values = {i: float(str(v)) for i in rivals if (v := records[i][column.column]) is not None}
    if not column.better or len(values) < 2:
        return []
    winner = max(values, key=lambda index: column.better * values[index])
    low, high = _interval(records[winner], column, values[winner])
    winners = []
    for index, value in values.items():
        own_low, own_high = _interval(records[index], column, value)
        if own_low <= high and low <= own_high:
            winners.append(index)
    return winners if len(winners) < len(values) else []


def _interval(record: Record, column: _Column, value: float) -> tuple[float, float]:
    if column.ends is None:
        return value, value
    low, high = (record[end] for end in column.ends)
    return (value if low is None else float(str(low)), value if high is None else float(str(high)))
