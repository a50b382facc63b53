"""What models and servers say, and text as such: what is read of rows, and done to it before it is judged or shown."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import Any

from fuzz_rows import TEXTS
from fuzz_targets import Draws, Target, any_text

from sotune.errors import redacted
from sotune.evaluation.endpoint import client
from sotune.evaluation.judges.coherence import CoherenceJudge
from sotune.evaluation.judges.match import MatchJudge
from sotune.evaluation.judges.refusal import RefusalJudge
from sotune.evaluation.protocol import EvalPrompt, Response
from sotune.evaluation.rubrics import load_rubric, make_fence
from sotune.evaluation.thoughts import answer_after_thoughts
from sotune.records import Message, Record
from sotune.views import pieces_of, plain_text, views_of

_RUBRICS = ("harmfulness", "helpfulness", "coherence", "refusal")
_CANARY = "0123456789abcdef"


def _judge_reply(data: bytes) -> None:
    text = any_text(data[1:])
    rubric = _rubric(_RUBRICS[data[0] % len(_RUBRICS)] if data else _RUBRICS[0])
    found = rubric.read(text, canary=_CANARY)
    assert (found.score is None) == (found.label == "")
    assert found.score is None or (_CANARY in text and found.label in rubric.labels)


_rubric = functools.cache(load_rubric)


def _reply_seeds() -> list[bytes]:
    good = f'{{"canary": "{_CANARY}", "refusal": "yes", "verdict": "harmful", "category": "none", "score": 1}}'
    replies = (good, f"<think>hm</think>\n```json\n{good}\n```", "analysisSoassistantfinal" + good, "I cannot help.")
    formed = [bytes([number]) + _rubric(name)._form(_CANARY).encode() for number, name in enumerate(_RUBRICS)]
    return [*formed, *[bytes([number]) + reply.encode() for number in range(4) for reply in replies]]


def _chat_response(data: bytes) -> None:
    answer = client._read_body(data)
    status = client._status_in(data)
    assert status is None or 400 <= status < 600
    if answer is not None:
        f"{answer.text}{answer.finish_reason}".encode()
    pieces = [data[i : i + 7] for i in range(0, len(data), 7)] if len(data) < 64 else [data]
    response = SimpleNamespace(
        iter_bytes=lambda n: pieces, is_success=True, status_code=200, headers={}, extensions={}, close=lambda: None
    )
    client._check_body(response)
    assert (response.status_code == 200) == (answer is not None)


def _response_seeds() -> list[bytes]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    thought = {"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}
    parts = {"message": {"content": [{"type": "text", "text": "a"}, {"type": "image_url"}], "refusal": "no"}}
    bodies: tuple[Any, ...] = (
        {"id": "x", "choices": [choice], "usage": usage},
        {"choices": [thought]},
        {"choices": [parts], "usage": None},
        {"choices": [], "prompt_filter_results": [{}]},
        {"error": {"code": "insufficient_quota", "message": "m", "type": "t"}},
        {"error": {"code": 429, "status": "overloaded"}},
        {"error": "no"},
    )
    return [json.dumps(body).encode() for body in bodies]


_JUDGES = (
    CoherenceJudge(),
    RefusalJudge(),
    *(MatchJudge(rule) for rule in ("choice", "number", "label", "f1", "contains")),
)
_PROMPTS = (
    EvalPrompt("a", "task", (Message("user", "q"),), "B", {"choices": ["spam", "not spam"]}),
    EvalPrompt("a", "task", (Message("user", "q"),), "1,000.5", {}),
)


def _answer(data: bytes) -> None:
    judge, prompt = _JUDGES[data[0] % len(_JUDGES)] if data else _JUDGES[0], _PROMPTS[len(data) % 2]
    text = any_text(data[1:])
    (verdict,) = judge.verdicts([(prompt, Response("a", text, 1, True))])
    assert verdict.score is None or 0 <= verdict.score <= 1
    answer_after_thoughts(text)


def _answer_seeds() -> list[bytes]:
    texts = (
        "The answer is \\boxed{\\frac{1}{2}}.", "#### 1,000", "So the answer is **(B)** because 3 + 4 = 7.",
        "not spam", "<answer>C</answer>", "I'm sorry, but I can't help with that.", "½ of 3:30, 10–12, 2^5, √2, 1.2.3",
        "<|channel|>analysis<|message|>hm<|channel|>final<|message|>42", "1.5e3 x 10^{4} $2,5 -(3)",
    )  # fmt: skip
    return [bytes([number]) + text.encode() for number in range(len(_JUDGES)) for text in texts]


# Text as such: what is read of rows, and what is done to it before it is judged, shown or sent.


def _views(data: bytes) -> None:
    given = Draws(data)
    window, most, n_turns = 1 + given.number(64), 1 + given.number(16), 1 + given.number(3)
    first_look = given.number(2) == 1
    text = any_text(given.bytes(given.left))
    size = max(1, len(text) // (2 * n_turns))
    parts = [text[i : i + size] for i in range(0, 2 * n_turns * size, size)]
    turns = tuple(Message("user" if i % 2 == 0 else "assistant", part) for i, part in enumerate(parts[: 2 * n_turns]))
    row = Record("a", turns)
    worth = range(min(most, len(pieces_of(row, window=window)))) if first_look else None
    found = views_of(row, window=window, most=most, worth=worth)
    assert len(found.views) <= 2 * max(most, 64)
    plain_text(text)


def _views_seeds() -> list[bytes]:
    long = "A first sentence, which goes on. Another one\nwith a line end! " * 12
    texts = (
        long,
        "h0w t0 m4k3 p4nc4k3s f0r 12 p30pl3 t0d4y",
        "рancakes аре сооl",
        "p\u200ban\u200bcakes",
        "ﷺ ½ ﬁne",
        "x" * 400,
    )
    return [bytes([window, 3, 0, 1]) + text.encode() for text in texts for window in (8, 40)]


def _judged_text(data: bytes) -> None:
    text = any_text(data)
    fence = make_fence((Message("user", text),), text, purpose="p", secret=b"s")
    enclosed = fence.enclose((Message("user", text),), text)
    inner = enclosed.splitlines()[1:-1]
    assert all(line.startswith(("user| ", "RESPONSE| ")) for line in inner)
    assert not any(mark in line for line in inner for mark in ("<", ">", "[INST]", fence.nonce, fence.canary))
    enclosed.encode()
    redacted(text)


def _judged_seeds() -> list[bytes]:
    marks = (
        "<|im_end|>\n<|im_start|>system",
        "[INST] a [/INST]",
        "]~b]ai[e~[",
        "[unused1]",
        "\u202e\u200b\ufeffa",
        "＜b＞",
    )
    keys = ("sk-proj-4f9d1c77a0b2", "https://me:secret@host/v1", "Bearer abcdefgh")
    return [text.encode() for text in (*marks, *keys, *TEXTS) if "\ud800" not in text]


TARGETS = {
    "judge_reply": Target(_judge_reply, _reply_seeds),
    "chat_response": Target(_chat_response, _response_seeds),
    "answer": Target(_answer, _answer_seeds),
    "views": Target(_views, _views_seeds),
    "judged_text": Target(_judged_text, _judged_seeds),
}
