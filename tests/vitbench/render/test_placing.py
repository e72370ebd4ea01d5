"""Names in a chart: each is there once, on nothing else, at every resolution of the figure."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from vitbench.render import style
from vitbench.render.placing import Name, place


def boxes(figure: Figure, dpi: float) -> list[Bbox]:
    """Where the names of a chart lie, in pixels of that resolution."""
    figure.set_dpi(dpi)
    figure.draw_without_rendering()
    # A resolution rounds to whole pixels.
    return [text.get_window_extent().padded(-1) for text in texts_of(figure)]


def texts_of(figure: Figure) -> list[Text]:
    """The names, without the caption."""
    return [text for text in figure.texts if text.get_text() != figure.get_supxlabel()]


def check_apart(figure: Figure, points: list[tuple[float, float]]) -> None:
    """No name lies on another, on the middle of a point, or outside the axes."""
    (axes,) = figure.axes
    for dpi in (120, 300):
        placed = boxes(figure, dpi)
        inside = axes.get_window_extent().padded(dpi / 72)
        for one, other in itertools.combinations(placed, 2):
            assert not one.overlaps(other)
        for box in placed:
            assert inside.x0 <= box.x0
            assert box.x1 <= inside.x1
            assert inside.y0 <= box.y0
            assert box.y1 <= inside.y1
        for point in points:
            assert not any(box.contains(*axes.transData.transform(point)) for box in placed)


def chart() -> tuple[Figure, Axes]:
    """A chart of a column's width."""
    figure = Figure(figsize=(style.COLUMN_WIDTH, 3.0), layout="constrained")
    return figure, figure.subplots()


@pytest.mark.parametrize("seed", range(3))
def test_names_lie_apart(seed: int) -> None:
    """Of thirty points in a cloud, most are named; those without room are returned."""
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.uniform(0, 3, (30, 2))]
    with style.styled(), style.for_a_column():
        figure, axes = chart()
        axes.plot(*zip(*points, strict=True), "o", markersize=4)
        names = [Name(f"mechanism_{i}", x, y) for i, (x, y) in enumerate(points)]
        left_out = place(axes, names, 6.0)
        written = [text.get_text() for text in figure.texts]
        assert sorted([*written, *(name.text for name in left_out)]) == sorted(
            name.text for name in names
        )
        assert len(left_out) <= 6
        check_apart(figure, points)


def test_the_first_come_first() -> None:
    """Where all points are one, the first names have the places nearby, and what has none is
    told."""
    with style.styled(), style.for_a_column():
        figure, axes = chart()
        axes.plot([0, 1, 2], [0, 1, 2], "o")
        names = [Name(f"name {i}", 1, 1) for i in range(120)]
        left_out = place(axes, names, 6.0)
        assert left_out
        assert names[0] not in left_out
        (x, y) = axes.transData.transform((1, 1))
        first, *others = (
            np.hypot((box.x0 + box.x1) / 2 - x, (box.y0 + box.y1) / 2 - y)
            for box in boxes(figure, figure.dpi)
        )
        assert first <= 1.5 * min(others)
        check_apart(figure, [(1, 1)])


def test_limits_stay() -> None:
    """Names and the lines to them move no axis."""
    with style.styled(), style.for_a_column():
        figure, axes = chart()
        axes.plot([0, 1], [0, 1], "o")
        figure.draw_without_rendering()
        before = (axes.get_xlim(), axes.get_ylim())
        place(axes, [Name("a long name of a point", 1, 1), Name("b", 1, 1)], 6.0)
        assert (axes.get_xlim(), axes.get_ylim()) == before
