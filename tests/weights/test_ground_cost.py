"""The adaptive ground cost, and the logistic fits that it is made of."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sotune import ConfigError, DataError
from sotune.settings import WeightSettings
from sotune.transport import CosineCost
from sotune.weights import COSTS, Adaptive, Cosine, ReferenceSet, Scorer, cost_of, learn_weights, relaxation_of
from sotune.weights.ground_cost import (
    Contrast,
    learn_contrast,
    soft_labels,
    standardize,
    train_on_sure_rows,
    train_softly,
)
from sotune.weights.logistic import fit_balanced, fit_logistic

SETTINGS = WeightSettings(stationarity_tolerance=1e-8, marginal_tolerance=1e-9, max_outer_steps=500, max_iters=5_000)
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


def contrast(directions, offsets):
    """Coordinates of rows that are standardized already."""
    width = len(directions[0])
    return Contrast(torch.zeros(width), torch.ones(width), torch.tensor(directions), torch.tensor(offsets))


def test_a_stretch_adds_along_its_direction_and_none_changes_nothing():
    z = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    direction = torch.tensor([0.6, 0.8])

    def stretched(z):
        return unit(z) + 2 * (unit(z) @ direction)[:, None] * direction

    cost = Adaptive(2.0, contrast([[0.6, 0.8]], [0.0]))
    torch.testing.assert_close(cost.between(z, y).rows(0, 2), CosineCost(stretched(z), stretched(y)).rows(0, 2))
    plain = replace(cost, stretch=0.0).between(z, y).rows(0, 2)
    torch.testing.assert_close(plain, CosineCost(z, y).rows(0, 2))
    torch.testing.assert_close(Cosine().between(z, y).rows(0, 2), CosineCost(z, y).rows(0, 2))
    rows = cost.between(z, y)
    torch.testing.assert_close(rows.rows(1, 2), rows.take(torch.tensor([1])).rows(0, 1))
    assert rows.shape == (2, 5)


def test_topic_and_answer_count_by_the_stretch_beside_what_is_the_same_for_all_rows():
    z = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    of_answers = contrast([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [0.0, 0.0, 1.0])
    joined = Adaptive(2.0, of_answers).joined(z)
    torch.testing.assert_close(joined, torch.tensor([[0.6, 0.8, 0.3, 1.6, 2.0], [0.0, 1.0, 0.0, 2.0, 2.0]]))


def test_the_learned_direction_is_that_of_harm():
    downstream, anchor, reference, _ = world()
    cost = Adaptive().fit(downstream, anchor, reference)
    (direction,) = cost.contrast.directions
    assert float(direction.norm()) == pytest.approx(1)
    assert float(direction[0]) > 0.8
    assert cost == cost.fit(*world(seed=3)[:3])  # what is fitted stays as it is


def test_numbers_of_a_representation_that_are_far_larger_than_the_others_do_not_rule():
    downstream, anchor, reference, harmful = world()
    rescaled = [z * torch.tensor([1.0] * (D - 1) + [1000.0]) for z in (downstream, anchor, reference)]
    weights = [learn_weights(*sets, SETTINGS).weights for sets in ((downstream, anchor, reference), rescaled)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=0)
    assert auc(-weights[1], harmful) > 0.9


def test_of_a_mean_that_all_rows_share_only_what_is_longer_than_the_spread_is_taken_away():
    sets = world()[:3]
    short = learn_contrast(*sets)
    assert not short.center.any()
    shifted = [z + 30 for z in sets]
    found = learn_contrast(*shifted)
    left = (torch.cat(shifted).mean(0) - found.center) / found.scale
    assert float(left.square().mean().sqrt()) == pytest.approx(1)
    assert learn_contrast(*shifted, shifted[1]).center.allclose(torch.cat([*shifted, shifted[1]]).mean(0))


@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_the_stretch_helps_where_harm_is_like_the_reference_and_where_it_is_not(tilt):
    downstream, anchor, reference, harmful = world(1500, tilt=tilt)

    def rank(cost):
        learned = learn_weights(downstream, anchor, reference, SETTINGS.replace(cost=cost))
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
    found = learn_contrast(*world(harmful=harmful)[:3])
    fresh, _, _, truth = world(seed=9, harmful=0.2)
    assert auc(found.coordinates(found.standardized(fresh))[:, 0], truth) > 0.9


def test_an_anchor_with_some_wrong_rows_is_survived():
    downstream, anchor, reference, harmful = world()
    anchor[:4] = world(seed=5)[0][:4]  # four harmful rows among thirty
    learned = learn_weights(downstream, anchor, reference, SETTINGS)
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


def test_scoring_of_joined_rows_gives_rows_their_own_weights(tmp_path):
    downstream, anchor, reference, _ = world()
    learned = learn_weights(downstream, anchor, reference, SETTINGS)
    scorer = Scorer.from_learned(learned, settings=SETTINGS, references=(anchor, reference))
    scorer.save(tmp_path / "p.safetensors")
    again = Scorer.load(tmp_path / "p.safetensors").score(downstream[5:50])
    torch.testing.assert_close(again.weights, learned.weights[5:50], rtol=1e-8, atol=0)


def test_many_rows_are_sampled_and_the_streamed_solution_is_the_same(monkeypatch):
    downstream, anchor, reference, harmful = world(3000)
    monkeypatch.setattr("sotune.weights.ground_cost._MAX_ROWS", 1000)
    monkeypatch.setattr("sotune.weights.streaming._LEAST_SAMPLE", 300)
    dense = learn_weights(downstream, anchor, reference, SETTINGS)
    small = SETTINGS.replace(max_memory=10_000)
    streamed = learn_weights(downstream, anchor, reference, small)
    assert streamed.n_passes > 0
    torch.testing.assert_close(streamed.weights, dense.weights, rtol=1e-2, atol=0)
    assert auc(-dense.weights, harmful) > 0.95


def test_rows_that_are_zero_are_named():
    downstream, anchor, reference, _ = world()
    downstream[7] = 0
    with pytest.raises(DataError, match=r"positions \[7\]"):
        learn_contrast(downstream, anchor, reference)


def test_rows_that_are_all_alike_are_left_as_they_are():
    rows = torch.ones(30, 8)
    weights = learn_weights(rows, rows[:10], rows[:12], SETTINGS).weights
    torch.testing.assert_close(weights, torch.full((30,), 1 / 30, dtype=weights.dtype))


def test_every_cost_can_be_set_and_brings_its_own_relaxation():
    assert set(COSTS) == set(get_args(WeightSettings.model_fields["cost"].annotation))
    assert {name: kind.name for name, kind in COSTS.items()} == {name: name for name in COSTS}
    assert cost_of(WeightSettings(stretch=4)) == Adaptive(4.0)
    assert cost_of(WeightSettings(cost="cosine", stretch=4)) == Cosine()
    for settings, relaxation in (
        (WeightSettings(), 0.0),
        (WeightSettings(cost="cosine"), math.inf),
        (WeightSettings(cost="cosine", reference_relaxation=0.3), 0.3),
        (WeightSettings(reference_relaxation=math.inf), math.inf),
    ):
        assert relaxation_of(settings, cost_of(settings)) == relaxation


def test_a_cost_given_takes_the_place_of_the_one_that_the_settings_name():
    downstream, anchor, reference, _ = world()
    named = learn_weights(downstream, anchor, reference, SETTINGS.replace(cost="cosine"))
    given = learn_weights(downstream, anchor, reference, SETTINGS, cost=Cosine())
    torch.testing.assert_close(given.weights, named.weights, rtol=1e-9, atol=0)
    fitted = Adaptive(4.0).fit(downstream, anchor, reference)
    stretched = learn_weights(downstream, anchor, reference, SETTINGS.replace(cost="cosine"), cost=fitted)
    expected = learn_weights(downstream, anchor, reference, SETTINGS.replace(stretch=4))
    torch.testing.assert_close(stretched.weights, expected.weights, rtol=1e-9, atol=0)
    assert stretched.cost is fitted


def test_a_cost_of_ones_own_needs_no_other_change(monkeypatch, tmp_path):
    @dataclass(frozen=True)
    class Tilted(Cosine):
        name: ClassVar[str] = "tilted"

        def between(self, rows, reference):
            return CosineCost(rows[:] ** 3, reference**3)

    downstream, anchor, reference, _ = world()
    learned = learn_weights(downstream, anchor, reference, SETTINGS, cost=Tilted())
    expected = learn_weights(downstream**3, anchor**3, reference**3, SETTINGS, cost=Cosine())
    torch.testing.assert_close(learned.weights, expected.weights, rtol=1e-9, atol=0)
    monkeypatch.setitem(COSTS, "tilted", Tilted)
    scorer = Scorer.from_learned(learned, settings=SETTINGS, references=(anchor, reference))
    scorer.save(tmp_path / "p.safetensors")
    again = Scorer.load(tmp_path / "p.safetensors")
    assert again.cost == Tilted()
    torch.testing.assert_close(again.score(downstream).weights, learned.weights, rtol=1e-8, atol=0)


def test_a_cost_that_is_not_fitted_says_so():
    downstream, anchor, _, _ = world()
    with pytest.raises(ConfigError, match="call fit first"):
        Adaptive().between(downstream, anchor)


def answers(seed=0, n=120):
    """Rows of two halves, topic and answer: plain, safe answers to risky prompts, harm; and references of all three."""
    generator = torch.Generator().manual_seed(seed)

    def draw(k, topic, answer):
        z = torch.randn(k, 2 * D, generator=generator, dtype=torch.float64)
        z[:, 0] += 4 * topic
        z[:, D] += 4 * answer
        return z

    rows = torch.cat([draw(n, 0, 0), draw(30, 1, 0), draw(30, 1, 1)])
    kinds = torch.tensor([0] * n + [1] * 30 + [2] * 30)
    return rows, kinds, draw(30, 0, 0), draw(60, 1, 0), draw(60, 1, 1)


def test_a_safe_reference_tells_a_safe_answer_from_harm_on_the_same_topic():
    rows, kinds, anchor, safe, harmful = answers()
    told = learn_weights(rows, [ReferenceSet(anchor), ReferenceSet(safe)], harmful, WeightSettings(answer_from=0.5))
    untold = learn_weights(rows, anchor, harmful, WeightSettings())
    for kind, least in ((0, 0.99), (1, 0.97)):
        pair = kinds != 1 - kind
        assert auc(told.weights[pair], kinds[pair] != 2) > least
    risky = kinds != 0
    assert auc(untold.weights[risky], kinds[risky] == 1) < auc(told.weights[risky], kinds[risky] == 1) - 0.01


def test_the_answer_is_told_by_its_part_alone_and_coordinates_lie_about_zero():
    rows, _, anchor, safe, harmful = answers()
    found = learn_contrast(rows, anchor, harmful, safe, answer_from=0.5)
    topic, answer, common = found.directions
    assert not common.any()
    assert not answer[:D].any()
    assert set(topic.abs().topk(2).indices.tolist()) == {0, D}  # harm differs from plain rows in both
    assert int(answer.abs().argmax()) == D
    of_safe, of_harm, of_plain = (found.coordinates(found.standardized(z)) for z in (safe, harmful, anchor))
    torch.testing.assert_close(of_safe[:, 1].mean(), -of_harm[:, 1].mean())
    torch.testing.assert_close(of_plain[:, 0].mean(), -of_harm[:, 0].mean())
    assert of_harm[:, :2].mean(0).min() > 0.5
    assert (of_harm[:, 2] == 1).all()


def test_without_a_safe_reference_there_is_one_coordinate_of_the_whole_representation():
    downstream, anchor, reference, _ = world()
    fitted = Adaptive(answer_from=0.5).fit(downstream, anchor, reference)
    assert fitted.added == 1
    assert torch.equal(fitted.contrast.directions, learn_contrast(downstream, anchor, reference).directions)


def test_a_contrast_is_saved_and_weighs_unseen_rows_as_seen_ones(tmp_path):
    rows, _, anchor, safe, harmful = answers()
    learned = learn_weights(rows, [ReferenceSet(anchor), ReferenceSet(safe)], harmful, SETTINGS)
    scorer = Scorer.from_learned(learned, settings=SETTINGS, references=(anchor, safe, harmful))
    scorer.save(tmp_path / "potentials.safetensors")
    again = Scorer.load(tmp_path / "potentials.safetensors")
    assert torch.equal(again.score(rows).weights, scorer.score(rows).weights)
    torch.testing.assert_close(again.score(rows).weights, learned.weights, rtol=1e-5, atol=0)


def test_coordinates_that_do_not_differ_and_rows_at_the_mean_do_no_harm():
    z = torch.cat([torch.full((4, 1), 7.0), torch.eye(4)], dim=1)
    found = standardize(torch.cat([z, z.mean(0, keepdim=True)]))
    assert found.isfinite().all()
    assert not found[:, 0].any()
    assert not found[-1].any()
    torch.testing.assert_close(found[:4].norm(dim=1), torch.ones(4, dtype=torch.float64))
    alike = torch.ones(5, 3)
    weights = learn_weights(alike, [ReferenceSet(alike), ReferenceSet(alike)], alike, WeightSettings()).weights
    torch.testing.assert_close(weights, torch.full((5,), 0.2, dtype=torch.float64))
