import json

import pytest
from conversing import ANSWER, USER, fault, read, read_turns, turn_fault
from reading import load, write_jsonl

from sotune.records import Message, ToolCall, as_turns

SCHEMA = {
    "name": "add",
    "description": "Ädds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
}
TOOL = {"type": "function", "function": SCHEMA}
CALL = ToolCall("add", '{"a": 1, "b": "ö"}')


def function(arguments, **more):
    return {**more, "type": "function", "function": {"name": "add", "arguments": arguments}}


def calling(*calls, content=None, **more):
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


@pytest.mark.parametrize(
    ("turn", "calls"),
    [
        (calling(function('{"a":1,"b":"ö"}', id="c1")), (ToolCall(CALL.name, CALL.arguments, "c1"),)),
        (calling(function('{"a": 1, "b": "\\u00f6"}')), (CALL,)),
        (calling(function({"a": 1, "b": "ö", "c": None}, id=None)), (CALL,)),
        (calling(function('{"a": null}')), (ToolCall("add", '{"a": null}'),)),
        (calling(function({}), function(None), function("")), (ToolCall("add", "{}"),) * 3),
        (calling({"name": "add", "arguments": {"a": 1, "b": "ö"}, "function": None}), (CALL,)),
        (calling({"name": "add", "parameters": {"a": 1, "b": "ö"}}, None), (CALL,)),
        ({**calling(), "tool_calls": json.dumps([function({"a": 1, "b": "ö"})])}, (CALL,)),
        ({**ANSWER, "content": None, "function_call": {"name": "add", "arguments": '{"a":1,"b":"ö"}'}}, (CALL,)),
        ({"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": "ö"}}'}, (CALL,)),
        ({"from": "function_call", "value": json.dumps([function({"a": 1, "b": "ö"})["function"]] * 2)}, (CALL, CALL)),
    ],
)
def test_calls_are_read_in_any_of_their_forms(tmp_path, turn, calls):
    assert read_turns(tmp_path, [USER, turn]) == (
        Message("user", "hi"),
        Message("assistant", "", tool_calls=calls),
    )


def test_a_whole_exchange_is_read_and_written_again_as_it_was(tmp_path):
    turns = [
        USER,
        calling(function({"a": 1}, id="c1"), function({"a": 2}, id="c2"), content="Two at once."),
        {"role": "tool", "content": '{"sum": 1}', "tool_call_id": "c1", "name": "add"},
        {"role": "tool", "content": "", "tool_call_id": "c2"},
        ANSWER,
        USER,
    ]
    record = read(tmp_path, {"messages": turns, "tools": [TOOL]})
    assert as_turns(record.messages) == turns[:-1]
    assert (json.loads(record.tools), record.learned) == ([TOOL], (1, 4))


@pytest.mark.parametrize(
    ("turn", "results"),
    [
        ({"role": "tool", "content": "3", "tool_call_id": 7}, [Message("tool", "3", tool_call_id="7")]),
        ({"role": "function", "content": "3", "name": "add"}, [Message("tool", "3", name="add")]),
        ({"from": "observation", "value": "3"}, [Message("tool", "3")]),
        ({"role": "ipython", "content": None}, [Message("tool", "")]),
        ({"role": "tool", "content": {"sum": 3, "more": None}}, [Message("tool", '{"sum": 3}')]),
        ({"role": "tool", "content": [1, 2]}, [Message("tool", "[1, 2]")]),
        ({"role": "tool", "content": [{"type": "text", "text": "3"}]}, [Message("tool", "3")]),
        ({"role": "tool", "content": "<tool_response>\n3\n</tool_response>"}, [Message("tool", "3")]),
        (
            {"from": "tool", "value": "<tool_response>3</tool_response>\n<tool_response>4</tool_response>\n"},
            [Message("tool", "3"), Message("tool", "4")],
        ),
        (
            {"from": "tool", "value": "it was <tool_response>3</tool_response>"},
            [Message("tool", "it was <tool_response>3</tool_response>")],
        ),
    ],
)
def test_results_are_read_in_any_of_their_forms(tmp_path, turn, results):
    turns = read_turns(tmp_path, [USER, calling(function({})), turn, ANSWER])
    assert list(turns[2:-1]) == results


@pytest.mark.parametrize(
    "columns",
    [
        {"tools": [TOOL]},
        {"tools": [SCHEMA]},
        {"tools": TOOL},
        {"tools": json.dumps([TOOL])},
        {"tools": json.dumps([SCHEMA])},
        {"tools": [json.dumps(TOOL)]},
        {"functions": [SCHEMA], "tools": None},
        {"messages": [{"role": "system", "content": "be kind", "tools": [TOOL]}, USER, ANSWER]},
    ],
)
def test_schemas_are_read_in_any_of_their_forms(tmp_path, columns):
    record = read(tmp_path, {"messages": [USER, ANSWER], **columns})
    assert record.tools == json.dumps([TOOL], ensure_ascii=False)


@pytest.mark.parametrize("tools", [None, "", "[]", [], " "])
def test_no_tools_are_none(tmp_path, tools):
    rows = [{"messages": [USER, ANSWER], "tools": value} for value in ([TOOL], tools)]
    assert [bool(record.tools) for record in load(write_jsonl(tmp_path / "a.jsonl", *rows)).records] == [True, False]


@pytest.mark.parametrize("tools", [["calculator"], "calculator", 3, {"a": 1}])
def test_a_column_of_that_name_without_schemas_is_left_alone(tmp_path, tools):
    assert read(tmp_path, {"messages": [USER, ANSWER], "tools": tools}).tools == ""


def test_nulls_with_which_a_table_fills_schemas_are_dropped_and_those_that_are_meant_kept(tmp_path):
    properties = {"a": {"type": "number", "default": None, "enum": [1, None]}, "b": None}
    filled = {
        "type": "function",
        "function": {"name": "add", "description": None, "parameters": {"properties": properties}},
    }
    record = read(tmp_path, {"messages": [USER, ANSWER], "tools": [filled]})
    (tool,) = json.loads(record.tools)
    assert tool["function"] == {
        "name": "add",
        "parameters": {"properties": {"a": {"type": "number", "enum": [1, None]}}},
    }


def test_what_hermes_rendered_already_is_not_told_twice(tmp_path):
    system = {"role": "system", "content": f"You may call <tools>{json.dumps(SCHEMA)}</tools>"}
    call = {"role": "assistant", "content": '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'}
    row = {"messages": [system, USER, call], "tools": json.dumps([TOOL])}
    record = read(tmp_path, row)
    assert (record.tools, record.completion) == ("", call["content"])


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (calling(function("{broken")), "not JSON: the arguments of a tool call in turn 2"),
        (calling(function("[1]")), "tool arguments that are not an object: turn 2 has a list"),
        (calling(function('"{}"')), "tool arguments that are not an object: turn 2 has text"),
        (calling(function(3)), "tool arguments that are not an object: turn 2 has a number"),
        (calling(function('{"a": NaN}')), ""),
        (calling(function('{"a": "\\ud800"}')), "text that is not Unicode"),
        (calling(function('{"a":' + "[" * 9000 + "]" * 9000 + "}")), ""),
        (calling({"type": "function"}), "a tool call without a name: turn 2"),
        (calling({"function": {"name": " ", "arguments": {}}}), "a tool call without a name: turn 2"),
        (calling(7), "a tool call that is not an object: turn 2 has a number"),
        (calling(None), "a tool call without a name: turn 2"),
        (calling(), "a turn whose content is not text: turn 2 has null"),
        ({"from": "function_call", "value": "add(1)"}, "not JSON: the tool call of turn 2"),
        ({"from": "function_call", "value": None}, "a tool call without a name: turn 2"),
    ],
)
def test_a_call_that_cannot_be_read_is_quarantined(tmp_path, turn, reason):
    assert turn_fault(tmp_path, [USER, turn]).startswith(reason)


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("[broken", "not JSON: tools"),
        ([{"description": "nameless"}], "a tool without a name: tools"),
        ([3], "not a list of tools: tools holds a number"),
        (3, "not a list of tools: tools is a number"),
    ],
)
def test_tools_that_cannot_be_read_are_quarantined(tmp_path, tools, reason):
    good = {"messages": [USER, ANSWER], "tools": [TOOL]}
    assert fault(tmp_path, good, {**good, "tools": tools}).startswith(reason)
