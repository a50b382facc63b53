"""After another selection, what belongs to the one before is stale: no verb reports it as current."""

import json
import shutil

import pytest

import sotune
from pipeline_rows import rows, write_jsonl
from sotune.artifacts import RunFolder, read_json
from sotune.freshness import is_fresh, require_fresh, stale_stages
from sotune.run_files import SELECTION, STALE

SHORT = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.01, "max_new_tokens": 2, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fresh")


@pytest.fixture(scope="module")
def trained(folder, tiny_model):
    """A run that went the whole way, with scores of new rows."""
    prompts = [
        {"id": f"h{i}", "kind": "harmful", "prompt": row["prompt"]} for i, row in enumerate(rows("harmful", 3, 6))
    ]
    run = sotune.run(
        write_jsonl(folder / "train.jsonl", rows("benign", 30, 1) + rows("harmful", 4, 2)),
        safe_anchor=write_jsonl(folder / "anchor.jsonl", rows("benign", 12, 3)),
        harmful_reference=write_jsonl(folder / "harm.jsonl", rows("harmful", 12, 4)),
        eval_prompts=write_jsonl(folder / "prompts.jsonl", prompts),
        model=tiny_model("llama"),
        out=folder / "trained",
        dtype="float32",
        device="cpu",
        keep_fraction=0.8,
        hold="none",
        **SHORT,
    )
    run.score(write_jsonl(folder / "new.jsonl", rows("benign", 3, 7)))
    return run


@pytest.fixture
def reselected(trained, tmp_path):
    """The same, with fewer rows selected since; and what selecting said."""
    copy = tmp_path / "run"
    shutil.copytree(trained.path, copy)
    run = sotune.open_run(copy)
    run.select(keep_fraction=0.5)
    return run


def test_a_whole_run_is_fresh(trained):
    run = RunFolder.open(trained.path)
    assert stale_stages(run) == {}
    stages = ("records", "representations", "weights", "selection", "training", "evaluation", "report", "scores")
    assert all(is_fresh(run, stage) for stage in stages)


def test_selecting_says_what_it_left_stale_and_what_mends_it(reselected):
    told = " ".join(reselected.summary.stale)
    assert f"the training of {reselected.path} is stale: the selection has been done again since" in told
    assert f"run `sotune train {reselected.path}`" in told
    assert f"run `sotune evaluate {reselected.path}`" in told
    assert f"run `sotune score {reselected.path}` again with the same rows" in told
    assert reselected.summary.changed == {"dropped now, kept before": 10, "kept now": 0}
    assert set(STALE.read(reselected.path)) == {"training", "evaluation", "scores"}
    assert "sotune train" in (reselected.path / "adapter" / "STALE.txt").read_text()


def test_the_report_shows_nothing_stale(reselected, trained):
    page = (reselected.path / "report.html").read_text()
    assert "left out: the training of" in page
    assert "left out: the evaluation of" in page
    whole = (trained.path / "report.html").read_text()
    assert "left out: the" not in whole
    assert "How the models behave" in whole
    assert "How the models behave" not in page
    reselected.report(show_text=True)
    assert "left out: the training of" in (reselected.path / "report.html").read_text()


def test_python_hands_out_nothing_stale(reselected):
    with pytest.raises(sotune.ArtifactError, match="the evaluation of .* is stale: .*run `sotune evaluate"):
        _ = reselected.metrics
    assert reselected.kept.num_rows == 17
    assert not any(line.startswith(("    train", "    evaluate")) for line in repr(reselected).splitlines())


def test_explain_and_score_speak_of_the_new_cut(reselected, folder):
    dropped = SELECTION.columns_of(reselected.path, "id", where={"kept": [False]})["id"]
    assert not reselected.explain(dropped[0]).kept
    reselected.score(folder / "new.jsonl")
    assert "scores" not in stale_stages(RunFolder.open(reselected.path))


def test_evaluating_models_refuses_a_stale_adapter_but_not_a_copy(reselected, folder, tiny_model, tmp_path):
    asked = {
        "model": tiny_model("llama"), "eval_prompts": folder / "prompts.jsonl", "out": tmp_path / "eval", **SHORT,
    }  # fmt: skip
    del asked["max_steps"], asked["per_device_train_batch_size"], asked["learning_rate"]
    with pytest.raises(sotune.ArtifactError, match="the training of .* is stale: .*or copy the adapter"):
        sotune.evaluate(adapter=[reselected.path / "adapter"], **asked)
    shutil.copytree(reselected.path / "adapter", tmp_path / "old")
    assert "old" in sotune.evaluate(adapter=[tmp_path / "old"], **asked).results["metrics"]


def test_judging_is_not_planned_for_a_stale_adapter(reselected):
    with pytest.raises(sotune.ArtifactError, match="the training of .* is stale"):
        reselected.plan_judging(harm_judge=["chat"], judge_base_url="http://127.0.0.1:9/v1", judge_model="m")


def test_going_on_mends_everything(reselected):
    assert [(o.stage, o.status) for o in reselected.plan("evaluate").stages][-3:] == [
        ("training", "to do"), ("evaluation", "to do"), ("report", "to do"),
    ]  # fmt: skip
    reselected.train()
    assert not (reselected.path / "adapter" / "STALE.txt").exists()
    assert set(stale_stages(RunFolder.open(reselected.path))) == {"evaluation", "scores"}
    assert "left out: the evaluation of" in (reselected.path / "report.html").read_text()
    reselected.evaluate()
    assert reselected.metrics["tuned"]
    assert "left out: the" not in (reselected.path / "report.html").read_text()


def test_selecting_the_same_rows_again_makes_the_adapter_count_again(reselected, trained):
    reselected.select(keep_fraction=0.8)
    assert reselected.summary.stale == ()
    assert not (reselected.path / STALE.name).exists()
    assert not (reselected.path / "adapter" / "STALE.txt").exists()
    assert (reselected.path / "report.html").read_bytes() != b""
    assert reselected.metrics == trained.metrics


def test_a_file_that_was_changed_is_not_taken_up(reselected):
    run = RunFolder.open(reselected.path)
    with (reselected.path / "kept.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(sotune.ArtifactError, match="kept.jsonl is not as `sotune select` left it; run `sotune select"):
        require_fresh(run, "selection")
    with pytest.raises(sotune.ArtifactError, match="kept.jsonl is not as"):
        reselected.explain("benign-1-0")


def test_a_page_that_was_not_written_anew_is_put_aside(trained, tmp_path, monkeypatch):
    shutil.copytree(trained.path, tmp_path / "run")
    run = sotune.open_run(tmp_path / "run")

    def fail(*_, **__):
        raise sotune.DataError("no page today")

    monkeypatch.setattr("sotune.pipeline.reports.write_run_report", fail)
    with pytest.raises(sotune.DataError, match="no page today"):
        run.select(keep_fraction=0.6)
    assert not (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "report.stale.html").exists()
    monkeypatch.undo()
    run.report()
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "report.stale.html").exists()


def test_the_command_line_warns_and_lists_only_what_changed(trained, tmp_path, cli):
    shutil.copytree(trained.path, tmp_path / "run")
    result = cli("select", tmp_path / "run", "--k", "20")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "is stale: the selection has been done again since" in text
    assert "rows dropped now, kept before" in text
    assert "read: downstream" not in text
    assert "encode: representations" not in text
    told = json.loads(cli("select", tmp_path / "run", "--k", "20", "--json").stdout)
    assert len(told["stale"]) == 3
    reasons = SELECTION.columns_of(tmp_path / "run", "reason")["reason"]
    assert all("; k is 20" in reason for reason in reasons)


def test_scores_are_written_as_lines_to_a_file_that_is_named(trained, folder, cli, tmp_path):
    out = tmp_path / "mine.jsonl"
    assert cli("score", trained.path, folder / "new.jsonl", "--scores", out).exit_code == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["benign-7-0", "benign-7-1", "benign-7-2"]
    assert {type(line["would_keep"]) for line in lines} == {bool}
    assert set(read_json(trained.path / "weights.manifest.json")["outputs"]) & {"weights.parquet"}
