"""Equal rows are weighed as one: to the last bit, by every solver, and however many of them there are."""

import math

import numpy as np
import pytest
import torch

from sotune import ConfigError
from sotune.representations import MappedRows
from sotune.settings import WeightSettings
from sotune.transport import CosineCost, DenseCost
from sotune.weights import learn_weights
from sotune.weights.distinct import find_distinct
from sotune.weights.tempering import effective_sample_size, find_tau, gibbs


def draw(n, d=24, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


SAFE, HARMFUL = draw(30, seed=1, shift=0.3), draw(30, seed=2, shift=-0.3)


def repeated(n=40, times=3):
    rows = draw(n).repeat(times, 1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))
    return rows[order], torch.arange(n).repeat(times)[order]


def spread_within(values, kind):
    return max(float(values[kind == one].max() - values[kind == one].min()) for one in kind.unique())


def weigh(rows, **changes):
    return learn_weights(rows, SAFE, HARMFUL, WeightSettings(**changes))


@pytest.mark.parametrize("cost", ["adaptive", "cosine"])
@pytest.mark.parametrize("solver", ["mirror", "cccp", "one_step", "sharp"])
def test_equal_rows_get_equal_weights(solver, cost):
    rows, kind = repeated()
    learned = weigh(rows, solver=solver, cost=cost, max_outer_steps=20)
    assert spread_within(learned.weights, kind) == 0
    assert spread_within(learned.pull_cost, kind) == spread_within(learned.push_potential, kind) == 0
    assert float(learned.weights.sum()) == pytest.approx(1)


def test_equal_rows_that_are_streamed_get_equal_weights():
    rows, kind = repeated()
    assert weigh(rows, max_memory=2000).n_passes > 0
    assert spread_within(weigh(rows, max_memory=2000).weights, kind) == 0


def test_repeating_all_rows_changes_no_weight():
    rows, kind = repeated()
    # Balanced transport and one cost for both: the adaptive direction depends on how many rows are read.
    once, thrice = weigh(draw(40), cost="cosine"), weigh(rows, cost="cosine")
    torch.testing.assert_close(thrice.weights, once.weights[kind] / 3, rtol=1e-4, atol=0)
    assert thrice.effective_sample_size == pytest.approx(0.9, abs=1e-4)
    assert float(1 / (len(rows) * (thrice.weights**2).sum())) == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("n", [2, 50, 97])
def test_rows_that_are_all_equal_have_no_signal(n):
    learned = weigh(draw(1).repeat(n, 1))
    assert learned.weights.tolist() == [1 / n] * n
    assert learned.effective_sample_size == pytest.approx(1)
    assert learned.converged


def test_a_row_alone_has_all_weight(recwarn):
    assert weigh(draw(1)).weights.tolist() == [1.0]
    assert not recwarn.list


def test_distinct_rows_that_differ_by_rounding_have_no_signal():
    rows = draw(1).repeat(50, 1) * (1 + 1e-7 * draw(50, 24, seed=4))
    weights = weigh(rows).weights * 50
    assert float(weights.max() - weights.min()) < 1e-5


def test_a_row_repeated_beyond_the_sample_size_leaves_the_others_some_weight():
    rows = torch.cat([SAFE[:1].repeat(49, 1), HARMFUL[:1]])
    learned = weigh(rows)
    assert learned.converged
    assert learned.effective_sample_size == pytest.approx((1 + 49 / 50) / 2, abs=1e-4)
    assert 0.01 < float(learned.weights[-1] * 50) < 1
    assert spread_within(learned.weights[:-1], torch.zeros(49)) == 0


def test_unequal_base_mass_is_shared_by_mass():
    rows, kind = repeated(20, 2)
    mass = torch.arange(1, 41).double() / sum(range(1, 41))
    weights = learn_weights(rows, SAFE, HARMFUL, WeightSettings(), base_mass=mass).weights / mass
    assert spread_within(weights, kind) < 1e-5 * float(weights.max())


def test_a_size_below_one_row_is_refused_before_rows_are_merged():
    with pytest.raises(ConfigError, match="cannot be reached with 4 rows"):
        weigh(draw(1).repeat(4, 1), effective_sample_size=0.2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_spread_within_rounding_is_no_signal(scale):
    # Float32 costs of equal rows came out up to 1e-8 apart, which a floor of 1e-12 took for signal.
    cost = DenseCost(scale * torch.rand(6, 64))
    noise = scale * 1e-8 * torch.rand(50, dtype=torch.float64)
    uniform = torch.full((50,), 0.02, dtype=torch.float64)
    assert find_tau(noise, uniform, 0.9, rounding=cost.rounding) == 1.0
    assert find_tau(1e4 * noise, uniform, 0.9, rounding=cost.rounding) < scale


def test_rounding_of_a_cosine_grows_with_the_width():
    narrow, wide = (CosineCost(draw(3, d), draw(2, d)).rounding for d in (16, 1600))
    assert wide == pytest.approx(10 * narrow)
    assert CosineCost(draw(3).double(), draw(2).double()).rounding < 1e-14


def test_a_target_below_the_mass_of_the_best_rows_is_halved_to_one():
    gradient, base = torch.tensor([0.0, 1.0]), torch.tensor([0.95, 0.05])
    tau = find_tau(gradient, base, 0.9)
    assert effective_sample_size(gibbs(gradient, base, tau)[0], base) == pytest.approx(0.975)


def test_distinct_rows_are_found_in_order_in_tensors_and_mapped_files():
    parts = [draw(4), draw(3, seed=9)]
    positions = np.array([5, 0, 5, 6, 0, 1])
    mapped = MappedRows(parts, np.array([0, 4, 7]), positions)
    for rows in (mapped, torch.cat(parts)[torch.from_numpy(positions)]):
        found = find_distinct(rows)
        assert found.first.tolist() == [0, 1, 3, 5]
        assert found.kind.tolist() == [0, 1, 0, 2, 1, 3]
        taken = found.of(rows)
        assert taken.shape == (4, 24)
        torch.testing.assert_close(taken[1:3], torch.cat(parts)[[0, 6]], rtol=0, atol=0)
        torch.testing.assert_close(taken[torch.tensor([3])], parts[0][1:2], rtol=0, atol=0)
    assert math.isclose(float(found.gather(torch.full((6,), 1 / 6)).sum()), 1, rel_tol=1e-6)


def test_rows_that_all_differ_are_handed_on_as_they_are():
    rows = draw(5)
    assert find_distinct(rows).of(rows) is rows
