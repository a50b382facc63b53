"""A first look at all that is learned of every row, by its words alone: it decides what the encoder reads closely.

No forward pass: a stretch of a sentence or a few is the mean of its tokens' own vectors, undisguised, and a linear
score tells those of the harmful reference from all others. A part of a long row is as suspicious as its worst stretch.
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
from sotune.views import is_long, pieces_of, plain_text, split_sentences
from sotune.weights import Suspicion, fit_suspicion, threshold_within

Item = TypeVar("Item")

_MOST_ROWS = 4096  # of a set, at even distances: a direction needs no more
_MOST_PIECES = 16  # of a row, likewise
_MISSED_REFERENCE = 0.02
"""Parts that look less suspicious than all but this share of the harmful reference's rows do are not read."""


@dataclass(frozen=True)
class FirstLook:
    """Says of rows which of their pieces are worth reading."""

    encoder: Encoder
    suspicion: Suspicion

    def worth(self, records: Sequence[Record]) -> list[tuple[int, ...]]:
        """Returns for each row the numbers of its pieces (`sotune.views.pieces_of`) that are worth reading.

        Of a short row at most one; of a long one the most suspicious, and each that does not look harmless.
        """
        pieces = [_pieces(self.encoder, record) for record in records]
        scores = _by_piece(self.suspicion.score(self.encoder.glance(_texts(pieces))), pieces)
        return [self._worth(record, some) for record, some in zip(records, scores, strict=True)]

    def _worth(self, record: Record, scores: list[float]) -> tuple[int, ...]:
        worst = max(range(len(scores)), key=scores.__getitem__)
        if is_long(record, window=self.encoder.window):
            return tuple(n for n, score in enumerate(scores) if n == worst or score >= self.suspicion.of_parts)
        # A row of one piece is that piece: it is read as a whole.
        return (worst,) if len(scores) > 1 and scores[worst] >= self.suspicion.of_stretches else ()


def fit_first_look(encoder: Encoder, sets: Mapping[SetName, Sequence[Record]], budget: float) -> Suspicion:
    """Learns what looks harmful from the references and the data, and from where on it is worth reading.

    Args:
        encoder: Looks; it must be able to (`Encoder.glances`).
        sets: All rows.
        budget: The share of what is read of the data's rows anyway that the stretches of short ones may add.
    """
    some = {name: _thinned(records, _MOST_ROWS) for name, records in sets.items()}
    pieces = {
        name: [_thinned(_pieces(encoder, record), _MOST_PIECES) for record in records] for name, records in some.items()
    }
    looks = {name: encoder.glance(_texts(rows)) for name, rows in pieces.items() if rows}
    plain = torch.cat([look for name, look in looks.items() if name != "harmful_reference"])
    score = fit_suspicion(plain, looks["harmful_reference"])
    held_out = _by_piece(
        _held_out(plain, looks["harmful_reference"], pieces["harmful_reference"]), pieces["harmful_reference"]
    )
    worst = torch.tensor([max(of_row) for of_row in held_out], dtype=torch.float64)
    scores = _by_piece(score(looks["downstream"]), pieces["downstream"])
    short = [
        (max(of_row), len(rows[of_row.index(max(of_row))][0]))
        for record, rows, of_row in zip(some["downstream"], pieces["downstream"], scores, strict=True)
        if len(of_row) > 1 and not is_long(record, window=encoder.window)
    ]
    read = sum(_n_read(record, encoder.window) for record in some["downstream"])
    of_stretches = threshold_within(budget * read, [one[0] for one in short], [one[1] for one in short])
    return Suspicion(score, float(worst.quantile(_MISSED_REFERENCE)), of_stretches)


def _pieces(encoder: Encoder, record: Record) -> list[list[str]]:
    """Returns the stretches of each piece of a row; a row of none is one piece."""
    found = [split_sentences(view.record.completion) for view in pieces_of(record, window=encoder.window)]
    return found or [["\n".join(record.messages[place].text for place in record.learned)]]


def _held_out(plain: Tensor, harmful: Tensor, rows: Sequence[list[list[str]]]) -> Tensor:
    """Scores the stretches of the harmful reference, of each half of its rows by a fit to the other half."""
    owner = torch.tensor([row for row, pieces in enumerate(rows) for piece in pieces for _ in piece])
    scores = torch.zeros(len(harmful), dtype=torch.float64)
    for half in range(min(2, len(rows))):
        mine = owner % 2 == half
        others = harmful if mine.all() else harmful[~mine]
        scores[mine] = fit_suspicion(plain, others)(harmful[mine])
    return scores


def _by_piece(scores: Tensor, rows: Sequence[list[list[str]]]) -> list[list[float]]:
    """Returns how suspicious each piece of some rows is, as its worst stretch, from the scores of all stretches."""
    listed = iter(scores.tolist())
    return [[max(itertools.islice(listed, len(piece))) for piece in pieces] for pieces in rows]


def _texts(rows: Sequence[list[list[str]]]) -> list[str]:
    """Returns all stretches of some rows, undisguised."""
    return [plain_text(text) for pieces in rows for piece in pieces for text in piece]


def _n_read(record: Record, window: int) -> int:
    """Returns about how many characters are read of a row as a whole: some of its prompt, and some of its answer."""
    asked = sum(len(message.text) for place, message in enumerate(record.messages) if place not in record.learned)
    answered = sum(len(record.messages[place].text) for place in record.learned)
    return min(asked, window) + min(answered, window)


def _thinned(items: Sequence[Item], most: int) -> list[Item]:
    """Returns some items, at even distances."""
    return [items[place * len(items) // most] for place in range(most)] if len(items) > most else [*items]
