import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sotune.methods import METHODS, WeighInputs
from sotune.methods.probe import safe_log_odds
from sotune.transport.cost import normalize_rows


@pytest.fixture
def inputs() -> WeighInputs:
    generator = torch.Generator().manual_seed(0)

    def draw(n, axis):
        z = torch.randn(n, 12, generator=generator)
        z[:, axis] += 3
        return z

    return WeighInputs(torch.cat([draw(10, 1), draw(50, 0)]), draw(9, 0), draw(30, 1), seed=3)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_keeps_the_contract(name, inputs):
    before = [inputs.downstream.clone(), inputs.safe_anchor.clone(), inputs.harmful_reference.clone()]
    weights = METHODS[name].weigh(inputs)
    assert weights.shape == (60,)
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    torch.testing.assert_close(METHODS[name].weigh(inputs), weights, rtol=0, atol=0)
    for after, original in zip((inputs.downstream, inputs.safe_anchor, inputs.harmful_reference), before, strict=True):
        assert torch.equal(after, original)


@pytest.mark.parametrize("name", ["adaptive", "probe", "sot", "sot_potentials"])
def test_informed_methods_rank_harmful_rows_last(name, inputs):
    weights = METHODS[name].weigh(inputs)
    assert weights[:10].max() < weights[10:].median()


def test_random_depends_on_the_seed_alone(inputs):
    other = WeighInputs(inputs.downstream * 2, inputs.safe_anchor, inputs.harmful_reference, seed=3)
    assert torch.equal(METHODS["random"].weigh(other), METHODS["random"].weigh(inputs))
    reseeded = WeighInputs(inputs.downstream, inputs.safe_anchor, inputs.harmful_reference, seed=4)
    assert not torch.equal(METHODS["random"].weigh(reseeded), METHODS["random"].weigh(inputs))


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_probe_agrees_with_scikit_learn(c, inputs):
    z = normalize_rows(torch.cat([inputs.safe_anchor, inputs.harmful_reference])).double().numpy()
    model = LogisticRegression(C=c, class_weight="balanced", tol=1e-10, max_iter=5000)
    model.fit(z, [1] * 9 + [0] * 30)
    expected = model.decision_function(normalize_rows(inputs.downstream).double().numpy())
    ours = safe_log_odds(inputs, inverse_regularization=c)
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
