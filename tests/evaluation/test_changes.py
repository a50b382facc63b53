import pytest

from cases import prompt
from sotune.errors import DataError
from sotune.evaluation import Verdict
from sotune.evaluation.changes import find_changes
from sotune.evaluation.paired import mcnemar, minimum_detectable_difference

PROMPTS = [prompt(f"h{i}", "harmful") for i in range(40)]


def verdicts(scores, prompts=PROMPTS):
    return [Verdict(p.id, score, "label", "") for p, score in zip(prompts, scores, strict=True)]


def test_what_rose_and_what_fell():
    before = {"harm": verdicts([1.0] * 4 + [0.0] * 35 + [None])}
    after = {"harm": verdicts([0.0] + [1.0] * 13 + [0.0] * 26)}
    found = find_changes(PROMPTS, before, after)
    change = found["harmful_rate"]
    assert change.lost == ("h0",)
    assert change.gained == tuple(f"h{i}" for i in range(4, 14))
    compared = change.comparison
    assert (compared.n, compared.n_unscored, compared.only_first, compared.only_second) == (39, 1, 10, 1)
    assert compared.difference == pytest.approx(9 / 39)
    assert compared.p_value == mcnemar(10, 1)
    assert change.detectable == minimum_detectable_difference(4 / 39, 39, power=0.8, confidence=0.95)


def test_what_cannot_be_compared_is_absent():
    graded = {"harm": verdicts([0.5] * 40)}
    assert find_changes(PROMPTS, graded, graded) == {}
    assert find_changes(PROMPTS, {"harm": verdicts([None] * 40)}, graded) == {}
    assert find_changes(PROMPTS, {}, graded) == {}


def test_other_prompts():
    with pytest.raises(DataError, match="harmful_rate: 39 prompts have no verdict, 'h1' among them"):
        find_changes(PROMPTS, {"harm": verdicts([0.0], PROMPTS[:1])}, {"harm": verdicts([0.0] * 40)})
