import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sotune import ArtifactError, ConfigError, ConvergenceWarning, DataError
from sotune.settings import WeightSettings
from sotune.transport import CosineCost, OTProblem, sinkhorn, transport_plan
from sotune.weights import LearnedWeights, PushPullProblem, Scorer, learn_weights
from sotune.weights.learn import solve
from sotune.weights.objective import PushPullObjective, kl_divergence, sharp_cost, sharp_gradient
from sotune.weights.tempering import effective_sample_size

EXACT = WeightSettings(
    cost="cosine", stationarity_tolerance=1e-10, marginal_tolerance=1e-11, max_outer_steps=500, max_iters=5_000
)  # fmt: skip


def clouds(n=60, m_safe=8, m_harmful=15, seed=0, dtype=torch.float64):
    """Downstream rows of which the first fifth lie near the harmful reference."""
    generator = torch.Generator().manual_seed(seed)

    def draw(k, axis):
        z = torch.randn(k, 8, generator=generator, dtype=dtype)
        z[:, axis] += 2
        return z

    downstream = torch.cat([draw(n // 5, 1), draw(n - n // 5, 0)])
    return downstream, draw(m_safe, 0), draw(m_harmful, 1)


def learn(sets, **changes) -> LearnedWeights:
    return learn_weights(*sets, EXACT.replace(**changes))


def problem_of(sets, **changes):
    n = sets[0].shape[0]
    parts = {"epsilon": 0.1, "push_strength": 0.5, "base_mass": torch.full((n,), 1 / n, dtype=sets[0].dtype)}
    return PushPullProblem.between(CosineCost(sets[0], sets[1]), CosineCost(sets[0], sets[2]), **{**parts, **changes})


def test_harmful_rows_weigh_less_and_weights_are_on_the_simplex():
    learned = learn(clouds())
    assert float(learned.weights.sum()) == pytest.approx(1, abs=1e-12)
    assert learned.converged
    assert learned.weights[:12].max() < learned.weights[12:].median()
    assert learned.effective_sample_size == pytest.approx(0.9, abs=2e-3)


@pytest.mark.parametrize("size", [0.5, 0.8, 0.95])
def test_effective_sample_size_is_what_was_asked(size):
    assert learn(clouds(), effective_sample_size=size).effective_sample_size == pytest.approx(size, abs=3e-3)


@pytest.mark.parametrize("push_strength", [0.0, 0.3, 0.5, 0.8])
def test_fixed_point_condition_holds(push_strength):
    sets = clouds()
    learned = learn(sets, push_strength=push_strength, tau=0.3)
    evaluation = PushPullObjective(
        problem_of(sets, push_strength=push_strength), tolerance=1e-12, max_iters=5_000
    ).evaluate(learned.weights)
    residual = learned.weights.log() + evaluation.gradient / 0.3
    assert float(residual.max() - residual.min()) / 2 < 1e-8
    assert learned.stationarity < 1e-10


def test_gradient_is_the_derivative_of_the_value():
    sets = clouds(n=12)
    weights = torch.softmax(torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), 0)
    objective = PushPullObjective(problem_of(sets), tolerance=1e-13, max_iters=20_000)
    gradient = objective.evaluate(weights).gradient
    for i in range(0, 12, 3):
        nudge = torch.zeros(12, dtype=torch.float64)
        nudge[i], nudge[(i + 1) % 12] = 1e-5, -1e-5
        up, down = objective.evaluate(weights + nudge).value, objective.evaluate(weights - nudge).value
        assert (up - down) / 2e-5 == pytest.approx(float(gradient[i] - gradient[(i + 1) % 12]), rel=1e-5, abs=1e-8)


def test_sharp_gradient_is_that_of_automatic_differentiation():
    sets = clouds(n=20)
    cost = CosineCost(sets[0], sets[2])
    matrix, b = cost.rows(0, 20), torch.full((15,), 1 / 15, dtype=torch.float64)
    logits = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.softmax(logits, 0)
    g = torch.zeros(15, dtype=torch.float64)
    for _ in range(500):
        f = -0.1 * torch.logsumexp((g - matrix) / 0.1 + b.log(), 1)
        g = -0.1 * torch.logsumexp((f[:, None] - matrix) / 0.1 + weights.log()[:, None], 0)
    f = -0.1 * torch.logsumexp((g - matrix) / 0.1 + b.log(), 1)
    plan = weights[:, None] * b * torch.exp((f[:, None] + g - matrix) / 0.1)
    sharp = (plan * matrix).sum()
    sharp.backward()

    w = weights.detach()
    problem = OTProblem(cost, w, b, 0.1)
    solved = transport_plan(problem, sinkhorn(problem, tolerance=1e-13, max_iters=20_000))
    gradient = sharp_gradient(cost, solved, tolerance=1e-12, max_iters=200)
    ours = w * (gradient - w @ gradient)
    assert float((ours - logits.grad).norm() / logits.grad.norm()) < 1e-5
    assert sharp_cost(cost, solved) == pytest.approx(sharp.item(), rel=1e-9)


def test_objective_never_rises_once_tau_is_fixed():
    learned = learn(clouds(), tau=0.05, push_strength=0.7)
    objectives = [step.objective for step in learned.history]
    assert all(later <= earlier + 1e-10 for earlier, later in zip(objectives, objectives[1:], strict=False))
    assert objectives[-1] < objectives[0]


def test_pull_only_has_a_closed_form_at_tau_equal_epsilon():
    # w_i = Σ_j b_j softmax_i(−C_ij / ε): the KL form with tau = ε and λ = 0.
    sets = clouds()
    learned = learn(sets, push_strength=0.0, tau=0.5, epsilon=0.5)
    closed = torch.softmax(-CosineCost(sets[0], sets[1]).rows(0, 60) / 0.5, dim=0).mean(dim=1)
    torch.testing.assert_close(learned.weights, closed, rtol=1e-7, atol=0)


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 1000))
def test_scaling_cost_epsilon_and_tau_together_changes_nothing(scale, seed):
    from sotune.transport import DenseCost

    sets = clouds(seed=seed)
    plain = solve(problem_of(sets), EXACT.replace(tau=0.2))
    scaled_problem = PushPullProblem.between(
        DenseCost(scale * CosineCost(sets[0], sets[1]).rows(0, 60)),
        DenseCost(scale * CosineCost(sets[0], sets[2]).rows(0, 60)),
        epsilon=0.1 * scale, push_strength=0.5, base_mass=torch.full((60,), 1 / 60, dtype=torch.float64),
    )  # fmt: skip
    scaled = solve(scaled_problem, EXACT.replace(tau=0.2 * scale, epsilon=0.1 * scale))
    torch.testing.assert_close(scaled.weights, plain.weights, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_permuting_rows_permutes_weights(dtype):
    sets = clouds(dtype=dtype)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    changes = {"tau": 0.2} if dtype == torch.float64 else {
        "tau": 0.2, "stationarity_tolerance": 1e-5, "marginal_tolerance": 1e-6}  # fmt: skip
    plain, permuted = learn(sets, **changes), learn((sets[0][order], *sets[1:]), **changes)
    torch.testing.assert_close(
        permuted.weights, plain.weights[order], rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0
    )


def test_a_duplicated_row_weighs_as_its_twin_and_split_mass_adds_up():
    sets = clouds()
    doubled = (torch.cat([sets[0], sets[0][:1]]), *sets[1:])
    twins = learn(doubled, tau=0.2).weights
    assert float(twins[0]) == pytest.approx(float(twins[60]), rel=1e-9)
    mass = torch.full((61,), 1 / 60, dtype=torch.float64)
    mass[0] = mass[60] = 1 / 120
    split = solve(problem_of(doubled, base_mass=mass), EXACT.replace(tau=0.2)).weights
    plain = learn(sets, tau=0.2).weights
    assert float(split[0] + split[60]) == pytest.approx(float(plain[0]), rel=1e-6)


def test_identical_rows_get_equal_weights():
    sets = clouds()
    learned = learn((sets[0][:1].repeat(5, 1), *sets[1:]))
    torch.testing.assert_close(learned.weights, torch.full((5,), 0.2, dtype=torch.float64))


def test_one_step_ranks_by_the_first_gradient():
    sets = clouds()
    first = PushPullObjective(problem_of(sets), tolerance=1e-11, max_iters=5_000).evaluate(
        torch.full((60,), 1 / 60, dtype=torch.float64)
    )
    learned = learn(sets, solver="one_step")
    assert learned.weights.argsort().tolist() == (-first.gradient).argsort().tolist()
    assert learned.n_steps == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_on_the_sharp_form_lower_its_objective_and_have_no_tau(optimizer):
    learned = learn(clouds(), solver="sharp", logit_optimizer=optimizer, max_outer_steps=15)
    assert learned.history[-1].objective < learned.history[0].objective
    assert len(learned.history) == 16
    assert learned.tau is None
    assert float(learned.weights.sum()) == pytest.approx(1, abs=1e-12)


def test_a_plain_step_moves_logits_by_the_rate_times_the_gradient_however_many_rows_there_are():
    sets = clouds()
    problem = problem_of(sets)
    base = problem.base_mass
    solved = PushPullObjective(problem, tolerance=1e-11, max_iters=5_000).evaluate(base).solved
    plans = [
        transport_plan(OTProblem(reference.cost, base, reference.b, problem.epsilon), one)
        for reference, one in zip(problem.references, solved, strict=True)
    ]
    gradient = problem.combine(
        [
            sharp_gradient(reference.cost, plan, tolerance=1e-9, max_iters=500)
            for reference, plan in zip(problem.references, plans, strict=True)
        ]
    )
    learned = learn(sets, solver="sharp", logit_learning_rate=0.5, max_outer_steps=1)
    moved = learned.weights.log()
    torch.testing.assert_close(moved - moved.mean(), -0.5 * (gradient - gradient.mean()), rtol=1e-4, atol=1e-6)
    twice = learn((sets[0].repeat(2, 1), *sets[1:]), solver="sharp", logit_learning_rate=0.5, max_outer_steps=1)
    torch.testing.assert_close(2 * twice.weights[:60], learned.weights, rtol=1e-6, atol=0)


def test_steps_that_would_leave_a_row_no_weight_are_not_taken():
    with pytest.warns(ConvergenceWarning, match="the weights collapsed: after .* of 50 steps"):
        learned = learn_weights(
            *clouds(dtype=torch.float32),
            WeightSettings(cost="cosine", solver="sharp", logit_learning_rate=500.0, max_outer_steps=50),
        )
    assert learned.n_steps < 50
    assert len(learned.history) == learned.n_steps + 1
    assert float(learned.weights.min()) > 0


def test_stopping_short_warns_with_figures():
    with pytest.warns(ConvergenceWarning, match="(?s)short of its tolerances: stationarity.* raise max_outer_steps"):
        learned = learn(clouds(), max_outer_steps=2)
    assert not learned.converged


def test_sizes_and_divergence_of_known_weights():
    base = torch.full((4,), 0.25, dtype=torch.float64)
    half = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    assert effective_sample_size(base.log(), base) == pytest.approx(1)
    assert effective_sample_size(half.log(), base) == pytest.approx(0.5)
    assert kl_divergence(half, base) == pytest.approx(torch.tensor(2.0).log().item())


@pytest.mark.parametrize("solver", ["mirror", "one_step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scoring_gives_rows_their_own_weights_and_survives_the_disk(solver, dtype, tmp_path):
    sets = clouds(dtype=dtype)
    loose = {"stationarity_tolerance": 1e-5, "marginal_tolerance": 1e-6}
    settings_ = EXACT.replace(solver=solver, **loose)
    learned = learn_weights(*sets, settings_)
    scorer = Scorer.from_learned(learned, settings=settings_, references=sets[1:])
    scorer.save(tmp_path / "p.safetensors")
    first = (tmp_path / "p.safetensors").read_bytes()
    scorer.save(tmp_path / "p.safetensors")
    assert (tmp_path / "p.safetensors").read_bytes() == first
    again = Scorer.load(tmp_path / "p.safetensors")
    for rows in (slice(None), slice(3, 9), [50, 2]):
        torch.testing.assert_close(again.score(sets[0][rows]).weights, learned.weights[rows], rtol=1e-5, atol=0)


def test_scoring_needs_a_tau_and_a_file(tmp_path):
    sets = clouds()
    learned = learn(sets, solver="sharp", max_outer_steps=1)
    with pytest.raises(ConfigError, match="no function of the potentials"):
        Scorer.from_learned(
            learned, settings=EXACT.replace(solver="sharp"), references=sets[1:],
        )  # fmt: skip
    with pytest.raises(ArtifactError, match="is missing"):
        Scorer.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(ArtifactError, match="does not hold saved potentials"):
        Scorer.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": "euclid"}, "cost: must be 'adaptive' or 'cosine'. Got 'euclid'"),
        ({"reference_relaxation": -1.0}, "reference_relaxation: must be greater than or equal to 0"),
        ({"max_memory": 0}, "max_memory: must be greater than or equal to 1"),
        ({"max_steps": 3}, "unknown setting 'max_steps'"),
        ({"solver": "newton"}, "solver: must be 'mirror', 'cccp', 'one_step' or 'sharp'. Got 'newton'"),
        ({"effective_sample_size": 1.0}, "effective_sample_size: must be less than 1. Got 1.0"),
        ({"tau": 0.0}, "tau: must be greater than 0. Got 0.0"),
        ({"max_outer_steps": 0}, "max_outer_steps: must be greater than or equal to 1. Got 0"),
        ({"marginal_tolerance": 0.0}, "marginal_tolerance: must be greater than 0"),
        ({"push_strength": 1.5}, "push_strength: must be less than or equal to 1"),
        ({"epsilon": -1.0}, "epsilon: must be greater than 0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        learn(clouds(), **change)


def test_bad_inputs_are_named():
    sets = clouds()
    with pytest.raises(ConfigError, match=r"push_strength must be in \[0, 1\]"):
        problem_of(sets, push_strength=1.5)
    with pytest.raises(ConfigError, match="epsilon must be a positive number"):
        problem_of(sets, epsilon=-1.0)
    broken = sets[0].clone()
    broken[4, 0] = float("nan")
    with pytest.raises(DataError, match=r"positions \[4\]"):
        learn((broken, *sets[1:]))
    with pytest.raises(DataError, match="base_mass must be positive"):
        problem_of(sets, base_mass=torch.tensor([0.0] + [1 / 59] * 59, dtype=torch.float64))
