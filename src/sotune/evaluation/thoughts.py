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
_MARK = re.compile(rf"({_OPENING})|(?:{_CLOSING})", re.IGNORECASE)
_QUOTES = {"`", "'", '"'}
_OPENED = re.compile(rf"(?:{_OPENING})\s*\Z", re.IGNORECASE)
_SPOKEN = (  # words that stand for marks, at the start of the text alone
    (re.compile(r"\s*(?:analysis|commentary)(?=[A-Z])"), re.compile(r"assistantfinal")),  # gpt-oss without its tokens
    (  # Granite; other models begin so too and go on without a response
        re.compile(r"\s*here(?: is|'s) my thought process:(?=.*here(?: is|'s) my response:)", re.DOTALL | re.I),
        re.compile(r"here(?: is|'s) my response:", re.I),
    ),
)
_FINAL_ALONE = re.compile(r"\s*final(?=[A-Z\"*#])")
_WRAPPED = re.compile(
    r"(?:<(answer|output|response)>|<\|(?:begin_of_solution|START_RESPONSE)\|>)((?:(?!</\1>).)*)(?:</\1>)?",
    re.DOTALL | re.IGNORECASE,
)
_END_OF_TURN = re.compile(r"(?:<[|｜][\w▁]{1,40}[|｜]>|</s>|<eos>|<end_of_turn>)\s{0,4}\Z")
_LONGEST_END = 48  # characters
_MARK_TOKENS = re.compile(rf"{_OPENING}|{_CLOSING}|<\|channel>|<\|(?:channel|message|start|end)\|>", re.IGNORECASE)


def answer_after_thoughts(text: str) -> str | None:
    """Returns a text without its thoughts, those further on too; None where no answer follows a mark of theirs.

    An opening mark begins thoughts, a closing one without it ends thoughts that began with the text. End-of-turn tokens
    and a tag around the whole answer are no part of it either.
    """
    plain = _with_marks(text)
    kept: list[str] = []
    place, inside, ended = 0, False, False
    for mark in _find_marks(plain):
        opens = mark[1] is not None
        if not inside and (opens or ended):
            kept.append(plain[place : mark.start()])
        elif not inside and not _unwrapped(plain[mark.end() :]):
            return None  # it might be the answer that stands before the mark
        if not (opens and inside):
            place, inside, ended = mark.end(), opens, ended or not opens
    return None if inside else _unwrapped("".join([*kept, plain[place:]]))


def opening_mark(prompt: str) -> str:
    """Returns the opening mark at the end of a rendered prompt, which belongs in front of the answer; else nothing."""
    found = _OPENED.search(prompt[-200:])
    return found.group() if found else ""


def is_mark(token: str) -> bool:
    """Tells whether a special token marks thoughts, or a part of them, so that decoding must keep it."""
    return _MARK_TOKENS.fullmatch(token) is not None


def _find_marks(text: str) -> list[re.Match[str]]:
    """Returns the marks that are used; those in quotes or code, and a lone opening one further on, are spoken of."""
    marks: list[re.Match[str]] = []
    inside = False
    for mark in _MARK.finditer(text):
        before, after = text[mark.start() - 1 : mark.start()] in _QUOTES, text[mark.end() : mark.end() + 1] in _QUOTES
        opens = mark[1] is not None
        if not (before if opens else before and after if inside else before or after):
            marks.append(mark)
            inside = opens
    used = any(mark[1] is None for mark in marks) or (marks and not text[: marks[0].start()].strip())
    return marks if used else []


def _with_marks(text: str) -> str:
    """Writes words that stand for marks as marks."""
    for opening, closing in _SPOKEN:
        if found := opening.match(text):
            return f"<think>{closing.sub('</think>', text[found.end() :], count=1)}"
    found = _FINAL_ALONE.match(text)
    return text[found.end() :] if found else text


def _unwrapped(answer: str) -> str:
    text = answer.strip()
    end = len(text)
    while found := _END_OF_TURN.search(text[max(0, end - _LONGEST_END) : end]):
        end -= len(found.group())
    text = text[:end].rstrip()
    wrapped = _WRAPPED.fullmatch(text)
    return wrapped[2].strip() if wrapped else text
