"""The sweep, the kernel that it reads, the relaxed columns and the extrapolation between sweeps."""

import math

import numpy as np
import ot
import pytest
import torch

from sotune import ConfigError, SotuneError
from sotune.transport import (
    CosineCost,
    DenseCost,
    Extrapolation,
    Kernel,
    OTProblem,
    column_error,
    regularized_cost,
    row_mean_costs,
    sinkhorn,
    sweep,
    transport_plan,
)

TIGHT = {"tolerance": 1e-12, "max_iters": 20_000}


def points(n=40, m=25, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=dtype)
    y = torch.randn(m, 6, generator=generator, dtype=dtype) + 0.3
    a = torch.rand(n, generator=generator, dtype=dtype) + 0.1
    b = torch.rand(m, generator=generator, dtype=dtype) + 0.1
    return x, y, a / a.sum(), b / b.sum()


def relaxed_problem(relaxation, epsilon=0.2):
    x, y, a, b = points()
    return OTProblem(CosineCost(x, y), a, b, epsilon, relaxation)


def test_masses_may_be_on_any_scale_and_of_any_range(monkeypatch):
    x, y, a, b = points()
    log_masses = a.log() + torch.linspace(-300, 300, 40, dtype=torch.float64)
    expected = torch.softmax(log_masses, 0)
    kernel = Kernel(CosineCost(x, y), b, 0.1)
    monkeypatch.setattr("sotune.transport.cost.BLOCK_ELEMENTS", 70)  # blocks of two rows: the level rises often
    for shift in (0.0, 900.0, -900.0):
        found = sweep([kernel], lambda start, stop, _, shift=shift: log_masses[start:stop] + shift)
        conditional = torch.softmax(-CosineCost(x, y).rows(0, 40) / 0.1 + b.log(), dim=1)
        torch.testing.assert_close(found.log_masses[0].exp(), expected @ conditional, rtol=1e-10, atol=0)


def test_a_row_without_mass_counts_for_nothing():
    x, y, a, b = points()
    a[:5] = 0
    a = a / a.sum()
    problem = OTProblem(CosineCost(x, y), a, b, 0.1)
    without = OTProblem(CosineCost(x[5:], y), a[5:], b, 0.1)
    ours, theirs = sinkhorn(problem, **TIGHT), sinkhorn(without, **TIGHT)
    torch.testing.assert_close(transport_plan(problem, ours)[5:], transport_plan(without, theirs), atol=1e-11, rtol=0)


def test_a_column_without_mass_gets_none():
    x, y, a, b = points()
    b[3] = 0
    b = b / b.sum()
    problem = OTProblem(CosineCost(x, y), a, b, 0.1)
    result = sinkhorn(problem, **TIGHT)
    plan = transport_plan(problem, result)
    assert torch.isfinite(result.g).all()
    assert float(plan[:, 3].sum()) == 0
    torch.testing.assert_close(plan.sum(0), b, atol=1e-11, rtol=0)


def test_a_stored_kernel_and_one_computed_anew_agree_along_the_way():
    x, y, a, b = points()
    kernels = [Kernel(CosineCost(x, y), b, 0.05, stored=stored) for stored in (True, False)]
    for _ in range(4):
        found = [sweep([kernel], lambda start, stop, _: a[start:stop].log()) for kernel in kernels]
        torch.testing.assert_close(found[0].f[0], found[1].f[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(found[0].log_masses[0], found[1].log_masses[0], atol=1e-11, rtol=0)
        for kernel, one in zip(kernels, found, strict=True):
            kernel.move(kernel.g + one.changes[0])


def test_a_scaling_out_of_range_is_absorbed():
    x, y, a, b = points(dtype=torch.float32)
    kernel = Kernel(CosineCost(x, y), b, 0.01)
    masses = a.log()
    sweep([kernel], lambda start, stop, _: masses[start:stop])
    g = torch.linspace(-2, 2, 25, dtype=torch.float64)  # exp(g / ε) spans 174 decades
    kernel.move(g)
    found = sweep([kernel], lambda start, stop, _: masses[start:stop])
    exact = Kernel(CosineCost(x.double(), y.double()), b.double(), 0.01, g=g)
    truth = sweep([exact], lambda start, stop, _: masses.double()[start:stop])
    torch.testing.assert_close(found.f[0].double(), truth.f[0], atol=2e-6, rtol=0)
    reached = truth.log_masses[0] > -60
    torch.testing.assert_close(found.log_masses[0][reached], truth.log_masses[0][reached], atol=2e-3, rtol=0)


def test_a_cost_that_is_not_finite_is_named():
    class Broken(DenseCost):
        def affine(self, start, stop, shift, factor, out=None):
            return super().affine(start, stop, shift, factor, out=out).mul_(float("nan"))

    x, y, a, b = points()
    kernel = Kernel(Broken(CosineCost(x, y).rows(0, 40)), b, 0.1)
    with pytest.raises(SotuneError, match="non-finite value with epsilon"):
        sweep([kernel], lambda start, stop, _: a[start:stop].log())


@pytest.mark.parametrize("make", [CosineCost, lambda x, y: DenseCost(CosineCost(x, y).rows(0, len(x)))])
def test_an_affine_block_is_the_cost_scaled_and_shifted(make):
    x, y, _, _ = points()
    cost, shift = make(x, y), torch.linspace(-1, 1, len(y), dtype=x.dtype)
    torch.testing.assert_close(cost.affine(5, 30, shift, 7.0), shift - 7.0 * cost.rows(5, 30), atol=1e-12, rtol=0)


def test_one_level_for_all_rows_changes_nothing():
    # A dense cost has no known bound, so its rows get a level each.
    x, y, a, b = points()
    cosine = CosineCost(x, y)
    one, each = Kernel(cosine, b, 0.1), Kernel(DenseCost(cosine.rows(0, len(x))), b, 0.1)
    assert one.block(0, 2).level.unique().numel() == 1
    assert each.block(0, 2).level.unique().numel() == 2
    found, other = (
        sweep([kernel], lambda start, stop, _: a[start:stop].log(), mean_costs=True) for kernel in (one, each)
    )
    torch.testing.assert_close(found.f[0], other.f[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(found.log_masses[0], other.log_masses[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(found.mean_costs[0], other.mean_costs[0], atol=1e-12, rtol=0)


def test_mean_costs_alone_are_those_of_a_sweep_also_where_a_column_has_no_mass():
    x, y, a, b = points()
    b = b.clone()
    b[0] = 0
    kernel = Kernel(CosineCost(x, y), b / b.sum(), 0.1)
    found = sweep([kernel], lambda start, stop, _: a[start:stop].log(), mean_costs=True)
    (alone,) = row_mean_costs([kernel])
    assert torch.isfinite(alone).all()
    assert torch.equal(alone, found.mean_costs[0])


@pytest.mark.parametrize("relaxation", [0.05, 0.5, 5.0, 500.0])
def test_relaxed_columns_agree_with_an_independent_solver(relaxation):
    problem = relaxed_problem(relaxation)
    result = sinkhorn(problem, **TIGHT)
    plan = transport_plan(problem, result).numpy()
    oracle = ot.unbalanced.sinkhorn_unbalanced(
        problem.a.numpy(), problem.b.numpy(), problem.cost_matrix.rows(0, 40).numpy(), reg=problem.epsilon,
        reg_m=(float("inf"), relaxation), reg_type="kl", numItermax=200_000, stopThr=1e-14,
    )  # fmt: skip
    assert result.converged
    np.testing.assert_allclose(plan, oracle, atol=1e-7)
    np.testing.assert_allclose(plan.sum(1), problem.a.numpy(), atol=1e-12)
    np.testing.assert_allclose(plan.sum(0), (problem.b * (-result.g / relaxation).exp()).numpy(), atol=1e-10)


def test_relaxation_goes_from_free_columns_to_exact_ones():
    balanced = sinkhorn(relaxed_problem(math.inf), **TIGHT)
    nearly = sinkhorn(relaxed_problem(1e5), **TIGHT)
    torch.testing.assert_close(nearly.f - nearly.f.mean(), balanced.f - balanced.f.mean(), atol=1e-5, rtol=0)
    free = sinkhorn(relaxed_problem(0.0), **TIGHT)
    problem = relaxed_problem(0.0)
    density = ((-problem.cost_matrix.rows(0, 40) / problem.epsilon).exp() * problem.b).sum(1)
    torch.testing.assert_close(free.f, -problem.epsilon * density.log())
    assert free.n_iters == 1
    assert free.converged
    barely = sinkhorn(relaxed_problem(1e-7), **TIGHT)
    torch.testing.assert_close(barely.f, free.f, atol=1e-6, rtol=0)


def test_relaxed_value_is_that_of_the_plan_and_its_gradient_the_potential():
    problem = relaxed_problem(0.3)
    result = sinkhorn(problem, **TIGHT)
    plan, product = transport_plan(problem, result), torch.outer(problem.a, problem.b)
    columns = plan.sum(0)
    direct = (
        (plan * problem.cost_matrix.rows(0, 40)).sum()
        + problem.epsilon * (plan * (plan / product).log()).sum()
        + 0.3 * ((columns * (columns / problem.b).log()).sum() - columns.sum() + 1)
    )
    assert regularized_cost(problem, result) == pytest.approx(float(direct), rel=1e-9)

    def value(nudge):
        nudged = OTProblem(problem.cost, problem.a + nudge, problem.b, problem.epsilon, 0.3)
        return regularized_cost(nudged, sinkhorn(nudged, **TIGHT))

    nudge = torch.zeros(40, dtype=torch.float64)
    nudge[4], nudge[9] = 1e-6, -1e-6
    slope = (value(nudge) - value(-nudge)) / 2e-6
    assert slope == pytest.approx(float(result.f[4] - result.f[9]), rel=1e-5)


def test_a_negative_relaxation_is_refused():
    with pytest.raises(ConfigError, match="reference_relaxation must be 0"):
        relaxed_problem(-1.0)


@pytest.mark.parametrize("epsilon", [0.02, 0.005])
def test_extrapolation_saves_most_of_the_iterations(epsilon):
    x, y, a, b = points(200, 150)
    cost = CosineCost(x, y)
    fast = sinkhorn(OTProblem(cost, a, b, epsilon), tolerance=1e-7, max_iters=20_000)
    g, plain = torch.zeros_like(b), 0
    matrix = cost.rows(0, 200)
    while plain < 20_000:
        f = -epsilon * torch.logsumexp((g - matrix) / epsilon + b.log(), 1)
        new = -epsilon * torch.logsumexp((f[:, None] - matrix) / epsilon + a.log()[:, None], 0)
        plain += 1
        if float((b * torch.expm1((g - new) / epsilon).abs()).sum()) <= 1e-7:
            break
        g = new
    assert fast.converged
    assert fast.n_iters < plain / 3
    assert column_error(cost, fast.f, fast.g, a, b, epsilon) <= 1.1e-7


def test_extrapolation_solves_a_linear_iteration_and_goes_back_from_a_bad_jump():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    matrix = 0.95 * matrix / torch.linalg.matrix_norm(matrix, 2)
    right = torch.randn(4, generator=generator, dtype=torch.float64)
    solution = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - matrix, right)
    point, extrapolation = torch.zeros(4, dtype=torch.float64), Extrapolation(torch.ones(4, dtype=torch.float64))
    for _ in range(8):
        step = matrix @ point + right - point
        point = extrapolation.next(point, step, float(step.norm()))
    torch.testing.assert_close(point, solution, atol=1e-6, rtol=0)

    one = torch.ones(2, dtype=torch.float64)
    extrapolation = Extrapolation(one)
    start = extrapolation.next(0 * one, one, 1.0)
    torch.testing.assert_close(start, one)
    jumped = extrapolation.next(start, 0.9 * one, 0.9)
    assert float(jumped[0]) > 5
    back = extrapolation.next(jumped, -30 * one, 30.0)
    torch.testing.assert_close(back, start + 0.9 * one)
