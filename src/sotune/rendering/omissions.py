"""What a chat template left out of a conversation, found by looking for its parts in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from sotune.records import Message, texts_within
from sotune.rendering.special_tokens import THOUGHT_TAGS


def parts_kept(turn: Message, text: str) -> list[bool]:
    """Returns of each part of what a turn says whether it stands in its text, blanks apart."""
    rendered, place, kept = _without_blanks(text), 0, list[bool]()
    said = [turn.reasoning, *re.split("|".join(map(re.escape, THOUGHT_TAGS)), turn.content)]
    for part in filter(None, map(_without_blanks, said)):
        found = rendered.find(part, place)  # after the part before: an answer may repeat its thought
        kept.append(found >= 0)
        place = found + len(part) if found >= 0 else place
    for call in turn.tool_calls:
        kept.append(call.name in rendered)
        kept += [_is_written(leaf, rendered) for leaf in texts_within(json.loads(call.arguments))]
    return kept


def omits_a_turn(messages: Sequence[Message], text: str) -> bool:
    """Whether what a system, user or tool turn says does not stand in the text of the conversation."""
    rendered = _without_blanks(text)
    return not all(_is_written(message.content, rendered) for message in messages if message.role != "assistant")


def _is_written(said: str, rendered: str) -> bool:
    """Whether a text stands in one without blanks, as it is or as JSON of either kind."""
    if _without_blanks(said) in rendered:  # nearly always; the rest costs more
        return True
    return any(_without_blanks(json.dumps(said, ensure_ascii=ascii)[1:-1]) in rendered for ascii in (True, False))


def _without_blanks(text: str) -> str:
    return "".join(text.split())
