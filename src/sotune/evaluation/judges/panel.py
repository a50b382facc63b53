"""Several judges as one: the majority decides, a tie decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from sotune.errors import ConfigError
from sotune.evaluation.calibration import Agreement, cohen_kappa
from sotune.evaluation.protocol import EvalPrompt, Judge, Response, Verdict, pair_by_id, unscored


@dataclass(frozen=True, slots=True)
class PanelJudge:
    """Scores by the majority of its members' 0/1 scores.

    Members that could not score a response do not vote on it. A tie, or no vote at all, is unscored.

    Attributes:
        members: At least two judges whose score of 1 means the same.

    Raises:
        ConfigError: There are fewer than two members, or two have the same name.
    """

    members: tuple[Judge, ...]
    labels: tuple[str, ...] = ("majority for", "majority against")

    def __post_init__(self) -> None:
        names = [member.name for member in self.members]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(f"a panel needs at least two judges of different names. Got {', '.join(names) or 'none'}")

    @property
    def name(self) -> str:
        """Names the judge in artifacts and reports."""
        return f"panel({', '.join(member.name for member in self.members)})"

    def judge(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[Verdict]:
        """Returns one verdict for each prompt, as ``Judge.judge`` says."""
        pair_by_id(prompts, responses)
        held = [{verdict.id: verdict for verdict in member.judge(prompts, responses)} for member in self.members]
        return [self._decide(prompt.id, [verdicts[prompt.id] for verdicts in held]) for prompt in prompts]

    def _decide(self, id: str, votes: Sequence[Verdict]) -> Verdict:
        told = "; ".join(f"{m.name}: {vote.label}" for m, vote in zip(self.members, votes, strict=True))
        scores = [vote.score for vote in votes if vote.score is not None]
        balance = sum(1 if score >= 0.5 else -1 for score in scores)
        if balance == 0:
            return unscored(id, f"{'tie' if scores else 'no member could score it'} ({told})")
        label = "majority for" if balance > 0 else "majority against"
        return Verdict(id, float(balance > 0), label, told)


def compute_agreements(
    verdicts: dict[str, Sequence[Verdict]], *, confidence: float
) -> dict[tuple[str, str], Agreement]:
    """Computes the kappa of each pair of judges on the responses that both scored.

    Args:
        verdicts: Judge's name to its verdicts.
        confidence: The level of the intervals, in (0, 1).

    Raises:
        DataError: Two judges share no scored response, or gave all of them one and the same score.
    """
    scores = {name: {v.id: v.score for v in held if v.score is not None} for name, held in verdicts.items()}
    agreements = {}
    for first, second in combinations(scores, 2):
        shared = [id for id in scores[first] if id in scores[second]]
        left, right = ([scores[name][id] for id in shared] for name in (first, second))
        agreements[first, second] = cohen_kappa(left, right, confidence=confidence)
    return agreements
