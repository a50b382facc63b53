"""Rows that are far from all references are told, and can be dropped: their weights say little."""

import functools
import json

import pytest

import sotune
from sotune.errors import ConfigError
from sotune.pipeline import selecting, weighing
from sotune.run_files import PROMISE, SCORES, SELECTION, SOLVER, WEIGHTS
from sotune.weights.nearest import reach


@pytest.fixture
def short_reach(monkeypatch):
    """Half of a reference's rows are beyond its reach, so that some downstream rows are."""
    monkeypatch.setattr(weighing, "reach", functools.partial(reach, share=0.5))


def test_rows_beyond_every_reach_are_counted_and_told(cli, flags, tmp_path, short_reach):
    result = cli("weigh", *flags)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    reaches = SOLVER.read(run)["reach"]
    assert set(reaches) == {"safe", "harmful"}
    beyond = {
        row["id"]: all(row[f"least_{side}_cost"] > reaches[side] for side in reaches) for row in WEIGHTS.rows_of(run)
    }
    rows = {row["id"]: row for row in SELECTION.rows_of(run)}
    assert {id: row["unknown"] for id, row in rows.items()} == beyond
    assert 0 < sum(beyond.values()) < len(beyond)
    assert PROMISE.read(run)["n_unknown"] == sum(beyond.values())
    assert "far from all references" in " ".join(result.output.split())
    assert all(("far from all references" in row["explanation"]) == beyond[id] for id, row in rows.items())
    assert cli("report", str(run)).exit_code == 0
    assert "far from all references" in (run / "report.html").read_text()


def test_unknown_rows_can_be_dropped_or_kept_without_a_word(cli, flags, tmp_path, short_reach):
    assert cli("weigh", *flags).exit_code == 0
    assert cli("select", str(tmp_path / "run"), "--unknown", "drop").exit_code == 0
    unknown = [row for row in SELECTION.rows_of(tmp_path / "run") if row["unknown"]]
    assert unknown
    assert not any(row["kept"] for row in unknown)
    assert all("far from all references" in row["reason"] for row in unknown)
    assert all(row["explanation"].startswith(row["reason"]) for row in unknown)  # not by its costs
    assert cli("select", str(tmp_path / "run"), "--unknown", "keep").exit_code == 0
    assert not any("far from" in row["explanation"] for row in SELECTION.rows_of(tmp_path / "run"))


def test_rows_never_seen_get_the_verdict_of_the_selection(cli, flags, tmp_path, data, short_reach):
    run, train = tmp_path / "run", data / "train.jsonl"
    for setting in ("flag", "drop", "keep"):
        assert cli("weigh", *flags, "--unknown", setting).exit_code == 0
        assert cli("score", run, train).exit_code == 0
        selected = {row["id"]: row for row in SELECTION.rows_of(run)}
        scored = {row["id"]: row for row in SCORES.rows_of(run)}
        assert {id: row["unknown"] for id, row in scored.items()} == {id: r["unknown"] for id, r in selected.items()}
        assert {id: row["would_keep"] for id, row in scored.items()} == {id: r["kept"] for id, r in selected.items()}
        told = {id for id, row in scored.items() if "far from all references" in row["reason"]}
        assert told == (set() if setting == "keep" else {id for id, row in selected.items() if row["unknown"]})
        content = [json.loads(line) for line in train.read_text().splitlines()]
        warm = {row.id: (row.would_keep, row.reason, row.unknown) for row in sotune.Scorer(run).score(content)}
        assert warm == {id: (row["would_keep"], row["reason"], row["unknown"]) for id, row in scored.items()}


def test_methods_without_costs_know_no_unknown_rows(cli, flags, tmp_path):
    assert cli("weigh", *flags, "--method", "mean_cosine").exit_code == 0
    assert not any(row["unknown"] for row in SELECTION.rows_of(tmp_path / "run"))


def test_a_selection_that_breaks_its_limit_leaves_the_one_before(cli, flags, tmp_path, monkeypatch):
    def refuse(described, n_kept):
        raise ConfigError("more than max_harmful_share")

    assert cli("weigh", *flags).exit_code == 0
    run = tmp_path / "run"
    before = {file: (run / file).read_bytes() for file in ("kept.jsonl", "selection.parquet", "promise.json")}
    monkeypatch.setattr(selecting, "said_of_kept", refuse)
    assert cli("select", str(run), "--keep-fraction", "0.5").exit_code == 2
    assert {file: (run / file).read_bytes() for file in before} == before
