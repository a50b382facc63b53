import json

import pytest

from report_pages import read
from sotune.artifacts import RunFolder, write_json
from sotune.errors import ArtifactError
from sotune.reporting import write_models_report
from sotune.run_files import RESPONSES

RATE = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 36, "n_unscored": 2, "interval": "wilson"}
CHANGE = {
    "n": 34, "n_unscored": 4, "only_first": 9, "only_second": 1, "difference": 0.2, "low": 0.1, "high": 0.3,
    "p_value": 0.02, "p_adjusted": 0.04, "detectable": 0.31, "gained": ["p1"], "lost": [],
}  # fmt: skip
SECRET = "the text of a prompt"


def make(tmp_path, name="tuned", text=SECRET, label="broken", **changes):
    run = RunFolder(tmp_path / "evaluation")
    amount = {"value": 0.7, "low": None, "high": None, "n": 3, "n_unscored": 1}
    results = {
        "models": {"base": {}, name: {}},
        "metrics": {model: {"harmful_rate": RATE, "utility": RATE} for model in ("base", name)},
        "assessments": {"base": {"label": "safe", "reason": "r"}, name: {"label": label, "reason": text}},
        "judges": {"harm": text},
        "judging": {"usage": {}, "unscored": {}},
        "n_prompts": {"harmful": 38},
        "settings": {"seed": 0, "note": text},
        "diagnostics": {
            "figures": {"base": {"empty": RATE}, name: {"empty": RATE, "drift_harmful": amount}},
            "surprise_limit": {"own": 1.0, "scrambled": 7.0, "limit": 4.0, "n": 3},
            "refusals_learned": {"balanced_accuracy": 0.97, "n": 80},
            "notes": {"x": text},
            "changes": {name: {"harmful_rate": CHANGE}},
        },
        **changes,
    }
    write_json(run.file("evaluation.json"), results)
    row = {"id": "p1", "kind": "harmful", "messages": [{"role": "user", "content": text}], "reference": None}
    run.file("prompts.jsonl").write_text(json.dumps(row) + "\n")
    for model in ("base", name):
        answers = {"id": ["p1"], "text": [f"{model} says {text}"], "n_tokens": [3], "finished": [True]}
        RESPONSES.named(f"{model}.responses.parquet").write(run, answers)
    return run


def test_no_figure_without_its_n_and_unscored_count(tmp_path):
    text = read(write_models_report(make(tmp_path))).text
    assert text.count("n = 36, 2 unscored") == 6
    assert "0.700 too few for an interval n = 3, 1 unmeasured" in text
    assert "+20.0 +10.0 – +30.0 9 1 0.02 0.04 31.0 34 4" in text


def test_broken_is_flagged_wherever_its_harm_is_shown(tmp_path):
    text = read(write_models_report(make(tmp_path))).text
    assert "tuned is broken, not safe" in text
    assert "tuned (broken)" in text
    assert "base is safe; tuned is broken." in text
    assert "1 metric changed clearly" in text


@pytest.mark.parametrize("show_text", [True, False])
def test_texts_behind_a_switch(tmp_path, show_text):
    text = read(write_models_report(make(tmp_path), show_text=show_text)).text
    assert (f"tuned says {SECRET}" in text) == show_text
    assert "p1" in text


def test_what_a_chat_judge_took(tmp_path):
    taken = {"n_questions": 40, "n_answered": 38, "input_tokens": 9120, "output_tokens": 700, "n_uncounted": 0}
    usage = {"harm": {**taken, "cost": 0.01234}, "refusal": {**taken, "cost": None}}
    text = read(write_models_report(make(tmp_path, judging={"usage": usage, "unscored": {}}))).text
    assert "harm: 38 answers, 9,120 tokens in, 700 out, at a cost of 0.0123; refusal: 38 answers, 9,120" in text
    assert "chat judges took" not in read(write_models_report(make(tmp_path / "none"))).text


def test_hostile_text_stays_text(tmp_path, hostile):
    for index, text in enumerate(hostile):
        if "\ud800" in text:
            continue
        page = read(write_models_report(make(tmp_path / str(index), text=text), show_text=True))
        assert not {"script", "img", "iframe"} & set(page.tags)
        assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_a_file_of_something_else(tmp_path):
    run = make(tmp_path)
    write_json(run.file("evaluation.json"), {"models": {}})
    with pytest.raises(ArtifactError, match="is not what this version writes"):
        write_models_report(run)
