"""General rows that meet risky prompts safely, from the command line to what methods see."""

import json

import pytest

from pipeline_rows import rows, write_jsonl
from sotune.artifacts import RunFolder
from sotune.catalogue import load_data_set
from sotune.pipeline.record_sets import read_records
from sotune.run_files import PROMISE, READING, SENTINEL_SUMMARY, SENTINELS, WEIGHTS
from sotune.sources import SourceOptions, choose_side


def safe_rows(n, seed):
    """Rows with the prompts of harm and an answer that refuses."""
    return [{**row, "response": "I will not help with that.", "label": "safe"} for row in rows("harmful", n, seed)]


@pytest.fixture
def safe(data):
    path = data / "safe.jsonl"
    write_jsonl(path, safe_rows(12, 6) + rows("benign", 5, 7))
    return path


def test_a_safe_reference_is_read_under_settings_of_its_own(cli, flags, safe, tmp_path):
    own = ["--safe-reference", safe, "--safe-reference-where", "label=safe"]
    assert cli("extract", *flags, *own).exit_code == 0
    run = RunFolder.open(tmp_path / "run")
    assert len(read_records(run)["safe_reference"]) == 12
    assert READING.read(run)["sets"]["safe_reference"]["n_filtered_out"] == 5
    again = json.loads(cli("extract", *flags, *own, "--json").stdout)
    assert {stage["status"] for stage in again["stages"]} == {"skipped"}
    without = json.loads(cli("extract", *flags, "--json").stdout)
    assert {stage["status"] for stage in without["stages"]} == {"done"}
    assert [*read_records(run)["safe_reference"]] == []


BAD, GOOD = rows("harmful", 20, 8), safe_rows(20, 8)
BOTH_SIDES = {
    "a label": [{**row, "label": word} for side, word in ((BAD, "unsafe"), (GOOD, "safe")) for row in side],
    "is_safe": [
        {"prompt": row["prompt"], "response": row["response"], "is_safe": row in GOOD} for row in (*BAD, *GOOD)
    ],
    "is_response_0_safe": [
        {"prompt": row["prompt"], "response_0": row["response"], "response_1": "-", "is_response_0_safe": row in GOOD}
        for row in (*BAD, *GOOD)
    ],
    "pairs": [
        {"prompt": bad["prompt"], "chosen": good["response"], "rejected": bad["response"]}
        for bad, good in zip(BAD, GOOD, strict=True)
    ],
}


@pytest.mark.parametrize("told_by", BOTH_SIDES)
def test_one_flag_names_both_references(cli, flags, data, tmp_path, told_by):
    write_jsonl(data / "both.jsonl", [{**row, "id": str(i)} for i, row in enumerate(BOTH_SIDES[told_by])])
    start = flags.index("--harmful-reference")
    result = cli("extract", *flags[:start], *flags[start + 4 :], "--references", data / "both.jsonl")
    assert result.exit_code == 0, result.output
    sets = read_records(RunFolder.open(tmp_path / "run"))
    assert {row.completion for row in sets["safe_reference"]} == {row["response"] for row in GOOD}
    assert {row.completion for row in sets["harmful_reference"]} == {row["response"] for row in BAD}


def test_what_tells_no_sides_is_said(cli, flags, data):
    write_jsonl(data / "both.jsonl", [{"prompt": row["prompt"], "response": row["response"]} for row in BAD])
    start = flags.index("--harmful-reference")
    both = [*flags[:start], *flags[start + 4 :], "--references", data / "both.jsonl"]
    result = cli("extract", *both)
    assert result.exit_code == 2
    assert "nothing tells its harmful rows: no column is_safe" in result.output


def test_a_named_data_set_gives_both_sides():
    for name in ("beavertails", "pku-saferlhf", "lat"):
        sources = [choose_side(name, SourceOptions(), side)[0] for side in ("harmful", "safe")]
        assert sources == [load_data_set(name).reference.harmful.name, load_data_set(name).reference.safe.name]
    assert choose_side("beavertails", SourceOptions(where=("a=b",)), "safe")[0] == "beavertails"


def test_a_row_cannot_be_safe_and_harmful(cli, flags, data):
    both = ["--safe-reference", data / "harm.jsonl", "--safe-reference-where", "label=harmful"]
    result = cli("extract", *flags, *both)
    assert result.exit_code == 2
    assert "20 rows both in the safe reference and in the harmful reference" in result.output


def test_both_kinds_of_sentinels_are_measured_and_safe_answers_are_cited(cli, flags, data, tmp_path):
    write_jsonl(data / "harm.jsonl", rows("harmful", 400, 4))
    write_jsonl(data / "safe.jsonl", safe_rows(120, 6))
    result = cli("weigh", *flags, "--safe-reference", data / "safe.jsonl")
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    promise = PROMISE.read(run)
    kept_back = SENTINELS.columns_of(run, "id", where={"fold": ["safe_reference"]})["id"]
    assert promise["safe_answers_lost"]["n"] == len(kept_back) == SENTINEL_SUMMARY.read(run)["n_safe_measuring"] > 0
    assert 0 <= promise["safe_answers_lost"]["low"] <= promise["safe_answers_lost"]["high"] <= 1
    assert "not_told_apart" not in promise
    words = " ".join(result.output.split())
    assert "safe answers lost" in words
    assert "held-out safe answers that the cut loses" in (run / "report.html").read_text(encoding="utf-8")
    cited = {id for ids in WEIGHTS.columns_of(run, "nearest_safe_reference")["nearest_safe_reference"] for id in ids}
    assert cited
    assert not cited & set(kept_back)
    (found,) = json.loads(cli("explain", run, "benign-1-0", "--json").stdout)
    assert found["nearest_safe_reference"]
    shown = cli("explain", run, "benign-1-0", "--show-text").stdout
    assert "nearest safe answers" in shown
    assert "safe_reference/harmful-6" in shown
    assert cli("score", run, data / "safe.jsonl").exit_code == 0
    weaker = json.loads(
        cli("weigh", *flags, "--safe-reference", data / "safe.jsonl", "--safe-strength", "0.3", "--json").stdout
    )
    assert [stage["status"] for stage in weaker["stages"]] == ["skipped", "skipped", "done", "done", "done"]


def test_one_that_does_not_count_tells_nothing_apart_and_is_said_so(cli, flags, data, tmp_path):
    write_jsonl(data / "harm.jsonl", rows("harmful", 400, 4))
    write_jsonl(data / "safe.jsonl", safe_rows(120, 6))
    given = [*flags, "--safe-reference", data / "safe.jsonl", "--safe-strength", "0"]
    result = cli("weigh", *given)
    assert result.exit_code == 0, result.output
    promise = PROMISE.read(tmp_path / "run")
    assert promise["not_told_apart"] == "safe and harmful answers to risky prompts, with safe_strength 0"
    assert promise["safe_answers_lost"]["n"] > 0
    assert "not told apart" in result.output
    assert "safe answers lost" in " ".join(result.output.split())
    assert cli("weigh", *given, "--method", "probe").exit_code == 0
    assert "not_told_apart" not in PROMISE.read(tmp_path / "run")  # a method that knows no strength


def test_a_wrong_column_of_a_reference_is_reported_by_its_own_flag(cli, flags, data):
    write_jsonl(data / "safe.jsonl", safe_rows(40, 6))
    result = cli("extract", *flags, "--safe-reference", data / "safe.jsonl", "--safe-reference-completion-column", "no")
    assert result.exit_code == 2
    assert "'no' that --safe-reference-completion-column names" in " ".join(result.output.split())
    result = cli("extract", *flags, "--harmful-prompt-column", "no", "--harmful-completion-column", "response")
    assert "'no' that --harmful-prompt-column names" in " ".join(result.output.split())


def test_without_one_the_run_says_what_it_cannot_tell_apart(cli, flags, tmp_path):
    stages = json.loads(cli("weigh", *flags, "--json").stdout)["stages"]
    told = "safe and harmful answers to risky prompts, without a safe_reference"
    assert next(stage for stage in stages if stage["stage"] == "selection")["figures"]["not told apart"] == told
    assert PROMISE.read(tmp_path / "run")["not_told_apart"] == told
    assert "Not told apart" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
