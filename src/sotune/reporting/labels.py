"""Where the names of points go, so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from sotune.reporting.svg import WIDTH, Frame, text_width

_BOLD = 1.15  # width of bold type, as a multiple of regular type
_GAP = 6  # between two labels of one line
_HEIGHT = 14  # of a line of type
_MAY_BE_COVERED = 0.25  # of a label; one that would be covered more is left out

Place = tuple[str, float, float]


def place_labels(
    frame: Frame, points: Sequence[tuple[float, float]], labels: Sequence[str], *, first: Collection[int] = ()
) -> list[Place | None]:
    """Returns anchor and position of each label: the first place beside its point that nothing else takes.

    Where every place is taken, it is the one with the least overlap, or none where that would be unreadable.

    Args:
        frame: The plot.
        points: Position of each point.
        labels: Name of each point, set in bold type.
        first: Which labels are placed before all others, and wherever there is least overlap.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    placed: list[Place | None] = [None] * len(points)
    for place in sorted(range(len(points)), key=lambda place: place not in first):
        (x, y), label = points[place], labels[place]
        width = _GAP + _BOLD * text_width(label)
        options = [
            (anchor, start, baseline)
            for step in (0, 15, -15, 30, -30, 45, -45, 60, 75, 90)
            for anchor, start, baseline in (("start", x + 10, y + 4 + step), ("end", x - 10, y + 4 + step))
        ]
        boxes = [
            (start - (width if anchor == "end" else 0), baseline + 3 - _HEIGHT, baseline + 3)
            for anchor, start, baseline in options
        ]
        costs = [
            _outside(frame, left, left + width, top, bottom)
            + sum(_overlap((left, top, left + width, bottom), other) for other in taken)
            for left, top, bottom in boxes
        ]
        best = int(np.argmin(costs))
        if place not in first and costs[best] > _MAY_BE_COVERED * width * _HEIGHT:
            continue
        left, top, bottom = boxes[best]
        taken.append((left, top, left + width, bottom))
        placed[place] = options[best]
    return placed


def _outside(frame: Frame, left: float, right: float, top: float, bottom: float) -> float:
    beyond = max(frame.left - left, 0) + max(right - WIDTH, 0)
    return 20 * (beyond + max(frame.top - 8 - top, 0) + max(bottom - frame.bottom, 0))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(tall, 0.0)
