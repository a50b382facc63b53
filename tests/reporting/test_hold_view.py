import pytest

from report_pages import read
from sotune.artifacts import write_json, write_text
from sotune.reporting import write_run_report
from sotune.reporting.hold_view import hold_view

FIGURES = {"limit": 0.02, "scale": 1.0, "risky_drift": 0.01, "unseen_drift": 0.015}
STEPS = [
    {"step": 1, "risky_drift": 0.0, "risky_multiplier": 0.5, "unseen_drift": 0.0},
    {"step": 2, "risky_drift": 0.03, "risky_multiplier": 1.5},
    {"step": 3},
]


def test_what_was_kept_in_words():
    view = hold_view({"title": "KL within a limit", "figures": FIGURES}, STEPS)
    assert view["lead"] == "The model drifted by up to 0.015 nats a token from what it was, within its limit of 0.02."
    assert ("last multiplier, risky prompts that were held", "1.5") in view["rows"]
    scaled = hold_view({"figures": {**FIGURES, "scale": 0.75}}, STEPS)
    assert "scaled down to 75" in scaled["lead"]
    counts = {"rows_asked": 1024.0, "rows_refused": 44.0, "rows_left_out": 26.0}
    asked = dict(hold_view({"figures": {**FIGURES, **counts}}, STEPS)["rows"])
    assert asked["prompts of the kept rows that the model refused before, of 1,024 asked"] == "44"
    assert asked["kept rows that answer such a prompt and were not trained on"] == "26"
    assert "prompts of the safe anchor that the model refused before, though harmless" not in asked
    doubted = dict(hold_view({"figures": {**FIGURES, **counts, "anchor_refused": 0.18}}, STEPS)["rows"])
    assert doubted["prompts of the safe anchor that the model refused before, though harmless"] == "18\u202f%"
    free = hold_view({"title": "KL", "figures": {"risky_drift": 0.1}}, STEPS)
    assert free["lead"] == "The kept rows were learned with KL; the model drifted by up to 0.1 nats a token."
    assert (view["counted"], free["counted"]) == (", early tokens counted more", "")  # their decays are 1 and 0


@pytest.mark.parametrize("training", [{}, {"figures": {}}, {"method": "sft", "figures": {}}])
def test_a_run_that_held_nothing_says_nothing(training):
    assert hold_view(training, STEPS) is None


def test_what_measures_no_drift_is_named():
    view = hold_view({"method": "state_anchor", "title": "state anchor", "figures": {}}, STEPS)
    assert view["lead"].startswith("The kept rows were learned with state anchor, which does not measure")
    assert (view["chart"], view["rows"]) == (None, [])


def test_what_was_looked_at_while_training_is_told():
    steps = [{"step": 1, "eval_loss": 2.5, "harmful_rate": 0.0}, {"step": 2}, {"step": 3, "eval_loss": 1.25}]
    steps += [{"step": 4, "harmful_rate": 0.5}]
    view = hold_view({"method": "sft", "figures": {"stopped_at": 4, "kept_step": 2}}, steps)
    assert view["lead"].startswith("The kept rows were learned with plain fine-tuning")
    assert view["rows"] == [
        ("loss on rows held out, first and last look", "2.5, 1.25"),
        ("risky prompts not refused, first and last look", "0\u202f%, 50\u202f%"),
        ("stopped, as too little was refused", "at step 4, back to the weights of step 2"),
    ]
    held = hold_view({"title": "KL", "figures": FIGURES}, [*STEPS, *steps])
    assert held["rows"][-1] == ("risky prompts not refused, first and last look", "0\u202f%, 50\u202f%")


def test_the_page_shows_it(make_run):
    import json

    run = make_run()
    write_json(run.file("training.json"), {"title": "KL within a limit", "figures": FIGURES})
    write_text(run.file("training_log.jsonl"), "".join(json.dumps(step) + "\n" for step in STEPS))
    run.commit("training", {}, [])
    page = read(write_run_report(run))
    assert "Safety while training" in page.text
    assert "within its limit of 0.02" in page.text
    assert "limit 0.02" in page.text


def test_refusals_before_and_now_are_rows():
    asked = {"risky_asked": 48.0, "risky_refused_before": 0.75, "risky_refused": 0.5}
    rows = dict(hold_view({"title": "KL", "figures": FIGURES | asked}, STEPS)["rows"])
    found = rows["refused of 48 risky prompts, before and now"]
    assert [part.strip("\u202f %") for part in found.split(",")] == ["75", "50"]
    assert not any("safe reference" in name for name in rows)
