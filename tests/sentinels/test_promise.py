import pytest
import torch

from sotune.errors import ConfigError
from sotune.sentinels import (
    Rate,
    cut_at_harmful_share,
    cut_at_pass_rate,
    cut_where_harm_thins,
    estimate_harmful_share,
    harmful_rows_kept,
    harmful_share_kept,
    sentinels_needed,
)
from sotune.sentinels.promise import choose_drop


def normal(generator, n, mean):
    return torch.randn(n, generator=generator, dtype=torch.float64) + mean


def draw(seed, *, p=0.1, n=2000, k=120):
    """Scores of rows, of their truth, of measuring and tuning sentinels, and of other harm."""
    generator = torch.Generator().manual_seed(seed)
    harmful = torch.arange(n) < p * n
    rows = torch.where(harmful, normal(generator, n, -4), normal(generator, n, 0))
    return rows, harmful, normal(generator, k, -4), normal(generator, k, -4), normal(generator, 20_000, -4)


def places(scores, rows):
    return [float((rows > score).double().mean()) for score in scores]


def share_of(rows, sentinels, tuning):
    return estimate_harmful_share(
        rows, sentinels, safe_outranked=torch.rand(50, dtype=torch.float64) * 0.5, tuning_outranked=places(tuning, rows)
    )


def test_the_cut_is_at_a_sentinel_and_k_depends_on_their_number_alone():
    rows, _, sentinels, _, _ = draw(0)
    cut = cut_at_pass_rate(rows, sentinels, max_harmful_pass=0.1)
    passing = int((sentinels > cut.score).sum())
    assert cut.score in sentinels
    assert passing == int((sentinels + 100 > cut.score + 100).sum())
    assert cut.k == int((rows > cut.score).sum())
    assert Rate.of(sentinels > cut.score).high == pytest.approx(cut.bound)
    assert cut.bound <= 0.1


@pytest.mark.slow
def test_the_bound_on_the_pass_rate_has_its_coverage():
    covered = []
    for seed in range(1500):
        rows, _, sentinels, _, other = draw(seed, n=50, k=93)
        cut = cut_at_pass_rate(rows, sentinels, max_harmful_pass=0.1)
        covered.append(float((other > cut.score).double().mean()) <= 0.1)
    assert 0.93 <= sum(covered) / 1500 <= 0.985  # exact in theory: 95 % or a little more


@pytest.mark.parametrize("p", [0.0, 0.02, 0.1, 0.3])
def test_harm_that_thins_out_is_cut_off_clean_rows_stay_and_bounds_hold(p):
    kept, harm, covered, within = [], [], [], []
    for seed in range(60):
        rows, harmful, sentinels, tuning, other = draw(seed, p=p)
        cut = cut_where_harm_thins(rows, tuning_outranked=places(tuning, rows), drop_at=0.05)
        assert cut.k == int((rows > cut.score).sum())
        passed, share = Rate.of(sentinels > cut.score), share_of(rows, sentinels, tuning)
        kept.append(cut.k / len(rows))
        harm.append(float(harmful[rows > cut.score].double().mean()))
        covered.append(float((other > cut.score).double().mean()) <= passed.high)
        within.append(harm[-1] <= harmful_share_kept(passed.count, passed.n, share, keep=kept[-1]))
    assert min(kept) > 0.99 if p == 0 else sum(kept) / 60 >= 1 - p - 0.1
    assert sum(harm) / 60 <= 0.01
    assert sum(covered) >= 54
    assert sum(within) >= 57


def test_safe_answers_are_not_dropped_once_nearly_all_harm_is_caught():
    # Two thirds of the rows that lie low are safe answers; the harm's upper tail lies among them.
    lost, passed = {"blind": [], "seeing": []}, {"blind": [], "seeing": []}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        plain, risky, harm = (normal(generator, *of) for of in ((1000, 4.0), (200, 0.0), (100, -2.5)))
        rows = torch.cat([plain, risky, harm])
        caught, safe = (places(normal(generator, 150, mean), rows) for mean in (-2.5, 0.0))
        blind = cut_where_harm_thins(rows, tuning_outranked=caught, drop_at=0.05)
        cut = cut_where_harm_thins(rows, tuning_outranked=caught, drop_at=0.05, safe_outranked=safe)
        assert cut.score <= blind.score
        for name, found in (("blind", blind), ("seeing", cut)):
            lost[name].append(float((risky <= found.score).double().mean()))
            passed[name].append(float((harm > found.score).double().mean()))
        high = [0.01] * 80  # safe answers that lie above all harm cost nothing
        assert cut_where_harm_thins(rows, tuning_outranked=caught, drop_at=0.05, safe_outranked=high) == blind
    assert sum(lost["seeing"]) < sum(lost["blind"]) - 20 * 0.1
    assert sum(passed["seeing"]) / 20 < 0.07


def test_harm_is_caught_though_safe_answers_are_not_told_from_it():
    rows, harmful, _, tuning, _ = draw(0)
    caught = places(tuning, rows)
    cut = cut_where_harm_thins(rows, tuning_outranked=caught, drop_at=0.05, safe_outranked=caught)
    assert float((rows[harmful] > cut.score).double().mean()) < 0.08


def test_weights_that_do_not_tell_sentinels_from_rows_have_no_cut_where_harm_thins():
    rows, generator = draw(0)[0], torch.Generator().manual_seed(1)
    alike = torch.rand(80, generator=generator).tolist()
    assert cut_where_harm_thins(rows, tuning_outranked=alike, drop_at=0.05) is None
    assert cut_where_harm_thins(torch.zeros(50), tuning_outranked=[0.5] * 80, drop_at=0.05) is None


@pytest.mark.parametrize("p", [0.0, 0.02, 0.1, 0.3])
def test_the_harmful_share_is_bounded_and_estimated(p):
    inside, estimates = [], []
    for seed in range(60):
        rows, _, sentinels, tuning, _ = draw(seed, p=p)
        share = share_of(rows, sentinels, tuning)
        inside.append(share.low <= p <= share.high)
        estimates.append(share.estimate)
    assert sum(inside) >= 57
    assert sum(estimates) / 60 == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize("p", [0.0, 0.05, 0.2])
def test_the_share_among_kept_rows_keeps_its_bound(p):
    kept, within = [], []
    for seed in range(60):
        rows, harmful, sentinels, tuning, _ = draw(seed, p=p)
        share = share_of(rows, sentinels, tuning)
        cut = cut_at_harmful_share(
            rows, sentinels, share, tuning_outranked=places(tuning, rows), max_harmful_share=0.04
        )  # fmt: skip
        within.append(float(harmful[rows > cut.score].double().mean()) <= 0.04)
        assert cut.bound <= 0.04
        kept.append(cut.k / len(rows))
    assert sum(within) >= 57
    assert sum(kept) / 60 > (1 - p) * 0.9


def test_too_few_sentinels_promise_nothing():
    assert sentinels_needed(0.1) == 29
    rows, _, sentinels, _, _ = draw(0)
    with pytest.raises(ConfigError, match="needs 29 measuring sentinels of different prompts, and there are 28"):
        cut_at_pass_rate(rows, sentinels[:28], max_harmful_pass=0.1)
    with pytest.raises(ConfigError, match="needs 29 .* there are 0"):
        cut_at_pass_rate(rows, sentinels[:0], max_harmful_pass=0.1)
    assert cut_at_pass_rate(rows, sentinels[:29], max_harmful_pass=0.1).k > 0


def test_what_cannot_be_told_apart_is_refused():
    rows, _, sentinels, tuning, _ = draw(0)
    with pytest.raises(ConfigError, match="no row weighs more"):
        cut_at_pass_rate(rows, sentinels + 100, max_harmful_pass=0.1)
    with pytest.raises(ConfigError, match="no cut can promise that at most 0.001 of the kept rows"):
        cut_at_harmful_share(
            rows, sentinels + 5, share_of(rows, sentinels, tuning), tuning_outranked=places(tuning, rows),
            max_harmful_share=0.001,
        )  # fmt: skip


def test_rows_that_tie_with_the_cut_are_dropped():
    rows, sentinels = torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.ones(40)
    assert cut_at_pass_rate(rows, sentinels, max_harmful_pass=0.1).k == 1


def test_the_drop_is_the_one_that_bounds_best():
    assert choose_drop([0.992] * 200, 5000) == 0.01  # all are caught by dropping one row in a hundred
    assert choose_drop([0.76] * 200, 5000) == 0.25


def test_prediction_covers_counts_in_one_data_set():
    inside = []
    for seed in range(200):
        rows, harmful, sentinels, _, _ = draw(seed, n=1000)
        cut = cut_at_pass_rate(rows, sentinels, max_harmful_pass=0.1)
        inside.append(int((rows[harmful] > cut.score).sum()) <= harmful_rows_kept(Rate.of(sentinels > cut.score), 100))
    assert sum(inside) >= 0.92 * 200
