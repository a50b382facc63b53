"""Calls of tools, their results and the schemas of the tools, as OpenAI, ShareGPT and Hermes write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotune.records import ToolCall
from sotune.sources.json_text import read_json_text, without_nulls, write_json_text
from sotune.sources.rows import RowFault, json_type

_HERMES_RESULT = ("<tool_response>", "</tool_response>")
_LITERAL_KEYS = ("default", "const", "enum", "examples", "example")
"""Keys of a schema whose values are data, in which null is a value like any other."""


def calls_of_turn(turn: Mapping[str, Any], number: int) -> tuple[ToolCall, ...]:
    """Returns the calls of an assistant turn: OpenAI's ``tool_calls``, or its older ``function_call``.

    Raises:
        RowFault: One cannot be read.
    """
    calls = turn.get("tool_calls")
    if not calls:
        calls = turn.get("function_call")
    return _calls(calls, number) if calls else ()


def calls_of_text(content: Any, number: int) -> tuple[ToolCall, ...]:
    """Returns the calls that are all that a ``function_call`` turn says: one, or a list of several.

    Raises:
        RowFault: There is none, or one cannot be read.
    """
    if not content:
        raise RowFault(f"a tool call without a name: turn {number}")
    return _calls(content, number)


def results_of_text(content: Any, number: int) -> list[str]:
    """Returns the results that a tool turn holds: one, or several in Hermes' ``<tool_response>`` tags.

    The tags are taken off, since chat templates write their own. A result that is not text becomes JSON text.
    """
    if content is None:
        return [""]
    if not isinstance(content, str):
        return [write_json_text(without_nulls(content))]
    begin, end = _HERMES_RESULT
    *results, rest = content.split(end)
    if not results or rest.strip() or not all(result.lstrip().startswith(begin) for result in results):
        return [content]
    return [result.lstrip().removeprefix(begin).strip("\n") for result in results]


def parse_tools(value: Any, column: str) -> str:
    """Returns the tools that the assistant may call, as the JSON text of a list of schemas; empty: none.

    Args:
        value: A list of schemas, or its JSON text. A schema without its envelope is put into one.
        column: Where it stands, for the reason.

    Raises:
        RowFault: It is neither.
    """
    if isinstance(value, str):
        value = read_json_text(value, column) if value.strip() else None
        schemas = value
    else:
        schemas = _without_filling(value)
    if not schemas:
        return ""
    if isinstance(schemas, dict):
        schemas = [schemas]
    if not isinstance(schemas, list):
        raise RowFault(f"not a list of tools: {column} is {json_type(value)}")
    return write_json_text([_in_envelope(schema, column) for schema in schemas])


def _in_envelope(schema: Any, column: str) -> dict[str, Any]:
    if isinstance(schema, str):
        schema = read_json_text(schema, column)
    if not isinstance(schema, dict):
        raise RowFault(f"not a list of tools: {column} holds {json_type(schema)}")
    if isinstance(schema.get("function"), dict):
        return schema
    if not isinstance(schema.get("name"), str):
        raise RowFault(f"a tool without a name: {column}")
    return {"type": "function", "function": schema}


def _without_filling(value: Any) -> Any:
    """Returns schemas without the null keys with which tables fill them up."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None or key == "const"}
        return {key: item if key in _LITERAL_KEYS else _without_filling(item) for key, item in kept.items()}
    return [_without_filling(item) for item in value] if isinstance(value, list) else value


def _calls(value: Any, number: int) -> tuple[ToolCall, ...]:
    if isinstance(value, str):
        value = read_json_text(value, f"the tool call of turn {number}")
    calls = value if isinstance(value, list) else [value]
    read = tuple(_call(call, number) for call in calls if call is not None)
    if not read:
        raise RowFault(f"a tool call without a name: turn {number}")
    return read


def _call(call: Any, number: int) -> ToolCall:
    if isinstance(call, str):
        call = read_json_text(call, f"the tool call of turn {number}")
    if not isinstance(call, dict):
        raise RowFault(f"a tool call that is not an object: turn {number} has {json_type(call)}")
    inner = call.get("function")
    function = inner if isinstance(inner, dict) else call
    name = function.get("name") or (inner if isinstance(inner, str) else None)
    if not isinstance(name, str) or not name.strip():
        raise RowFault(f"a tool call without a name: turn {number}")
    arguments = function.get("arguments")
    given = function.get("parameters") if arguments is None else arguments
    own_id = call.get("id")
    return ToolCall(name, _arguments(given, number), "" if own_id is None else str(own_id))


def _arguments(given: Any, number: int) -> str:
    """Returns arguments as the JSON text of an object; none at all are an empty one.

    Null keys of an object are dropped, as a table may have filled them in; those of JSON text are meant.
    """
    if given is None or (isinstance(given, str) and not given.strip()):
        return "{}"
    value = read_json_text(given, f"the arguments of a tool call in turn {number}") if isinstance(given, str) else given
    if not isinstance(value, dict):
        raise RowFault(f"tool arguments that are not an object: turn {number} has {json_type(value)}")
    return write_json_text(value if isinstance(given, str) else without_nulls(value))
