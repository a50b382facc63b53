"""Conversations that every family is tried with."""

from __future__ import annotations

import json

from sotune.records import Message, Record, ToolCall

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather in a city.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string"},
                        "days": {"type": "integer"},
                    },
                    "required": ["city"],
                },
            },
        }
    ]
)


def user(content: str) -> Message:
    return Message("user", content)


def system(content: str) -> Message:
    return Message("system", content)


def assistant(content: str, *calls: ToolCall, learned: bool = True, reasoning: str = "") -> Message:
    return Message("assistant", content, learned=learned, reasoning=reasoning, tool_calls=calls)


def result(content: str, id: str) -> Message:
    return Message("tool", content, tool_call_id=id, name="weather")


def weather(city: str, id: str) -> ToolCall:
    return ToolCall("weather", json.dumps({"city": city}), id)


CONVERSATIONS = {
    "single": [user(QUESTION), assistant(ANSWER)],
    "system": [system("Answer briefly."), user(QUESTION), assistant(ANSWER)],
    "empty_system": [system(""), user(QUESTION), assistant(ANSWER)],
    "turns": [
        system("Answer briefly."),
        user("Good morning!"), assistant("Good morning."),
        user(QUESTION), assistant(ANSWER),
        user("And of Norway?"), assistant("Oslo."),
    ],
    "not_learned": [
        user("Good morning!"), assistant("Good morning."),
        user(QUESTION), assistant("Rome.", learned=False),
        user("No, of France."), assistant("Paris."),
    ],
    "repeats": [
        user("Paris"), assistant("Paris"),
        user("Paris"), assistant("Paris", learned=False),
        user("assistant"), assistant("assistant"),
    ],
    "two_users": [user("Good morning!"), user(QUESTION), assistant(ANSWER)],
    "tool": [
        system("Answer briefly."),
        user("How warm is Oslo?"), assistant("", weather("Oslo", "call00001")),
        result('{"degrees": 4}', "call00001"), assistant("It is 4 degrees."),
    ],
    "tool_last": [user("How warm is Oslo?"), assistant("", weather("Oslo", "call00001"))],
    "two_calls": [
        user("Is Rome warmer than Oslo?"),
        assistant("I look.", weather("Oslo", "call00001"), weather("Rome", "call00002")),
        result("4", "call00001"), result("21", "call00002"), assistant("Yes, by 17 degrees."),
    ],
    "long_id": [
        user("How warm is Oslo?"), assistant("", weather("Oslo", "call_a8f5f167f44f")),
        result("4", "call_a8f5f167f44f"), assistant("It is 4 degrees."),
    ],
    "thought_inline": [user("What is 2 plus 2?"), assistant("<think>\nTwice 2.\n</think>\n\nIt is 4.")],
    "thought_field": [user("What is 2 plus 2?"), assistant("It is 4.", reasoning="Twice 2.")],
    "thoughts": [
        user("What is 2 plus 2?"), assistant("<think>\nTwice 2.\n</think>\n\nIt is 4."),
        user("Plus 1?"), assistant("<think>\n4 and 1.\n</think>\n\nIt is 5."),
    ],
    "thought_and_call": [
        user("How warm is Oslo?"), assistant("", weather("Oslo", "call00001"), reasoning="I must look."),
        result("4", "call00001"), assistant("It is 4 degrees.", reasoning="So 4."),
    ],
    "tool_turns": [
        system("Answer briefly."),
        user("How warm is Oslo?"), assistant("", weather("Oslo", "call00001"), reasoning="I must look."),
        result("4", "call00001"), assistant("It is 4 degrees.", reasoning="So 4."),
        user("Is that cold?"), assistant("Rather.", reasoning="It is."),
    ],
    "unicode": [
        user("Ça va? 你好 مرحبا 👩‍👩‍👧"), assistant("Été, naïve: {{ x }} {% y %} 🇳🇴 été 💚"),
    ],
    "spaces": [user("  Good morning! \n"), assistant(" \tGood morning. \n ")],
    "newline_first": [user(QUESTION), assistant("\nParis.")],
    "code": [user("Code?"), assistant("```python\nprint(1)\n\n\n```\n")],
    "empty_user": [user(""), assistant(ANSWER)],
}  # fmt: skip


def build_record(name: str) -> Record:
    """Returns a conversation as a record."""
    messages = tuple(CONVERSATIONS[name])
    tools = TOOLS if any(message.tool_calls for message in messages) else ""
    return Record(name, messages, tools)
