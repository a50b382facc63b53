import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from sotune.errors import DataError
from sotune.evaluation import Verdict
from sotune.evaluation.calibration import cohen_kappa, correct_rate, measure_judge
from sotune.evaluation.estimates import Estimate, estimate_rate

LEVEL = {"confidence": 0.95}


def rate(successes, n, n_unscored=0):
    scores = [1.0] * successes + [0.0] * (n - successes) + [None] * n_unscored
    return estimate_rate(scores, **LEVEL)


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    left, right = rng.choice(list("abc"), 200), rng.choice(list("abc"), 200)
    right[:120] = left[:120]
    agreement = cohen_kappa(list(left), list(right), **LEVEL)
    assert agreement.kappa == pytest.approx(cohen_kappa_score(left, right))
    assert agreement.low < agreement.kappa < agreement.high
    assert agreement.observed == pytest.approx((left == right).mean())


def test_perfect_agreement_still_has_an_interval():
    agreement = cohen_kappa([0, 1] * 50, [0, 1] * 50, **LEVEL)
    assert (agreement.kappa, agreement.high) == (1.0, 1.0)
    assert 0.9 < agreement.low < 1.0


def test_a_rater_who_always_says_the_same_leaves_kappa_open():
    for n in range(20, 40):
        agreement = cohen_kappa([0] * (n // 2) + [1] * (n - n // 2), [0] * n, **LEVEL)
        assert agreement.kappa == 0.0
        assert agreement.high - agreement.low > 0.3


@pytest.mark.parametrize(("share", "agree"), [(0.5, 0.9), (0.2, 0.8), (0.1, 0.95), (0.5, 0.5)])
def test_kappa_coverage_by_simulation(share, agree):
    chance = share * agree + (1 - share) * (1 - agree)
    expected = share * chance + (1 - share) * (1 - chance)
    truth, rng, hits, n_runs = (agree - expected) / (1 - expected), np.random.default_rng(0), 0, 500
    for _ in range(n_runs):
        left = rng.random(100) < share
        right = left ^ (rng.random(100) >= agree)
        agreement = cohen_kappa(left.tolist(), right.tolist(), **LEVEL)
        hits += agreement.low <= truth <= agreement.high
    assert hits / n_runs >= 0.93


def test_measure_judge_counts_and_keeps_the_unscored():
    truth = {f"i{k}": k < 40 for k in range(100)}
    scores = [1.0] * 36 + [0.0] * 3 + [None] + [1.0] * 6 + [0.0] * 54
    verdicts = [Verdict(id, score, "", "") for id, score in zip(truth, scores, strict=True)]
    measured = measure_judge(verdicts[::-1], truth, **LEVEL)
    assert measured.sensitivity.value == pytest.approx(36 / 39)
    assert (measured.sensitivity.n, measured.sensitivity.n_unscored) == (39, 1)
    assert measured.specificity.value == pytest.approx(54 / 60)
    assert measured.precision.value == pytest.approx(36 / 42)
    assert measured.accuracy.value == pytest.approx(90 / 99)
    assert measured.agreement.n == 99


def test_a_judge_that_never_says_yes_has_no_precision():
    verdicts = [Verdict("a", 0.0, "", ""), Verdict("b", 0.0, "", "")]
    measured = measure_judge(verdicts, {"a": True, "b": False}, **LEVEL)
    assert measured.precision is None
    assert measured.sensitivity.value == 0.0


def test_correction_of_a_perfect_judge_changes_nothing():
    corrected = correct_rate(rate(30, 200), rate(500, 500), rate(500, 500), **LEVEL)
    assert corrected.value == pytest.approx(0.15)
    assert corrected.interval == "rogan-gladen"
    assert corrected.low < 0.15 < corrected.high


def test_correction_undoes_false_alarms():
    # A tenth of the harmless answers is called harmful: 10 % seen means none there.
    corrected = correct_rate(rate(100, 1000), rate(475, 500), rate(450, 500), **LEVEL)
    assert corrected.value == pytest.approx(0.0, abs=1e-12)
    assert (corrected.low, corrected.n) == (0.0, 1000)
    assert corrected.high < 0.06


def test_unscored_responses_widen_the_correction():
    plain = correct_rate(rate(30, 200), rate(90, 100), rate(95, 100), **LEVEL)
    open_ends = correct_rate(rate(30, 200, 20), rate(90, 100), rate(95, 100), **LEVEL)
    assert open_ends.value == plain.value
    assert open_ends.high > plain.high
    assert open_ends.n_unscored == 20


@pytest.mark.parametrize("prevalence", [0.0, 0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.9, 0.9), (0.8, 0.95), (0.7, 0.8), (0.99, 0.99)])
def test_correction_coverage_over_resampled_calibrations(prevalence, sensitivity, specificity):
    rng, hits, n_runs, n, n_labelled = np.random.default_rng(7), 0, 500, 300, 100
    seen = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    for _ in range(n_runs):
        found = [
            Estimate(int(rng.binomial(size, share)) / size, 0.0, 1.0, size, 0, "wilson")
            for size, share in ((n, seen), (n_labelled, sensitivity), (n_labelled, specificity))
        ]
        corrected = correct_rate(*found, **LEVEL)
        hits += corrected.low <= prevalence <= corrected.high
    assert hits / n_runs >= 0.93


def test_errors():
    with pytest.raises(DataError, match="no better than chance"):
        correct_rate(rate(10, 20), rate(10, 20), rate(10, 20), **LEVEL)
    with pytest.raises(DataError, match="gave every item the label 'x'"):
        cohen_kappa(["x", "x"], ["x", "x"], **LEVEL)
    with pytest.raises(DataError, match="Got 1 and 2"):
        cohen_kappa(["x"], ["x", "y"], **LEVEL)
    with pytest.raises(DataError, match="'b' is on one side only"):
        measure_judge([Verdict("a", 1.0, "", "")], {"a": True, "b": False}, **LEVEL)
    with pytest.raises(DataError, match="Got 1 positive and 0 negative"):
        measure_judge([Verdict("a", 1.0, "", "")], {"a": True}, **LEVEL)
