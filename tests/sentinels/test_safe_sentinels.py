"""Safe answers to risky prompts: what they change about the weights, and which of them measure what is lost."""

from dataclasses import replace

import pytest
import torch

from sotune.methods import METHODS, InputRecords, WeighInputs
from sotune.records import Record
from sotune.sentinels import Folds, Rate, split_by_prompt, weigh_with_sentinels
from sotune.sentinels.measuring import log_relative_of
from sotune.settings import WeightSettings
from sotune.weights import Scorer, learn_weights, pull_sets

N = 150


def draw(n, topic, answer, generator):
    """Rows whose first coordinate is the topic's and whose second is the answer's."""
    z = torch.randn(n, 8, generator=generator) * 0.5
    z[:, 0] += topic
    z[:, 1] += answer
    return z


@pytest.fixture
def inputs():
    """Task rows, safe answers to risky prompts and harm, twenty each of the latter, with references of both."""
    generator = torch.Generator().manual_seed(0)
    risky = [f"How to do harm {i}?" for i in range(N + 40)]
    kinds = {"plain": (60, -2.0, 1.0), "safe": (20, 2.0, 1.0), "harm": (20, 2.0, -1.0)}
    downstream = torch.cat([draw(*kind, generator) for kind in kinds.values()])
    anchor, harmful, safe = (draw(*of, generator) for of in ((30, -2, 1), (N, 2, -1), (N, 2, 1)))
    records = InputRecords(
        [Record.from_text(f"d{i}", f"row {i}", "x") for i in range(100)],
        [Record.from_text(f"a{i}", f"task {i}", "x") for i in range(30)],
        [Record.from_text(f"h{i}", prompt, "Sure.") for i, prompt in enumerate(risky[:N])],
        [Record.from_text(f"s{i}", prompt, "No.") for i, prompt in enumerate(risky[:N])],
    )
    return WeighInputs(downstream, anchor, harmful, seed=0, safe_reference=safe, records=records)


SAFE, HARM = slice(60, 80), slice(80, 100)


@pytest.mark.parametrize("name", ["adaptive", "sot", "probe", "self_trained_probe", "mean_cosine", "one_class"])
def test_safe_answers_are_told_from_harm(name, inputs):
    known = METHODS[name].weigh(inputs).weights
    unknown = METHODS[name].weigh(replace(inputs, safe_reference=None)).weights

    def lead(weights):  # of what is safe over what is harmful, in ranks
        rank = weights.argsort().argsort().double()
        return float(rank[SAFE].mean() - rank[HARM].mean())

    assert lead(known) > lead(unknown)


def test_some_of_them_measure_what_is_lost_and_take_part_in_nothing_else(inputs):
    weighing = METHODS["adaptive"].weigh(inputs)
    folds = weighing.sentinels.folds
    assert set(folds.safe.measuring) == set(folds.measuring)  # the same prompts: a fold is a prompt's
    sides = {one.set_name: one for one in weighing.solution.references}
    assert list(sides) == ["safe_anchor", "safe_reference", "harmful_reference"]
    assert not set(sides["safe_reference"].positions) & set(folds.safe.measuring)
    assert len(weighing.sentinels.safe_scores) == len(folds.safe.measuring)
    other = inputs.safe_reference.clone()
    other[list(folds.safe.measuring)] *= -1
    again = METHODS["adaptive"].weigh(replace(inputs, safe_reference=other))
    assert torch.equal(again.weights, weighing.weights)
    assert not torch.equal(again.sentinels.safe_scores, weighing.sentinels.safe_scores)
    probe = METHODS["probe"]
    assert torch.equal(probe.weigh(replace(inputs, safe_reference=other)).weights, probe.weigh(inputs).weights)


def test_its_tuning_fold_is_placed_by_a_fit_that_has_not_seen_it(inputs):
    weighing = METHODS["adaptive"].weigh(inputs)
    safe = weighing.sentinels.folds.safe
    found = weighing.sentinels.safe_tuning_outranked
    assert len(found) == len(safe.tuning) > 0
    assert sum(found) / len(found) < sum(weighing.sentinels.tuning_outranked) / len(weighing.sentinels.tuning_outranked)
    other = inputs.safe_reference.clone()
    other[list(safe.tuning)] *= -1
    again = METHODS["adaptive"].weigh(replace(inputs, safe_reference=other)).sentinels
    assert again.tuning_outranked == weighing.sentinels.tuning_outranked
    assert again.safe_tuning_outranked != found
    assert METHODS["probe"].weigh(inputs).sentinels.safe_tuning_outranked == ()  # its first fit has seen them


@pytest.mark.parametrize(
    ("name", "sides"), [("sot", ["pull", "pull", "push"]), ("adaptive", ["pull", "push"])], ids=["sot", "adaptive"]
)
def test_scores_of_unseen_rows_are_those_of_the_run(inputs, name, sides):
    scorer = METHODS[name].weigh(inputs).solution.scorer
    weights = METHODS[name].weigh(inputs).weights
    assert [one.side for one in scorer.references] == sides
    torch.testing.assert_close(scorer.score(inputs.downstream).weights.double(), weights.double(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_its_strength_is_beside_that_of_the_anchor(inputs, strength):
    settings = WeightSettings(safe_strength=strength, cost="cosine")
    pull = pull_sets(inputs.safe_anchor, inputs.safe_reference, settings)
    learned = learn_weights(inputs.downstream, pull, inputs.harmful_reference, settings)
    strengths = [one.strength for one in learned.references if one.side == "pull"]
    shares = [1.0, strength] if strength else [1.0]
    assert strengths == pytest.approx([0.5 * share / sum(shares) for share in shares])
    if not strength:
        alone = learn_weights(inputs.downstream, inputs.safe_anchor, inputs.harmful_reference, settings)
        assert torch.equal(learned.weights, alone.weights)


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_the_adaptive_cost_is_near_what_is_near_either(inputs, strength):
    settings = WeightSettings(safe_strength=strength)
    pull = pull_sets(inputs.safe_anchor, inputs.safe_reference, settings)
    joined, push = learn_weights(inputs.downstream, pull, inputs.harmful_reference, settings).references
    assert (joined.strength, push.strength) == (0.5, 0.5)
    shares = [float(part.sum()) for part in torch.split(joined.b, [len(one.representations) for one in pull])]
    assert shares == pytest.approx([1 / (1 + strength), strength / (1 + strength)])


def test_what_measures_is_scored_as_any_other_row(inputs):
    folds = split_by_prompt([str(i) for i in range(N)], seed=0, tuning_share=0.3, measuring_share=0.3)
    held = Folds(tuple(range(100)), (), tuple(range(100, N)), ())
    sets = (inputs.downstream, inputs.safe_anchor, inputs.harmful_reference)
    found = weigh_with_sentinels(
        *sets, replace(folds, safe=held), WeightSettings(), safe_reference=inputs.safe_reference
    )
    solved = [inputs.safe_anchor, inputs.safe_reference[:100], found.harmful_reference]
    scorer = Scorer.from_learned(found.learned, settings=found.settings, references=solved)
    expected = (scorer.score(inputs.safe_reference[100:]).weights.double() * 100).log()
    torch.testing.assert_close(found.sentinels.safe_scores, expected)


def test_none_is_kept_back_of_a_reference_of_one_prompt(inputs):
    one = [Record.from_text(f"s{i}", "How?", "No.") for i in range(N)]
    records = replace(inputs.records, safe_reference=one)
    weighing = METHODS["adaptive"].weigh(replace(inputs, records=records))
    assert weighing.sentinels.folds.safe is None
    assert weighing.sentinels.safe_scores is None
    assert len(weighing.solution.references[1].positions) == N


@pytest.mark.slow
def test_the_bound_on_safe_answers_that_are_lost_holds():
    covered = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.cat([draw(150, -1, 1, generator), draw(25, 1, 1, generator), draw(25, 1, -1, generator)])
        anchor, harmful, safe = (draw(*of, generator) for of in ((30, -1, 1), (N, 1, -1), (N, 1, 0.3)))
        folds, kept_back = (
            split_by_prompt([f"{what} {i}" for i in range(N)], seed=seed, tuning_share=0.2, measuring_share=0.2)
            for what in ("harm", "safe")
        )
        folds = replace(folds, safe=kept_back)
        found = weigh_with_sentinels(rows, anchor, harmful, folds, WeightSettings(), safe_reference=safe)
        cut = found.row_scores.sort(descending=True).values[159]
        solved = [anchor, safe[list(kept_back.solved)], found.harmful_reference]
        scorer = Scorer.from_learned(found.learned, settings=found.settings, references=solved)
        others = log_relative_of(scorer, draw(2000, 1, 0.3, generator))
        lost = Rate.of(found.sentinels.safe_scores < cut)
        covered.append(lost.low <= float((others < cut).double().mean()) <= lost.high)
    assert sum(covered) / len(covered) >= 0.86  # two bounds of 95 % each
