"""The template of the paper (§4.1): ``Human: {prompt}; Assistant: {completion}``, further turns in the same form."""

from __future__ import annotations

from collections.abc import Sequence

from sotune.records import Message, Role

_SPEAKER: dict[Role, str] = {"system": "System", "user": "Human", "assistant": "Assistant", "tool": "Tool"}
_CUE = "Assistant:"

PAPER_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}; {% endif %}"
    "{{ {'system': 'System', 'user': 'Human', 'assistant': 'Assistant', 'tool': 'Tool'}[message['role']] }}"
    ": {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}; Assistant:{% endif %}"
)
"""The same as a chat template, without the beginning-of-sequence token that some tokenizers put before a text."""


def render_paper(messages: Sequence[Message], *, tools: str = "", cue: bool = False) -> str:
    """Renders turns as the paper does.

    Args:
        messages: The turns.
        tools: The JSON text of tool schemas, which stand before the first turn; empty: none.
        cue: Whether to end with the cue that asks for an answer.
    """
    turns = [f"{_SPEAKER[message.role]}: {message.text}" for message in messages]
    return "; ".join([*([f"Tools: {tools}"] if tools else []), *turns, *([_CUE] if cue else [])])
