"""Judges the engine against independent clocks: `make benchmarks`.

    python -m tests.benchmarks [--quick] [--out FOLDER] [NAME ...]

Each bench_NAME.py has `run(quick) -> Section`. The report is one page, with the figures of every
section as CSV beside it, in reports/benchmarks; --quick shows that all of it works, and writes
nowhere unless told to.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

import pandas as pd

from tests.benchmarks import Section
from vitbench.engine import runner

FOLDER = Path(__file__).parent
REPORT = FOLDER.parents[1] / "reports" / "benchmarks"


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def section_of(name: str, *, quick: bool) -> Section:
    """Runs one."""
    module = importlib.import_module(f"tests.benchmarks.bench_{name}")
    section: Section = module.run(quick=quick)
    return section


def machine() -> str:
    """The machine in a line."""
    environment = runner.probe("auto")["environment"]
    versions = f"torch {environment['torch']['version']}, Python {environment['python']}"
    return f"{environment['device_name']}, {versions}"


def page(folder: Path) -> str:
    """The report from the sections that were written, in order of their names."""
    head = ["# The engine, judged by other clocks", "", "Written by `make benchmarks`."]
    parts = []
    for path in sorted(folder.glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        parts += ["", f"## {told['title']}", "", f"On {told['machine']}.", "", told["text"]]
        if path.with_suffix(".png").exists():
            parts += ["", f"![{told['title']}]({path.stem}.png)"]
        parts += ["", f"Figures: [{path.stem}.csv]({path.stem}.csv)"]
    return "\n".join([*head, *parts]) + "\n"


def write(folder: Path, name: str, section: Section, where: str) -> None:
    """A section's figures and words, and the page anew."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame(section.rows)
    rows.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    if section.draw is not None:
        section.draw(folder / f"{name}.png")
    told = {"title": section.title, "machine": where, "text": section.text, **section.figures}
    text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(page(folder), encoding="utf-8")


def main() -> None:
    """Runs the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *names()])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    folder = asked.out or (None if asked.quick else REPORT)
    where = machine()
    for name in asked.names or names():
        start = time.monotonic()
        section = section_of(name, quick=asked.quick)
        print(f"\n## {section.title}\n\n{section.text}\n({time.monotonic() - start:.0f} s)")
        if folder is not None:
            write(folder, name, section, where)


if __name__ == "__main__":
    main()
