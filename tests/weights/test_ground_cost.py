"""The adaptive ground cost, and the logistic fits that it is made of."""

import dataclasses

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sotune import DataError
from sotune.transport import CosineCost
from sotune.weights import Scorer, SolverSettings, learn_weights
from sotune.weights.ground_cost import (
    Stretch,
    learn_stretch,
    soft_labels,
    stretched_cost,
    train_on_sure_rows,
    train_softly,
)
from sotune.weights.logistic import fit_balanced, fit_logistic

SETTINGS = SolverSettings(
    solver="mirror", epsilon=0.1, push_strength=0.5, effective_sample_size=0.9, tau=None, stationarity_tolerance=1e-8,
    marginal_tolerance=1e-9, max_steps=500, max_iters=5_000, learning_rate=0.1, reference_relaxation=0.0,
)  # fmt: skip
D = 24


def unit(z):
    return z / z.norm(dim=1, keepdim=True)


def world(n=400, harmful=0.1, seed=0, tilt=0.0, noise=2.5):
    """Topics vary along many axes; harm is a shift along the first, in the reference tilted towards the second."""
    generator = torch.Generator().manual_seed(seed)

    def draw(k, *shifts):
        z = noise * torch.randn(k, D, generator=generator, dtype=torch.float64)
        z[:, :2] /= noise
        for axis, size in shifts:
            z[:, axis] += size
        return z

    n_harmful = int(n * harmful)
    downstream = torch.cat([draw(n_harmful, (0, 4.0)), draw(n - n_harmful)])
    reference = draw(60, (0, 4.0 * (1 - tilt)), (1, 4.0 * tilt))
    return downstream, draw(30), reference, torch.arange(n) < n_harmful


def auc(score, positive):
    ranks = score.argsort().argsort().double() + 1
    k, n = int(positive.sum()), len(score)
    return float((ranks[positive].sum() - k * (k + 1) / 2) / (k * (n - k)))


def test_the_fit_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(80, 6, generator=generator, dtype=torch.float64)
    mass = torch.rand(2, 80, generator=generator, dtype=torch.float64)
    ours = fit_logistic(z, mass[0], mass[1], tolerance=1e-10)
    model = LogisticRegression(C=1.0, tol=1e-12, max_iter=10_000)
    model.fit(
        torch.cat([z, z]).numpy(), [0] * 80 + [1] * 80, sample_weight=torch.cat([mass[0], mass[1]]).numpy()
    )  # fmt: skip
    torch.testing.assert_close(ours.direction, torch.from_numpy(model.coef_[0]), atol=1e-5, rtol=1e-4)
    assert ours.offset == pytest.approx(model.intercept_[0], abs=1e-5)


def test_a_stretch_adds_along_its_direction_and_none_changes_nothing():
    z = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    stretched = Stretch(torch.tensor([1.0, 0.0]), 2.0)(z)
    torch.testing.assert_close(stretched, torch.tensor([[1.8, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(Stretch(torch.tensor([1.0, 0.0]), 0.0)(z), unit(z))
    y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stretched_cost(z, y, None).rows(0, 2), CosineCost(z, y).rows(0, 2))
    rows = stretched_cost(z, y, Stretch(torch.tensor([0.6, 0.8]), 2.0))
    torch.testing.assert_close(rows.rows(1, 2), rows.take(torch.tensor([1])).rows(0, 1))


def test_the_learned_direction_is_that_of_harm():
    downstream, anchor, reference, _ = world()
    stretch = learn_stretch(downstream, anchor, reference)
    assert float(stretch.direction.norm()) == pytest.approx(1)
    assert float(stretch.direction[0]) > 0.8
    again = learn_stretch(downstream, anchor, reference)
    assert torch.equal(again.direction, stretch.direction)


@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_the_stretch_helps_where_harm_is_like_the_reference_and_where_it_is_not(tilt):
    downstream, anchor, reference, harmful = world(1500, tilt=tilt)

    def rank(cost):
        learned = learn_weights(downstream, anchor, reference, settings=SETTINGS, cost=cost)
        return auc(-learned.weights, harmful)

    assert rank("adaptive") > rank("cosine") + 0.05


def test_soft_self_training_finds_harm_of_another_kind_than_the_reference():
    downstream, anchor, reference, harmful = (
        unit(z) if z.is_floating_point() else z for z in world(1500, tilt=0.4, seed=1)
    )
    probe = fit_balanced(anchor, reference, inverse_regularization=10.0)
    soft = train_softly(downstream, anchor, reference, probe)
    assert auc(soft(downstream), harmful) > auc(probe(downstream), harmful) + 0.01


@pytest.mark.parametrize("harmful", [0.0, 0.01, 0.4])
def test_self_training_does_not_run_away(harmful):
    # Harmful rows that were not there to be learned from are still told apart.
    downstream, anchor, reference, _ = world(harmful=harmful)
    stretch = learn_stretch(downstream, anchor, reference)
    fresh, _, _, truth = world(seed=9, harmful=0.2)
    assert auc(unit(fresh) @ stretch.direction, truth) > 0.9


def test_an_anchor_with_some_wrong_rows_is_survived():
    downstream, anchor, reference, harmful = world()
    anchor[:4] = world(seed=5)[0][:4]  # four harmful rows among thirty
    learned = learn_weights(downstream, anchor, reference, settings=SETTINGS, cost="adaptive")
    assert auc(-learned.weights, harmful) > 0.93


def test_soft_labels_have_the_wanted_mean_and_order():
    scores = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    belief = soft_labels(scores)
    assert float(belief.mean()) == pytest.approx(0.03, abs=1e-6)
    assert belief.argsort().tolist() == scores.double().argsort().tolist()
    torch.testing.assert_close(soft_labels(1000 * scores - 7), belief, atol=1e-6, rtol=0)
    assert float(soft_labels(torch.ones(10)).mean()) == pytest.approx(0.03, abs=1e-6)


def test_both_ways_of_self_training_keep_what_they_start_from():
    downstream, anchor, reference, harmful = (unit(z) if z.is_floating_point() else z for z in world(1500))
    start = fit_balanced(anchor, reference, inverse_regularization=10.0)
    for train in (train_on_sure_rows, train_softly):
        trained = train(downstream, anchor, reference, start)
        assert auc(trained(downstream), harmful) >= auc(start(downstream), harmful) - 0.005


def test_scoring_in_the_stretched_space_gives_rows_their_own_weights(tmp_path):
    downstream, anchor, reference, _ = world()
    learned = learn_weights(downstream, anchor, reference, settings=SETTINGS, cost="adaptive")
    scorer = Scorer.from_learned(learned, settings=SETTINGS, references=(anchor, reference))
    scorer.save(tmp_path / "p.safetensors")
    again = Scorer.load(tmp_path / "p.safetensors").score(downstream[5:50])
    torch.testing.assert_close(again.weights, learned.weights[5:50], rtol=1e-8, atol=0)


def test_many_rows_are_sampled_and_the_streamed_solution_is_the_same(monkeypatch):
    downstream, anchor, reference, harmful = world(3000)
    monkeypatch.setattr("sotune.weights.ground_cost._MAX_ROWS", 1000)
    monkeypatch.setattr("sotune.weights.streaming._LEAST_SAMPLE", 300)
    dense = learn_weights(downstream, anchor, reference, settings=SETTINGS, cost="adaptive")
    small = dataclasses.replace(SETTINGS, max_memory=10_000)
    streamed = learn_weights(downstream, anchor, reference, settings=small, cost="adaptive")
    assert streamed.n_passes > 0
    torch.testing.assert_close(streamed.weights, dense.weights, rtol=1e-2, atol=0)
    assert auc(-dense.weights, harmful) > 0.95


def test_rows_without_a_direction_are_named():
    downstream, anchor, reference, _ = world()
    downstream[7] = 0
    with pytest.raises(DataError, match=r"positions \[7\]"):
        learn_stretch(downstream, anchor, reference)


def test_rows_that_are_all_alike_are_left_as_they_are():
    rows = torch.ones(30, 8)
    weights = learn_weights(rows, rows[:10], rows[:12], settings=SETTINGS, cost="adaptive").weights
    torch.testing.assert_close(weights, torch.full((30,), 1 / 30, dtype=weights.dtype))
