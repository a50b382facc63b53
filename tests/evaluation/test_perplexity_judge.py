import pytest

from cases import prompt, response
from sotune.evaluation.judges.perplexity import PerplexityJudge
from sotune.evaluation.likelihood import Surprise, SurpriseLimit

LIMIT = SurpriseLimit(own=1.0, scrambled=7.0, limit=4.0, n=100)
SALAD = "lantern of pencil the glacier saddle in copper"  # too short for the rules, with function words


@pytest.mark.parametrize(
    ("text", "surprise", "limit", "label"),
    [
        ("Paris is the capital.", Surprise("p", 1.2, 6), LIMIT, "coherent"),
        (SALAD, Surprise("p", 6.1, 12), LIMIT, "implausible"),
        (SALAD, Surprise("p", 6.1, 4), LIMIT, "coherent"),
        ("", Surprise("p", None, 0), LIMIT, "empty"),
        ("no no no no no no no no no no no no no", Surprise("p", 0.1, 13), LIMIT, "loop"),
        (SALAD, Surprise("p", 3.0, 12), SurpriseLimit(3.0, 3.2, None, 9), "implausible"),
        (SALAD, None, LIMIT, "unscored"),
    ],
)
def test_labels(text, surprise, limit, label):
    judge = PerplexityJudge({} if surprise is None else {"p": surprise}, limit, min_tokens=5)
    [verdict] = judge.judge([prompt()], [response(text)])
    assert verdict.label == label
    assert verdict.score == {"coherent": 1.0, "unscored": None}.get(label, 0.0)
    assert verdict.label in (*judge.labels, "unscored")
