"""One record as a row of another tool, or the reason why that tool has no place for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sotune.records import Message, Record, as_turns

Row = dict[str, Any]

THOUGHTS = "thoughts apart from the answer"
TOOLS = "tools or tool calls"
ORDER = "turns that do not alternate between user and assistant"
SEVERAL = "more than one question and one answer"


class UnfitRow(Exception):  # noqa: N818 - it is no error: the row is left out and counted
    """The target has no place for something that a row holds; the message says what."""


def trl_row(record: Record) -> Row:
    """Returns a row of TRL: prompt and completion, each a list of turns."""
    turns = as_turns(record.messages)
    return {"prompt": turns[:-1], "completion": turns[-1:], **_tools(record)}


def axolotl_row(record: Record) -> Row:
    """Returns a row of Axolotl's chat_template type: ``train`` says which turns are learned."""
    marks = ({"train": message.role == "assistant" and message.learned} for message in record.messages)
    return {"messages": [{**turn, **mark} for turn, mark in zip(as_turns(record.messages), marks, strict=True)],
            **_tools(record)}  # fmt: skip


def openai_row(record: Record) -> Row:
    """Returns a row of OpenAI: ``weight`` of an assistant turn is 1 where it is learned, else 0."""
    _refuse(record, thoughts=True)
    return {"messages": list(_openai_turns(record)), **_tools(record)}


def fireworks_row(record: Record) -> Row:
    """Returns a row of Fireworks: as OpenAI's; ``weight`` 0 marks the turns that are not learned."""
    row = openai_row(record)
    for turn in row["messages"]:
        if turn.get("weight") == 1:
            del turn["weight"]
    return row


def together_row(record: Record) -> Row:
    """Returns a row of Together: user and assistant take turns, after one system turn at most."""
    _refuse(record, thoughts=True, tools=True)
    _check_order([message.role for message in record.messages])
    return {"messages": list(_openai_turns(record))}


def torchtune_row(record: Record) -> Row:
    """Returns a row of torchtune's chat_dataset in the style openai."""
    _refuse(record, thoughts=True, tools=True)
    _check_order([message.role for message in record.messages])
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in record.messages]}


def llamafactory_row(record: Record) -> Row:
    """Returns a row of LLaMA-Factory's sharegpt formatting, in OpenAI's names of keys."""
    _refuse(record, thoughts=True)
    turns = [_llamafactory_turn(message) for message in record.messages]
    speaks = {"observation": "user", "function_call": "assistant"}
    _check_order([speaks.get(turn["role"], turn["role"]) for turn in turns])
    return {"messages": turns, "tools": record.tools}


def hub_row(record: Record) -> Row:
    """Returns a row of a data set on the Hub: turns in one schema, with what is not text as JSON text."""
    return {"id": record.id, "messages": [_hub_turn(message) for message in record.messages], "tools": record.tools}


def csv_row(record: Record) -> Row:
    """Returns a row of a table: one question, one answer, and a system prompt."""
    _refuse(record, thoughts=True, tools=True)
    system = record.messages[0].content if record.messages[0].role == "system" else ""
    if [message.role for message in record.messages[bool(system) :]] != ["user", "assistant"]:
        raise UnfitRow(SEVERAL)
    return {"id": record.id, "system": system, "prompt": record.messages[-2].content, "completion": record.completion}


def _tools(record: Record) -> Row:
    return {"tools": json.loads(record.tools)} if record.tools else {}


def _refuse(record: Record, *, thoughts: bool = False, tools: bool = False) -> None:
    """Raises an UnfitRow where a row holds what the target has no place for."""
    if thoughts and any(message.reasoning for message in record.messages):
        raise UnfitRow(THOUGHTS)
    if tools and (record.tools or any(message.role == "tool" or message.tool_calls for message in record.messages)):
        raise UnfitRow(TOOLS)


def _check_order(roles: list[str]) -> None:
    """Raises an UnfitRow unless user and assistant alternate, after one system turn at most."""
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2) or not spoken:
        raise UnfitRow(ORDER)


def _openai_turns(record: Record) -> Iterator[Row]:
    """Yields turns in which each call has an id and its result names it, also where the row had none."""
    open_calls: list[str] = []
    n_calls = 0
    for message in record.messages:
        turn: Row = {"role": message.role, "content": message.content}
        if message.tool_calls:
            ids = [call.id or f"call_{n_calls + place}" for place, call in enumerate(message.tool_calls)]
            n_calls, open_calls = n_calls + len(ids), [*open_calls, *ids]
            turn["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for id, call in zip(ids, message.tool_calls, strict=True)
            ]
            turn["content"] = message.content or None
        if message.role == "tool":
            answered = message.tool_call_id or (open_calls[0] if open_calls else "call_0")
            open_calls = [id for id in open_calls if id != answered]
            turn["tool_call_id"] = answered
        if message.role == "assistant":
            turn["weight"] = int(message.learned)
        yield turn


def _llamafactory_turn(message: Message) -> Row:
    if message.role == "tool":
        return {"role": "observation", "content": message.content}
    if not message.tool_calls:
        return {"role": message.role, "content": message.content}
    if message.content:
        raise UnfitRow("text beside a tool call")
    calls: list[Mapping[str, Any]] = [
        {"name": call.name, "arguments": json.loads(call.arguments)} for call in message.tool_calls
    ]
    content = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)
    return {"role": "function_call", "content": content}


def _hub_turn(message: Message) -> Row:
    calls = as_turns([message])[0].get("tool_calls")
    return {
        "role": message.role,
        "content": message.content,
        "train": message.role == "assistant" and message.learned,
        "reasoning_content": message.reasoning,
        "tool_calls": json.dumps(calls, ensure_ascii=False) if calls else "",
        "tool_call_id": message.tool_call_id,
        "name": message.name,
    }
