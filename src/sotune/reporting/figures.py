"""The figures of the reports, as inline SVG: numbers in, one ``svg`` element out.

Each function takes finite values (`finite` makes them so), copes with none, one, or all equal, and describes
itself in words for those who do not see it. Colors are the classes ``c0`` to ``c6`` of the style sheet, a palette
that color-blind readers can tell apart; where two groups overlap, their marks differ in shape as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sotune.reporting.formatting import identifier, number, percent
from sotune.reporting.labels import place_labels
from sotune.reporting.svg import WIDTH, Axis, Frame, draw_figure, draw_legend, element, text_width
from sotune.wording import counted

Values = NDArray[np.float64]
_MAX_BINS = 44
_HEADROOM = 1.12  # over the tallest bar, for the name of a mark
_LABEL_LENGTH = 26  # longest name that fits beside a plot


@dataclass(frozen=True, slots=True)
class Group:
    """One named sample of a distribution.

    Attributes:
        label: Its name in the legend.
        values: Finite values, [n].
        color: Index into the palette.
    """

    label: str
    values: Values
    color: int


@dataclass(frozen=True, slots=True)
class Series:
    """One curve, or one group of points.

    Attributes:
        label: Its name in the legend.
        x: Finite values, [n].
        y: Finite values, [n].
        color: Index into the palette.
    """

    label: str
    x: Values
    y: Values
    color: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A value between two bounds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A labeled point with an interval in both directions."""

    label: str
    x: Interval
    y: Interval
    color: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A value to be pointed out on an axis, with its name."""

    value: float
    label: str


def finite(values: Iterable[float | None]) -> Values:
    """Returns the values that are there and finite, as an array."""
    there = values if isinstance(values, np.ndarray) else [value for value in values if value is not None]
    array = np.array(there, dtype=np.float64)
    return array[np.isfinite(array)]


def histogram(
    groups: Sequence[Group],
    *,
    title: str,
    x_label: str,
    y_label: str,
    layout: Literal["stacked", "shares"],
    mark: Mark | None = None,
) -> Markup:
    """Draws the distribution of one quantity in some groups.

    Bin edges are laid so that the marked value is one of them. Values beyond the axis, which holds all but the
    outermost 0.1 % on either side when those would squeeze the rest, count in the first and last bin.

    Args:
        groups: The samples, at least one of them not empty.
        title: What the figure shows, for screen readers.
        x_label: The quantity and its unit.
        y_label: What the height of a bar means.
        layout: ``stacked`` piles up counts, ``shares`` overlays each group's own shares.
        mark: A value to be marked by a vertical line.
    """
    pooled = np.concatenate([group.values for group in groups])
    edges = _bin_edges(pooled, None if mark is None else mark.value)
    heights = [np.histogram(np.clip(g.values, edges[0], edges[-1]), bins=edges)[0].astype(float) for g in groups]
    if layout == "shares":
        heights = [height / max(height.sum(), 1.0) for height in heights]
        tops = np.max(heights, axis=0)
    else:
        tops = np.sum(heights, axis=0)
    frame = Frame(
        Axis(x_label, float(edges[0]), float(edges[-1])),
        Axis(y_label, 0.0, _HEADROOM * max(float(tops.max()), 1e-9), percent=layout == "shares"),
        legend=[(f"{group.label} ({len(group.values):,})", f"c{group.color}") for group in groups],
    )
    draw_bars = _stacked_bars if layout == "stacked" else _overlaid_steps
    parts = draw_bars(frame, groups, heights, edges)
    if mark is not None:
        parts += _vertical_mark(frame, mark)
    description = "; ".join(
        f"{group.label}: {counted(len(group.values), 'value')}{_spread(group.values)}" for group in groups
    )
    return frame.draw(parts, title=title, description=description)


def _spread(values: Values) -> str:
    if not len(values):
        return ""
    low, median, high = (float(value) for value in np.quantile(values, [0.0, 0.5, 1.0]))
    return f" from {number(low)} to {number(high)}, median {number(median)}"


def _bin_edges(values: Values, anchor: float | None) -> Values:
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = (float(value) for value in np.quantile(values, [0.001, 0.999]))
    if high - low > 3 * (inner_high - inner_low) > 0:
        low, high = inner_low, inner_high
    axis = Axis.around("", [low, high], least_span=1e-6 * max(abs(low), abs(high), 1e-3))
    n_bins = int(np.clip(round(1.5 * np.sqrt(len(values))), 8, _MAX_BINS))
    width = (axis.high - axis.low) / n_bins
    if anchor is None or not axis.low < anchor < axis.high:
        return np.linspace(axis.low, axis.high, n_bins + 1)
    before = int(np.ceil((anchor - axis.low) / width - 1e-9))
    after = int(np.ceil((axis.high - anchor) / width - 1e-9))
    return anchor + width * np.arange(-before, after + 1, dtype=np.float64)


def _stacked_bars(frame: Frame, groups: Sequence[Group], heights: Sequence[Values], edges: Values) -> list[Markup]:
    parts, floor = [], np.zeros(len(edges) - 1)
    for group, height in zip(groups, heights, strict=True):
        for left, right, bottom, tall in zip(edges[:-1], edges[1:], floor, height, strict=True):
            if tall == 0:
                continue
            x, y = frame.at_x(left), frame.at_y(bottom + tall)
            tip = f"{number(float(left))} to {number(float(right))}: {counted(int(tall), 'row')} {group.label}"
            parts.append(
                element(
                    "rect",
                    element("title", tip),
                    class_=f"fill c{group.color}",
                    x=x + 0.4,
                    y=y,
                    width=max(frame.at_x(right) - x - 0.8, 0.8),
                    height=max(frame.at_y(bottom) - y, 0.5),
                )
            )
        floor = floor + height
    return parts


def _overlaid_steps(frame: Frame, groups: Sequence[Group], heights: Sequence[Values], edges: Values) -> list[Markup]:
    parts = []
    for group, height in zip(groups, heights, strict=True):
        steps = [f"M{frame.at_x(edges[0]):.1f} {frame.bottom:.1f}"]
        for right, tall in zip(edges[1:], height, strict=True):
            steps.append(f"V{frame.at_y(tall):.1f}H{frame.at_x(right):.1f}")
        steps.append(f"V{frame.bottom:.1f}")
        parts.append(element("path", class_=f"area c{group.color}", d="".join(steps)))
    return parts


def _vertical_mark(frame: Frame, mark: Mark) -> list[Markup]:
    x = frame.at_x(mark.value)
    fits_right = x + 6 + text_width(mark.label) < frame.right
    return [
        element("line", class_="mark", x1=x, x2=x, y1=frame.top, y2=frame.bottom),
        element(
            "text",
            mark.label,
            class_="tick callout halo" if fits_right else "tick callout halo end",
            x=x + 5 if fits_right else x - 5,
            y=frame.top + 10,
        ),
    ]


def line_chart(
    curves: Sequence[Series], *, title: str, x_label: str, y_label: str, marks: Sequence[Mark] = ()
) -> Markup:
    """Draws curves over a common axis, the values on a logarithmic scale.

    Values of zero or less, which have no logarithm, lie on the bottom of the plot.

    Args:
        curves: The curves; empty ones are named in the legend only.
        title: What the figure shows, for screen readers.
        x_label: The quantity of the horizontal axis.
        y_label: The quantity of the vertical axis and its unit.
        marks: Levels to be marked by horizontal lines, above zero.
    """
    levels = [float(v) for curve in curves for v in curve.y if v > 0] + [mark.value for mark in marks]
    steps = [float(value) for curve in curves for value in curve.x]
    frame = Frame(
        Axis.around(x_label, steps),
        Axis.decades(y_label, levels),
        legend=[(curve.label, f"c{curve.color}") for curve in curves],
    )
    parts = []
    paths = [[(frame.at_x(x), frame.at_y(y)) for x, y in zip(c.x, c.y, strict=True)] for c in curves]
    for mark in marks:
        parts += _horizontal_mark(frame, mark, [point for points in paths for point in points])
    for curve, points in zip(curves, paths, strict=True):
        if len(points) == 1:
            parts.append(element("circle", class_=f"fill c{curve.color}", cx=points[0][0], cy=points[0][1], r=3))
        elif points:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(element("path", class_=f"stroke c{curve.color}", d=f"M{path}"))
    ends = [f"{c.label} from {number(float(c.y[0]))} to {number(float(c.y[-1]))}" for c in curves if len(c.y)]
    return frame.draw(parts, title=title, description="; ".join(ends) or "no values")


def _horizontal_mark(frame: Frame, mark: Mark, points: Sequence[tuple[float, float]]) -> list[Markup]:
    """Draws a level; its name stands above or below it, wherever the points leave most room."""
    y, width = frame.at_y(mark.value), text_width(mark.label)

    def room(place: tuple[float, float]) -> float:
        left, baseline = place
        near = [abs(py - baseline + 4) for px, py in points if left - 10 <= px <= left + width + 10]
        return min(near, default=frame.height)

    lefts = (frame.right - width, frame.left + 4, (frame.left + frame.right - width) / 2)
    left, baseline = max(((left, y + shift) for left in lefts for shift in (-4, 13)), key=room)
    return [
        element("line", class_="mark", x1=frame.left, x2=frame.right, y1=y, y2=y),
        element("text", mark.label, class_="tick callout halo", x=left, y=baseline),
    ]


def cloud_chart(clouds: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Markup:
    """Draws points of some groups; those of the second and later groups are square.

    Args:
        clouds: The groups, in drawing order.
        title: What the figure shows, for screen readers.
        x_label: The quantity of the horizontal axis and its unit.
        y_label: The quantity of the vertical axis and its unit.
    """
    frame = Frame(
        Axis.around(x_label, [float(v) for cloud in clouds for v in cloud.x], pad=0.03),
        Axis.around(y_label, [float(v) for cloud in clouds for v in cloud.y], pad=0.03),
        legend=[(cloud.label, f"c{cloud.color}") for cloud in clouds],
        height=310,
    )
    parts = []
    for index, cloud in enumerate(clouds):
        dots = "".join(f"M{frame.at_x(x):.1f} {frame.at_y(y):.1f}h0" for x, y in zip(cloud.x, cloud.y, strict=True))
        shape = "dots" if index == 0 else "dots square"
        parts.append(element("path", class_=f"{shape} c{cloud.color}", d=dots or None))
    words = [f"{c.label}: {counted(len(c.x), 'point')}, {x_label}{_spread(c.x)}" for c in clouds]
    return frame.draw(parts, title=title, description="; ".join(words))


def estimate_chart(
    estimates: Sequence[Estimate], *, title: str, x_label: str, y_label: str, front: Sequence[str] = ()
) -> Markup:
    """Draws labeled points with error bars; both quantities are shares in [0, 1].

    Where there is no room for a label, the point has its name on hover alone; those of the front are always named.

    Args:
        estimates: The points.
        title: What the figure shows, for screen readers.
        x_label: The quantity of the horizontal axis.
        y_label: The quantity of the vertical axis.
        front: Labels of the points of the Pareto front, to be joined by a dashed stair.
    """
    frame = Frame(
        _share_axis(x_label, [e.x for e in estimates]),
        _share_axis(y_label, [e.y for e in estimates]),
        height=330,
    )
    points = [(frame.at_x(e.x.mean), frame.at_y(e.y.mean)) for e in estimates]
    labels = [identifier(e.label, _LABEL_LENGTH) for e in estimates]
    places = place_labels(frame, points, labels, first={i for i, e in enumerate(estimates) if e.label in front})
    bars, dots, names = [], [], []
    for estimate, (x, y), place, label in zip(estimates, points, places, labels, strict=True):
        style = f"c{estimate.color}"
        left, right = frame.at_x(estimate.x.low), frame.at_x(estimate.x.high)
        low, high = frame.at_y(estimate.y.low), frame.at_y(estimate.y.high)
        tip = f"{label}: {x_label} {percent(estimate.x.mean)}, {y_label} {percent(estimate.y.mean)}"
        bars.append(element("line", class_=f"error {style}", x1=left, x2=right, y1=y, y2=y))
        bars.append(element("line", class_=f"error {style}", x1=x, x2=x, y1=low, y2=high))
        dots.append(element("circle", element("title", tip), class_=f"fill ring {style}", cx=x, cy=y, r=5.5))
        if place is not None:
            anchor, label_x, label_y = place
            names.append(element("text", label, class_=f"tick name halo {style} {anchor}", x=label_x, y=label_y))
    description = "; ".join(f"{e.label}: {percent(e.x.mean)}, {percent(e.y.mean)}" for e in estimates)
    stair = _stair(frame, [point for point, e in zip(points, estimates, strict=True) if e.label in front])
    if front:
        description += f"; Pareto front: {', '.join(front)}"
    return frame.draw([*stair, *bars, *dots, *names], title=title, description=description)


def tradeoff_chart(
    points: Iterable[tuple[str, Interval | None, Interval | None, int]], *, title: str, front: Sequence[str] = ()
) -> Markup | None:
    """Draws safety against task accuracy; nothing where no point has both.

    Args:
        points: Name, task accuracy, harmful rate and color of each; one that lacks a figure is left out.
        title: What the figure shows, for screen readers.
        front: Names of the points of the Pareto front.
    """
    estimates = [
        Estimate(name, utility, Interval(1 - harm.mean, 1 - harm.high, 1 - harm.low), color)
        for name, utility, harm, color in points
        if utility is not None and harm is not None
    ]
    if not estimates:
        return None
    labels = {"x_label": "task accuracy", "y_label": "safety (1 − harmful rate)"}
    return estimate_chart(estimates, title=title, front=front, **labels)


def _stair(frame: Frame, points: Sequence[tuple[float, float]]) -> list[Markup]:
    """Draws the edge of what the points reach: level to the left of each and down to the next."""
    parts, left = [], frame.left
    for place, (x, y) in enumerate(ordered := sorted(points)):
        below = ordered[place + 1][1] if place + 1 < len(ordered) else frame.bottom
        parts.append(element("line", class_="mark", x1=left, x2=x, y1=y, y2=y))
        parts.append(element("line", class_="mark", x1=x, x2=x, y1=y, y2=below))
        left = x
    return parts


def _share_axis(label: str, intervals: Sequence[Interval]) -> Axis:
    """Returns an axis that holds the intervals, with room around them, within [−2 %, 102 %]."""
    bounds = [bound for interval in intervals for bound in (interval.low, interval.high)]
    axis = Axis.around(label, bounds, pad=0.08, least_span=0.2, percent=True)
    return Axis(label, max(axis.low, -0.03), min(axis.high, 1.03), percent=True)


def bar_chart(
    names: Sequence[str], groups: Sequence[tuple[str, Sequence[float | None]]], *, title: str, x_label: str
) -> Markup:
    """Draws horizontal bars of shares in [0, 1], one cluster for each name and one bar for each group.

    Args:
        names: What each cluster stands for.
        groups: Label and values of each group, a value for each name; ``None`` draws no bar.
        title: What the figure shows, for screen readers.
        x_label: The quantity of the bars.
    """
    labels = [identifier(name, _LABEL_LENGTH) for name in names]
    legend = [(label, f"c{index}") for index, (label, _) in enumerate(groups)]
    thick, gap = 13.0, 12.0
    cluster = thick * len(groups) + gap
    top, left, right = 32.0, 12 + max(map(text_width, labels)), WIDTH - 52
    bottom = top + cluster * len(names)
    axis = Axis(x_label, 0.0, 1.0, percent=True)
    parts = draw_legend(legend)
    for value, label in axis.ticks():
        x = left + value * (right - left)
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=top, y2=bottom))
        parts.append(element("text", label, class_="tick middle", x=x, y=bottom + 16))
    parts.append(element("text", x_label, class_="label end", x=right + 20, y=bottom + 36))
    for row, name in enumerate(labels):
        start = top + cluster * row + gap / 2
        middle = start + thick * len(groups) / 2 + 4
        parts.append(element("text", name, class_="tick strong end", x=left - 8, y=middle))
        for index, (_, values) in enumerate(groups):
            share, y = values[row], start + thick * index
            length = min(max(share or 0.0, 0.0), 1.0) * (right - left)
            style = f"fill c{index}"
            parts.append(element("rect", class_=style, x=left, y=y, width=length, height=thick - 2))
            parts.append(element("text", percent(share), class_="tick", x=left + length + 5, y=y + 10))
    words = [
        f"{label}: {', '.join(f'{n} {percent(v)}' for n, v in zip(names, vs, strict=True))}" for label, vs in groups
    ]
    return draw_figure(parts, height=bottom + 46, title=title, description="; ".join(words))
