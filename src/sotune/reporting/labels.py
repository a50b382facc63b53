"""Where the names of points go, so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sotune.reporting.svg import WIDTH, Frame, text_width

_BOLD = 1.15  # width of bold type, as a multiple of regular type


def place_labels(
    frame: Frame, points: Sequence[tuple[float, float]], labels: Sequence[str]
) -> list[tuple[str, float, float]]:
    """Returns anchor and position of each label: the first place beside its point that nothing else takes.

    Where every place is taken, it is the one with the least overlap.

    Args:
        frame: The plot.
        points: Position of each point.
        labels: Name of each point, set in bold type.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    placed = []
    for (x, y), label in zip(points, labels, strict=True):
        width = _BOLD * text_width(label)
        options = [
            (anchor, start, baseline)
            for step in (0, 15, -15, 30, -30, 45, -45, 60, 75, 90)
            for anchor, start, baseline in (("start", x + 10, y + 4 + step), ("end", x - 10, y + 4 + step))
        ]
        boxes = [
            (start - (width if anchor == "end" else 0), baseline - 11, baseline + 3)
            for anchor, start, baseline in options
        ]
        costs = [
            _outside(frame, left, left + width, top, bottom)
            + sum(_overlap((left, top, left + width, bottom), other) for other in taken)
            for left, top, bottom in boxes
        ]
        best = int(np.argmin(costs))
        left, top, bottom = boxes[best]
        taken.append((left, top, left + width, bottom))
        placed.append(options[best])
    return placed


def _outside(frame: Frame, left: float, right: float, top: float, bottom: float) -> float:
    beyond = max(frame.left - left, 0) + max(right - WIDTH, 0)
    return 20 * (beyond + max(frame.top - 8 - top, 0) + max(bottom - frame.bottom, 0))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(tall, 0.0)
