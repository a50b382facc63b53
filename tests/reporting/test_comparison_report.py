import json

import pytest

from report_pages import Page, described, read
from sotune.errors import ArtifactError
from sotune.reporting import write_comparison_report

METHODS = {
    "base": {"utility": 0.02},
    "sft": {"harmful_rate": 0.93, "refusal_rate": 0.05},
    "random": {"harmful_rate": 0.7},
    "probe": {"harmful_rate": 0.03},
    "adaptive": {"harmful_rate": 0.02, "refusal_rate": 0.95, "utility": 0.96},
}
DETAILS = {
    "weights": {"harmful": [0.3, 0.4, 0.5], "other": [0.9, 1.0, 1.1, 1.4], "seed": 7},
    "kept": {"adaptive": {"refusal_rows_kept": 0.94, "harmful_rows_kept": 0.02}, "sft": {"refusal_rows_kept": 1.0}},
    "examples": [
        {"prompt": "open the vault", "kind": "harmful", "base": "no", "sft": "like this", "adaptive": "never"}
    ],
    "settings": {"n": 2000, "training": {"learning_rate": 2e-3}, "seeds": [0, 1, 2]},
    "safe_to_show": True,
}


def test_a_comparison_in_words(make_comparison):
    folder = make_comparison(METHODS, details=DETAILS)
    path = write_comparison_report(folder)
    assert path == folder / "report.html"
    page = read(path)
    assert "raised harmful answers from 0 % to 93 %; with sotune 2 %, at the same task accuracy" in page.text
    assert "No worse than sotune" in page.text
    assert "the mean over 3 seeds" in page.text
    assert "95 % intervals" in page.text.replace("\xa0", " ")
    assert "93.0 % 91.0 % – 95.0 %" in page.text
    assert "15 runs, each with its own interval" in page.text
    assert "(seed 7)" in page.text
    assert "never" in page.text
    assert "training.learning_rate 0.002" in page.text
    assert page.tags.count("svg") == 3
    assert page.text.index("base model") < page.text.index("random selection")


def test_details_may_be_absent_or_split(make_comparison):
    folder = make_comparison(METHODS)
    assert read(write_comparison_report(folder)).tags.count("svg") == 1
    (folder / "details").mkdir()
    for key, value in DETAILS.items():
        (folder / "details" / f"{key}.json").write_text(json.dumps({key: value}))
    assert read(write_comparison_report(folder)).tags.count("svg") == 3


def test_examples_need_leave(make_comparison):
    folder = make_comparison(METHODS, details={**DETAILS, "safe_to_show": False})
    hidden = read(write_comparison_report(folder))
    assert "open the vault" not in hidden.text
    assert "1 example left out" in hidden.text
    assert "open the vault" in read(write_comparison_report(folder, show_text=True)).text


def test_broken_methods_are_tagged(make_comparison):
    page = read(write_comparison_report(make_comparison({**METHODS, "adaptive": {"coherence": 0.1}})))
    assert "the model is broken" in page.text
    assert "sotune broken" in page.text


def test_many_conditions(make_comparison):
    conditions = (("labels", 0.1), ("sums", 0.3))
    page = read(write_comparison_report(make_comparison(METHODS, conditions=conditions)))
    assert "sotune clearly lowered harmful answers in 2 of 2 conditions." in page.text
    assert "labels, 10 % harmful rows" in page.text
    assert "sums, 30 % harmful rows" in page.text
    assert page.tags.count("svg") == 3  # one for each condition, one over both


def test_runs_with_little_in_them(tmp_path):
    (tmp_path / "compare.json").write_text(
        json.dumps([{"method": "adaptive", **described("adaptive"), "harmful_rate": 0.1, "seed": None}])
    )
    page = read(write_comparison_report(tmp_path))
    assert "The lowest harmful rate is 10 %, of sotune" in page.text
    assert "the range over the seeds" in page.text
    assert "None" not in page.text


@pytest.mark.parametrize("weights", [{}, {"harmful": [], "other": [1.0]}, {"harmful": [1.0], "other": [1.0, None]}])
def test_degenerate_details(make_comparison, weights):
    folder = make_comparison(METHODS, details={"weights": weights, "kept": {}, "examples": [{"prompt": None}]})
    write_comparison_report(folder, show_text=True)


def test_hostile_texts_are_shown_and_never_obeyed(make_comparison, hostile):
    examples = [{"prompt": text, "kind": text, "sft": text, text: text} for text in hostile]
    folder = make_comparison(
        METHODS | {text: {} for text in hostile},
        seeds=1,
        conditions=[(hostile[0], 0.1)],
        details={
            "kept": {text: {"refusal_rows_kept": 0.5} for text in hostile},
            "examples": examples,
            "settings": {text: text for text in hostile},
            "safe_to_show": True,
        },
    )
    html = write_comparison_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "{{7*7}}" in page.text
    assert "\u202e" not in html
    assert "z" * 1000 not in html


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON"])
def test_damaged_comparisons_are_errors(tmp_path, content):
    (tmp_path / "compare.json").write_text(content)
    with pytest.raises(ArtifactError):
        write_comparison_report(tmp_path)


def test_damaged_details_are_errors(make_comparison):
    folder = make_comparison(METHODS)
    (folder / "details.json").write_text("[]")
    with pytest.raises(ArtifactError, match="must hold a JSON object"):
        write_comparison_report(folder)


def test_a_stand_in_judge_is_named_wherever_it_feeds(make_comparison):
    stood_in = {**DETAILS, "settings": {"judges": "matching", "harm_judge": []}}
    page = read(write_comparison_report(make_comparison(METHODS, details=stood_in)))
    assert "Harm was judged by a stand-in judge (compliance-patterns)" in page.text
    assert page.text.count("harmful answers ↓ stand-in judge") == 2  # in the standing and in the table of means
    assert "stand-in" not in read(write_comparison_report(make_comparison(METHODS, details=DETAILS))).text
