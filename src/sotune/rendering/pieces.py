"""A rendered row cut where learning begins and ends, to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sotune.rendering.renderer import RenderedText, RenderedTokens
from sotune.rendering.special_tokens import Span


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered row.

    Attributes:
        text: Its text.
        learned: Whether it is trained on.
    """

    text: str
    learned: bool


def text_pieces(text: RenderedText) -> tuple[Piece, ...]:
    """Cuts a text at its learned spans."""
    return tuple(Piece(text.full[start:end], learned) for start, end, learned in _cuts(len(text.full), text.learned))


def token_pieces(tokens: RenderedTokens, tokenizer: Any) -> tuple[Piece, ...]:
    """Reads the ids back into text, cut at the learned ranges: what a model really sees and learns."""
    return tuple(
        Piece(
            tokenizer.decode(
                tokens.input_ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
            ),
            learned,
        )
        for start, end, learned in _cuts(len(tokens.input_ids), tokens.learned)
    )


def _cuts(length: int, learned: Sequence[Span]) -> list[tuple[int, int, bool]]:
    cuts, place = list[tuple[int, int, bool]](), 0
    for start, end in learned:
        cuts += [(place, start, False), (start, end, True)]
        place = end
    return [cut for cut in (*cuts, (place, length, False)) if cut[0] < cut[1]]
