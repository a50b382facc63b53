"""Special tokens that stand in the text of a row: they are text there, never control tokens.

Who writes ``<|im_end|>`` into a prompt would otherwise end the turn and could speak as the system. Before a template
sees a row, each such text is replaced by a placeholder of characters that Unicode keeps out of texts; after it, the
placeholders become the text again, and their places are remembered, so that they are tokenized apart from the control
tokens that the template writes itself.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

Span = tuple[int, int]

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
THOUGHT_TAGS = ("<think>", "</think>", "[THINK]", "[/THINK]")
"""What stands around the thoughts in an assistant's text; some tokenizers count them among their control tokens."""
TURN_MARK = "\ufdd2"
"""Stands for the content of a turn whose place in the rendered text is looked for."""
_PLACEHOLDER = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


class Uncovered(NamedTuple):
    """A rendered text with its placeholders undone.

    Attributes:
        text: The text.
        spans: The spans that were asked for, in its characters.
        literal: Where special tokens stand that are text, in its characters.
    """

    text: str
    spans: tuple[Span, ...]
    literal: tuple[Span, ...]


class SpecialTokens:
    """The texts that a tokenizer takes for control tokens.

    Args:
        tokenizer: A Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {id: token.content for id, token in added.items() if token.special}
        self.ids = frozenset({*special, *getattr(tokenizer, "all_special_ids", ())})
        """Their ids: a tokenizer need not name all of its control tokens among ``all_special_ids``."""
        found = {*special.values(), *getattr(tokenizer, "all_special_tokens", ())}
        texts = sorted(filter(str.strip, found), key=lambda text: (-len(text), text))
        self._hidden = (*texts, _OPEN, _CLOSE, TURN_MARK)
        self._numbers = {text: number for number, text in enumerate(self._hidden)}
        self._written = re.compile("|".join(map(re.escape, self._hidden)))
        self.pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        """Matches a special token in a rendered text."""

    def cover(self, value: Any, kept: Collection[str] = ()) -> Any:
        """Returns a text, or all texts within lists and mappings, with placeholders for the special tokens not kept."""
        if isinstance(value, str):
            return self._written.sub(lambda found: found[0] if found[0] in kept else self._placeholder(found[0]), value)
        if isinstance(value, dict):
            return {self.cover(key, kept): self.cover(item, kept) for key, item in value.items()}
        return [self.cover(item, kept) for item in value] if isinstance(value, list) else value

    def _placeholder(self, text: str) -> str:
        return f"{_OPEN}{self._numbers[text]}{_CLOSE}"

    def uncover(self, text: str, spans: Iterable[Span] = ()) -> Uncovered:
        """Undoes the placeholders of a text, and moves spans of it accordingly."""
        pieces: list[str] = []
        literal: list[Span] = []
        covered, plain = [0], [0]  # where the two texts run in parallel
        for found in _PLACEHOLDER.finditer(text):
            before = text[covered[-1] : found.start()]
            start = plain[-1] + len(before)
            hidden = self._hidden[int(found[1])] if int(found[1]) < len(self._hidden) else found[0]
            pieces += [before, hidden]
            literal.append((start, start + len(hidden)))
            covered.append(found.end())
            plain.append(start + len(hidden))
        pieces.append(text[covered[-1] :])

        def moved(place: int) -> int:
            at = bisect_right(covered, place) - 1
            return plain[at] + place - covered[at]

        return Uncovered("".join(pieces), tuple((moved(a), moved(b)) for a, b in spans), tuple(literal))


def split_literal(text: str, literal: Sequence[Span]) -> list[tuple[int, str, bool]]:
    """Cuts a text at its literal spans: where each piece starts, the piece, and whether it is literal."""
    pieces, place = list[tuple[int, str, bool]](), 0
    for start, end in literal:
        pieces += [(place, text[place:start], False), (start, text[start:end], True)]
        place = end
    return [piece for piece in (*pieces, (place, text[place:], False)) if piece[1]]
