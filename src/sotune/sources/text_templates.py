"""Conversations that were rendered to one text before they came here: the templates known, taken apart into turns."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sotune.records import Message, Role
from sotune.sources.rows import RowFault

ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "claude", "model", "bot", "chatbot", "ai"), "assistant"
    ),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
}
"""The names that files have for those who speak."""

_ALPACA_PREAMBLE = re.compile(
    r"Below is an instruction that describes a task(, paired with an input that provides further context)?\. "
    r"Write a response that appropriately completes the request\.$"
)


@dataclass(frozen=True, slots=True)
class _Template:
    """How one template marks the turns of a text.

    Attributes:
        mark: Begins a turn; the group ``who`` names the speaker.
        ends: Marks that may stand after a turn.
        preamble: How text begins that may stand before the first turn, as a system prompt; None: none may.
        in_words: Its marks are words, which a turn may hold as well: user and assistant must take turns.
    """

    mark: re.Pattern[str]
    ends: tuple[str, ...] = ("</s>", "<|endoftext|>")
    preamble: str | None = None
    in_words: bool = False


_TEMPLATES = (
    _Template(re.compile(r"<\|im_start\|>(?P<who>\w+)\n"), ("<|im_end|>", "<|endoftext|>")),
    _Template(
        re.compile(r"<\|start_header_id\|>(?P<who>\w+)<\|end_header_id\|>\n\n"),
        ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    ),
    _Template(re.compile(r"<start_of_turn>(?P<who>user|model)\n"), ("<end_of_turn>", "<eos>")),
    _Template(re.compile(r"<\|(?P<who>system|user|assistant)\|>\n?"), ("<|end|>", "</s>", "<|endoftext|>")),
    _Template(
        re.compile(r"(?:^|(?<=\n))### (?P<who>Instruction|Input|Response):[ \t]*\n"),
        ("</s>", "<|endoftext|>", "### End"),
        preamble="",
        in_words=True,
    ),
    _Template(re.compile(r"### (?P<who>System|User|Human|Assistant): ?\n?"), in_words=True),
    _Template(re.compile(r"(?:^|(?<=\n\n))(?P<who>Human|Assistant): ?"), in_words=True),
    _Template(
        re.compile(r"(?:^|(?<=\s)|(?<=</s>))(?P<who>USER|ASSISTANT): ?"), preamble="A chat between", in_words=True
    ),
)
_BEGINS = ("<|begin_of_text|>", "<bos>", "<s>")
_LLAMA_2_ASKED, _LLAMA_2_ANSWERED = "[INST]", "[/INST]"
_LLAMA_2_SYSTEM = ("<<SYS>>", "<</SYS>>")
_ROLES: dict[str, Role] = {**ROLES, "instruction": "user", "input": "user", "response": "assistant"}


def parse_text(text: str) -> list[Message] | None:
    """Returns the turns of a text in a known template; None where it is in none.

    Known are ChatML, Llama 3, Llama 2, Gemma, Zephyr and Phi, Alpaca's ``### Instruction:``, ``### Human:``,
    ``Human:`` as in hh-rlhf, and Vicuna's ``USER:``. Text before the first turn is a system prompt where the template
    has such; Alpaca's own standard sentence is left out, since the chat template takes its place.

    Raises:
        RowFault: Its speakers do not take turns, in a template whose marks may be a part of what is said.
    """
    bare = text.lstrip()
    for mark in _BEGINS:
        bare = bare.removeprefix(mark).lstrip()
    if bare.startswith(_LLAMA_2_ASKED):
        return _llama_2_turns(bare)
    found = [(marks, template) for template in _TEMPLATES if (marks := _marks(bare, template))]
    if not found:
        return None
    # One template's marks may stand quoted in a turn of another, whose own come first.
    marks, template = min(found, key=lambda pair: pair[0][0].start())
    turns = _turns(bare, marks, template)
    if template.in_words and not _alternate(turns):
        if turns[0].role != "user":
            return None
        raise RowFault("a text whose speakers do not take turns, the assistant last")
    return turns


def parse_open_text(text: str) -> list[Message] | None:
    """Returns the turns of a prompt in a known template that ends where the assistant is to speak; None: it is none."""
    turns = parse_text(text)
    if turns is None or turns[-1].role != "assistant" or turns[-1].content:
        return None
    return turns[:-1]


def _marks(text: str, template: _Template) -> list[re.Match[str]]:
    """Returns the marks of a text that is in the template; none where it is not."""
    marks = list(template.mark.finditer(text))
    roles = [_ROLES.get(mark["who"].lower()) for mark in marks]
    if None in roles or "user" not in roles or "assistant" not in roles:
        return []
    # Alpaca's input follows its instruction; elsewhere it is a heading in an answer.
    marks = [
        mark for i, mark in enumerate(marks) if mark["who"] != "Input" or (i and marks[i - 1]["who"] == "Instruction")
    ]
    may_begin = marks[0].start() == 0 or (template.preamble is not None and text.startswith(template.preamble))
    return marks if may_begin else []


def _turns(text: str, marks: list[re.Match[str]], template: _Template) -> list[Message]:
    before = text[: marks[0].start()].strip()
    turns = [] if not before or _ALPACA_PREAMBLE.match(before) else [Message("system", before)]
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=True):
        role = _ROLES[mark["who"].lower()]
        content = _without_end(text[mark.end() : end], template.ends)
        if mark["who"] == "Input":
            turns[-1] = Message("user", f"{turns[-1].content}\n\n{content}" if content else turns[-1].content)
        elif content or role != "system":
            turns.append(Message(role, content))
    return turns


def _alternate(turns: list[Message]) -> bool:
    roles = [turn.role for turn in turns if turn.role != "system"]
    return len(roles) % 2 == 0 and roles == ["user", "assistant"] * (len(roles) // 2)


def _without_end(content: str, ends: tuple[str, ...]) -> str:
    content = content.strip()
    for end in ends:
        content = content.removesuffix(end).rstrip()
    return content


def _llama_2_turns(text: str) -> list[Message] | None:
    turns: list[Message] = []
    for part in text.split(_LLAMA_2_ASKED)[1:]:
        asked, answered, answer = part.partition(_LLAMA_2_ANSWERED)
        if not answered:
            return None
        if not turns:
            system, asked = _llama_2_system(asked.strip())
            turns += [Message("system", system)] if system else []
        turns += [Message("user", asked.strip()), Message("assistant", _without_end(answer, ("<s>", "</s>")))]
    return turns


def _llama_2_system(asked: str) -> tuple[str, str]:
    begin, end = _LLAMA_2_SYSTEM
    if not asked.startswith(begin) or end not in asked:
        return "", asked
    system, _, asked = asked.removeprefix(begin).partition(end)
    return system.strip(), asked
