"""Rows that could not be used: the trace of each, the share that stops a run, and the file that lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sotune.errors import DataError
from sotune.records import SetName

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """One row that could not be used. It never holds the row's text, which may be harmful.

    Attributes:
        set_name: The set that it was meant for.
        file: Where it came from.
        line: Line number, or row number in a file without lines; from 1.
        reason: ``kind`` or ``kind: detail``.
        row_id: The user's own id; None if the row has none that can be read.
    """

    set_name: SetName
    file: str
    line: int
    reason: str
    row_id: str | None

    @property
    def kind(self) -> str:
        """The reason without its detail, by which rows are counted."""
        return self.reason.partition(":")[0]


def check_fraction(
    rows: Sequence[QuarantinedRow], n_valid: int, source: str, *, max_fraction: float, remedy: str
) -> None:
    """Refuses a set with too many bad rows, or without a good one.

    Args:
        rows: The quarantined rows of the set, in reading order.
        n_valid: How many rows of it can be used.
        source: The set's file.
        max_fraction: The largest share of ``rows`` in both together.
        remedy: What else can be done but mending them.

    Raises:
        DataError: The share is larger, or no row can be used.
    """
    if not n_valid:
        raise no_row_left(rows, source)
    n = len(rows) + n_valid
    if len(rows) > max_fraction * n:
        raise DataError(
            f"{source}: {len(rows)} of {n} rows cannot be used, more than the share allowed, {max_fraction:g}. "
            f"{_summary(rows)}. Fix them, or {remedy}"
        )


def no_row_left(rows: Sequence[QuarantinedRow], source: str) -> DataError:
    """Returns the error for a set of which every row is quarantined."""
    # Of rows that are not even objects no format can be the right one.
    no_objects = all(row.kind in ("broken JSON", "not a JSON object") for row in rows)
    remedy = (
        "write one JSON object a line, or an array of them into a .json file" if no_objects else "name another --format"
    )
    return DataError(f"{source}: none of its {len(rows)} rows can be used. {_summary(rows)}. Fix them, or {remedy}")


def _summary(rows: Sequence[QuarantinedRow]) -> str:
    kinds = Counter(row.kind for row in rows).most_common(_SHOWN)
    reasons = ", ".join(f"{kind} ({count})" for kind, count in kinds)
    places = "; ".join(f"{Path(row.file).name}:{row.line}: {row.reason}" for row in rows[:_SHOWN])
    return f"Commonest reasons: {reasons}. First places: {places}"
