"""A picture of the top of a run's report, for README.md.

python -m tests.screenshot reports/cpu-runtimes docs/report.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.vitbench.render.browser import start
from vitbench.render import report
from vitbench.results.folder import REPORT

WIDTH, HEIGHT = 1200, 2400


def main(run: Path, picture: Path) -> None:
    """Writes the picture of the report of a run."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page, _ = report.write([run], Path(folder, REPORT))
        browser = start(playwright)
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]")
        tab.screenshot(path=picture)
        browser.close()
    with Image.open(picture) as image:  # of few colours, and a third of the size
        few = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
