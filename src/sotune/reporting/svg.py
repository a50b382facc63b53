"""The ground that every figure stands on: escaped SVG elements, axes with round ticks, legends, and a frame.

Colors are CSS classes, never values, so that one drawing serves the light page, the dark page and paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from sotune.reporting.formatting import number, power_of_ten, visible

WIDTH = 440.0  # of every figure, in its own units: still readable when a phone shows it at four fifths
_CHARACTER = 6.3  # mean width of a character at the figures' font size
_LINE = 17.0
_LARGE = 1e7  # from here on tick labels are in powers of ten
# Round multiples of a power of ten, each with the rough step below which it is the nearest.
_ROUND_STEPS = ((1, 1.5), (2, 3.5), (5, 7.5), (10, math.inf))


def element(name: str, *children: str, **attributes: object) -> Markup:
    """Builds one SVG or HTML element; texts and attribute values are escaped unless they are markup already.

    Underscores in attribute names become hyphens, a final one is dropped (``class_``), numbers keep one
    decimal, and ``None`` leaves the attribute out.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
        if value is not None
    )
    body = Markup("").join(child if isinstance(child, Markup) else escape(visible(child)) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, body)


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return visible(str(value))


def text_width(text: str) -> float:
    """Returns about how wide a text is at the figures' font size."""
    return _CHARACTER * len(text)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it shows, in which unit, and over which range.

    Attributes:
        label: The quantity, with its unit in parentheses where it has one.
        low: Value at the start.
        high: Value at the end, above ``low``.
        log: Whether decades are equally long; ``low`` and ``high`` are then powers of ten.
        percent: Whether values are shares, to be labeled in percent.
    """

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    @classmethod
    def around(
        cls,
        label: str,
        values: Iterable[float],
        *,
        pad: float = 0.0,
        least_span: float = 0.0,
        percent: bool = False,
    ) -> Axis:
        """Returns a linear axis that holds the values, also where there is none or all are equal.

        Args:
            label: What the axis shows.
            values: Finite values.
            pad: Share of the range added at each end.
            least_span: The least length of the axis, in the unit of the values.
            percent: Whether values are shares.
        """
        finite = list(values)
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        extra = pad * (high - low)
        span = max(least_span, 1e-3 * max(abs(low), abs(high)))
        if high - low + 2 * extra < span or low == high:
            extra = ((span or 1.0) - (high - low)) / 2
        return cls(label, low - extra, high + extra, percent=percent)

    @classmethod
    def decades(cls, label: str, values: Iterable[float]) -> Axis:
        """Returns a logarithmic axis from the decade below the values to the one above; all must be positive."""
        finite = list(values) or [1.0]
        low, high = math.floor(math.log10(min(finite))), math.ceil(math.log10(max(finite)))
        return cls(label, 10.0**low, 10.0 ** max(high, low + 1), log=True)

    def fraction(self, value: float) -> float:
        """Returns where a value lies: 0 at the start of the axis, 1 at its end, never beyond."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Returns round values on the axis with their labels."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            powers = range(first, last + 1, math.ceil((last - first) / 9))
            return [(10.0**power, power_of_ten(power)) for power in powers]
        values, step = round_values(self.low, self.high)
        if max(abs(self.low), abs(self.high)) >= _LARGE:
            return [(value, number(value)) for value in values]
        scale = 100.0 if self.percent else 1.0
        decimals = max(0, -math.floor(math.log10(step * scale) + 1e-9))
        unit = "\u202f%" if self.percent else ""
        return [(value, f"{value * scale:,.{decimals}f}{unit}".replace("-", "−")) for value in values]


def round_values(low: float, high: float, target: int = 5) -> tuple[list[float], float]:
    """Returns about ``target`` multiples of a round step within [low, high], and the step (1, 2 or 5 · 10^k)."""
    rough = (high - low) / target
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = magnitude * next(multiple for multiple, most in _ROUND_STEPS if rough / magnitude < most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)], step


@dataclass(frozen=True, slots=True)
class Frame:
    """The box of a plot: maps values to positions, draws grid, ticks, labels and legend around it.

    Attributes:
        x: Horizontal axis.
        y: Vertical axis.
        legend: Label and CSS class of each entry; empty for none.
        height: Of the whole figure.
    """

    x: Axis
    y: Axis
    legend: Sequence[tuple[str, str]] = field(default=())
    height: float = 270.0

    @property
    def left(self) -> float:
        """Left edge of the plot."""
        return 12 + max(text_width(label) for _, label in self.y.ticks())

    @property
    def right(self) -> float:
        """Right edge of the plot."""
        return WIDTH - 14

    @property
    def top(self) -> float:
        """Top edge of the plot, below the legend and the label of the vertical axis."""
        return 30 + _LINE * len(_legend_rows(self.legend))

    @property
    def bottom(self) -> float:
        """Bottom edge of the plot, above the ticks and the label of the horizontal axis."""
        return self.height - 44

    def at_x(self, value: float) -> float:
        """Returns the horizontal position of a value."""
        return self.left + self.x.fraction(value) * (self.right - self.left)

    def at_y(self, value: float) -> float:
        """Returns the vertical position of a value."""
        return self.bottom - self.y.fraction(value) * (self.bottom - self.top)

    def draw(self, marks: Iterable[Markup], *, title: str, description: str) -> Markup:
        """Returns the whole figure as one ``svg`` element."""
        parts = [*self._vertical_axis(), *self._horizontal_axis(), *draw_legend(self.legend), *marks]
        return draw_figure(parts, height=self.height, title=title, description=description)

    def _vertical_axis(self) -> list[Markup]:
        parts = [element("text", self.y.label, class_="label", x=0, y=self.top - 12)]
        for value, label in self.y.ticks():
            y = self.at_y(value)
            parts.append(element("line", class_="grid", x1=self.left, x2=self.right, y1=y, y2=y))
            parts.append(element("text", label, class_="tick end", x=self.left - 7, y=y + 4))
        return parts

    def _horizontal_axis(self) -> list[Markup]:
        parts = [
            element("line", class_="axis", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom),
            element("text", self.x.label, class_="label end", x=self.right, y=self.height - 8),
        ]
        for value, label in self.x.ticks():
            x = self.at_x(value)
            parts.append(element("line", class_="axis", x1=x, x2=x, y1=self.bottom, y2=self.bottom + 4))
            anchor = "tick end" if x + text_width(label) / 2 > WIDTH else "tick middle"
            parts.append(element("text", label, class_=anchor, x=x, y=self.bottom + 18))
        return parts


def draw_figure(parts: Iterable[Markup], *, height: float, title: str, description: str) -> Markup:
    """Wraps drawn parts as an accessible ``svg`` element that scales with the page."""
    words = [element("title", title), element("desc", description)]
    view = f"0 0 {WIDTH:g} {height:g}"
    return element("svg", *words, *parts, viewBox=view, role="img", xmlns="http://www.w3.org/2000/svg")


def draw_legend(entries: Sequence[tuple[str, str]]) -> list[Markup]:
    """Returns a swatch and a label for each entry, in as many rows as they need."""
    parts = []
    for index, row in enumerate(_legend_rows(entries)):
        x, y = 0.0, 12 + _LINE * index
        for label, style in row:
            parts.append(element("rect", class_=f"fill {style}", x=x, y=y - 9, width=10, height=10, rx=2))
            parts.append(element("text", label, class_="tick", x=x + 15, y=y))
            x += _legend_width(label)
    return parts


def _legend_width(label: str) -> float:
    return 15 + text_width(label) + 16


def _legend_rows(entries: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    rows: list[list[tuple[str, str]]] = []
    room = 0.0
    for label, style in entries:
        if not rows or _legend_width(label) > room:
            rows.append([])
            room = WIDTH
        rows[-1].append((label, style))
        room -= _legend_width(label)
    return rows
