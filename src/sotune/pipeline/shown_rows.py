"""What is read of many rows besides the whole of each, without holding it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sotune.pipeline.first_look import FirstLook
from sotune.pipeline.worst_views import Shown, show_worth
from sotune.record_store import Picked, RecordSequence, ids_of
from sotune.records import Record
from sotune.representations import Encoder
from sotune.views import View

_BLOCK_ROWS = 1024


class ShownRows:
    """Which views some rows have; a view itself is made again from its row when it is asked for.

    Args:
        encoder: Reads the rows.
        rows: The rows.
        most: Windows of a row; 1: rows are read whole and no other way.
        first_look: Says which pieces of rows are worth reading; ``None``: all parts of long rows are.

    Attributes:
        owner: The row of each view, ``[k]``, ascending.
        complete: Of each row, whether all that is learned is read, ``[n]``.
        records: The views as rows.
    """

    def __init__(
        self, encoder: Encoder, rows: Sequence[Record], *, most: int, first_look: FirstLook | None = None
    ) -> None:
        self.rows, self._encoder, self._most = rows, encoder, most
        self.complete = np.ones(len(rows), dtype=np.bool_)
        # What the first look says is kept: the texts that it picks are made again, it is not taken again.
        self._worth: list[tuple[int, ...]] | None = None if first_look is None else []
        owners = [torch.zeros(0, dtype=torch.int64)]
        if most > 1:
            for start in range(0, len(rows), _BLOCK_ROWS):
                block = slice(start, min(len(rows), start + _BLOCK_ROWS))
                if first_look is not None and self._worth is not None:
                    self._worth += first_look.worth(rows[block])
                found = self._show(block)
                owners.append(found.owner + start)
                self.complete[block] = found.complete
        self.owner = torch.cat(owners)
        self.records: Sequence[Record] = _ViewRecords(self)
        self._last: tuple[int, tuple[View, ...]] = (-1, ())

    def _show(self, rows: slice) -> Shown:
        some = self.rows[rows]
        worth = [None] * len(some) if self._worth is None else self._worth[rows]
        return show_worth(self._encoder, some, worth, most=self._most)

    def view(self, number: int) -> View:
        """Returns a view, by its number among all."""
        row = int(self.owner[number])
        last, views = self._last
        if last != row:
            views = self._show(slice(row, row + 1)).views
            self._last = row, views
        return views[number - int(torch.searchsorted(self.owner, row))]

    def of(self, rows: slice) -> tuple[Shown, int, int]:
        """Returns the views of some neighboring rows, and the numbers of the first one and of that after the last."""
        first, last = torch.searchsorted(self.owner, torch.tensor([rows.start, rows.stop])).tolist()
        complete = tuple(self.complete[rows].tolist())
        views = tuple(self.view(number) for number in range(first, last))
        return Shown(views, self.owner[first:last] - rows.start, complete), first, last


class _ViewRecords(RecordSequence):
    """The views of some rows, as rows."""

    def __init__(self, shown: ShownRows) -> None:
        self._shown = shown

    def __len__(self) -> int:
        return len(self._shown.owner)

    def one(self, place: int) -> Record:
        """Returns a view."""
        return self._shown.view(place).record

    def ids(self) -> Sequence[str]:
        """Returns the ids of the rows that the views are of."""
        return Picked(ids_of(self._shown.rows), self._shown.owner.numpy())
