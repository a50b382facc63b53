"""What the turns of a row amount to: where the conversation begins and ends, and which of its turns are learned.

Rows may hold their prompt more than once: in an answer that is a whole conversation, in a chosen and a rejected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sotune.records import Message
from sotune.settings import LearnTurns
from sotune.sources.rows import RowFault, shown


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


def join_turns(prompt: Sequence[Message], answer: Sequence[Message], column: str) -> list[Message]:
    """Returns a prompt with the turns that answer it, of which the leading ones may repeat the prompt.

    An answer that begins with a system or a user turn is a whole conversation, so that it must repeat the prompt's
    turns; it may have a system turn that the prompt lacks, or lack the prompt's.

    Args:
        prompt: The turns of the prompt.
        answer: The turns of the answer.
        column: Where the answer stands, for the reason.

    Raises:
        RowFault: A whole conversation begins otherwise than the prompt, or ends with it.
    """
    if not answer or answer[0].role in ("assistant", "tool"):
        return [*prompt, *answer]
    asked, told = _without_system(prompt), _without_system(answer)
    systems = [list(turns[: len(turns) - len(rest)]) for turns, rest in ((prompt, asked), (answer, told))]
    if n_shared(asked, told) < len(asked) or (all(systems) and n_shared(*systems) < max(map(len, systems))):
        raise RowFault(f"the conversation in {shown(column)} begins otherwise than the prompt")
    if len(told) <= len(asked):
        raise RowFault(f"the conversation in {shown(column)} adds nothing to the prompt")
    return [*(systems[0] or systems[1]), *asked, *told[len(asked) :]]


def learn_what_differs(turns: Sequence[Message], other: Sequence[Message]) -> list[Message]:
    """Returns the turns of one answer of a pair; those that the other shares, as far as both agree, are not learned.

    The last assistant turn is learned in any case.
    """
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=0)
    n = min(n_shared(turns, other), last) if other else last
    return [*as_context(turns[:n]), *turns[n:]]


def n_shared(left: Sequence[Message], right: Sequence[Message]) -> int:
    """Returns how many leading turns two conversations have in common."""
    n = 0
    for one, two in zip(left, right, strict=False):
        if (one.role, one.content.strip(), one.tool_calls) != (two.role, two.content.strip(), two.tool_calls):
            break
        n += 1
    return n


def _without_system(turns: Sequence[Message]) -> list[Message]:
    n = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return list(turns[n:])
