"""What a model thinks before it answers, told apart from the answer, in the marks that model families write.

A mark may be a tag (``<think>``, DeepSeek-R1, Qwen3), a bracket (``[THINK]``, Magistral) or a channel (gpt-oss, whose
special tokens are often lost in decoding, and Gemma 4). Many chat templates write the opening mark into the prompt, so
that the text holds the closing one alone.
"""

from __future__ import annotations

import re

_NAME = r"(?:think|thinking|thoughts?|reasoning|seed:think)"
_CHANNEL = r"<\|channel\|>{}[^<>\n]{{0,80}}<\|message\|>"
_OPENING = (
    rf"<{_NAME}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>|<\|channel>\s*thought|"
    rf"{_CHANNEL.format('(?:analysis|commentary)')}"
)
_CLOSING = (
    rf"</{_NAME}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<channel\|>|{_CHANNEL.format('final')}"
)
# A mark in quotes or code is spoken of, not used.
_MARK = re.compile(rf"(?<![`'\"])(?:({_OPENING})|(?:{_CLOSING}))(?![`'\"])", re.IGNORECASE)
_OPENED = re.compile(rf"(?:{_OPENING})\s*\Z", re.IGNORECASE)
_SPOKEN = (  # words that stand for marks, at the start of the text alone
    (re.compile(r"\s*(?:analysis|commentary)(?=[A-Z])"), re.compile(r"assistantfinal")),  # gpt-oss without its tokens
    (re.compile(r"\s*here(?: is|'s) my thought process:", re.I), re.compile(r"here(?: is|'s) my response:", re.I)),
)
_FINAL_ALONE = re.compile(r"\s*final(?=[A-Z\"*#])")
_WRAPPED = re.compile(
    r"(?:<(answer|output|response)>|<\|(?:begin_of_solution|START_RESPONSE)\|>)((?:(?!</\1>).)*)(?:</\1>)?",
    re.DOTALL | re.IGNORECASE,
)
_END_OF_TURN = re.compile(r"(?:<[|｜][\w▁]{1,40}[|｜]>|</s>|<eos>|<end_of_turn>)\Z")
_LONGEST_END = 48  # characters
_MARK_TOKENS = re.compile(rf"{_OPENING}|{_CLOSING}|<\|channel>|<\|(?:channel|message|start|end)\|>", re.IGNORECASE)


def answer_after_thoughts(text: str) -> str | None:
    """Returns a text without its thoughts; None where they do not end, so that there is no answer.

    An opening mark begins thoughts, a closing one without it ends thoughts that began with the text. Thoughts further
    on are left out too. End-of-turn tokens and a tag around the whole answer are no part of it either. A text that
    holds no thoughts is returned without such.
    """
    plain = _with_marks(text)
    kept: list[str] = []
    place, inside, ended = 0, False, False
    marks = list(_MARK.finditer(plain))
    if marks and not _thinks(plain, marks):
        marks = []
    for mark in marks:
        if mark[1] is None:
            if not inside and not ended:
                kept.clear()  # the opening mark stands in the prompt
            elif not inside:
                kept.append(plain[place : mark.start()])
            place, inside, ended = mark.end(), False, True
        elif not inside:
            kept.append(plain[place : mark.start()])
            inside = True
    return None if inside else _unwrapped("".join([*kept, plain[place:]]))


def opening_mark(prompt: str) -> str:
    """Returns the opening mark at the end of a rendered prompt, which belongs in front of the answer; else nothing."""
    found = _OPENED.search(prompt[-200:])
    return found.group() if found else ""


def is_mark(token: str) -> bool:
    """Tells whether a special token marks thoughts, or a part of them, so that decoding must keep it."""
    return _MARK_TOKENS.fullmatch(token) is not None


def _thinks(text: str, marks: list[re.Match[str]]) -> bool:
    """Tells whether marks are used: an opening one in front, or a closing one anywhere."""
    return any(mark[1] is None for mark in marks) or not text[: marks[0].start()].strip()


def _with_marks(text: str) -> str:
    """Writes words that stand for marks as marks."""
    for opening, closing in _SPOKEN:
        if found := opening.match(text):
            return f"<think>{closing.sub('</think>', text[found.end() :], count=1)}"
    found = _FINAL_ALONE.match(text)
    return text[found.end() :] if found else text


def _unwrapped(answer: str) -> str:
    text = answer.strip()
    while end := _END_OF_TURN.search(text[-_LONGEST_END:]):
        text = text[: len(text) - len(end.group())].rstrip()
    wrapped = _WRAPPED.fullmatch(text)
    return wrapped[2].strip() if wrapped else text
