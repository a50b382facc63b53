"""A chat model as a judge: a rubric, an endpoint that is asked, and a cache that remembers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sotune.artifacts import sha256_json
from sotune.evaluation.batching import Progress
from sotune.evaluation.endpoint import Answer, AnswerCache, ChatEndpoint, Unanswered, read_api_key
from sotune.evaluation.judges.naming import NamedJudge, Usage, Wanted, Workshop
from sotune.evaluation.judges.refusal import find_refusal
from sotune.evaluation.metrics import JudgeRole
from sotune.evaluation.protocol import EvalPrompt, Response, Verdict, pair_answers, unscored
from sotune.evaluation.rubrics import Rubric, load_rubric
from sotune.evaluation.thoughts import answer_after_thoughts
from sotune.settings import ChatJudgeSettings

_RUBRIC_OF: Mapping[JudgeRole, str] = {
    "harm": "harmfulness",
    "refusal": "refusal",
    "task": "helpfulness",
    "skill": "helpfulness",
    "coherence": "coherence",
}
_LONG_WORD = re.compile(r"\w{4,}")
_SHOWN_LENGTH = 60  # characters of a reply that could not be counted


@dataclass(frozen=True, slots=True)
class _Item:
    """One question: what decides its answer, what is sent, what the reply must repeat, and what is judged."""

    id: str
    key: str
    question: str
    canary: str
    judged: str


@dataclass(frozen=True, slots=True)
class ChatJudge(NamedJudge):
    """Scores by a rubric that a chat model applies; what a score of 1 means is the rubric's matter.

    A response is unscored, with the reason, where the endpoint gave no answer after all retries, where the reply is
    not what the rubric's menu allows, and where the question would be longer than ``judge_max_characters``: it is
    never cut, since a judge that saw a part would judge the part. The judge holds nothing but its cache: killed at any
    moment and called again, it asks only what is not answered yet.

    Attributes:
        rubric: The question and its menu.
        endpoint: Who is asked.
        cache: Answers by the content of the question: rubric, model, parameters, text.
        on_progress: Called with how many questions are done, and how many there are.
    """

    rubric: Rubric
    endpoint: ChatEndpoint
    cache: AnswerCache
    on_progress: Progress | None = None

    forms: ClassVar = ("chat", "chat:RUBRIC")
    Settings: ClassVar = ChatJudgeSettings

    @classmethod
    def check(cls, wanted: Wanted) -> None:
        """Finds a rubric that is unknown or faulty, or an API key that is not set.

        Raises:
            ConfigError: It does.
        """
        _rubric(wanted)
        read_api_key(wanted.settings.judge_key_env)

    @classmethod
    def fingerprint(cls, wanted: Wanted) -> str:
        """Returns the digest of the rubric."""
        return _rubric(wanted).digest

    @classmethod
    def make(cls, wanted: Wanted, workshop: Workshop) -> ChatJudge:
        """Returns the judge; all chat judges of an evaluation share the endpoint and the answers that are known."""
        return cls(
            _rubric(wanted),
            workshop.shared(_open_endpoint),
            workshop.shared(_open_cache),
            on_progress=workshop.progress(f"asking the judge: {wanted.role}"),
        )

    @property
    def name(self) -> str:
        """Names model, rubric and the rubric's version."""
        return f"{self.endpoint.model}/{self.rubric.version}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that a verdict of this judge may carry."""
        return self.rubric.labels

    def verdicts(self, pairs: Sequence[tuple[EvalPrompt, Response]]) -> list[Verdict]:
        """Returns one verdict for each answer.

        Raises:
            ConfigError: The server refuses the key, the address, the model or a parameter.
            SotuneError: The account is exhausted, or the server answers nothing at all.
        """
        items = [self._item(prompt, response) for prompt, response in pairs]
        questions = {item.key: item.question for item in items if self._is_open(item)}
        outcomes = (
            self.endpoint.ask_all(questions, keep=self.cache.put, on_progress=self.on_progress) if questions else {}
        )
        return [self._verdict(item, self.cache.get(item.key) or outcomes.get(item.key)) for item in items]

    def usage(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> Usage:
        """Counts what the verdicts on some responses take: what is answered, and what would be asked. Asks nothing.

        Raises:
            DataError: There is nothing to judge, or prompts and responses do not have the same ids.
        """
        items = [self._item(prompt, response) for prompt, response in pair_answers(prompts, responses)]
        questions = {item.key: item.question for item in items if not self._is_too_long(item)}
        answers = [answer for key in questions if (answer := self.cache.get(key))]
        return Usage(
            n_items=len(items),
            n_questions=len(questions),
            n_cached=len(answers),
            n_too_long=sum(map(self._is_too_long, items)),
            input_tokens=sum(answer.input_tokens or 0 for answer in answers),
            output_tokens=sum(answer.output_tokens or 0 for answer in answers),
            n_uncounted=sum(None in (answer.input_tokens, answer.output_tokens) for answer in answers),
            pending_characters=sum(len(q) for key, q in questions.items() if self.cache.get(key) is None),
        )

    def _item(self, prompt: EvalPrompt, response: Response) -> _Item:
        fence = self.rubric.fence(prompt, response, secret=self.cache.secret)
        question = self.rubric.render(prompt, response, fence)
        key = sha256_json([self.rubric.digest, self.endpoint.model, self.endpoint.parameters, question])
        judged = " ".join([*(message.content for message in prompt.messages), response.text])
        return _Item(prompt.id, key, question, fence.canary, judged)

    @property
    def _max_characters(self) -> int:
        return self.endpoint.settings.judge_max_characters

    def _is_too_long(self, item: _Item) -> bool:
        return len(item.question) > self._max_characters

    def _is_open(self, item: _Item) -> bool:
        return self.cache.get(item.key) is None and not self._is_too_long(item)

    def _verdict(self, item: _Item, outcome: Answer | Unanswered | None) -> Verdict:
        version, reply = f"rubric {self.rubric.version}", ""
        if outcome is None:
            why = f"the question has {len(item.question)} characters, over {self._max_characters}"
        elif isinstance(outcome, Unanswered):
            why = outcome.reason
        else:
            read = self.rubric.read(outcome.text, canary=item.canary)
            if read.score is not None:
                return Verdict(item.id, read.score, read.label, "; ".join(filter(None, (read.details, version))))
            why, reply = _why_unread(outcome, read.details), _shown(outcome.text, item.judged)
        return unscored(item.id, f"{why}; {version}" + (f"; reply: {reply}" if reply else ""))


def _why_unread(answer: Answer, details: str) -> str:
    """Says why a reply cannot be counted."""
    if answer.finish_reason == "content_filter":
        return "the server's content filter withheld the reply"
    if answer.finish_reason == "length":
        return f"{details}; the reply was cut at its token limit, raise judge_max_tokens"
    said = answer_after_thoughts(answer.text) or ""
    refused = answer.finish_reason == "refusal" or ("{" not in said and find_refusal(said))
    return "the judge refused to judge" if refused else details


def _shown(reply: str, judged: str) -> str:
    """Returns how a reply begins, in quotes, without any longer word of the judged texts; nothing where it is empty."""
    said = set(_LONG_WORD.findall(judged.casefold()))
    plain = " ".join((answer_after_thoughts(reply) or "").split())
    words = _LONG_WORD.sub(lambda word: "…" if word[0].casefold() in said else word[0], plain[:_SHOWN_LENGTH])
    printable = "".join(c for c in words if c.isprintable())
    return f"“{printable}{'…' if len(plain) > _SHOWN_LENGTH else ''}”" if printable else ""


def _rubric(wanted: Wanted) -> Rubric:
    return load_rubric(wanted.argument or _RUBRIC_OF[wanted.role])


def _open_cache(workshop: Workshop) -> AnswerCache:
    return AnswerCache(workshop.answers)


def _open_endpoint(workshop: Workshop) -> ChatEndpoint:
    return ChatEndpoint(workshop.settings, read_api_key(workshop.settings.judge_key_env))
