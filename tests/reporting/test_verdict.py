import pytest

from sotune.artifacts import write_json
from sotune.errors import ArtifactError
from sotune.reporting.roster import Roster
from sotune.reporting.summary import read_runs, summarize
from sotune.reporting.verdict import compose_verdict, helped

BASE = {"utility": 0.02}
SFT = {"harmful_rate": 0.93, "refusal_rate": 0.05}


def conclude(make_rows, methods):
    (condition,) = summarize(make_rows(methods))
    verdict = compose_verdict(condition)
    return condition, verdict.sentence.replace("\u202f", " "), " ".join(verdict.remarks).replace("\u202f", " ")


def test_a_clear_success(make_rows):
    ours = {"harmful_rate": 0.02, "refusal_rate": 0.95, "utility": 0.96}
    condition, sentence, remarks = conclude(make_rows, {"base": BASE, "sft": SFT, "adaptive": ours})
    assert sentence == (
        "Plain fine-tuning raised harmful answers from 0 % to 93 %; with sotune 2 %, "
        "at the same task accuracy (96 % against 97 %)."
    )
    assert remarks == ""
    assert helped(condition)


@pytest.mark.parametrize(
    ("sft", "ours", "expected", "counts_as_help"),
    [
        (SFT, {"harmful_rate": 0.97}, "with sotune it was worse, 97 %", False),
        (SFT, {"harmful_rate": 0.92}, "sotune made no difference, 92 %", False),
        (SFT, {"harmful_rate": 0.90}, "with sotune 90 %, a difference within the intervals", False),
        (SFT, {"harmful_rate": 0.02, "utility": 0.8}, "at the price of task accuracy (80 % against 97 %)", True),
        ({**SFT, "utility": 0.5}, {"harmful_rate": 0.02}, "at a higher task accuracy (97 % against 50 %)", True),
        ({}, {}, "Plain fine-tuning did not raise harmful answers (0 % before, 0 % after)", False),
        (SFT, {"coherence": 0.2}, "only 20 % of its answers are coherent: the model is broken", False),
    ],
)
def test_the_words_follow_the_figures(make_rows, sft, ours, expected, counts_as_help):
    condition, sentence, _ = conclude(make_rows, {"base": BASE, "sft": sft, "adaptive": ours})
    assert expected in sentence
    assert helped(condition) == counts_as_help


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ({"refusal_rate": 0.3}, "refuses only 30 % of the harmful prompts"),
        ({"over_refusal": 0.4}, "refusals of harmless look-alikes rose from 0 % to 40 %"),
        ({"coherence": 0.92}, "coherent answers fell from 100 % to 92 %"),
    ],
)
def test_side_effects_are_told(make_rows, ours, expected):
    _, _, remarks = conclude(make_rows, {"base": BASE, "sft": SFT, "adaptive": ours})
    assert expected in remarks


def test_a_rival_that_does_as_well_is_named_unless_it_is_broken(make_rows):
    rivals = {"probe": {"harmful_rate": 0.01}, "random": {"harmful_rate": 0.8}, "noise": {"coherence": 0.1}}
    _, _, remarks = conclude(make_rows, {"base": BASE, "sft": SFT, "adaptive": {"harmful_rate": 0.02}, **rivals})
    assert "logistic probe (1 %)" in remarks
    assert "random" not in remarks
    assert "noise" not in remarks


def test_broken_plain_fine_tuning_is_told(make_rows):
    _, _, remarks = conclude(make_rows, {"base": BASE, "sft": {**SFT, "coherence": 0.3}, "adaptive": {}})
    assert "Plain fine-tuning itself broke the model" in remarks


def test_without_a_base_model_the_opening_claims_no_rise(make_rows):
    _, sentence, _ = conclude(make_rows, {"sft": SFT, "adaptive": {}})
    assert sentence.startswith("After plain fine-tuning 93 % of the answers to harmful prompts were harmful")


def test_without_sotune_nothing_is_claimed_of_it(make_rows):
    _, sentence, _ = conclude(make_rows, {"sft": SFT, "random": {"harmful_rate": 0.5}, "noise": {"coherence": 0.0}})
    assert "50 %, of random selection" in sentence
    assert "the effect of sotune is not known" in sentence


def test_summaries_reach_from_the_lowest_to_the_highest_end_of_the_seeds(make_rows):
    rows = make_rows({"adaptive": {"harmful_rate": 0.1}}, seeds=2)
    rows[1] |= {"harmful_rate": 0.2, "harmful_rate_low": 0.15, "harmful_rate_high": 0.31}
    interval = summarize(rows)[0].methods["adaptive"].metrics["harmful_rate"]
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.15, 0.08, 0.31))


def test_intervals_fall_back_on_the_range_of_the_seeds():
    rows = [{"method": "adaptive", "dataset": "d", "seed": seed, "utility": 0.9 + 0.05 * seed} for seed in range(2)]
    summary = summarize(rows)[0].methods["adaptive"]
    assert summary.metrics["utility"].low == 0.9
    assert summary.metrics["harmful_rate"] is None
    assert summary.mean("harmful_rate") is None


def test_known_methods_come_first_and_conditions_stay_apart(make_rows):
    rows = make_rows({"zeta": {}, "adaptive": {}, "base": {}}, conditions=(("labels", 0.1), ("labels", 0.3)))
    conditions = summarize(rows)
    assert [condition.harmful_fraction for condition in conditions] == [0.1, 0.3]
    assert list(conditions[0].methods) == ["base", "adaptive", "zeta"]


@pytest.mark.parametrize("rows", [[], [{"seed": 0}], ["adaptive"]])
def test_comparisons_without_methods_are_refused(rows, tmp_path):
    write_json(tmp_path / "compare.json", rows)
    with pytest.raises(ArtifactError, match="run the comparison again"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    ("measured", "standing"),
    [
        (["sot", "adaptive", "adaptive + kl_constrained"], "adaptive + kl_constrained"),
        (["sot", "adaptive", "adaptive + sbr"], "adaptive"),
        (["sot", "sot + kl_constrained"], "sot"),
    ],
)
def test_what_a_run_does_by_default_stands_for_sotune(measured, standing):
    roster = Roster.of([{"method": method, "kind": "ours"} for method in measured])
    assert roster.find_ours(measured) == standing


def test_the_first_variant_that_was_measured_stands_for_sotune(make_rows):
    ours = {"harmful_rate": 0.02, "refusal_rate": 0.95, "utility": 0.96}
    condition, sentence, _ = conclude(make_rows, {"base": BASE, "sft": SFT, "sot": ours})
    assert "with sotune 2" in sentence
    assert helped(condition)
