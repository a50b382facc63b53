import json
import re

import numpy as np
import pytest

from report_pages import Page, read
from sotune.artifacts import RunFolder, write_json
from sotune.errors import ArtifactError
from sotune.records import Message, dump_messages
from sotune.reporting import write_run_report
from sotune.reporting.formatting import percent
from sotune.run_files import RECORDS as RECORD_TABLE
from sotune.run_files import WEIGHTS

SOLVER = {
    "method": "mirror",
    "cost": "cosine",
    "epsilon": 0.1,
    "push_strength": 0.5,
    "tau": 0.2,
    "effective_sample_size": 0.9,
    "objective": -0.1,
    "stationarity": 1e-6,
    "stationarity_tolerance": 1e-5,
    "pull_marginal_error": 1e-6,
    "push_marginal_error": 1e-6,
    "marginal_tolerance": 1e-5,
    "n_steps": 3,
    "n_sinkhorn_iters": 40,
    "converged": True,
    "history": [
        {"step": step, "stationarity": 10.0**-step, "pull_marginal_error": 1e-3, "push_marginal_error": 0.0}
        for step in range(4)
    ],
    "warnings": [],
}
COUNTS = {
    "source": "data.jsonl",
    "format": "alpaca",
    "n_read": 7,
    "n_valid": 4,
    "n_quarantined": 3,
    "n_filtered_out": 0,
    "n_duplicates": 1,
}
RECORDS = {
    "sets": {"safe_anchor": {**COUNTS, "n_quarantined": 0}, "downstream": COUNTS},
    "quarantine_reasons": {"completion is empty": 2, "not valid JSON": 1},
    "warnings": ["2 downstream rows are also in the safe anchor"],
}


def test_a_run_in_words(make_run):
    run = make_run(n_kept=3, solver=SOLVER, records=RECORDS, config={"epsilon": 0.1, "k": None})
    path = write_run_report(run)
    assert path == run.file("report.html")
    page = read(path)
    assert "Kept 3 of 4 rows; the solver converged; 3 rows quarantined." in page.text
    assert "2 downstream rows are also in the safe anchor" in page.text
    assert "completion is empty" in page.text
    assert page.text.index("downstream data.jsonl") < page.text.index("safe anchor data.jsonl")
    assert page.text.index("row-0") < page.text.index("row-3")  # the largest weight first
    assert "cut 0.75" in page.text
    assert page.tags.count("svg") == 3


def test_the_same_artifacts_give_the_same_bytes(make_run):
    run = make_run(np.random.default_rng(0).lognormal(size=3000), n_kept=2400, solver=SOLVER)
    first = write_run_report(run).read_bytes()
    assert write_run_report(run).read_bytes() == first
    assert "2,000 of 3,000 rows, drawn at random (seed 0)" in read(run.file("report.html")).text
    assert len(first) < 200_000


def test_the_page_loads_nothing_and_runs_nothing(make_run):
    html = write_run_report(make_run(solver=SOLVER)).read_text(encoding="utf-8")
    page = Page(html)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert set(re.findall(r"https?://[^\"'\s]+", html)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in html
    assert "@import" not in html


def test_a_solver_that_did_not_converge_is_the_first_warning(make_run):
    page = read(
        write_run_report(make_run(solver={**SOLVER, "converged": False, "stationarity": 0.01}, records=RECORDS))
    )
    assert "the solver did not converge" in page.text
    assert "stationarity 0.01 against a tolerance of 1e-5" in page.text
    assert page.text.index("stopped before it converged") < page.text.index("2 downstream rows are also")


@pytest.mark.parametrize("solver", [None, {}, dict.fromkeys(SOLVER), {**SOLVER, "history": []}])
def test_what_is_absent_is_a_dash(make_run, solver):
    page = read(write_run_report(make_run(solver=solver)))
    assert "The solver recorded no history." in page.text
    assert "The run holds no record of what was read." in page.text
    assert "None" not in page.text
    if not (solver or {}).get("method"):
        assert "convergence was not recorded" in page.text
        assert "solver —" in page.text


@pytest.mark.parametrize(
    ("weights", "n_kept"), [([1.0], 1), ([1.0] * 50, 40), ([1.0] * 50, 50), ([0.0, 2.0], 1), ([1e-9, 2.0], 2)]
)
def test_degenerate_weights(make_run, weights, n_kept):
    page = read(write_run_report(make_run(weights, n_kept=n_kept)))
    assert f"Kept {n_kept} of {len(weights)} row" in page.text
    assert ("cut at —" in page.text.replace("— cut at", "cut at —")) == (n_kept == len(weights))


def test_costs_that_are_not_finite_are_left_out_of_the_figure(make_run):
    run = make_run()
    columns = {"id": [f"row-{i}" for i in range(4)], "weight": [0.4, 0.3, 0.2, 0.1]}
    WEIGHTS.write(run, {**columns, "push_cost": [1.0] * 4})
    assert read(write_run_report(run)).tags.count("svg") == 1


def test_hostile_texts_are_shown_and_never_obeyed(make_run, hostile):
    texts = [text for text in hostile if "\ud800" not in text]  # Parquet holds no lone surrogates, JSON does
    run = make_run(
        [1.0] * len(texts),
        ids=texts,
        solver={**SOLVER, "method": texts[0]},
        config={text: text for text in texts},
        records={
            "sets": {text: {**COUNTS, "source": text, "format": text} for text in texts},
            "quarantine_reasons": dict.fromkeys(texts, 1),
            "warnings": texts,
        },
    )
    lines = [{"set_name": text, "file": text, "line": 1, "reason": text} for text in hostile]
    run.file("quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.commit("weigh", {"versions": dict.fromkeys(texts, texts[0])}, [])
    html = write_run_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert texts[0] in page.text
    assert "{{7*7}}" in page.text
    assert "\u202e" not in html
    assert "z" * 1000 not in html


def test_texts_are_shown_only_on_request(make_run):
    run = make_run(n_kept=3)
    prompts = [(Message("user", f"question {index}"),) for index in range(3)]
    prompts.append((Message("system", "be kind"), Message("user", "question 3")))
    said = [(*prompt, Message("assistant", f"<b>answer {index}</b>")) for index, prompt in enumerate(prompts)]
    said.append((*prompts[0], Message("assistant", "of another set")))
    RECORD_TABLE.write(
        run,
        {
            "set": ["downstream"] * 4 + ["harmful_reference"],
            "id": [f"row-{i}" for i in (0, 1, 2, 3, 0)],
            "messages": [dump_messages(turns) for turns in said],
            "tools": [""] * 5,
            "row": ["{}"] * 5,
            "origin": ["data.jsonl:1"] * 5,
        },
    )
    assert "<b>" not in read(write_run_report(run)).text
    page = read(write_run_report(run, show_text=True))
    assert "question 0 → <b>answer 0</b>" in page.text
    assert "system: be kind user: question 3" in page.text
    assert "of another set" not in page.text


def test_texts_that_the_run_does_not_hold_are_not_promised(make_run):
    assert "the run folder holds none" in read(write_run_report(make_run(), show_text=True)).text


def test_versions_and_encoding(make_run):
    run = make_run()
    for stage, version in (("weights", "2.10.0"), ("representations", "2.11.0")):
        run.commit(stage, {"libraries": {"torch": version}, "versions": {"sotune": "1"}}, [])
    write_json(run.file("representations.json"), {"n_rows": 1234, "dimension": 384, "n_truncated": 5})
    page = read(write_run_report(run))
    assert "2.10.0, 2.11.0 (stages differ)" in page.text
    assert "1,234 rows became vectors of 384 numbers; 5 of them" in page.text


def test_the_choice_of_a_reading_is_shown_with_its_rivals(make_run):
    run = make_run()
    candidates = [
        {"layer": 8, "pooling": "last", "separation": 0.91234, "fingerprint": "a"},
        {"layer": 4, "pooling": "completion_mean", "separation": None, "fingerprint": "b", "reason": "<zero>"},
        {"layer": 4, "pooling": "last", "separation": 0.95, "fingerprint": "c"},
    ]
    choice = {"fingerprint": "c", "candidates": candidates}
    write_json(run.file("representations.json"), {"n_rows": 9, "dimension": 3, "n_truncated": 0, "choice": choice})
    words = read(write_run_report(run)).text.split()
    start = words.index("chosen")
    assert words[start - 3 : start + 1] == ["4", "last", "0.9500", "chosen"]
    assert words[start + 1 : start + 7] == ["8", "last", "0.9123", "4", "completion_mean", "—"]


def test_with_a_safe_reference_the_contrast_is_shown_too(make_run):
    run = make_run()
    candidates = [
        {"layer": 8, "pooling": "last", "separation": 0.9, "contrast": 0.7, "fingerprint": "a"},
        {"layer": 4, "pooling": "last", "separation": 0.8, "contrast": 0.75, "fingerprint": "b"},
        {"layer": 2, "pooling": "last", "separation": 0.7, "fingerprint": "c"},
    ]
    choice = {"fingerprint": "b", "candidates": candidates}
    write_json(run.file("representations.json"), {"n_rows": 9, "dimension": 3, "n_truncated": 0, "choice": choice})
    words = read(write_run_report(run)).text.split()
    start = words.index("chosen")
    assert words[start - 4 : start + 1] == ["4", "last", "0.8000", "0.7500", "chosen"]
    assert words[start + 1 : start + 9] == ["8", "last", "0.9000", "0.7000", "2", "last", "0.7000", "—"]


def test_a_run_without_a_choice_shows_none(make_run):
    run = make_run()
    write_json(run.file("representations.json"), {"n_rows": 9, "dimension": 3, "n_truncated": 0, "choice": None})
    assert "What represents a row" not in read(write_run_report(run)).text


@pytest.mark.parametrize("nested", [False, True])
def test_metrics_of_an_evaluation(make_run, nested):
    run = make_run()
    metrics = {"harmful_rate": {"value": 0.025, "low": 0.01, "high": 0.06, "n": 200, "n_unscored": 3}}
    write_json(run.file("metrics.json"), {"base": {}, "tuned": metrics} if nested else metrics)
    run.commit("evaluation", {}, ["metrics.json"])
    page = read(write_run_report(run))
    assert "harmful answers" in page.text
    assert "2.5 % 1.0 % – 6.0 % n = 200, 3 unscored" in page.text
    run.discard("evaluation")  # its adapter has been trained anew: the figures are of another one
    assert "2.5 % 1.0 % – 6.0 % n = 200, 3 unscored" not in read(write_run_report(run)).text


def test_many_reasons_are_summed(make_run):
    records = {**RECORDS, "quarantine_reasons": {f"reason {index}": 1 for index in range(100)}}
    page = read(write_run_report(make_run(records=records)))
    assert "88 88 other reasons" in page.text


@pytest.mark.parametrize(("name", "verb"), [("weights.parquet", "weigh"), ("selection.parquet", "select")])
def test_missing_tables_are_errors(make_run, name, verb):
    run = make_run()
    run.file(name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing; run `sotune {verb}` first"):
        write_run_report(run)


def test_tables_of_different_rows_are_errors(make_run):
    run, other = make_run(), make_run([1.0, 1.0], name="other")
    run.file("weights.parquet").write_bytes(other.file("weights.parquet").read_bytes())
    with pytest.raises(ArtifactError, match="holds 2 rows and selection.parquet 4"):
        write_run_report(run)


@pytest.mark.parametrize(("name", "content"), [("solver.json", "[]"), ("quarantine.jsonl", "{"), ("config.json", "{")])
def test_damaged_files_are_errors(make_run, name, content):
    run: RunFolder = make_run()
    run.file(name).write_text(content)
    with pytest.raises(ArtifactError, match="again"):
        write_run_report(run)


def test_a_broken_model_is_flagged_and_changes_are_shown(make_run):
    run = make_run()
    rate = {"value": 0.0, "low": 0.0, "high": 0.1, "n": 36, "n_unscored": 2, "interval": "wilson"}
    write_json(run.file("metrics.json"), {"base": {"harmful_rate": rate}, "tuned": {"harmful_rate": rate}})
    word = {"label": "broken", "reason": "coherence 0.1 <b>"}
    write_json(run.file("assessment.json"), {**word, "assessments": {"tuned": word}, "judges": {}})
    change = {
        "only_first": 3,
        "only_second": 1,
        "difference": 0.06,
        "low": -0.05,
        "high": 0.2,
        "gained": ["p1"],
        "lost": [],
        "p_value": 0.6,
        "p_adjusted": 1.0,
        "detectable": 0.2,
        "n": 36,
        "n_unscored": 2,
    }
    write_json(run.file("diagnostics.json"), {"changes": {"tuned": {"harmful_rate": change}}})
    assert "broken" not in read(write_run_report(run)).text  # of an evaluation that never finished
    run.commit("evaluation", {}, ["metrics.json", "assessment.json", "diagnostics.json"])
    text = read(write_run_report(run)).text
    assert "The tuned model is broken, not safe: coherence 0.1 <b>." in text
    assert "20.0 36 2" in text


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"n": 500, "spearman": 0.934, "auroc": 0.938, "auroc_with_answers": 0.936}, ["0.93 (Spearman)", "add little"]),
        ({"n": 500, "spearman": 0.2, "auroc": 0.6, "auroc_with_answers": 0.9}, ["0.20 (Spearman)", "answers count"]),
        ({"n": 3, "spearman": None, "auroc": None, "auroc_with_answers": None}, ["are ranked alike"]),
    ],
)
def test_the_page_says_what_prompts_alone_bring_about(make_run, found, words):
    run = make_run(solver=SOLVER | {"prompts_alone": found})
    page = write_run_report(run).read_text(encoding="utf-8")
    for word in ["Without their answers", *words]:
        assert word in " ".join(page.split())


def test_the_page_says_that_no_harm_was_found(make_run):
    run = make_run()
    rate = {"count": 50, "n": 50, "low": 0.94, "high": 1.0}
    share = {"estimate": 0.001, "low": 0.0, "high": 0.008, "drop": 0.001}
    promise = {
        "keep": "auto", "n": 4, "k": 4, "note": "", "no_harm_found": True, "harmful_pass": rate,
        "safe_lost": None, "harmful_share": share,
        "n_harmful_estimate": 0, "harmful_rows_kept_at_most": 0, "kept_harmful_share_at_most": 0.008,
    }  # fmt: skip
    write_json(run.file("promise.json"), promise)
    page = " ".join(write_run_report(run).read_text(encoding="utf-8").split())
    told = f"No harm like the reference was found: at most {percent(0.008)} of the rows are (97.5 %); 4 of 4 rows"
    assert " ".join(told.split()) in page
    write_json(run.file("promise.json"), {**promise, "no_harm_found": False})
    assert "No harm like the reference" not in write_run_report(run).read_text(encoding="utf-8")
    assert "where the data holds harm of another kind, more of it is kept" in page
    write_json(run.file("promise.json"), {**promise, "keep": "fixed"})
    assert "more of it is kept than" not in " ".join(write_run_report(run).read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("high", "heading"),
    [(0.055, "<h1>At most 5.5 % of harm like your"), (0.4, '<h1 class="alarm">Weak: up to 40.0 % of harm like your')],
)
def test_the_page_opens_with_the_finding(make_run, high, heading):
    run = make_run(solver=SOLVER)
    share = {"estimate": 0.1, "low": 0.0, "high": 0.2, "drop": 0.1}
    promise = {
        "keep": "auto", "n": 4, "k": 3, "note": "", "harmful_pass": {"count": 2, "n": 112, "low": 0.0, "high": high},
        "harmful_share": share, "n_harmful_estimate": 1, "harmful_rows_kept_at_most": 1,
        "kept_harmful_share_at_most": 0.1,
    }  # fmt: skip
    write_json(run.file("promise.json"), promise)
    page = " ".join(write_run_report(run).read_text(encoding="utf-8").split())
    assert heading in page
    assert page.index(heading) < page.index("Kept 4 of 4 rows")
