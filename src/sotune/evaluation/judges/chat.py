"""A chat model as a judge: a rubric, an endpoint that is asked, and a cache that remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sotune.artifacts import sha256_json
from sotune.evaluation.base import EvalPrompt, Response, Verdict, pair_by_id, unscored
from sotune.evaluation.endpoint import Answer, AnswerCache, ChatEndpoint, Unanswered
from sotune.evaluation.rubrics import Rubric

_CHARACTERS_PER_TOKEN = 4  # of English text, roughly: for estimates alone


@dataclass(frozen=True, slots=True)
class Usage:
    """What a judge's answers take.

    Attributes:
        n_items: Responses to judge.
        n_questions: Distinct questions among them: identical items are asked once.
        n_cached: How many of these are answered already.
        n_too_long: Responses that are too long to be asked about.
        input_tokens: Of the answered questions, as the server counted them.
        output_tokens: Likewise.
        n_uncounted: Answers whose tokens the server did not count.
        pending_characters: Length of the questions that are still to be asked.
    """

    n_items: int
    n_questions: int
    n_cached: int
    n_too_long: int
    input_tokens: int
    output_tokens: int
    n_uncounted: int
    pending_characters: int

    @property
    def n_calls(self) -> int:
        """Questions that are still to be asked."""
        return self.n_questions - self.n_cached

    @property
    def pending_input_tokens(self) -> int:
        """What the questions to be asked come to, by a rule of thumb of four characters a token."""
        return -(-self.pending_characters // _CHARACTERS_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class _Item:
    """One question: what decides its answer, what is sent, and what the reply must repeat."""

    id: str
    key: str
    question: str
    canary: str


@dataclass(frozen=True, slots=True)
class ChatJudge:
    """Scores by a rubric that a chat model applies; what a score of 1 means is the rubric's matter.

    A response is unscored, with the reason, where the endpoint gave no answer after all retries, where the reply is
    not what the rubric's menu allows, and where the question would be too long. The judge holds nothing but its
    cache: killed at any moment and called again, it asks only what is not answered yet.

    Attributes:
        rubric: The question and its menu.
        endpoint: Who is asked.
        cache: Answers by the content of the question: rubric, model, parameters, text.
        max_characters: The longest question. It is never cut: a judge that saw a part would judge the part.
        on_progress: Called with how many questions are done, and how many there are.
    """

    rubric: Rubric
    endpoint: ChatEndpoint
    cache: AnswerCache
    max_characters: int
    on_progress: Callable[[int, int], None] | None = None

    @property
    def name(self) -> str:
        """Names model, rubric and the rubric's version."""
        return f"{self.endpoint.settings.model}/{self.rubric.version}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that a verdict of this judge may carry."""
        return self.rubric.labels

    def judge(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[Verdict]:
        """Returns one verdict for each prompt, in the order of the prompts.

        Raises:
            DataError: There is nothing to judge, or prompts and responses do not have the same ids.
            ConfigError: The server refuses the key, the address or the model.
            SotuneError: The account is exhausted, or the server answers nothing at all.
        """
        items = self._items(prompts, responses)
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
        items = self._items(prompts, responses)
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

    def _items(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[_Item]:
        return [self._item(prompt, response) for prompt, response in pair_by_id(prompts, responses)]

    def _item(self, prompt: EvalPrompt, response: Response) -> _Item:
        fence = self.rubric.fence(prompt, response, secret=self.cache.secret)
        question = self.rubric.render(prompt, response, fence)
        settings = self.endpoint.settings
        key = sha256_json([self.rubric.digest, settings.model, dict(settings.parameters), question])
        return _Item(prompt.id, key, question, fence.canary)

    def _is_too_long(self, item: _Item) -> bool:
        return len(item.question) > self.max_characters

    def _is_open(self, item: _Item) -> bool:
        return self.cache.get(item.key) is None and not self._is_too_long(item)

    def _verdict(self, item: _Item, outcome: Answer | Unanswered | None) -> Verdict:
        if isinstance(outcome, Unanswered):
            return unscored(item.id, f"{outcome.reason}; rubric {self.rubric.version}")
        if outcome is None:
            reason = f"the question has {len(item.question)} characters, over {self.max_characters}"
            return unscored(item.id, f"{reason}; rubric {self.rubric.version}")
        read = self.rubric.read(outcome.text, canary=item.canary)
        cut = "the reply was cut at its token limit" if outcome.finish_reason == "length" and not read.label else ""
        told = "; ".join(filter(None, (read.details, cut, f"rubric {self.rubric.version}")))
        return unscored(item.id, told) if read.score is None else Verdict(item.id, read.score, read.label, told)
