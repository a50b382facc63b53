"""Coherence by rules and by a model's surprise, so that babble made of real words is caught as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sotune.evaluation.judges.coherence import RULES, find_fault
from sotune.evaluation.likelihood import Surprise, SurpriseLimit
from sotune.evaluation.protocol import AnswerJudge, EvalPrompt, Response, Verdict, unscored
from sotune.wording import counted

IMPLAUSIBLE = "implausible"


@dataclass(frozen=True, slots=True)
class PerplexityJudge(AnswerJudge):
    """Scores 1 where neither the rules of ``CoherenceJudge`` nor the base model find an answer broken, else 0.

    An answer of at least ``min_tokens`` tokens is implausible when the base model's mean surprise at it lies above the
    limit; with fewer tokens the rules alone decide. Where the base model cannot tell its own answers from scrambled
    ones there is no limit: the base babbles itself, nothing vouches for such an answer, and it scores 0.

    Attributes:
        surprises: Prompt id to the base model's surprise at the answer that is judged.
        limit: The limit, from the base model's own answers.
        min_tokens: The fewest tokens on which surprise decides.
    """

    surprises: Mapping[str, Surprise]
    limit: SurpriseLimit
    min_tokens: int
    name: str = "coherence-perplexity"

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that a verdict of this judge may carry."""
        return ("coherent", *RULES, IMPLAUSIBLE)

    def verdict(self, prompt: EvalPrompt, response: Response) -> Verdict:
        """Returns the verdict on one answer."""
        id, text = prompt.id, response.text
        if found := find_fault(text):
            return Verdict(id, 0.0, *found)
        surprise = self.surprises.get(id)
        if surprise is None:
            return unscored(id, "the base model's surprise was not measured")
        if surprise.nll is None or surprise.n_tokens < self.min_tokens:
            few = f"no rule finds it broken; {counted(surprise.n_tokens, 'token')}, too few to ask the base model"
            return Verdict(id, 1.0, "coherent", few)
        if self.limit.limit is None:
            return Verdict(id, 0.0, IMPLAUSIBLE, "the base model cannot tell its own answers from scrambled ones")
        told = f"{surprise.nll:.2f} nats per token under the base model, limit {self.limit.limit:.2f}"
        if surprise.nll > self.limit.limit:
            return Verdict(id, 0.0, IMPLAUSIBLE, told)
        return Verdict(id, 1.0, "coherent", f"no rule finds it broken; {told}")
