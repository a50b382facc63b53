"""What evaluation is made of: prompts, responses, verdicts, and the judge that turns the first two into the last.

A prompt says what it tests by its ``kind``; a response is what a model wrote; a verdict is what one judge holds
of one response. All three are joined by ``id``, never by position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, get_args, runtime_checkable

from sotune.catalogue import Kind
from sotune.errors import DataError
from sotune.evaluation.thoughts import answer_after_thoughts
from sotune.records import Message

KINDS: tuple[Kind, ...] = get_args(Kind)
UNSCORED = "unscored"  # the label of every verdict whose score is None
UNREADABLE = "unreadable"  # the label of an answer in which nothing can be read that would be right or wrong: no point
CUT_OFF = "the thoughts are cut off before an answer; raise max_new_tokens, or turn thinking off (chat_template_kwargs)"


@dataclass(frozen=True, slots=True)
class EvalPrompt:
    """One question put to a model.

    Attributes:
        id: Unique among the prompts of one evaluation.
        kind: ``harmful`` must not be complied with; ``lookalike`` sounds harmful and is not, so it must be
            answered; ``task`` belongs to the task that was fine-tuned for; ``skill`` to what the model could do
            before.
        messages: The conversation up to the answer.
        reference: The right answer, where there is one.
        meta: Whatever else a judge may want, such as the category of harm or the choices of a question.
        tools: What the model may call, as `Record.tools`; empty for none.
    """

    id: str
    kind: Kind
    messages: tuple[Message, ...]
    reference: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    tools: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What a model wrote for one prompt.

    Attributes:
        id: The prompt's id.
        text: The answer without special tokens, save those that mark thoughts.
        n_tokens: How many tokens were generated, the end-of-sequence token not counted.
        finished: Whether the model ended the answer itself; False where the token budget cut it.
    """

    id: str
    text: str
    n_tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge holds of one response.

    Attributes:
        id: The prompt's id.
        score: On the judge's scale, in [0, 1] for a judge whose verdicts feed a rate. ``None`` says that the
            judge could not score it: counted, shown, never taken for safe.
        label: One of the judge's ``labels``.
        explanation: Why, in words for a person who checks the judge.
    """

    id: str
    score: float | None
    label: str
    explanation: str


@runtime_checkable
class Judge(Protocol):
    """Scores responses.

    What a score of 1 means is the judge's own matter and stated in its docstring: harmful, refused, correct or
    coherent. Whoever wires judges to metrics (``evaluate``) picks a judge by that meaning.
    """

    @property
    def name(self) -> str:
        """Names the judge in artifacts and reports."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that a verdict of this judge may carry, besides ``UNSCORED``."""
        ...

    def judge(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[Verdict]:
        """Returns one verdict for each prompt, in the order of the prompts.

        Raises:
            DataError: There is nothing to judge, or prompts and responses do not have the same ids.
        """
        ...


@runtime_checkable
class GradingJudge(Protocol):
    """A judge whose verdicts are a threshold on a number, and that tells the number."""

    def grade(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> Mapping[str, float]:
        """Returns a grade by prompt id: the larger, the nearer to a score of 1; NaN where there is none."""
        ...


def unscored(id: str, why: str) -> Verdict:
    """Returns the verdict of a judge that could not score a response."""
    return Verdict(id, None, UNSCORED, why)


def pair_by_id(prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[tuple[EvalPrompt, Response]]:
    """Joins prompts and responses by id, in the order of the prompts.

    Raises:
        DataError: There are no prompts, an id occurs twice, or one side has an id that the other lacks.
    """
    if not prompts:
        raise DataError("there is nothing to judge: 0 prompts were given; give at least one")
    prompt_by_id = index_unique("prompts", prompts)
    response_by_id = index_unique("responses", responses)
    if missing := prompt_by_id.keys() - response_by_id.keys():
        raise DataError(
            f"{len(missing)} prompts have no response, {min(missing)!r} among them; generate their answers first"
        )
    if strangers := response_by_id.keys() - prompt_by_id.keys():
        raise DataError(
            f"{len(strangers)} responses have no prompt, {min(strangers)!r} among them; judge responses together "
            f"with the prompts that they answer"
        )
    return [(prompt, response_by_id[prompt.id]) for prompt in prompts]


_Item = TypeVar("_Item", EvalPrompt, Response, Verdict)

MAX_RULE_CHARACTERS = 50_000
"""Of an answer that rules look at, and of a reply that is parsed: some patterns take time by the square of it."""


class AnswerJudge:
    """Base of judges of what a model answers: they see what follows its thoughts.

    Thoughts that are cut off leave nothing to judge: such a response is unscored. A judge that looks at each answer by
    itself overrides ``verdict``, one that looks at many together ``verdicts``.
    """

    __slots__ = ()

    def judge(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[Verdict]:
        """Returns one verdict for each prompt, in the order of the prompts.

        Raises:
            DataError: There is nothing to judge, or prompts and responses do not have the same ids.
        """
        answered = pair_answers(prompts, responses)
        given = {verdict.id: verdict for verdict in (self.verdicts(answered) if answered else ())}
        for cut_off in {prompt.id for prompt in prompts} - {prompt.id for prompt, _ in answered}:
            given[cut_off] = unscored(cut_off, CUT_OFF)
        return [given[prompt.id] for prompt in prompts if prompt.id in given]

    def verdicts(self, pairs: Sequence[tuple[EvalPrompt, Response]]) -> list[Verdict]:
        """Returns one verdict for each answer; there is at least one. Rules read no answer of endless length."""
        return [
            self.verdict(prompt, response)
            if len(response.text) <= MAX_RULE_CHARACTERS
            else unscored(prompt.id, f"the answer has {len(response.text)} characters, over {MAX_RULE_CHARACTERS}")
            for prompt, response in pairs
        ]

    def verdict(self, prompt: EvalPrompt, response: Response) -> Verdict:
        """Returns the verdict on one answer."""
        raise NotImplementedError


def pair_answers(prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[tuple[EvalPrompt, Response]]:
    """Joins as ``pair_by_id`` does, with responses without their thoughts; those cut off in thought are left out."""
    return [(p, answer) for p, r in pair_by_id(prompts, responses) if (answer := without_thoughts(r))]


def without_thoughts(response: Response) -> Response | None:
    """Returns a response with the answer alone; None where the token budget ended it before the answer began."""
    answer = answer_after_thoughts(response.text)
    if answer is None or not (answer or response.finished or not response.text.strip()):
        return None
    return response if answer == response.text.strip() else replace(response, text=answer)


def only_answers(responses: Sequence[Response]) -> list[Response]:
    """Returns responses without their thoughts; those cut off in thought are empty."""
    return [without_thoughts(response) or replace(response, text="") for response in responses]


def index_unique(what: str, items: Sequence[_Item]) -> dict[str, _Item]:
    """Returns the items keyed by id.

    Args:
        what: What the items are called in the error, in the plural.
        items: Prompts, responses or verdicts.

    Raises:
        DataError: Two items have the same id.
    """
    by_id = {item.id: item for item in items}
    if len(by_id) < len(items):
        repeated, count = Counter(item.id for item in items).most_common(1)[0]
        raise DataError(f"{count} {what} have the id {repeated!r}; ids must be unique within one evaluation")
    return by_id
