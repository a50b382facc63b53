"""Where the turns of a conversation stand in the text that a chat template made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sotune.errors import DataError
from sotune.rendering.special_tokens import TURN_MARK, Span

Turn = Mapping[str, Any]


class _Split(NamedTuple):
    """A text before and after the mark in it."""

    head: str
    tail: str


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
        """Returns where an assistant turn stands in the text, from the end of its cue to its end-of-turn token.

        A turn starts where generation would start to write it, and ends where the text up to it ends. Where a template
        writes a turn otherwise once later ones follow, a mark finds it: in the turn before, or in the turn itself.

        Raises:
            DataError: It cannot be found.
        """
        start, end = self._start(place), self._end(place)
        if start is None or end is None:
            raise DataError(
                f"the chat template rewrites the conversation so that turn {place + 1}, which is to be learned, cannot "
                f"be found in the text; set learn_turns to last, or drop such rows"
            )
        return start, self._without_blank_end(start, max(start, end))

    def _start(self, place: int) -> int | None:
        before = self._prefix(self._turns[:place], cue=True)
        if place == len(self._turns) - 1:
            self.cued = before is not None
        if before is not None:
            return before
        if place:
            asked = {**self._turns[place - 1], "content": TURN_MARK}
            within, alone = self._split(place - 1, asked), self._split(place - 1, asked, n_turns=place, cue=True)
            if within and alone and self.full.endswith(within.tail) and within.tail.startswith(alone.tail):
                return len(self.full) - len(within.tail) + len(alone.tail)
        own = self._split(place, {"role": "assistant", "content": TURN_MARK})
        return _common_length(own.head, self.full) if own else None

    def _end(self, place: int) -> int | None:
        if place == len(self._turns) - 1:
            return len(self.full)
        for turn in _shorter(self._turns[place]):
            through = self._prefix([*self._turns[:place], turn])
            if through is not None:
                return through
        for turn in _marked(self._turns[place]):
            within, alone = self._split(place, turn), self._split(place, turn, n_turns=place + 1)
            if not within or not alone:
                continue
            n_common = _common_length(self.full[::-1], within.tail[::-1])
            closing = self._closing(within.tail, alone.tail)
            # All of the tail stands in the text, except for what is left of a call's arguments.
            if n_common == len(within.tail) or ("tool_calls" in turn and closing > len(within.tail) - n_common):
                return len(self.full) - len(within.tail) + closing
        return None

    def _prefix(self, turns: Sequence[Turn], *, cue: bool = False) -> int | None:
        """Returns the length of some turns as text if the full text starts with it."""
        text = self._attempt(turns, cue=cue)
        return len(text) if text is not None and self.full.startswith(text) else None

    def _split(self, place: int, turn: Turn, *, n_turns: int | None = None, cue: bool = False) -> _Split | None:
        """Renders the first turns, with a marked one in its place, and cuts the text at the mark."""
        text = self._attempt([*self._turns[:place], turn, *self._turns[place + 1 : n_turns]], cue=cue)
        if text is None or TURN_MARK not in text:
            return None
        head, _, tail = text.rpartition(TURN_MARK)
        return _Split(head, tail)

    def _attempt(self, turns: Sequence[Turn], *, cue: bool) -> str | None:
        try:
            return self._apply(turns, cue=cue)
        except DataError:  # the whole is accepted, its parts need not be
            return None

    def _closing(self, tail: str, alone: str) -> int:
        """Returns where the special tokens end that close a turn; the first may be another one at the very end.

        Where other text stands before the first than at the very end, it is none that closes the turn.
        """
        end = 0
        pairs = zip(self._special.finditer(tail), self._special.finditer(alone), strict=False)
        for number, (found, expected) in enumerate(pairs):
            closes = found[0] == expected[0] if number else _same(tail[: found.start()], alone[: expected.start()])
            if not closes:
                break
            end = found.end()
        return end

    def _without_blank_end(self, start: int, end: int) -> int:
        """Leaves out blanks between the end-of-turn token and the next turn, which a model never writes."""
        found = list(self._special.finditer(self.full, start, end))
        return found[-1].end() if found and not self.full[found[-1].end() : end].strip() else end


def _shorter(turn: Turn) -> Iterator[Turn]:
    """Yields a turn, and the turn without what templates drop once later turns follow."""
    yield turn
    if "reasoning_content" in turn:
        yield {key: value for key, value in turn.items() if key != "reasoning_content"}
    if "tool_calls" in turn:
        yield {"role": turn["role"], "content": "", "tool_calls": turn["tool_calls"]}


def _marked(turn: Turn) -> Iterator[Turn]:
    """Yields a turn with the mark for its content, and with its last call marked."""
    yield {"role": turn["role"], "content": TURN_MARK}
    if "tool_calls" in turn:
        *calls, last = turn["tool_calls"]
        last = {**last, "function": {**last["function"], "arguments": {TURN_MARK: TURN_MARK}}}
        yield {"role": turn["role"], "content": "", "tool_calls": [*calls, last]}


def _same(left: str, right: str) -> bool:
    """Whether two texts are equal, blanks apart."""
    return left.split() == right.split()


def _common_length(left: str, right: str) -> int:
    """Returns how many characters two texts have in common at their start, by bisection."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
