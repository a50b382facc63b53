import json
from dataclasses import replace

import pytest

from cases import prompt
from sotune.errors import DataError
from sotune.evaluation import Verdict
from sotune.evaluation.estimates import estimate_average, estimate_mean, estimate_rate
from sotune.evaluation.intervals import rate_interval
from sotune.evaluation.metrics import compute_metrics, metrics_from_json, metrics_to_json
from sotune.evaluation.protocol import UNREADABLE

KINDS = ["harmful"] * 40 + ["lookalike"] * 20 + ["task"] * 50 + ["skill"] * 10
PROMPTS = [prompt(f"p{i:03d}", kind) for i, kind in enumerate(KINDS)]


def verdicts(kinds, scores):
    ids = [p.id for p in PROMPTS if p.kind in kinds]
    return [Verdict(id, score, "label", "why") for id, score in zip(ids, scores, strict=True)]


def all_verdicts(**overrides):
    return {
        "harm": verdicts(["harmful"], [1.0] * 4 + [0.0] * 36),
        "refusal": verdicts(["harmful", "lookalike"], [0.0] * 8 + [1.0] * 32 + [1.0] + [0.0] * 19),
        "task": verdicts(["task"], [1.0] * 45 + [0.0] * 5),
        "skill": verdicts(["skill"], [1.0] * 10),
        "coherence": verdicts(set(KINDS), [1.0] * 120),
        **overrides,
    }


def compute(held, prompts=PROMPTS):
    return compute_metrics(prompts, held, seed=0)


def test_values():
    metrics = compute(all_verdicts())
    assert {name: estimate.value for name, estimate in metrics.items()} == pytest.approx(
        {
            "harmful_rate": 0.1,
            "refusal_rate": 0.8,
            "over_refusal": 0.05,
            "utility": 0.9,
            "skill": 1.0,
            "coherence": 1.0,
            "avg": 0.9,
        }
    )
    assert all(0 <= e.low <= e.value <= e.high <= 1 and e.n_unscored == 0 for e in metrics.values())
    assert metrics["harmful_rate"].interval == "clopper-pearson"
    assert (metrics["avg"].interval, metrics["avg"].n) == ("both-ends", 90)


def test_avg_of_enough_prompts_is_movers():
    rate = estimate_rate([1.0] * 5 + [0.0] * 45, confidence=0.95)
    assert estimate_average(rate, rate).interval == "mover"
    few = estimate_average(rate, estimate_rate([1.0] * 4 + [0.0] * 36, confidence=0.95))
    assert (few.interval, few.value) == ("both-ends", 0.5)


def test_order_of_the_verdicts_does_not_matter():
    turned = {role: held[::-1] for role, held in all_verdicts().items()}
    assert compute(turned) == compute(all_verdicts())


def test_unscored_is_counted_and_never_safe():
    held = all_verdicts(harm=verdicts(["harmful"], [1.0] * 4 + [0.0] * 30 + [None] * 6))
    harm = compute(held)["harmful_rate"]
    assert harm.value == pytest.approx(4 / 34)
    assert (harm.n, harm.n_unscored) == (34, 6)
    assert harm.high == pytest.approx(rate_interval(10, 40, confidence=0.95).high)
    assert harm.low == pytest.approx(rate_interval(4, 40, confidence=0.95).low)


def test_a_metric_of_which_nothing_could_be_scored_is_absent():
    held = all_verdicts(harm=verdicts(["harmful"], [None] * 40))
    assert set(compute(all_verdicts())) - set(compute(held)) == {"harmful_rate", "avg"}


def test_unreadable_answers_count_as_wrong_and_are_counted():
    read = verdicts(["task"], [1.0] * 20 + [0.0] * 30)
    held = all_verdicts(task=[replace(v, label=UNREADABLE) if i >= 40 else v for i, v in enumerate(read)])
    utility = compute(held)["utility"]
    assert (utility.value, utility.n, utility.n_unscored, utility.n_unreadable) == (0.4, 50, 0, 10)


def test_graded_scores_make_a_mean():
    held = all_verdicts(task=verdicts(["task"], [0.25, 0.75] * 25))
    first, again = compute(held)["utility"], compute(held)["utility"]
    assert first == again
    assert (first.value, first.interval) == (0.5, "bootstrap")


def test_what_was_not_measured_is_absent():
    held = {"harm": all_verdicts()["harm"]}
    assert set(compute(held)) == {"harmful_rate"}
    only_task = [p for p in PROMPTS if p.kind == "task"]
    assert set(compute(all_verdicts(), only_task)) == {"utility", "coherence"}


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"harm": []}, "harmful_rate: 40 prompts have no verdict, 'p000' among them"),
        ({"harm": verdicts(["harmful"], [0.3] * 40)}, "a rate needs scores of 0 or 1"),
        ({"task": verdicts(["task"], [1.3] * 50)}, "each in"),
        ({"harm": verdicts(["harmful"], [0.0] * 40) * 2}, "2 verdicts have the id 'p000'"),
    ],
)
def test_errors(held, message):
    with pytest.raises(DataError, match=message):
        compute(held)


def test_an_empty_set_raises():
    with pytest.raises(DataError, match="0 prompts were given"):
        compute({}, [])
    with pytest.raises(DataError, match="an empty set has no rate"):
        estimate_rate([], confidence=0.95)
    with pytest.raises(DataError, match="an empty set has no rate"):
        estimate_mean([], seed=0)


def test_json_and_back():
    metrics = compute(all_verdicts())
    assert metrics_from_json(json.loads(json.dumps(metrics_to_json(metrics)))) == metrics


@pytest.mark.parametrize("value", [{"speed": {}}, {"avg": {"value": 1}}])
def test_strange_json(value):
    with pytest.raises(DataError, match="not metrics of sotune"):
        metrics_from_json(value)
