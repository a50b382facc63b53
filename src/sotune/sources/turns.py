"""A column with a conversation to turns, in the keys and for the speakers that tools write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sotune.records import Message, Role
from sotune.sources.json_text import read_json_text
from sotune.sources.rows import RowFault, json_type
from sotune.sources.text_templates import ROLES, parse_text
from sotune.sources.tool_calls import calls_of_text, calls_of_turn, results_of_text

_CALL_ROLES = ("function_call", "tool_call")
"""Speakers of turns that are calls of a tool and nothing else."""
_NAMES = {*ROLES, *_CALL_ROLES}
_SPEAKERS = ("role", "from", "speaker", "author")
_TEXTS = ("content", "value", "text")
_PAIRS = (("human", "assistant"), ("user", "assistant"), ("human", "bot"), ("input", "output"), ("prompt", "response"))
"""Keys of an entry that holds a question and its answer."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_THOUGHT_PARTS = ("thinking", "reasoning")
_TEXT_PARTS = ("text", "input_text", "output_text", None)
_MARKS = ("weight", "train", "training", "trainable", "loss", "output_with_loss")
"""Keys that say whether a turn is learned: OpenAI's, Mistral's and Axolotl's, Fireworks', ms-swift's, XTuner's."""
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_PARTIAL_MARKS = ("train_detail", "training_detail")


def parse_turns(value: Any, column: str) -> list[Message]:
    """Returns the turns of a conversation column.

    The column holds a list of turns, the JSON text of one, one list for each key, a single turn, or a text in a known
    template. A turn is ``role`` and ``content`` (text, or a list of text parts), ``from`` and ``value``, or the like;
    or an entry is a question with its answer. A key whose value is null is as good as absent. A system turn without
    text says nothing and is left out.

    Raises:
        RowFault: The column holds no turns, or one is not by a known speaker or says nothing that can be read.
    """
    if isinstance(value, str):
        rendered = parse_text(value)
        if rendered is not None:
            return rendered
    messages = [
        message for number, turn in enumerate(_entries(value, column), start=1) for message in _messages(turn, number)
    ]
    return [message for message in messages if message.role != "system" or message.content.strip()]


def holds_turns(value: Any, *, pairs: bool = False) -> bool:
    """Tells whether a value is unmistakably a conversation: turns by known speakers, or JSON text of them.

    Args:
        value: What a column holds.
        pairs: Whether entries that hold a question with its answer count.
    """
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return False
    try:
        entries = _entries(value, "")
    except RowFault:
        return False
    return bool(entries) and all(isinstance(entry, dict) and _is_turn(entry, pairs=pairs) for entry in entries)


def tools_of_turns(value: Any) -> Any:
    """Returns the schemas that a turn of a conversation carries itself; None: none does."""
    try:
        entries = _entries(value, "")
    except RowFault:
        return None
    return next((entry["tools"] for entry in entries if isinstance(entry, dict) and entry.get("tools")), None)


def _is_turn(entry: Mapping[str, Any], *, pairs: bool) -> bool:
    speaker = _first(entry, _SPEAKERS)
    return _name(speaker) in _NAMES or (pairs and speaker is None and _pair(entry) is not None)


def _entries(value: Any, column: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = read_json_text(value, column)
    if isinstance(value, dict):
        return _of_columns(value, column) if isinstance(_first(value, _SPEAKERS), list) else [value]
    if not isinstance(value, list):
        raise RowFault(f"not a list of turns: {column} is {json_type(value)}")
    return value


def _of_columns(value: Mapping[str, Any], column: str) -> list[Any]:
    """Turns one list for each key into one entry for each turn."""
    filled = {key: items for key, items in value.items() if items is not None}
    if not all(isinstance(items, list) for items in filled.values()) or len({*map(len, filled.values())}) > 1:
        raise RowFault(f"the keys of turns have unequally many values: {column}")
    return [dict(zip(filled, items, strict=True)) for items in zip(*filled.values(), strict=True)]


def _messages(turn: Any, number: int) -> list[Message]:
    if not isinstance(turn, dict):
        raise RowFault(f"not a turn: turn {number} is {json_type(turn)}")
    if any(turn.get(key) for key in _MEDIA):
        raise RowFault(f"a turn with images or sound: turn {number}")
    speaker, content = _first(turn, _SPEAKERS), _first(turn, _TEXTS)
    pair = _pair(turn) if speaker is None else None
    if pair is not None:
        system = turn.get("system")
        return [
            *([] if system is None else [_said("system", system, number)]),
            Message("user", turn[pair[0]]),
            Message("assistant", turn[pair[1]], learned=_is_learned(turn, number)),
        ]
    name = _name(speaker)
    if name in _CALL_ROLES:
        return [Message("assistant", "", _is_learned(turn, number), tool_calls=calls_of_text(content, number))]
    # The name itself comes from the row, and is never shown.
    role = ROLES.get(name)
    if role is None:
        raise RowFault(f"a turn without a known speaker: turn {number}")
    if role == "tool":
        return _results(turn, content, number)
    return [_assistant(turn, content, number) if role == "assistant" else _said(role, content, number)]


def _said(role: Role, content: Any, number: int) -> Message:
    return Message(role, "" if content is None and role == "system" else _text(content, number))


def _assistant(turn: Mapping[str, Any], content: Any, number: int) -> Message:
    calls = calls_of_turn(turn, number)
    thoughts = _first(turn, _THOUGHTS)
    if isinstance(content, list):
        inner = [part for part in content if _is_thought(part)]
        content = [part for part in content if not _is_thought(part)]
        thoughts = [_first(part, (*_THOUGHT_PARTS, "text")) for part in inner] or thoughts
    return Message(
        "assistant",
        "" if content is None and calls else _text(content, number),
        learned=_is_learned(turn, number),
        reasoning="" if thoughts is None else _thoughts(thoughts, number),
        tool_calls=calls,
    )


def _results(turn: Mapping[str, Any], content: Any, number: int) -> list[Message]:
    if isinstance(content, list) and content and all(isinstance(part, dict) and "text" in part for part in content):
        content = _text(content, number)
    call_id, name = (turn.get(key) for key in ("tool_call_id", "name"))
    call_id, name = ("" if value is None else str(value) for value in (call_id, name))
    return [Message("tool", result, tool_call_id=call_id, name=name) for result in results_of_text(content, number)]


def _is_learned(turn: Mapping[str, Any], number: int) -> bool:
    marks = {key: turn[key] for key in _MARKS if turn.get(key) is not None}
    for key, value in marks.items():
        if not isinstance(value, int | float) or value not in (0, 1):
            raise RowFault(f"a turn's {key} is neither 0 nor 1: turn {number}")
    if any(turn.get(key) for key in _PARTIAL_MARKS):
        raise RowFault(f"a turn of which only a part is to be learned: turn {number}")
    return all(marks.values())


def _name(speaker: Any) -> str:
    return speaker.strip().lower() if isinstance(speaker, str) else ""


def _first(turn: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Returns the value of the first of the keys that says something, or at least is not null; None: none is."""
    given = [turn[key] for key in keys if turn.get(key) is not None]
    return next((value for value in given if not isinstance(value, str) or value.strip()), given[0] if given else None)


def _pair(turn: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if all(isinstance(turn.get(key), str) for key in pair)), None)


def _is_thought(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _THOUGHT_PARTS


def _thoughts(thoughts: Any, number: int) -> str:
    if isinstance(thoughts, str):
        return thoughts if thoughts.strip() else ""
    items = thoughts if isinstance(thoughts, list) else [thoughts]
    parts = [part for item in items for part in (item if isinstance(item, list) else [item])]
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) != len(found):
        raise RowFault(f"thoughts that are not text: turn {number}")
    return "".join(texts)


def _text(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowFault(f"a turn whose content is not text: turn {number} has {json_type(content)}")
    parts = [
        part.get("text") if isinstance(part, dict) and part.get("type") in _TEXT_PARTS else None for part in content
    ]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) != len(content):
        raise RowFault(f"a part of a turn is not text: turn {number}")
    return "".join(texts)
