"""What the turns of a row amount to: where the conversation ends, and which of its turns are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sotune.records import Message
from sotune.settings import LearnTurns
from sotune.sources.rows import RowFault


class Conversation(NamedTuple):
    """The turns of a row up to the last one that is learned, and the tools that the assistant may call.

    Attributes:
        messages: The turns; the last one is the assistant's and is learned.
        tools: The JSON text of a list of schemas; empty: none.
    """

    messages: tuple[Message, ...]
    tools: str = ""


def to_conversation(turns: Sequence[Message], tools: str = "", *, learn_turns: LearnTurns = "all") -> Conversation:
    """Returns a conversation up to its last assistant turn that is learned; what follows is dropped.

    Args:
        turns: All turns of a row.
        tools: The tools that the assistant may call.
        learn_turns: Whether only the last of the assistant turns that are not marked off is learned, or all of them.

    Raises:
        RowFault: No assistant turn is learned, no user turn stands before the last one, or a turn is empty.
    """
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    learned = [i for i in answers if turns[i].learned]
    if not answers:
        raise RowFault("no assistant turn")
    if not learned:
        raise RowFault("no assistant turn that is to be learned")
    *prompt, completion = turns[: learned[-1] + 1]
    if not any(turn.role == "user" for turn in prompt):
        raise RowFault("no user turn before the last assistant turn")
    if _is_empty(completion):
        raise RowFault("empty completion")
    if any(map(_is_empty, prompt)):
        raise RowFault("empty turn in the prompt")
    if learn_turns == "last":
        prompt = as_context(prompt)
    return Conversation((*prompt, completion), tools)


def as_context(turns: Sequence[Message]) -> list[Message]:
    """Returns turns of which none is learned."""
    return [replace(turn, learned=False) if turn.role == "assistant" else turn for turn in turns]


def _is_empty(turn: Message) -> bool:
    # A tool may return nothing; thoughts alone are no answer.
    return turn.role != "tool" and not turn.content.strip() and not turn.tool_calls
