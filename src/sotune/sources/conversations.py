"""Turns of a conversation, in OpenAI's or ShareGPT's keys, to a prompt and a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sotune.records import Message, Role
from sotune.sources.rows import RowFault, json_type

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "model": "assistant",
}
_TOOL_ROLES = ("tool", "function", "function_call", "observation")
_TOOL_KEYS = ("tool_calls", "function_call")


class Conversation(NamedTuple):
    """The turns of a row up to the last one that is learned, and the tools that the assistant may call.

    Attributes:
        messages: The turns; the last one is the assistant's and is learned.
        tools: The JSON text of a list of schemas; empty: none.
    """

    messages: tuple[Message, ...]
    tools: str = ""


def parse_turns(value: Any, column: str) -> list[Message]:
    """Returns the turns of a conversation column.

    A turn is ``role`` and ``content`` (text, or a list of text parts), or ``from`` and ``value``. A system turn
    without text says nothing and is left out.

    Raises:
        RowFault: The column holds no list of turns, or a turn is not plain text by a known speaker.
    """
    if not isinstance(value, list):
        raise RowFault(f"not a list of turns: {column} is {json_type(value)}")
    turns = [_parse_turn(turn, number) for number, turn in enumerate(value, start=1)]
    return [turn for turn in turns if turn.role != "system" or turn.content.strip()]


def to_conversation(turns: Sequence[Message], tools: str = "") -> Conversation:
    """Returns a conversation up to its last assistant turn; turns after that one answer nothing and are dropped.

    Raises:
        RowFault: There is no assistant turn, no user turn before it, or a turn is empty.
    """
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise RowFault("no assistant turn")
    *prompt, completion = turns[: answers[-1] + 1]
    if not any(turn.role == "user" for turn in prompt):
        raise RowFault("no user turn before the last assistant turn")
    if not completion.content.strip():
        raise RowFault("empty completion")
    if any(not turn.content.strip() for turn in prompt):
        raise RowFault("empty turn in the prompt")
    return Conversation((*prompt, completion), tools)


def _parse_turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise RowFault(f"not a turn: turn {number} is {json_type(turn)}")
    if "role" in turn or "content" in turn:
        speaker, content = turn.get("role"), turn.get("content")
    else:
        speaker, content = turn.get("from"), turn.get("value")
    role = _role(speaker, number)
    if any(turn.get(key) for key in _TOOL_KEYS):
        raise RowFault(f"a tool call, which is not plain text: turn {number}")
    return Message(role, _text(content, number))


def _role(speaker: Any, number: int) -> Role:
    name = speaker.strip().lower() if isinstance(speaker, str) else ""
    if name in _ROLES:
        return _ROLES[name]
    # The name itself comes from the row, and is shown only when it is one of those known.
    if name in _TOOL_ROLES:
        raise RowFault(f"a {name} turn, which is not plain text: turn {number}")
    raise RowFault(f"a turn without a known speaker: turn {number}")


def _text(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowFault(f"a turn whose content is not text: turn {number} has {json_type(content)}")
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) != len(content):
        raise RowFault(f"a part of a turn is not text: turn {number}")
    return "".join(texts)
