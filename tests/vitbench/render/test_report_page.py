"""The report in a real browser: what a reader does with the page, from disk and without a network.

All tests share one browser and one page of two runs; each starts from a page that was loaded anew.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.benchmarks import bench_report
from tests.vitbench.examples import case, measured, read_csv, run_folder
from tests.vitbench.render.browser import start
from vitbench.render import report
from vitbench.results import rows
from vitbench.results.outcome import Failed, Outcome

EVIL = "<img src=x onerror=alert(1)>\u202e=cmd()"
FORMULA = "=cmd()"
MECHANISMS = ("msa", "hilo", "sra", EVIL, FORMULA, "x" * 200)


@dataclass
class Seen:
    """A page, and what it did besides showing itself."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def cells(self, column: str) -> list[str]:
        """The texts of a column of the table."""
        return self.page.locator(f'#rows td[data-column="{column}"]').all_inner_texts()

    def names(self) -> list[str]:
        """The subjects of the table."""
        return self.page.locator("#rows tbody th").all_inner_texts()

    def sort(self, column: str) -> None:
        """By the button in the header."""
        self.page.click(f'#rows th[data-column="{column}"] button')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six mechanisms, two resolutions and two runtimes; one of them fails in one."""
    outcomes: dict[object, list[Outcome]] = {}
    axes = itertools.product(enumerate(MECHANISMS), (64, 128), ("eager", "openvino"))
    for (index, name), side, runtime in axes:
        grid = side // 16
        one = case(
            attention=name,
            params=(),
            runtime=runtime,
            image_height=side,
            image_width=side,
            grid_height=grid,
            grid_width=grid,
        )
        seconds = 0.001 * (index + 1) * (side / 64) ** (index + 1)
        seconds *= 0.4 + 0.05 * index if runtime == "openvino" else 1
        samples = [seconds * (1 + 0.01 * (number % 7)) for number in range(30)]
        rounds: list[Outcome] = [measured(*samples), measured(*samples)]
        is_lost = name == "sra" and runtime == "openvino"
        outcomes[one] = [Failed("error", f"{EVIL} failed")] if is_lost else rounds
    return run_folder(tmp_path_factory.mktemp("report") / "run", outcomes)  # type: ignore[arg-type] # its keys are cases


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = start(playwright)
        yield browser
        browser.close()


@pytest.fixture
def seen(browser: Browser, folder: Path) -> Iterator[Seen]:
    """The page, ready; at the end it has asked for nothing, and the console is empty."""
    if not (folder / "report.html").exists():
        report.write([folder])
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 900})
    one = Seen(context.new_page())
    address = (folder / "report.html").as_uri()
    one.page.on("console", lambda message: one.faults.append(message.text))
    one.page.on("pageerror", lambda error: one.faults.append(str(error)))
    one.page.on("dialog", lambda dialog: one.faults.append(dialog.message))
    one.page.on(
        "request",
        lambda request: None if request.url == address else one.faults.append(request.url[:200]),
    )
    one.page.goto(address)
    one.page.wait_for_selector("html[data-ready]")
    yield one
    faults = [fault for fault in one.faults if not fault.startswith(("blob:", "data:"))]
    context.close()
    assert faults == []


def test_the_table_sorts(seen: Seen, folder: Path) -> None:
    """By a figure, the highest first, then the lowest; the header says which; what is unknown is
    last both times."""
    rows = read_csv(folder / "records.csv")
    latencies = sorted(float(row["latency_s"]) for row in rows if row["latency_s"])
    for order, expected in (("descending", latencies[::-1]), ("ascending", latencies)):
        seen.sort("latency_s")
        header = seen.page.locator('#rows th[data-column="latency_s"]')
        assert header.get_attribute("aria-sort") == order
        titles = seen.page.locator('#rows td[data-column="latency_s"]')
        values = [titles.nth(index).get_attribute("title") for index in range(titles.count())]
        assert [float(value or "nan") for value in values[:-2]] == pytest.approx(expected)
        assert values[-2:] == [None, None]


def test_a_value_is_that_of_the_csv(seen: Seen, folder: Path) -> None:
    """Each row shows the throughput of its case to three digits, and its title all digits."""
    shown = seen.cells("throughput_img_s")
    rows = read_csv(folder / "records.csv")
    assert len(shown) == len(rows)
    for text, row in zip(shown, rows, strict=True):
        if row["throughput_img_s"]:
            assert float(text) == pytest.approx(float(row["throughput_img_s"]), rel=5e-3)
        else:
            assert text == ""


def test_the_table_filters(seen: Seen) -> None:
    """By words and by the value of a column; the count of rows is told to screen readers."""
    seen.page.fill("#filter", "hilo 128")
    assert seen.names() == ["hilo", "hilo"]
    count = seen.page.locator("#count")
    assert (count.inner_text(), count.get_attribute("role")) == ("2 of 24 rows", "status")
    seen.page.select_option("#only-runtime", "=openvino")
    assert (seen.names(), seen.cells("runtime")) == (["hilo"], ["openvino"])
    seen.page.fill("#filter", "")
    seen.page.select_option("#only-status", "=error")
    assert seen.names() == ["sra", "sra"]
    assert "failed" in seen.cells("status")[0]


def test_columns_are_shown_and_hidden(seen: Seen) -> None:
    """A column that is ticked comes, one that is not goes."""
    seen.page.click("details.columns summary")
    assert seen.cells("noise")
    seen.page.uncheck('#columns input[value="noise"]')
    assert not seen.cells("noise")
    seen.page.check('#columns input[value="first_call_s"]')
    assert seen.cells("first_call_s")[0] == "50.0"


def test_the_file_has_the_rows_of_the_table(seen: Seen, folder: Path) -> None:
    """With every column; a text that a spreadsheet would carry out is a text."""
    seen.page.fill("#filter", "64 eager")
    with seen.page.expect_download() as waiting:
        seen.page.click("#download")
    text = waiting.value.path().read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    originals = {row["case"]: row for row in read_csv(folder / "records.csv")}
    assert len(rows) == len(MECHANISMS)
    for row in rows:
        original = originals[row["case"]]
        assert row.keys() == original.keys()
        assert float(row["latency_s"]) == float(original["latency_s"])
        assert row["attention"].removeprefix("'") == original["attention"]
        assert row["attention"].startswith("'=") == (original["attention"] == FORMULA)


def test_the_charts_show_another_metric_and_setting(seen: Seen) -> None:
    """The sentence above the charts and the first bar change with the choices."""
    told = functools.partial(seen.page.locator("#told").inner_text)
    seen.page.select_option("#choice-runtime", "eager")
    seen.page.select_option("#choice-size", "128")
    assert "Highest throughput (in eager, 128 px): msa, 971 images/s; then hilo" in told()
    seen.page.select_option("#choice-metric", "latency_s")
    assert "Lowest latency of one call (in eager, 128 px): msa, 2.06 ms" in told()
    bars = seen.page.locator("#ranking svg .mark-rect path")
    assert bars.count() == len(MECHANISMS)
    assert "msa" in (bars.first.get_attribute("aria-label") or "")
    assert seen.page.locator("#heat svg").count() == 1
    assert seen.page.locator("#curves svg").count() == 1


def test_a_case_has_its_part(seen: Seen) -> None:
    """From the table by keyboard: its samples, rounds, state and the reasons of its grade."""
    link = seen.page.locator("#rows tbody th a").nth(4)
    link.focus()
    seen.page.keyboard.press("Enter")
    part = seen.page.locator("#case-4")
    part.locator("svg").nth(2).wait_for()
    text = part.inner_text()
    for words in ("Trust", "Samples in the order taken", "Distribution", "Rounds", "cpu_share"):
        assert words in text
    assert part.locator("summary").first.evaluate("element => element === document.activeElement")
    assert part.locator(".mark-symbol path").count() >= 60


def test_names_are_text(seen: Seen) -> None:
    """Markup in a name is shown letter by letter; a mark of direction stays in its own cell."""
    assert EVIL in seen.names()
    assert seen.page.locator("img").count() == 0
    seen.page.locator("#list summary", has_text="onerror").click()
    seen.page.locator("#list details[open] details summary").first.click()
    assert seen.page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_reader(seen: Seen, scheme: str) -> None:
    """The system's scheme, or the one that is chosen; text stands out from its ground, in charts
    too; paper is white."""
    seen.page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    seen.page.select_option("#theme", scheme)
    for media, is_dark in (("screen", scheme == "dark"), ("print", False)):
        seen.page.emulate_media(media=media)  # type: ignore[arg-type] # one of the two
        ground = luminance(seen.page, "body", "backgroundColor")
        assert (ground < 0.1) == is_dark
        for selector, name in (
            ("body", "color"),
            (".lead", "color"),
            ("#ranking svg text", "fill"),
        ):
            ink = luminance(seen.page, selector, name)
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 4.5, selector


def luminance(page: Page, selector: str, name: str) -> float:
    """Relative luminance of a computed colour, as WCAG defines it."""
    colour = page.locator(selector).first.evaluate(
        "(element, name) => getComputedStyle(element)[name].match(/[0-9.]+/g).map(Number)", name
    )
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (part / 255 for part in colour[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_narrow_screen(seen: Seen) -> None:
    """At 400 pixels nothing lies beyond the page's edge, with a case opened too."""
    seen.page.set_viewport_size({"width": 400, "height": 800})
    seen.page.evaluate("location.hash = '#case-2'")
    seen.page.locator("#case-2 svg").nth(2).wait_for()
    seen.page.wait_for_function("document.documentElement.scrollWidth <= 400", timeout=5000)
    assert seen.page.evaluate("document.querySelector('#ranking svg').clientWidth") <= 400


def test_the_keyboard_reaches_everything(seen: Seen) -> None:
    """Every control can be focused, has a name, and shows where the focus is; the first is a link
    to the answer."""
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    nameless = seen.page.evaluate(
        """[...document.querySelectorAll('select, input, button, a, summary')].filter((one) =>
             !(one.textContent.trim() || one.closest('label') || one.ariaLabel))
           .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    seen.page.locator("#filter").focus()
    reached = set()
    for _ in range(30):
        seen.page.keyboard.press("Tab")
        reached.add(
            seen.page.evaluate("document.activeElement.closest('th, select, button')?.tagName")
        )
        style = "getComputedStyle(document.activeElement).outlineStyle"
        assert seen.page.evaluate(style) != "none"
    assert reached >= {"TH", "SELECT", "BUTTON"}


def test_print_leaves_out_the_controls(seen: Seen) -> None:
    """Paper has the answer, the charts and the table, and nothing to click on."""
    seen.page.emulate_media(media="print")
    for selector in ("#choices", "nav", "#download", "#theme"):
        assert not seen.page.locator(selector).is_visible()
    for selector in ("#answer table", "#ranking svg", "#rows"):
        assert seen.page.locator(selector).first.is_visible()
    assert len(seen.page.pdf()) > 20_000


@pytest.mark.slow
def test_a_large_run_has_a_page(browser: Browser, tmp_path: Path) -> None:
    """All mechanisms in six resolutions, four runtimes and two dtypes, with their samples: at most
    5 MB, and a reader can sort it and open its last case."""
    run = bench_report.run_folder(tmp_path / "run")
    cases, (page, _) = len(rows.read(run)), report.write([run])
    assert page.stat().st_size <= bench_report.GOAL_BYTES
    context = browser.new_context(offline=True)
    one = Seen(context.new_page())
    one.page.on("console", lambda message: one.faults.append(message.text))
    one.page.on("pageerror", lambda error: one.faults.append(str(error)))
    one.page.goto(page.as_uri())
    one.page.wait_for_selector("html[data-ready]")
    one.sort("throughput_img_s")
    one.page.click("#more")
    assert len(one.names()) == cases
    one.page.evaluate(f"location.hash = '#case-{cases - 1}'")
    one.page.locator(f"#case-{cases - 1} svg").nth(2).wait_for()
    context.close()
    assert one.faults == []
