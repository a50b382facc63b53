import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sotune import ConfigError, ConvergenceWarning, DataError
from sotune.transport import (
    CosineCost,
    Kernel,
    OTProblem,
    SinkhornSolver,
    column_error,
    extend_potential,
    regularized_cost,
    sinkhorn,
    sweep,
    transport_plan,
)

TIGHT = {"tolerance": 1e-10, "max_iters": 20_000}


def random_problem(n=30, m=20, epsilon=0.1, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=dtype)
    y = torch.randn(m, 6, generator=generator, dtype=dtype) + 0.3
    a = torch.rand(n, generator=generator, dtype=dtype) + 0.1
    b = torch.rand(m, generator=generator, dtype=dtype) + 0.1
    return OTProblem(CosineCost(x, y), a / a.sum(), b / b.sum(), epsilon)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("epsilon", [0.5, 0.1, 0.04])
def test_potentials_agree_with_an_independent_solver(stored, epsilon):
    problem = random_problem(epsilon=epsilon)
    result = sinkhorn(problem, stored=stored, **TIGHT)
    cost = problem.cost_matrix.rows(0, 30).numpy()
    oracle = ot.sinkhorn(
        problem.a.numpy(), problem.b.numpy(), cost, reg=epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=50_000
    )
    np.testing.assert_allclose(transport_plan(problem, result).numpy(), oracle, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 25), m=st.integers(1, 25), epsilon=st.floats(0.05, 2.0), seed=st.integers(0, 10_000),
    stored=st.booleans(),
)  # fmt: skip
def test_marginals_hold(n, m, epsilon, seed, stored):
    problem = random_problem(n, m, epsilon, seed)
    result = sinkhorn(problem, tolerance=1e-8, max_iters=20_000, stored=stored)
    plan = transport_plan(problem, result)
    assert result.converged
    torch.testing.assert_close(plan.sum(1), problem.a, atol=1e-12, rtol=1e-9)
    assert (plan.sum(0) - problem.b).abs().sum() <= 1.01e-8


def test_swapping_the_sides_swaps_the_potentials():
    problem = random_problem()
    swapped = OTProblem(problem.cost_matrix.rows(0, 30).T.contiguous(), problem.b, problem.a, problem.epsilon)
    there, back = sinkhorn(problem, **TIGHT), sinkhorn(swapped, **TIGHT)
    shift = (there.f - back.g).mean()
    torch.testing.assert_close(there.f - shift, back.g, atol=1e-8, rtol=0)
    torch.testing.assert_close(there.g + shift, back.f, atol=1e-8, rtol=0)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.01, 0.003, 0.0005])
def test_small_epsilon_stays_finite_improves_and_tells_the_truth(stored, dtype, epsilon):
    problem = random_problem(80, 60, epsilon, dtype=dtype)
    errors = []
    for max_iters in (20, 400):
        solver = SinkhornSolver(Kernel(problem.cost_matrix, problem.b, epsilon, stored=stored))
        result = solver.solve(problem.a, tolerance=1e-7, max_iters=max_iters)
        assert torch.isfinite(result.f).all()
        assert torch.isfinite(result.g).all()
        measured = column_error(problem.cost_matrix, result.f, result.g, problem.a, problem.b, epsilon)
        assert measured == pytest.approx(result.marginal_error, rel=0.05, abs=5e-6 if dtype == torch.float64 else 5e-4)
        assert result.converged == (result.marginal_error <= 1e-7)
        errors.append(measured)
    assert errors[1] < errors[0]


def test_kernel_form_falls_back_where_a_column_underflows():
    # In float32 exp(-1.9 / 0.005) is zero: no row reaches the second column but by the log domain.
    cost = torch.tensor([[0.0, 1.9], [0.01, 1.95]])
    half = torch.tensor([0.5, 0.5])
    result = sinkhorn(OTProblem(cost, half, half, 0.005), tolerance=1e-5, max_iters=5_000)
    plan = transport_plan(OTProblem(cost, half, half, 0.005), result)
    assert result.converged
    torch.testing.assert_close(plan.sum(0), half, atol=1e-4, rtol=0)


def test_two_points_have_a_closed_form():
    # Symmetric two-point problem: the plan's diagonal is 1 / (2 (1 + exp(-c/ε))).
    epsilon, c = 0.2, 0.7
    cost = torch.tensor([[0.0, c], [c, 0.0]], dtype=torch.float64)
    half = torch.full((2,), 0.5, dtype=torch.float64)
    problem = OTProblem(cost, half, half, epsilon)
    plan = transport_plan(problem, sinkhorn(problem, **TIGHT))
    assert float(plan[0, 0]) == pytest.approx(0.5 / (1 + math.exp(-c / epsilon)), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 1)])
def test_one_point_on_a_side(n, m):
    problem = random_problem(n, m)
    plan = transport_plan(problem, sinkhorn(problem, **TIGHT))
    torch.testing.assert_close(plan, problem.a[:, None] * problem.b)


def test_equal_costs_give_the_independent_coupling():
    a, b = torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.25, 0.25])
    problem = OTProblem(torch.full((2, 3), 0.4), a, b, 0.1)
    torch.testing.assert_close(
        transport_plan(problem, sinkhorn(problem, tolerance=1e-6, max_iters=50)), torch.outer(a, b)
    )


def test_value_from_potentials_is_the_regularized_cost():
    problem = random_problem()
    result = sinkhorn(problem, **TIGHT)
    plan = transport_plan(problem, result)
    product = torch.outer(problem.a, problem.b)
    direct = (plan * problem.cost_matrix.rows(0, 30)).sum() + problem.epsilon * (plan * (plan / product).log()).sum()
    assert regularized_cost(problem, result) == pytest.approx(float(direct), rel=1e-8)


@pytest.mark.parametrize("stored", [True, False])
def test_mean_cost_is_that_of_the_plan(stored):
    problem = random_problem()
    result = sinkhorn(problem, **TIGHT)
    kernel = Kernel(problem.cost_matrix, problem.b, problem.epsilon, g=result.g, stored=stored)
    for _ in range(2):  # the second sweep of a stored kernel reads what the first one stored
        found = sweep([kernel], lambda start, stop, _: problem.a[start:stop].log(), mean_costs=True)
        direct = (transport_plan(problem, result) * problem.cost_matrix.rows(0, 30)).sum(1) / problem.a
        torch.testing.assert_close(found.mean_costs[0], direct)


def test_extension_returns_the_solved_rows_and_is_the_same_in_blocks(monkeypatch):
    problem = random_problem()
    result = sinkhorn(problem, **TIGHT)
    monkeypatch.setattr("sotune.transport.cost.BLOCK_ELEMENTS", 45)
    extended = extend_potential(problem.cost_matrix, result.g, problem.b, problem.epsilon)
    torch.testing.assert_close(extended, result.f, atol=1e-12, rtol=0)
    blocked = sinkhorn(problem, **TIGHT)
    torch.testing.assert_close(blocked.g, result.g, atol=1e-12, rtol=0)


def test_a_good_start_saves_iterations_and_a_solver_remembers():
    problem = random_problem(epsilon=0.02)
    cold = sinkhorn(problem, tolerance=1e-8, max_iters=20_000)
    warm = sinkhorn(problem, tolerance=1e-8, max_iters=20_000, init_g=cold.g)
    assert warm.n_iters < cold.n_iters / 5
    solver = SinkhornSolver(Kernel(problem.cost_matrix, problem.b, problem.epsilon))
    solver.solve(problem.a, tolerance=1e-8, max_iters=20_000)
    nudged = problem.a * (1 + 1e-6 * torch.linspace(-1, 1, 30, dtype=torch.float64))
    again = solver.solve(nudged / nudged.sum(), tolerance=1e-8, max_iters=20_000)
    assert again.n_iters < cold.n_iters / 2


def test_an_unfinished_solve_warns_and_keeps_its_rows_exact():
    problem = random_problem(epsilon=0.005)
    with pytest.warns(ConvergenceWarning, match="above the tolerance"):
        result = sinkhorn(problem, tolerance=1e-12, max_iters=3)
    assert not result.converged
    torch.testing.assert_close(transport_plan(problem, result).sum(1), problem.a)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epsilon": 0.0}, ConfigError, "epsilon must be a positive"),
        ({"epsilon": math.nan}, ConfigError, "epsilon must be a positive"),
        ({"a": torch.ones(3) / 3}, DataError, "a must hold one mass for each of 2 points"),
        ({"b": torch.tensor([0.7, 0.7])}, DataError, "b must be non-negative and sum to 1"),
        ({"b": torch.tensor([1.5, -0.5])}, DataError, "b must be non-negative and sum to 1"),
        ({"cost": torch.tensor([[0.0, math.nan], [0.0, 1.0]])}, DataError, "NaN or infinite"),
        ({"cost": torch.zeros(2)}, DataError, "must be a matrix"),
    ],
)
def test_bad_problems_are_named(change, error, message):
    parts = {"cost": torch.zeros(2, 2), "a": torch.ones(2) / 2, "b": torch.ones(2) / 2, "epsilon": 0.1}
    with pytest.raises(error, match=message):
        OTProblem(**{**parts, **change})


def test_cosine_cost_refuses_rows_without_a_direction():
    x = torch.randn(4, 3)
    x[2] = 0
    with pytest.raises(DataError, match=r"1 of 4 rows have a zero.*\[2\]"):
        CosineCost(x, torch.randn(2, 3))
    with pytest.raises(DataError, match="same encoder"):
        CosineCost(torch.randn(4, 3), torch.randn(2, 5))
