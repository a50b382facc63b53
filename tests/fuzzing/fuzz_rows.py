"""Rows of every layout, what they are spoilt with, and what is promised of each record that is read of them."""

import json

from sotune.records import as_turns, dump_messages, load_messages
from sotune.sources import SourceOptions

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}]
ROWS = [
    {"prompt": "hi", "completion": "hello", "id": "1"},
    {"messages": [{"role": "system", "content": "be kind"}, USER, ANSWER, USER, {**ANSWER, "reasoning_content": "hm"}]},
    {"messages": [USER, {**ANSWER, "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "3"}, ANSWER]},
    {"messages": [USER, {**ANSWER, "content": "<think>hm</think>hello"}], "tools": [TOOL]},
    {"conversations": SHAREGPT, "system": "be kind", "tools": json.dumps([TOOL])},
    {"conversation": json.dumps([USER, ANSWER])},
    {"chat": {"role": ["user", "assistant"], "content": ["hi", "hello"]}},
    {"prompt": "hi", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
    {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
    {"instruction": "hi", "input": "it", "output": "hello", "system": "be kind", "history": [["one", "two"]]},
    {"question": "hi", "context": "we met", "answers": {"text": ["hello"]}},
    {"text": "### Human: hi### Assistant: hello"},
    {"text": "<s>[INST] <<SYS>>be kind<</SYS>> hi [/INST] hello </s>"},
]
TEXTS = [
    "", " ", "x", "\n", "[", "{", "[[]]", "{}", "null", "NaN", '{"role": "user"}', '"\\ud800"', "[1e999]", "\u0000",
    "ﷺ", "tool", "function_call", "user", "system", "<tool_response>", "</tool_response>", "<think>", "</think>",
    "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "</s>", "<s>", "{{ 1/0 }}", "\n\nHuman: hi",
]  # fmt: skip
VALUES = [*TEXTS, None, True, 0, 1, -1, 0.5, [], {}, [None], [[]], {"role": None}, {"a": [1]}, 10**30, 1e308]
KEYS = [
    "role", "from", "content", "value", "weight", "train", "loss", "tools", "tool_calls", "function_call", "reasoning",
    "thinking", "history", "system", "chosen", "rejected", "messages", "text", "id", "name", "answers", "arguments",
]  # fmt: skip
OPTIONS = [
    SourceOptions(),
    SourceOptions(learn_turns="last"),
    SourceOptions(completion_column="rejected"),
    SourceOptions(prompt_column="prompt"),
    SourceOptions(conversation_column="messages"),
    SourceOptions(format="messages"),
    SourceOptions(format="preference"),
    SourceOptions(format="text"),
]


def check_record(record):
    """Checks what is promised of every record that is read."""
    last = record.messages[-1]
    assert (last.role, last.learned) == ("assistant", True)
    assert last.content.strip() or last.tool_calls
    assert load_messages(dump_messages(record.messages)) == record.messages
    assert all(isinstance(tool["function"], dict) for tool in json.loads(record.tools or "[]"))
    json.dumps(as_turns(record.messages), allow_nan=False, ensure_ascii=False).encode()
