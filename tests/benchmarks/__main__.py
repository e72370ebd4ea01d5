"""Judges the engine against independent clocks: `make benchmarks`.

    python -m tests.benchmarks [--quick] [--out FOLDER] [NAME ...]

Each bench_NAME.py has `run(options) -> Section`. The report is one page, with the figures of every
section as CSV beside it, in reports/benchmarks. --quick shows that all of it works, and writes
nothing unless --out names a folder.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

import attentions
from tests.benchmarks import Options, Section, page
from tests.vitbench.examples import ROOT
from vitbench.cases.case import Resolution

REPORT = ROOT / "reports" / "benchmarks"


def names() -> list[str]:
    """The benchmarks there are."""
    files = Path(__file__).parent.glob("bench_*.py")
    return sorted(path.stem.removeprefix("bench_") for path in files)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("names", nargs="*", metavar="NAME", choices=[[], *names()])
    made.add_argument("--quick", action="store_true", help="a short run")
    made.add_argument("--out", type=Path, help="folder of the report")
    made.add_argument("--attention", help="mechanisms of fused and profile: hilo,msa")
    made.add_argument("--dtype", default="float32,bfloat16", help="of fused, backbones, profile")
    made.add_argument("--resolution", default="224,448,800x1280", help="images of fused, pixels")
    made.add_argument("--minutes", type=float, default=30.0, help="that gate records")
    made.add_argument("--keep", type=Path, help="folder of gate's stages, to go on after a stop")
    return made


def options_of(arguments: argparse.Namespace) -> Options:
    """How much is measured; quick takes two mechanisms and one dtype."""
    quick = arguments.quick
    chosen = arguments.attention.split(",") if arguments.attention else attentions.names()
    return Options(
        quick=quick,
        attentions=("hilo", "pooling") if quick and not arguments.attention else chosen,
        dtypes=arguments.dtype.split(",")[: 1 if quick else None],
        sizes=[Resolution.parse(text) for text in arguments.resolution.split(",")],
        minutes=1.0 if quick else arguments.minutes,
        keep=arguments.keep,
    )


def main() -> None:
    """Runs the benchmarks that are named, or all."""
    arguments = parser().parse_args()
    folder = arguments.out or (None if arguments.quick else REPORT)
    for name in arguments.names or names():
        where, start = page.machine(), time.monotonic()
        module = importlib.import_module(f"tests.benchmarks.bench_{name}")
        section: Section = module.run(options_of(arguments))
        print(f"\n## {section.title}\n\n{section.text}\n({time.monotonic() - start:.0f} s)")
        if folder is not None:
            page.write(folder, name, section, where)


if __name__ == "__main__":
    main()
