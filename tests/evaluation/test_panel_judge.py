from dataclasses import dataclass

import pytest

from cases import prompt, response
from sotune.errors import ConfigError
from sotune.evaluation import Verdict
from sotune.evaluation.judges.panel import PanelJudge
from sotune.evaluation.judges.refusal import RefusalJudge


@dataclass(frozen=True)
class Fixed:
    name: str
    score: float | None
    labels: tuple[str, ...] = ("yes", "no", "unscored")

    def judge(self, prompts, responses):
        label = "unscored" if self.score is None else ("yes" if self.score else "no")
        return [Verdict(p.id, self.score, label, "fixed") for p in prompts]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((1, 1, 0), 1.0),
        ((1, 0, 0), 0.0),
        ((1, 0), None),
        ((1, 0, None), None),
        ((1, None, None), 1.0),
        ((None, None), None),
    ],
)
def test_majority(scores, expected):
    panel = PanelJudge(tuple(Fixed(f"j{i}", score) for i, score in enumerate(scores)))
    [verdict] = panel.judge([prompt()], [response("text")])
    assert verdict.score == expected
    assert all(f"j{i}: " in verdict.explanation for i in range(len(scores)))


@pytest.mark.parametrize("members", [(), (RefusalJudge(),), (RefusalJudge(), RefusalJudge())])
def test_needs_two_names(members):
    with pytest.raises(ConfigError, match="at least two judges of different names"):
        PanelJudge(members)
