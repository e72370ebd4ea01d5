"""Names beside the points of a chart: none lies on another, on a point or outside the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

Point = tuple[float, float]
Segment = tuple[Point, Point]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[Any]

# Distances of a name from its point, in points; to the farther ones a line leads.
_DISTANCES = (4.0, 8.0, 13.0, 19.0, 26.0, 34.0, 43.0, 54.0, 67.0, 82.0, 100.0)
_DIRECTIONS = 32
_LED = 9.0  # from this distance on
_OWN = 1.3  # times as near as any other point is a name to its own, where no line leads to it
_GAP = 1.0  # points that are kept free around a name
_RADIUS = 2.6  # of a point
_SLACK = 1.03  # letters are a little wider at another resolution
_LEADER = "#A8A8A8"


@dataclass(frozen=True, slots=True)
class Name:
    """What is written beside a point, at data coordinates.

    bold  for what the chart is about
    """

    text: str
    x: float
    y: float
    bold: bool = False
    colour: str = "#333333"


class _Sheet:
    """What is drawn already, in pixels. Boxes are rows of left, bottom, right, top; lines are rows
    of two points."""

    def __init__(self, inside: Bbox, scale: float, points: Floats, lines: Floats) -> None:
        self._inside = inside
        self._gap = _GAP * scale
        self._led = _LED * scale
        self._points = points
        self._lines = lines
        self._names: Floats = np.empty((0, 4))
        self._leaders: Floats = np.empty((0, 2, 2))

    def add(self, box: Floats, leader: Floats | None) -> None:
        """A name, and the line that leads to it."""
        self._names = np.vstack([self._names, box])
        if leader is not None:
            self._leaders = np.concatenate([self._leaders, leader[None]])

    def free(self, boxes: Floats, point: Floats) -> Floats | None:
        """The first of the boxes in which a name may lie and to which a line may lead: over nothing
        at all, else over lines of the chart."""
        ins = self._inside
        fits = (boxes[:, :2] >= (ins.x0, ins.y0)).all(1) & (boxes[:, 2:] <= (ins.x1, ins.y1)).all(1)
        wide = boxes + np.array([-1, -1, 1, 1]) * self._gap
        leaders = np.stack(
            [np.broadcast_to(point, (len(boxes), 2)), _nearest(boxes, point)], axis=1
        )
        fits &= ~_overlap(wide, np.vstack([self._names, self._points])).any(1)
        fits &= ~_hit(wide, self._leaders).any(1)
        fits &= ~_hit(self._names, leaders).any(0)
        fits &= self.is_led(leaders) | self._is_nearest(boxes, leaders)
        others = self._points[~_contain(self._points, point)]
        clear = fits & ~_hit(wide, self._lines).any(1) & ~_hit(others, leaders).any(0)
        clear &= ~_meet(leaders, self._leaders).any(1)
        for allowed in (clear, fits):
            if allowed.any():
                found: Floats = boxes[int(np.argmax(allowed))]
                return found
        return None

    def is_led(self, leaders: Floats) -> Flags:
        """Which are long enough to be drawn."""
        led: Flags = _lengths(leaders) > self._led
        return led

    def _is_nearest(self, boxes: Floats, leaders: Floats) -> Flags:
        """Which of the boxes are nearer to their own point than to any other."""
        middles = (self._points[:, :2] + self._points[:, 2:]) / 2
        spots = np.clip(middles, boxes[:, None, :2], boxes[:, None, 2:])
        away = np.hypot(*np.moveaxis(spots - middles, -1, 0))
        is_other = ~_contain(self._points, leaders[0, 0])
        nearest: Flags = (away[:, is_other] > _OWN * _lengths(leaders)[:, None]).all(1)
        return nearest


def place(
    axes: Axes,
    names: Sequence[Name],
    size: float,
    lines: Sequence[Segment] = (),
    others: Sequence[Name] = (),
) -> list[Name]:
    """Writes the names, the first ones first; returns those that found no place.

    A name lies on lines only where it finds no place without.

    The figure keeps its layout from now on: a name has its place among what is drawn already.

    lines   that no name should lie on, in data coordinates
    others  points whose names are not written
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    axes.autoscale(enable=False)
    scale = figure.dpi / 72
    all_names = (*names, *others)
    points = axes.transData.transform([(name.x, name.y) for name in all_names])
    boxes = np.hstack([points - _RADIUS * scale, points + _RADIUS * scale])
    kept = np.array([axes.transData.transform(line) for line in lines]).reshape(-1, 2, 2)
    sheet = _Sheet(axes.get_window_extent(), scale, boxes, kept)
    left_out = []
    for name, point in zip(names, points, strict=False):
        text = _text(figure, name, size)
        box = text.get_window_extent()
        spot = sheet.free(_around(point, box.width * _SLACK, box.height, scale), point)
        if spot is None:
            text.remove()
            left_out.append(name)
            continue
        x, y = figure.transFigure.inverted().transform(spot[:2])
        text.set_position((x, y))
        leader = np.stack([point, _nearest(spot[None], point)[0]])
        is_led = bool(sheet.is_led(leader[None])[0])
        sheet.add(spot, leader if is_led else None)
        if is_led:
            ends = axes.transData.inverted().transform(leader)
            axes.plot(*ends.T, color=_LEADER, linewidth=0.5, zorder=1.5)
    return left_out


def _text(figure: Figure, name: Name, size: float) -> Text:
    """Somewhere in the figure, until it has a place."""
    return figure.text(
        0,
        0,
        name.text,
        fontsize=size,
        color=name.colour,
        weight="bold" if name.bold else "normal",
        va="bottom",
        zorder=5,
    )


def _around(point: Floats, width: float, height: float, scale: float) -> Floats:
    """Boxes around a point, the nearest first, to the right before elsewhere."""
    turns = sorted(range(_DIRECTIONS), key=lambda k: min(k, _DIRECTIONS - k))
    angles = 2 * np.pi * np.array(turns) / _DIRECTIONS
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    directions /= np.abs(directions).max(axis=1, keepdims=True)  # around a box, not a circle
    distances = np.array(_DISTANCES)[:, None, None] * scale
    half = np.array([width, height]) / 2
    middles = (point + directions * (distances + half)).reshape(-1, 2)
    return np.hstack([middles - half, middles + half])


def _lengths(lines: Floats) -> Floats:
    lengths: Floats = np.hypot(*(lines[:, 1] - lines[:, 0]).T)
    return lengths


def _nearest(boxes: Floats, point: Floats) -> Floats:
    """The point of each box that is nearest."""
    return np.clip(point, boxes[:, :2], boxes[:, 2:])


def _overlap(boxes: Floats, others: Floats) -> Flags:
    """Which of the boxes overlap which of the others."""
    one, other = boxes[:, None], others[None]
    inside: Flags = (one[..., :2] < other[..., 2:]) & (other[..., :2] < one[..., 2:])
    return np.all(inside, axis=-1)


def _contain(boxes: Floats, point: Floats) -> Flags:
    inside: Flags = (boxes[:, :2] <= point) & (point <= boxes[:, 2:])
    return np.all(inside, axis=1)


def _hit(boxes: Floats, lines: Floats) -> Flags:
    """Which of the boxes are met by which of the lines (Liang and Barsky)."""
    starts, steps = lines[None, :, 0], (lines[:, 1] - lines[:, 0])[None]
    low, high = boxes[:, None, :2] - starts, boxes[:, None, 2:] - starts
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.sort(np.stack([low / steps, high / steps]), axis=0)
    along = steps != 0
    within = (low <= 0) & (high >= 0)
    near = np.where(along, ends[0], np.where(within, -np.inf, np.inf)).max(-1)
    far = np.where(along, ends[1], np.where(within, np.inf, -np.inf)).min(-1)
    met: Flags = np.maximum(near, 0) <= np.minimum(far, 1)
    return met


def _meet(lines: Floats, others: Floats) -> Flags:
    """Which of the lines cross which of the others."""

    def side(line: Floats, point: Floats) -> Floats:
        step, way = line[..., 1, :] - line[..., 0, :], point - line[..., 0, :]
        return step[..., 0] * way[..., 1] - step[..., 1] * way[..., 0]

    one, other = lines[:, None], others[None]
    return (side(one, other[..., 0, :]) * side(one, other[..., 1, :]) < 0) & (
        side(other, one[..., 0, :]) * side(other, one[..., 1, :]) < 0
    )
