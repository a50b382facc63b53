"""Where the turns of a conversation stand in the text that a chat template made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from sotune.errors import DataError
from sotune.rendering.special_tokens import TURN_MARK, Span

Turn = Mapping[str, Any]


class TurnFinder:
    """One conversation in a chat template, in which turns are looked for.

    Args:
        turns: The turns, as a template takes them.
        apply: Renders turns, with ``cue=True`` up to where generation begins; a `DataError` where it refuses them.
        special: Matches the tokenizer's special tokens.

    Attributes:
        full: The whole text.
        cued: Whether what stands before the last turn is what generation begins with.

    Raises:
        DataError: The template refuses the turns.
    """

    def __init__(self, turns: Sequence[Turn], apply: Callable[..., str], special: re.Pattern[str]) -> None:
        self._turns, self._apply, self._special = turns, apply, special
        self.full = apply(turns)
        self.cued = True

    def span(self, place: int) -> Span:
        """Returns where a turn stands in the full text, from the end of its cue to its end-of-turn token.

        A turn starts where generation would start to write it, and ends where the text up to it ends. Where a template
        rewrites earlier turns once later ones follow, a mark in the turn's place finds it.
        """
        last = place == len(self._turns) - 1
        before = self._prefix(self._turns[:place], cue=True)
        through = self.full if last else self._prefix(self._turns[: place + 1])
        if last:
            self.cued = before is not None
        if before is None or through is None:
            start, end = self._marked(place)
            start = start if before is None else len(before)
            end = end if through is None else len(through)
        else:
            start, end = len(before), len(through)
        return start, self._without_blank_end(start, max(start, end))

    def _prefix(self, turns: Sequence[Turn], *, cue: bool = False) -> str | None:
        """Returns some turns as text if the full text starts with it."""
        try:
            text = self._apply(turns, cue=cue)
        except DataError:  # the whole is accepted, its parts need not be
            return None
        return text if self.full.startswith(text) else None

    def _marked(self, place: int) -> Span:
        marked, mark = self._with_mark(place, len(self._turns))
        tail = marked[mark + len(TURN_MARK) :]
        if not self.full.endswith(tail):
            raise DataError(
                f"the chat template rewrites the conversation so that turn {place + 1}, which is to be learned, cannot "
                f"be found in the text; set learn_turns to last, or drop such rows"
            )
        start = _common_length(marked[:mark], self.full)
        end = len(self.full) - len(tail)
        alone, mark = self._with_mark(place, place + 1)
        found = self._special.search(tail)
        ends_itself = bool(alone[mark + len(TURN_MARK) :].strip())
        if ends_itself and found is not None and not tail[: found.start()].strip():
            end += found.end()
        return min(start, end), end

    def _with_mark(self, place: int, n_turns: int) -> tuple[str, int]:
        turns = [*self._turns[:place], {"role": "assistant", "content": TURN_MARK}, *self._turns[place + 1 : n_turns]]
        text = self._apply(turns)
        mark = text.find(TURN_MARK)
        if mark < 0:
            raise DataError("the chat template leaves out an assistant turn that is to be learned; drop such rows")
        return text, mark

    def _without_blank_end(self, start: int, end: int) -> int:
        """Leaves out blanks between the end-of-turn token and the next turn, which a model never writes."""
        found = list(self._special.finditer(self.full, start, end))
        return found[-1].end() if found and not self.full[found[-1].end() : end].strip() else end


def _common_length(left: str, right: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
