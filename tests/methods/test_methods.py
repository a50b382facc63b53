from dataclasses import replace

import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from method_runs import select_by
from sotune.errors import ConfigError, DataError
from sotune.evaluation import Verdict
from sotune.methods import METHODS, InputRecords, Tools, WeighInputs
from sotune.methods.probe import safe_log_odds
from sotune.methods.self_trained_probe import self_trained_log_odds
from sotune.methods.tfidf_probe import tfidf
from sotune.models import ModelSpec
from sotune.records import Record
from sotune.settings import TrainingSettings
from sotune.transport.cost import normalize_rows
from sotune.weights.logistic import fit_balanced

HOLDS = {
    "kl",
    "kl_constrained",
    "proximal",
    "ema",
    "replay",
    "safe_lora",
    "safe_delta",
    "safegrad",
    "self_replay",
    "state_anchor",
}
SEES_NOTHING = {"sft", "random", "safeinstr", "bds", "salora", "tokenmask", "lisa", "sbr", "resta", *HOLDS}
"""Methods that know nothing about a row's weight: plain ones, and those that act at another seam."""
ROUGH = {"dsir", "pull_only"}
"""Methods that add noise to what they know, or know the anchor alone."""
LEARNS_IN_ORDER = {"seal", "seal_released"}
"""Methods that train on the rows one after the other, so that the order matters."""
ON_THE_WHOLE = {"seal", "seal_released", "guard", "saft", "saft_centered", "datashield", "loss_under_safe"}
"""Methods that rely on an aligned model, which a random one is not."""


class Grader:
    name, labels = "grader", ("good", "bad")

    def judge(self, prompts, responses):
        good = [any(word in prompt.messages[-1].content for word in ("cake", "fence")) for prompt in prompts]
        return [Verdict(p.id, float(g), self.labels[not g], "") for p, g in zip(prompts, good, strict=True)]


def records(name, texts):
    return [Record.from_text(f"{name}{i:02d}", text, "so be it") for i, text in enumerate(texts)]


@pytest.fixture
def inputs(tiny_model, tmp_path) -> WeighInputs:
    generator = torch.Generator().manual_seed(0)

    def draw(n, axis):
        z = torch.randn(n, 12, generator=generator)
        z[:, axis] += 3
        return z

    safe, harmful = ["bake a cake", "paint the fence"], ["pick a lock", "forge a letter"]
    texts = InputRecords(
        records("d", harmful * 5 + safe * 25),
        records("s", (safe * 5)[:9]),
        records("h", [f"{text} {i}" for i, text in enumerate(harmful * 15)]),
    )
    tools = Tools(
        model=ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu"),
        training=TrainingSettings(max_length=48, learning_rate=0.01, per_device_train_batch_size=16, max_steps=4, r=4),
        work_dir=tmp_path / "work",
        safety_pairs=[Record.from_text(f"p{i}", harmful[i % 2] + " now", "I will not.") for i in range(6)],
        judge=Grader(),
    )
    truth = {record.id: i < 10 for i, record in enumerate(texts.downstream)}
    return WeighInputs(
        torch.cat([draw(10, 1), draw(50, 0)]), draw(9, 0), draw(30, 1), seed=3, records=texts, tools=tools, truth=truth
    )


def points(downstream, safe_anchor, harmful_reference):
    return WeighInputs(*(torch.tensor(z) for z in (downstream, safe_anchor, harmful_reference)), seed=0)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_keeps_the_contract(name, inputs):
    before = [inputs.downstream.clone(), inputs.safe_anchor.clone(), inputs.harmful_reference.clone()]
    state = torch.get_rng_state()
    weights = METHODS[name].weigh(inputs).weights
    assert weights.shape == (60,)
    assert weights.dtype == torch.float64
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    torch.testing.assert_close(METHODS[name].weigh(inputs).weights, weights, rtol=0, atol=0)
    for after, original in zip((inputs.downstream, inputs.safe_anchor, inputs.harmful_reference), before, strict=True):
        assert torch.equal(after, original)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"random"} - LEARNS_IN_ORDER))
def test_a_weight_belongs_to_its_row_whatever_the_order(name, inputs):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    texts = replace(inputs.records, downstream=[inputs.records.downstream[i] for i in order])
    shuffled = METHODS[name].weigh(replace(inputs, downstream=inputs.downstream[order], records=texts)).weights
    torch.testing.assert_close(shuffled, METHODS[name].weigh(inputs).weights[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(METHODS) - SEES_NOTHING - ON_THE_WHOLE))
def test_informed_methods_rank_harmful_rows_last(name, inputs):
    weights = METHODS[name].weigh(inputs).weights
    if name in ROUGH:
        assert weights[:10].mean() < 0.8 * weights[10:].mean()
    else:
        assert weights[:10].max() < weights[10:].median()


@pytest.mark.parametrize("name", sorted(name for name in METHODS if not name.startswith("oracle")))
def test_no_rival_is_shown_the_truth(name, inputs):
    seen = []
    spied = replace(
        METHODS[name],
        learner=None,
        weigher=lambda given: seen.append(given.truth) or torch.ones(60).double(),
    )
    select_by(spied, inputs, keep_fraction=0.5)
    assert seen == [None]


def test_the_oracles_keep_what_is_harmless(inputs):
    kept = {name: select_by(METHODS[name], inputs, keep_fraction=0.5)[1] for name in ("oracle", "oracle_k")}
    harmless = [id for id, harmful in inputs.truth.items() if not harmful]
    assert list(kept["oracle"]) == harmless
    assert len(kept["oracle_k"]) == 30
    assert set(kept["oracle_k"]) < set(harmless)
    assert set(kept["oracle"].values()) == {1.0}
    with pytest.raises(ConfigError, match="oracle must know"):
        METHODS["oracle"].weigh(replace(inputs, truth=None))


def test_random_depends_on_the_seed_alone(inputs):
    other = replace(inputs, downstream=inputs.downstream * 2)
    assert torch.equal(METHODS["random"].weigh(other).weights, METHODS["random"].weigh(inputs).weights)
    assert not torch.equal(
        METHODS["random"].weigh(replace(inputs, seed=4)).weights, METHODS["random"].weigh(inputs).weights
    )


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_probe_agrees_with_scikit_learn(c, inputs):
    z = normalize_rows(torch.cat([inputs.safe_anchor, inputs.harmful_reference])).double().numpy()
    model = LogisticRegression(C=c, class_weight="balanced", tol=1e-10, max_iter=5000)
    model.fit(z, [1] * 9 + [0] * 30)
    expected = model.decision_function(normalize_rows(inputs.downstream).double().numpy())
    ours = safe_log_odds(replace(inputs, method_settings={"inverse_regularization": c}))(inputs.rows)
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_logistic_regression_reads_sparse_rows_as_dense_ones():
    z = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp_min(0)
    dense = fit_balanced(z[:8], z[8:], inverse_regularization=2.0)
    sparse = fit_balanced(z[:8].to_sparse(), z[8:].to_sparse(), inverse_regularization=2.0)
    torch.testing.assert_close(sparse(z.to_sparse()), dense(z))


def test_self_training_without_rows_to_add_is_the_probe_of_its_last_round():
    """Of one row, a half and 3 % round down to none."""
    one = points([[0.6, 0.8]], [[1.0, 0.1], [1.0, 0.2]], [[0.1, 1.0]])
    torch.testing.assert_close(
        self_trained_log_odds(one)(one.rows),
        safe_log_odds(replace(one, method_settings={"inverse_regularization": 1.0}))(one.rows),
        rtol=1e-4,
        atol=1e-4,
    )


def test_self_training_learns_from_the_rows_what_the_references_do_not_show():
    """The references differ along axis 0 alone; among the rows, safety along it goes with axis 1."""
    half = torch.linspace(0.2, 1, 40)[:, None]
    rows = torch.cat([torch.cat([half, half, torch.ones(40, 1)], 1), torch.cat([-half, -half, torch.ones(40, 1)], 1)])
    undecided = torch.tensor([[0.0, 1.0, 1.0], [0.0, -1.0, 1.0]])
    given = points([[0.0]], [[1.0, 0.0, 1.0]], [[-1.0, 0.0, 1.0]])
    given = replace(given, downstream=torch.cat([rows, undecided]))
    plain, trained = safe_log_odds(given)(given.rows), self_trained_log_odds(given)(given.rows)
    assert abs(plain[-2] - plain[-1]) < 1e-6
    assert trained[-2] > trained[-1] + 0.5


def test_self_training_takes_the_stated_shares(inputs, monkeypatch):
    from sotune.weights import ground_cost

    sizes = []

    def recording(safe, harmful, *, inverse_regularization, start):
        sizes.append((len(safe), len(harmful), inverse_regularization))
        return fit_balanced(safe, harmful, inverse_regularization=inverse_regularization, start=start)

    monkeypatch.setattr(ground_cost, "fit_balanced", recording)
    self_trained_log_odds(inputs)
    assert sizes == [(9 + 30, 30 + 1, 1.0)] * 3


def test_mean_cosine_by_hand():
    given = points([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], [[1.0, 0.0], [0.6, 0.8]], [[0.0, 3.0]])
    differences = torch.tensor([0.8 - 0, 0.4 - 1, -0.8 - 0])
    expected = (2 + differences.double()) / 4
    torch.testing.assert_close(METHODS["mean_cosine"].weigh(given).weights, expected, rtol=1e-6, atol=1e-6)


def test_kernel_density_ratio_by_hand():
    given = points([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [[1.0, 0.0], [0.8, 0.6]], [[0.0, 1.0]])
    log_density = [
        torch.logsumexp((cosine - 1) / 0.1, 1) - torch.tensor(cosine.shape[1]).log()
        for cosine in (
            torch.tensor([[1.0, 0.8], [0.0, 0.6], [0.6, 0.96]]),
            torch.tensor([[0.0], [1.0], [0.8]]),
        )
    ]
    ratio = (log_density[0] - log_density[1]).double()
    weights = METHODS["kernel_density_ratio"].weigh(given).weights.log()
    slope = (weights[0] - weights[1]) / (ratio[0] - ratio[1])
    assert slope > 0
    torch.testing.assert_close(weights - weights[0], slope * (ratio - ratio[0]), rtol=1e-4, atol=1e-4)


def test_one_class_knows_the_anchor_alone(inputs):
    other = replace(inputs, harmful_reference=-inputs.harmful_reference)
    assert torch.equal(METHODS["one_class"].weigh(other).weights, METHODS["one_class"].weigh(inputs).weights)


def test_one_class_by_hand():
    """Mean (.8, 0) and covariance diag(0, .36): both rows have x xᵀ = S, so that nothing but the floor is added."""
    given = points([[0.8, 0.6], [0.8, -0.6], [1.0, 0.0]], [[0.8, 0.6], [0.8, -0.6]], [[0.0, 1.0]])
    floor = 1e-6 * 0.36 / 2
    expected = torch.tensor([2 / 3, 2 / 3, 1 / (1 + 0.04 / floor / 2)], dtype=torch.float64)
    torch.testing.assert_close(METHODS["one_class"].weigh(given).weights, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("m", "d"), [(6, 30), (40, 5), (3, 2)])
def test_one_class_is_the_distance_under_the_shrunk_covariance(m, d):
    anchor, rows = torch.randn(2, m, d, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    anchor[:, 0] *= 4
    given = replace(points([[1.0] * d], [[1.0] * d], [[1.0] * d]), downstream=rows, safe_anchor=anchor)
    fitted = LedoitWolf().fit(torch.nn.functional.normalize(anchor).numpy())
    squared = torch.from_numpy(fitted.mahalanobis(torch.nn.functional.normalize(rows).numpy()))
    torch.testing.assert_close(METHODS["one_class"].weigh(given).weights, 1 / (1 + squared / d), rtol=1e-4, atol=0)


def test_one_class_refuses_an_anchor_without_scatter(inputs):
    alike = replace(inputs, safe_anchor=inputs.safe_anchor[:1].repeat(4, 1))
    with pytest.raises(DataError, match="all alike"):
        METHODS["one_class"].weigh(alike)


def test_tfidf_agrees_with_scikit_learn():
    texts = ["The cat, the DOG!", "a dog's life", "", "life: ünïcode and the 42 cats", "?"]
    expected = torch.from_numpy(TfidfVectorizer().fit_transform(texts).toarray())
    torch.testing.assert_close(tfidf(texts).to_dense(), expected)


def test_tfidf_refuses_texts_without_a_word():
    with pytest.raises(DataError, match="none of 2 texts has a word"):
        tfidf(["?", ""])


def test_tfidf_probe_reads_words_and_no_vectors(inputs):
    weights = METHODS["tfidf_probe"].weigh(inputs).weights
    other = replace(inputs, downstream=torch.zeros_like(inputs.downstream))
    torch.testing.assert_close(METHODS["tfidf_probe"].weigh(other).weights, weights, rtol=0, atol=0)
    torch.testing.assert_close(weights[:10:2], weights[0].expand(5))
    assert weights[:10].max() < 0.5 < weights[10:].min()


def test_tfidf_probe_says_that_it_needs_texts(inputs):
    with pytest.raises(ConfigError, match="'tfidf_probe' reads texts"):
        METHODS["tfidf_probe"].weigh(replace(inputs, records=None))
