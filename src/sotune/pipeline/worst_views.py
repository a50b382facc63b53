"""Which look at each row represents it: the whole, a part, its undisguised text, or its answer alone; the worst.

Where the stretch of a few sentences that a first look picked out seems worse still, it stands beside that look and
counts half: by itself it tells too little of a row to be its vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune.pipeline.first_look import FirstLook
from sotune.records import Record
from sotune.representations import Encoder, answers_alone
from sotune.views import View, views_of
from sotune.weights import pick_worst

ANSWER_ALONE = "answer alone"
HarmScore = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shown:
    """What is read of some rows besides the whole of each.

    Attributes:
        views: Parts and undisguised texts of all rows.
        owner: The row of each, ``[k]``.
        complete: Of each row, whether all that is learned is read.
    """

    views: tuple[View, ...]
    owner: Tensor
    complete: tuple[bool, ...]

    @property
    def records(self) -> list[Record]:
        """The views as rows."""
        return [view.record for view in self.views]


@dataclass(frozen=True)
class Looks:
    """Which look represents each row.

    Attributes:
        view: Which view of `Shown.views`; -1: none of them, ``[n]``.
        stretch: Which of them stands beside it, half and half; -1: none, ``[n]``.
        alone: Whether the answer's half of the vector stands in both places, ``[n]``.
        values: The representations, ``[n, d]``.
    """

    view: Tensor
    stretch: Tensor
    alone: Tensor
    values: Tensor

    def place(self, row: int, shown: Shown) -> str:
        """Says what represents a row; empty where the whole does."""
        view, stretch = int(self.view[row]), int(self.stretch[row])
        place = shown.views[view].place if view >= 0 else ANSWER_ALONE if self.alone[row] else ""
        return place if stretch < 0 else f"{place or 'whole'} with {shown.views[stretch].place}"


class WorstRead(NamedTuple):
    """Some rows as the worst look at each.

    Attributes:
        values: Its representation, ``[n, d]``.
        unread: Whether some of what is learned was not read, ``[n]``.
    """

    values: Tensor
    unread: NDArray[np.bool_]


def show(encoder: Encoder, records: Sequence[Record], *, most: int, first_look: FirstLook | None = None) -> Shown:
    """Returns what is to be read of some rows.

    Args:
        encoder: Reads them.
        records: The rows.
        most: Windows of a row; 1: rows are read whole and no other way.
        first_look: Says which pieces of rows are worth reading; ``None``: all parts of long rows are.
    """
    if most == 1:
        cut = encoder.prepare(records).truncated
        return Shown((), torch.zeros(0, dtype=torch.int64), tuple((~cut).tolist()))
    return show_worth(encoder, records, first_look.worth(records) if first_look else [None] * len(records), most=most)


def show_worth(
    encoder: Encoder, records: Sequence[Record], worth: Sequence[Sequence[int] | None], *, most: int
) -> Shown:
    """Returns what is to be read of some rows where it is known which of their pieces are worth it. See `show`."""
    found = [
        views_of(record, window=encoder.window, most=most, worth=some)
        for record, some in zip(records, worth, strict=True)
    ]
    owner = [row for row, one in enumerate(found) for _ in one.views]
    views = tuple(view for one in found for view in one.views)
    return Shown(views, torch.tensor(owner, dtype=torch.int64), tuple(one.complete for one in found))


def pick_looks(
    whole: Tensor, viewed: Tensor | None, shown: Shown, harm_score: Callable[[], HarmScore], *, alone: bool
) -> Looks:
    """Picks for each row the look that seems the most harmful.

    Args:
        whole: Representations of the rows, ``[n, d]``.
        viewed: Those of the views, ``[k, d]``; ``None`` where there are none.
        shown: The views.
        harm_score: Returns what orders the looks at one row (`sotune.weights.fit_harm_score`); asked for where needed.
        alone: Whether one look at a row is its answer without its prompt (`answers_alone`).
    """
    n = len(whole)
    nothing = torch.full((n,), -1)
    if viewed is None and not alone:
        return Looks(view=nothing, stretch=nothing, alone=torch.zeros(n, dtype=torch.bool), values=whole)
    looks, owner, views = [whole], [torch.arange(n)], 0 if viewed is None else len(viewed)
    if viewed is not None:
        looks, owner = [*looks, viewed], [*owner, shown.owner]
    if alone:
        looks, owner = [*looks, answers_alone(whole)], [*owner, torch.arange(n)]
    values, owners = torch.cat(looks), torch.cat(owner)
    of_view = torch.cat([nothing, torch.arange(views), torch.full((len(values) - n - views,), -1)])
    is_stretch = torch.zeros(len(values), dtype=torch.bool)
    is_stretch[n : n + views] = torch.tensor([view.stretch for view in shown.views[:views]], dtype=torch.bool)
    scores = harm_score()(values)
    picked, worst = pick_worst(scores.masked_fill(is_stretch, -torch.inf), owners), pick_worst(scores, owners)
    joined = is_stretch[worst]
    return Looks(
        view=of_view[picked],
        stretch=torch.where(joined, of_view[worst], -1),
        alone=picked >= n + views,
        values=torch.where(joined[:, None], (values[picked] + values[worst]) / 2, values[picked]),
    )


def read_worst(
    encoder: Encoder,
    records: Sequence[Record],
    encode: Callable[[Sequence[Record]], Tensor],
    harm_score: Callable[[], HarmScore],
    *,
    most: int,
    alone: bool,
    first_look: FirstLook | None,
) -> WorstRead:
    """Reads some rows as the worst look at each.

    Args:
        encoder: What encodes.
        records: The rows, at least one.
        encode: From rows to representations.
        harm_score: Returns what orders the looks at one row.
        most: Windows of a row.
        alone: Whether one look at a row is its answer without its prompt.
        first_look: Says which pieces of rows are worth reading, if anything does.
    """
    shown, whole = show(encoder, records, most=most, first_look=first_look), encode(records)
    viewed = encode(shown.records) if shown.views else None
    return WorstRead(pick_looks(whole, viewed, shown, harm_score, alone=alone).values, ~np.array(shown.complete))
