"""A first look at every stretch of every row, by its words alone: it decides what the encoder reads closely.

No forward pass: a stretch is the mean of its tokens' own vectors, undisguised, and a linear score tells those of the
harmful reference from all others. All that is learned is looked at; what is read closely is little, the worst stretch
of a row and, where the row is long, what is around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from sotune.records import Record, SetName
from sotune.representations import Encoder
from sotune.views import NOWHERE, Spot, Stretch, is_long, plain_text, spot_around, stretches_of
from sotune.weights import Suspicion, fit_suspicion, threshold_within

Item = TypeVar("Item")

_MOST_ROWS = 4096  # of a set, at even distances: a direction needs no more
_MOST_STRETCHES = 16  # of a row, likewise


@dataclass(frozen=True)
class FirstLook:
    """Says of rows where they are read closely."""

    encoder: Encoder
    suspicion: Suspicion

    def spots(self, records: Sequence[Record]) -> list[Spot]:
        """Returns the spot of each row; `NOWHERE` where it is short and looks harmless, or is one stretch."""
        stretches = [stretches_of(record, window=self.encoder.window) for record in records]
        scores = iter(self.suspicion.score(_looks(self.encoder, stretches)).tolist())
        return [
            self._spot(record, some, [*itertools.islice(scores, len(some))])
            for record, some in zip(records, stretches, strict=True)
        ]

    def _spot(self, record: Record, stretches: list[Stretch], scores: list[float]) -> Spot:
        long = is_long(record, window=self.encoder.window)
        if len(stretches) < 2 or (not long and max(scores) < self.suspicion.threshold):
            return NOWHERE
        return spot_around(stretches, scores, size=self.encoder.window // 2)


def fit_first_look(encoder: Encoder, sets: Mapping[SetName, Sequence[Record]], budget: float) -> Suspicion:
    """Learns what looks harmful from the references and the data, and what is worth reading from the data.

    Args:
        encoder: Looks; it must be able to (`Encoder.glances`).
        sets: All rows.
        budget: The share of what is read of the data's rows anyway that the stretches of short ones may add.
    """
    some = {name: _thinned(records, _MOST_ROWS) for name, records in sets.items()}
    found = {
        name: [_thinned(stretches_of(record, window=encoder.window), _MOST_STRETCHES) for record in records]
        for name, records in some.items()
    }
    looks = {name: _looks(encoder, stretches) for name, stretches in found.items()}
    plain = torch.cat([look for name, look in looks.items() if name != "harmful_reference"])
    score = fit_suspicion(plain, looks["harmful_reference"])
    scores, tops, lengths, read = iter(score(looks["downstream"]).tolist()), list[float](), list[int](), 0
    for record, stretches in zip(some["downstream"], found["downstream"], strict=True):
        of_row = [*itertools.islice(scores, len(stretches))]
        read += _n_read(record, encoder.window)
        if len(stretches) > 1 and not is_long(record, window=encoder.window):
            tops.append(max(of_row))
            lengths.append(len(stretches[of_row.index(max(of_row))].text))
    return Suspicion(score, threshold_within(budget * read, tops, lengths))


def _looks(encoder: Encoder, stretches: Sequence[Sequence[Stretch]]) -> Tensor:
    """Returns the looks at all stretches of some rows."""
    return encoder.glance([plain_text(stretch.text) for some in stretches for stretch in some])


def _n_read(record: Record, window: int) -> int:
    """Returns about how many characters are read of a row as a whole: some of its prompt, and some of its answer."""
    asked = sum(len(message.text) for place, message in enumerate(record.messages) if place not in record.learned)
    answered = sum(len(record.messages[place].text) for place in record.learned)
    return min(asked, window) + min(answered, window)


def _thinned(items: Sequence[Item], most: int) -> list[Item]:
    """Returns some items, at even distances."""
    return [items[place * len(items) // most] for place in range(most)] if len(items) > most else [*items]
