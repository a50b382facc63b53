"""The ways to solve the push-pull problem against each other: together, by descent, by CCCP, streamed."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sotune import ConfigError, ConvergenceWarning, DataError
from sotune.representations import MappedRows
from sotune.settings import WeightSettings
from sotune.transport import CosineCost, column_error, extend_potential
from sotune.weights import PushPullProblem, learn_weights
from sotune.weights.fixed_point import Tempering, sweep_weights
from sotune.weights.learn import ReferenceSet, solve
from sotune.weights.mirror import History, descend
from sotune.weights.objective import PushPullObjective, Reference
from sotune.weights.streaming import kernel_bytes, memory_budget
from sotune.weights.tempering import effective_sample_size, find_tau, gibbs

EXACT = WeightSettings(
    cost="cosine", stationarity_tolerance=1e-10, marginal_tolerance=1e-11, max_outer_steps=500, max_iters=5_000
)  # fmt: skip


def clouds(n=60, m_safe=8, m_harmful=15, seed=0, dtype=torch.float64, d=8):
    generator = torch.Generator().manual_seed(seed)

    def draw(k, axis):
        z = torch.randn(k, d, generator=generator, dtype=dtype)
        z[:, axis] += 2
        return z

    downstream = torch.cat([draw(n // 5, 1), draw(n - n // 5, 0)])
    return downstream, draw(m_safe, 0), draw(m_harmful, 1)


def learn(sets, **changes):
    return learn_weights(*sets, EXACT.replace(**changes))


def problem_of(sets, push_strength=0.5, epsilon=0.1):
    mass = torch.full((len(sets[0]),), 1 / len(sets[0]), dtype=sets[0].dtype)
    costs = CosineCost(sets[0], sets[1]), CosineCost(sets[0], sets[2])
    return PushPullProblem.between(*costs, epsilon=epsilon, push_strength=push_strength, base_mass=mass)


def falls(objectives):
    # A rise of 1e-12 is the accuracy of the values with transports solved to 1e-12.
    return all(later <= earlier + 1e-12 for earlier, later in zip(objectives, objectives[1:], strict=False))


@settings(max_examples=12, deadline=None)
@given(
    tau=st.floats(0.005, 0.5), push_strength=st.floats(0.0, 1.0), epsilon=st.sampled_from([0.02, 0.1, 0.4]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_mirror_descent_never_rises(tau, push_strength, epsilon, seed):
    problem = problem_of(clouds(n=30, seed=seed), push_strength, epsilon)
    steps = []
    history = History(problem, steps.append)
    limited = EXACT.replace(epsilon=epsilon, max_outer_steps=25, marginal_tolerance=1e-12)
    descend(problem, problem.kernels(stored=True), tau, limited, history, start=problem.base_mass.log())
    assert falls([step.objective for step in steps])
    assert len(steps) == 1 or steps[-1].objective < steps[0].objective


@settings(max_examples=12, deadline=None)
@given(
    tau=st.floats(0.01, 0.5), push_strength=st.floats(0.0, 1.0), epsilon=st.sampled_from([0.05, 0.1, 0.4]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_convex_concave_procedure_never_rises(tau, push_strength, epsilon, seed):
    # What is recorded is an upper bound on the objective, made of the tangent of the push; it falls as well.
    problem = problem_of(clouds(n=30, seed=seed), push_strength, epsilon)
    steps = []
    limited = EXACT.replace(epsilon=epsilon, push_strength=push_strength, tau=tau, solver="cccp",
                                  max_outer_steps=25, marginal_tolerance=1e-10)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solve(problem, limited, on_step=steps.append)
    assert falls([round(step.objective, 10) for step in steps])


@pytest.mark.parametrize("size", [0.2, 0.5, 0.9])
def test_all_solvers_find_the_same_weights(size):
    sets = clouds()
    together = learn(sets, effective_sample_size=size)
    cccp = learn(sets, effective_sample_size=size, solver="cccp")
    assert together.converged
    assert cccp.converged
    torch.testing.assert_close(cccp.weights, together.weights, rtol=1e-3, atol=0)
    problem = problem_of(sets)
    kernels, history = problem.kernels(stored=True), History(problem, lambda _: None)
    loose = EXACT.replace(stationarity_tolerance=1e-6)  # values cannot tell steps far below this
    _, converged = descend(problem, kernels, together.tau, loose, history, start=problem.base_mass.log())
    state = sweep_weights(problem, kernels, Tempering(size, together.tau), together.tau)
    assert converged
    torch.testing.assert_close(state.log_weights.exp(), together.weights, rtol=1e-4, atol=0)


def test_descent_takes_over_where_the_joint_iteration_makes_no_progress(monkeypatch):
    sets = clouds()
    plain = learn(sets, tau=0.2)
    monkeypatch.setattr("sotune.weights.fixed_point._PATIENCE", 1)
    monkeypatch.setattr("sotune.weights.fixed_point._PROGRESS", 1e-9)  # nothing counts as progress
    rescued = learn(sets, tau=0.2)
    assert rescued.converged
    torch.testing.assert_close(rescued.weights, plain.weights, rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [0.3, 0.9, 0.99])
def test_the_effective_sample_size_is_reached_closely(size):
    assert learn(clouds(), effective_sample_size=size).effective_sample_size == pytest.approx(size, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(target=st.floats(0.05, 0.999), scale=st.floats(1e-4, 1e3), seed=st.integers(0, 1000))
def test_tau_is_found_for_any_scale(target, scale, seed):
    gradient = scale * torch.randn(80, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    base = torch.rand(80, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1)) + 0.5
    base = base / base.sum()
    tau = find_tau(gradient, base, target)
    assert effective_sample_size(gibbs(gradient, base, tau)[0], base) == pytest.approx(target, rel=1e-6)


@pytest.mark.parametrize(("size", "epsilon"), [(0.9, 0.1), (0.5, 0.1), (0.9, 0.03)])
def test_reported_stationarity_is_near_the_true_one(size, epsilon):
    sets = clouds(200, 20, 60)
    learned = learn(
        sets, effective_sample_size=size, epsilon=epsilon, stationarity_tolerance=1e-4, marginal_tolerance=1e-4
    )
    kernels = problem_of(sets, epsilon=epsilon).kernels(stored=True, potentials=[r.g for r in learned.references])
    exact = PushPullObjective(problem_of(sets, epsilon=epsilon), tolerance=1e-12, max_iters=20_000, kernels=kernels)
    residual = learned.weights.log() + exact.evaluate(learned.weights).gradient / learned.tau
    assert learned.stationarity <= 1e-4
    assert float(residual.max() - residual.min()) / 2 < 5e-4


def test_several_references_count_by_their_strengths():
    sets = clouds()
    plain = learn(sets, tau=0.2)

    def several(anchors, harmful):
        settings_ = EXACT.replace(tau=0.2)
        return learn_weights(sets[0], anchors, harmful, settings_)

    halves = several([ReferenceSet(sets[1], 3.0), ReferenceSet(sets[1], 1.0)], [ReferenceSet(sets[2])])
    torch.testing.assert_close(halves.weights, plain.weights, rtol=1e-8, atol=0)
    assert [r.strength for r in halves.references] == pytest.approx([0.375, 0.125, 0.5])
    torch.testing.assert_close(halves.pull_potential, plain.pull_potential, rtol=1e-7, atol=1e-9)

    generator = torch.Generator().manual_seed(5)
    other = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    with_other = several(sets[1], [ReferenceSet(sets[2], 1.0), ReferenceSet(other, 1.0)])
    ignored = several(sets[1], [ReferenceSet(sets[2], 1.0), ReferenceSet(other, 0.0)])
    assert not torch.allclose(with_other.weights, plain.weights, rtol=1e-3)
    torch.testing.assert_close(ignored.weights, plain.weights, rtol=1e-8, atol=0)
    gradient = sum(
        (1 if r.side == "pull" else -1) * r.strength * r.f for r in with_other.references
    )  # fmt: skip
    torch.testing.assert_close(with_other.weights, gibbs(gradient, torch.full((60,), 1 / 60), 0.2)[0].exp(), rtol=1e-6,
                               atol=0)  # fmt: skip


def test_free_reference_columns_give_the_kernel_density_ratio():
    sets = clouds()
    learned = learn(sets, reference_relaxation=0.0, tau=0.05)
    safe, harmful = ((-CosineCost(sets[0], y).rows(0, 60) / 0.1).exp().mean(1) for y in sets[1:])
    expected = torch.softmax(0.5 * 0.1 / 0.05 * (safe.log() - harmful.log()), 0)
    torch.testing.assert_close(learned.weights, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("relaxation", [0.01, 0.3])
def test_relaxed_weights_are_a_fixed_point(relaxation):
    sets = clouds()
    learned = learn(sets, reference_relaxation=relaxation, tau=0.1)
    assert learned.converged
    residual = learned.weights.log() + (0.5 * (learned.pull_potential - learned.push_potential)) / 0.1
    assert float(residual.max() - residual.min()) < 1e-9


# Streaming.


def streamed(sets, **changes):
    given = {"max_memory": kernel_bytes(problem_of(sets)) // 8, "streamed_tolerance": 1e-6}
    return learn(sets, **{**given, "marginal_tolerance": 1e-6, "stationarity_tolerance": 1e-6, **changes})


@pytest.fixture
def small_samples(monkeypatch):
    monkeypatch.setattr("sotune.weights.streaming._LEAST_SAMPLE", 300)


@pytest.mark.parametrize("solver", ["mirror", "one_step"])
def test_streamed_weights_are_those_of_all_rows(small_samples, solver):
    sets = clouds(4000, 20, 40)
    dense, found = learn(sets, solver=solver), streamed(sets, solver=solver)
    assert found.converged
    assert 2 <= found.n_passes <= 8
    assert found.effective_sample_size == pytest.approx(0.9, abs=2e-3)
    ranks = [weights.argsort().argsort().double() for weights in (dense.weights, found.weights)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.999
    torch.testing.assert_close(found.weights, dense.weights, rtol=2e-2, atol=0)
    tied = streamed(sets, solver=solver, tau=dense.tau)
    torch.testing.assert_close(tied.weights, dense.weights, rtol=2e-5, atol=0)
    torch.testing.assert_close(tied.push_cost, dense.push_cost, rtol=1e-4, atol=0)


def test_streaming_tells_the_column_error_of_all_rows_at_its_weights(small_samples):
    sets = clouds(4000, 20, 40)
    found = streamed(sets, streamed_tolerance=1e-3)
    for reference, y in zip(found.references, sets[1:], strict=True):
        b = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
        cost = CosineCost(sets[0], y)
        torch.testing.assert_close(extend_potential(cost, reference.g, b, 0.1), reference.f, atol=1e-12, rtol=0)
        error = column_error(cost, reference.f, reference.g, found.weights, b, 0.1)
        assert error <= 1e-3
        assert error == pytest.approx(reference.marginal_error, rel=0.02, abs=2e-6)


def test_plain_passes_finish_what_too_small_a_sample_cannot(monkeypatch):
    monkeypatch.setattr("sotune.weights.streaming._LEAST_SAMPLE", 10)
    sets = clouds(2000, 20, 40)
    found = streamed(sets, max_memory=1, epsilon=0.03, tau=0.1)
    assert found.converged
    torch.testing.assert_close(found.weights, learn(sets, epsilon=0.03, tau=0.1).weights, rtol=1e-3, atol=0)


def test_streaming_reads_rows_that_lie_in_files_and_reports_its_passes(small_samples):
    sets = clouds(3000, 10, 30, dtype=torch.float32)
    order = np.random.default_rng(0).permutation(3000)
    parts = [sets[0][order[:1000]], sets[0][order[1000:]]]
    rows = MappedRows(parts, np.array([0, 1000, 3000]), np.argsort(order))
    told = []

    def on_pass(number):
        return lambda done, total: told.append((number, done, total))

    settings_ = EXACT.replace(
        max_memory=10_000, marginal_tolerance=1e-5, stationarity_tolerance=1e-5, streamed_tolerance=1e-4
    )
    found = learn_weights(rows, *sets[1:], settings_, on_pass=on_pass)
    plain = learn_weights(*sets, settings_)
    assert torch.equal(found.weights, plain.weights)
    assert told[-1] == (found.n_passes, 3000, 3000)
    assert {total for _, _, total in told} == {3000}


def test_streaming_that_stops_short_warns():
    with pytest.warns(ConvergenceWarning, match="short of its tolerances"):
        found = streamed(clouds(2000, 20, 40), max_outer_steps=1, streamed_tolerance=1e-9, marginal_tolerance=1e-9)
    assert not found.converged
    assert found.n_passes == 1


@pytest.mark.parametrize("solver", ["cccp", "sharp"])
def test_solvers_that_cannot_stream_say_so(solver):
    with pytest.raises(ConfigError, match=f"solver '{solver}' needs .* max_memory is .* mirror, one_step"):
        learn(clouds(), solver=solver, max_memory=100)


def test_memory_by_default_is_half_of_the_machine():
    assert 2**20 < memory_budget(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(
    ("references", "error", "message"),
    [
        ([], DataError, "strengths of the sets that pull"),
        ([0.0], DataError, "not all 0"),
        ([1.0, -1.0], DataError, "must be ≥ 0"),
    ],
)
def test_bad_strengths_are_named(references, error, message):
    sets = clouds()
    anchors = [ReferenceSet(sets[1], strength) for strength in references]
    with pytest.raises(error, match=message):
        learn_weights(sets[0], anchors, sets[2], EXACT)


def test_a_problem_needs_references_that_agree():
    cost = CosineCost(clouds()[0], clouds()[1])
    mass = torch.full((60,), 1 / 60, dtype=torch.float64)
    with pytest.raises(DataError, match="at least one reference"):
        PushPullProblem((), 0.1, mass)
    with pytest.raises(DataError, match="one row for each downstream row"):
        PushPullProblem((Reference("pull", cost, 1.0), Reference("push", cost.take(torch.arange(5)), 1.0)), 0.1, mass)
    with pytest.raises(ConfigError, match="strength of a reference"):
        Reference("pull", cost, math.inf)
    only_push = solve(PushPullProblem((Reference("push", cost, 1.0),), 0.1, mass), EXACT)
    assert torch.isnan(only_push.pull_cost).all()
    assert only_push.marginal_error("pull") == 0.0


# Theory, as docs/method.md states it.


def test_value_gradient_is_that_of_automatic_differentiation():
    sets = clouds(n=20)
    matrix = CosineCost(sets[0], sets[2]).rows(0, 20)
    b = torch.full((15,), 1 / 15, dtype=torch.float64)
    logits = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights, g = torch.softmax(logits, 0), torch.zeros(15, dtype=torch.float64)
    for _ in range(500):
        f = -0.1 * torch.logsumexp((g - matrix) / 0.1 + b.log(), 1)
        g = -0.1 * torch.logsumexp((f[:, None] - matrix) / 0.1 + weights.log()[:, None], 0)
    f = -0.1 * torch.logsumexp((g - matrix) / 0.1 + b.log(), 1)
    ratio = torch.exp((f[:, None] + g - matrix) / 0.1)
    plan = weights[:, None] * b * ratio
    ((plan * matrix).sum() + 0.1 * (plan * ratio.log()).sum()).backward()

    w = weights.detach()
    problem = PushPullProblem((Reference("pull", CosineCost(sets[0], sets[2]), 1.0),), 0.1, w)
    gradient = PushPullObjective(problem, tolerance=1e-13, max_iters=20_000).evaluate(w).gradient
    ours = w * (gradient - w @ gradient)
    assert float((ours - logits.grad).norm() / logits.grad.norm()) < 1e-5


def test_curvature_of_a_transport_is_the_one_that_bounds_the_step():
    # In the KL geometry, D_w^½ H D_w^½ has the eigenvalues ε σ² / (1 − σ²).
    sets = clouds(n=25)
    cost, epsilon = CosineCost(sets[0], sets[2]), 0.1
    w = torch.softmax(torch.randn(25, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), 0)
    problem = PushPullProblem((Reference("pull", cost, 1.0),), epsilon, w)
    objective = PushPullObjective(problem, tolerance=1e-13, max_iters=20_000)
    columns = []
    for i in range(25):
        nudge = torch.zeros(25, dtype=torch.float64)
        nudge[i] = 1e-6
        # Renormalizing moves along the simplex; the potentials' level is taken out below.
        up, down = ((w + s * nudge) / (w + s * nudge).sum() for s in (1, -1))
        columns.append((objective.evaluate(up).gradient - objective.evaluate(down).gradient) / 2e-6)
    root = w.sqrt()
    flat = torch.eye(25, dtype=torch.float64) - torch.outer(root, root)  # directions that keep the sum of w
    scaled = flat @ (root[:, None] * torch.stack(columns, 1) * root) @ flat
    found = torch.linalg.eigvalsh((scaled + scaled.T) / 2).flip(0)[:5]
    result = objective.evaluate(w).solved[0]
    b = torch.full((15,), 1 / 15, dtype=torch.float64)
    plan = w[:, None] * b * ((result.f[:, None] + result.g - cost.rows(0, 25)) / epsilon).exp()
    sigma = torch.linalg.svdvals(plan / root[:, None] / b.sqrt())[1:6]
    torch.testing.assert_close(found, epsilon * sigma**2 / (1 - sigma**2), rtol=1e-4, atol=0)
