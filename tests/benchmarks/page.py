"""The report: each section as JSON with its figures as CSV, and one page of all of them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from tests.benchmarks import Section
from vitbench.engine import pool
from vitbench.render import tables

HEAD = """# The engine, judged by other clocks

`make benchmarks` writes this page. Speeds are ratios that were measured side by side in one run.
"""
PIECES = """## What each piece of CPU tuning brings

One piece was removed at a time and measured side by side with the whole, in turns in one run: CPU
time of one thread, which other processes do not disturb, lower quartiles, geometric means over the
mechanisms at dim 384 and 12 heads. The code with all pieces is 9e01c47; of them only the last is
kept. *Held to AVX2* is the same CPU with `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
MKL_ENABLE_INSTRUCTIONS=AVX2`. By mechanism: [pieces_by_mechanism.csv](pieces_by_mechanism.csv)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What figures depend on. `label` says it in a line; `cpu` and its instruction sets go into
    every row."""

    label: str
    cpu: str
    instruction_sets: str


def machine() -> Machine:
    """This machine as a worker finds it, with its load at the moment."""
    environment = pool.probe("auto").environment or {}
    torch, cpu, code = environment["torch"], environment["cpu"], environment["code"] or {}
    sets = ", ".join(cpu["instruction_sets"])
    revision = code.get("commit", "unknown")[:7] + (" with changes" if code.get("dirty") else "")
    label = (
        f"{environment['device_name']}, {sets} (torch uses {torch['cpu_capability']}), "
        f"torch {torch['version']}, Python {environment['python']}, code {revision}; "
        f"load average at the start {psutil.getloadavg()[0]:.1f}"
    )
    return Machine(label, cpu["model"], sets)


def write(folder: Path, name: str, section: Section, where: Machine) -> None:
    """Writes a section's figures and text, and the page anew."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame(section.rows).assign(cpu=where.cpu, instruction_sets=where.instruction_sets)
    rows.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    if section.draw is not None:
        section.draw(folder / f"{name}.png")
    payload: dict[str, Any] = {"title": section.title, "machine": where.label, "text": section.text}
    text = json.dumps(payload | dict(section.figures), indent=2, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(page(folder), encoding="utf-8")


def page(folder: Path) -> str:
    """The report: notes.md where there is one, the sections in the order of their names, and what
    pieces.csv has, where there is one."""
    parts = [HEAD]
    notes, pieces = folder / "notes.md", folder / "pieces.csv"
    if notes.exists():
        parts.append(notes.read_text(encoding="utf-8"))
    for path in sorted(folder.glob("*.json")):
        payload = json.loads(path.read_text(encoding="utf-8"))
        title = payload["title"]
        parts.append(f"## {title}\n\nOn {payload['machine']}.\n\n{payload['text']}\n")
        if path.with_suffix(".png").exists():
            parts.append(f"![{title}]({path.stem}.png)\n")
        parts.append(f"Figures: [{path.stem}.csv]({path.stem}.csv)\n")
    if pieces.exists():
        with pieces.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        parts.append(f"{PIECES}\n\n{tables.markdown(header, rows)}\n")
    return "\n".join(parts)
