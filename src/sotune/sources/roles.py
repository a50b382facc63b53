"""The names that files have for those who speak."""

from __future__ import annotations

from sotune.records import Role

ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "claude", "model", "bot", "chatbot", "ai"), "assistant"
    ),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
}
CALL_ROLES = ("function_call", "tool_call")
"""Speakers of turns that are calls of a tool and nothing else."""
