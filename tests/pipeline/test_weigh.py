import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

import sotune
from pipeline_rows import rows, write_jsonl
from sotune import artifacts
from sotune.artifacts import read_json
from sotune.run_files import RECORDS, SCORES, SELECTION, WEIGHTS

WEIGHT_COLUMNS = [
    "id", "weight", "pull_cost", "push_cost", "pull_potential", "push_potential",
    "nearest_safe", "nearest_safe_shares", "least_safe_cost",
    "nearest_safe_reference", "nearest_safe_reference_shares", "least_safe_reference_cost",
    "nearest_harmful", "nearest_harmful_shares", "least_harmful_cost",
]  # fmt: skip


def digests(run, *names):
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}


def test_weigh_writes_what_it_promises(cli, flags, tmp_path, data):
    result = cli("weigh", *flags)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    weights = WEIGHTS.columns_of(run)
    assert list(weights) == WEIGHT_COLUMNS
    lines = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    assert weights["id"] == [row["id"] for row in lines]
    assert sum(weights["weight"]) == pytest.approx(1)
    selection = SELECTION.columns_of(run)
    decided = ["id", "weight", "loss_weight", "rank", "kept", "reason", "margin", "unknown", "explanation"]
    assert list(selection) == decided
    assert sum(selection["kept"]) == 72
    kept = [json.loads(line) for line in (run / "kept.jsonl").read_text().splitlines()]
    by_id = {row["id"]: row for row in lines}
    assert [row["id"] for row in kept] == [i for i, k in zip(selection["id"], selection["kept"], strict=True) if k]
    assert sum(row.pop("weight") for row in kept) == pytest.approx(72)
    assert all(row == by_id[row["id"]] for row in kept)
    assert "<html" in (run / "report.html").read_text().lower()
    assert "wrote" in result.output


def test_a_second_call_skips_and_a_changed_setting_reruns_what_depends_on_it(cli, flags, tmp_path):
    cli("weigh", *flags)
    again = json.loads(cli("weigh", *flags, "--json").stdout)
    assert {s["stage"]: s["status"] for s in again["stages"]} == dict.fromkeys(
        ["records", "representations", "weights", "selection", "report"], "skipped"
    )
    plan = json.loads(cli("weigh", *flags, "--epsilon", "0.2", "--json", "--dry-run").stdout)
    assert [s["status"] for s in plan["stages"]] == ["current", "current", "to do", "to do", "to do"]
    assert read_json(tmp_path / "run" / "solver.json")["epsilon"] == 0.1
    changed = json.loads(cli("weigh", *flags, "--epsilon", "0.2", "--json").stdout)
    assert [s["status"] for s in changed["stages"]] == ["skipped", "skipped", "done", "done", "done"]


def test_rows_are_streamed_where_the_kernel_does_not_fit(cli, flags, tmp_path, monkeypatch):
    flags = [*flags, "--template", "paper"]
    cli("weigh", *flags)
    dense = WEIGHTS.columns_of(tmp_path / "run")
    assert read_json(tmp_path / "run" / "solver.json")["n_passes"] == 0
    monkeypatch.setattr("sotune.weights.streaming._LEAST_SAMPLE", 45)
    result = cli("weigh", *flags, "--max-memory", "1KB", "--streamed-tolerance", "1e-5", "--json")
    assert result.exit_code == 0, result.output
    solver = read_json(tmp_path / "run" / "solver.json")
    assert solver["n_passes"] >= 2
    assert solver["converged"]
    streamed = WEIGHTS.columns_of(tmp_path / "run")
    assert streamed["id"] == dense["id"]
    assert streamed["weight"] == pytest.approx(dense["weight"], rel=0.02)


def test_reference_columns_may_be_free(cli, flags, tmp_path):
    assert cli("weigh", *flags, "--reference-relaxation", "0").exit_code == 0
    solver = read_json(tmp_path / "run" / "solver.json")
    assert solver["reference_relaxation"] == 0
    assert solver["pull_marginal_error"] == 0


def test_an_artefact_that_was_tampered_with_is_made_again(cli, flags, tmp_path):
    cli("weigh", *flags)
    before = digests(tmp_path / "run", "weights.parquet", "selection.parquet")
    (tmp_path / "run" / "weights.parquet").write_bytes(b"nonsense")
    for shard in (tmp_path / "run" / "representations").rglob("*.safetensors"):
        shard.write_bytes(b"nonsense")
    assert cli("weigh", *flags).exit_code == 0
    assert digests(tmp_path / "run", "weights.parquet", "selection.parquet") == before


def test_select_keeps_another_share_without_solving_again(cli, flags, tmp_path):
    cli("weigh", *flags)
    before = digests(tmp_path / "run", "weights.parquet")
    assert cli("select", tmp_path / "run", "--keep-fraction", "0.5").exit_code == 0
    assert sum(SELECTION.columns_of(tmp_path / "run")["kept"]) == 45
    assert cli("select", tmp_path / "run", "--k", "7", "--loss-weight-rule", "exp").exit_code == 0
    assert sum(SELECTION.columns_of(tmp_path / "run")["kept"]) == 7
    assert digests(tmp_path / "run", "weights.parquet") == before


def test_extract_alone_and_report_alone(cli, flags, tmp_path):
    assert cli("extract", *flags).exit_code == 0
    assert not (tmp_path / "run" / "weights.parquet").exists()
    cli("weigh", *flags)
    (tmp_path / "run" / "report.html").unlink()
    assert cli("report", tmp_path / "run").exit_code == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("solver", ["mirror", "one_step"])
def test_score_gives_the_training_rows_their_weights(cli, flags, tmp_path, data, solver):
    cli("weigh", *flags, "--solver", solver)
    result = cli("score", tmp_path / "run", data / "train.jsonl", "--json")
    summary = json.loads(result.stdout)
    assert summary["n_scored"] == 90
    assert summary["n_would_keep"] == 72
    scores = SCORES.columns_of(tmp_path / "run")
    weights = WEIGHTS.columns_of(tmp_path / "run")
    by_id = dict(zip(weights["id"], weights["weight"], strict=True))
    for id, weight in zip(scores["id"], scores["weight"], strict=True):
        assert weight == pytest.approx(by_id[id], rel=1e-5)


def test_score_names_no_flag_that_it_lacks(cli, flags, tmp_path, data):
    cli("weigh", *flags)
    write_jsonl(data / "bad.jsonl", [*rows("benign", 4, 7), {"prompt": "a", "response": ""}])
    result = cli("score", tmp_path / "run", data / "bad.jsonl")
    assert result.exit_code == 2
    assert "Fix them, or leave them out" in " ".join(result.output.split())


def test_score_tells_harmful_rows_from_others_and_the_paper_preset_cannot_score(cli, flags, tmp_path, data):
    cli("weigh", *flags)
    where = ["--scores", tmp_path / "h.parquet", "--where", "label=harmful"]
    assert cli("score", tmp_path / "run", data / "harm.jsonl", *where).exit_code == 0
    relative = SCORES.named("h.parquet").columns_of(tmp_path)["relative_weight"]
    assert sum(relative) / len(relative) < 1
    assert cli("weigh", *flags, "--preset", "paper").exit_code == 0
    solver = read_json(tmp_path / "run" / "solver.json")
    assert (solver["solver"], solver["n_steps"], solver["tau"]) == ("sharp", 20, None)
    result = cli("score", tmp_path / "run", data / "train.jsonl")
    assert result.exit_code == 2
    assert "potentials.safetensors is missing" in result.output


def test_python_api_is_the_same_verbs(data, tmp_path, tiny_model):
    run = sotune.weigh(
        data / "train.jsonl", safe_anchor=data / "anchor.jsonl", harmful_reference=data / "harm.jsonl",
        harmful_where=("label=harmful",), model=tiny_model("gpt2"), out=tmp_path / "api", k=5,
    )  # fmt: skip
    assert [outcome.status for outcome in run.summary.stages] == ["done"] * 5
    assert sum(SELECTION.columns_of(tmp_path / "api")["kept"]) == 5
    with pytest.raises(AttributeError, match="no attribute 'wiegh'"):
        sotune.wiegh  # noqa: B018


def test_settings_come_from_yaml_and_flags_override_them(cli, data, tmp_path, tiny_model):
    file = tmp_path / "config.yaml"
    file.write_text(
        f"data: {data / 'train.jsonl'}\nsafe_anchor: {data / 'anchor.jsonl'}\n"
        f"harmful_reference: {data / 'harm.jsonl'}\nharmful_where: [label=harmful]\n"
        f"model: {tiny_model('llama')}\nout: {tmp_path / 'yaml'}\nkeep_fraction: 0.5\nepsilon: 0.3\n"
    )
    assert cli("weigh", "--config", file, "--epsilon", "0.2").exit_code == 0
    assert read_json(tmp_path / "yaml" / "config.json")["epsilon"] == 0.2
    assert sum(SELECTION.columns_of(tmp_path / "yaml")["kept"]) == 45


def test_quiet_prints_nothing(cli, flags):
    result = cli("weigh", *flags, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_importing_the_package_is_light():
    heavy = ("torch", "transformers", "pyarrow", "scipy", "sklearn")
    code = f"import sys, sotune, sotune.cli; print([m for m in {heavy} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def killed_runs_end_alike(command, run, names, *, moments, seed, reference_seconds):
    """Starts a command, kills it at random moments, lets it finish; returns the digests of each finished run."""
    rng = random.Random(seed)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    outcomes = []
    for number in range(moments):
        out = run.with_name(f"killed-{number}")
        process = subprocess.Popen(
            [*command, "--out", str(out)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 1.0) * reference_seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run([*command, "--out", str(out)], env=env, check=True, capture_output=True)
        outcomes.append(digests(out, *names))
    return outcomes


def kill_test(flags, tmp_path, moments):
    command = [sys.executable, "-c", "from sotune.cli import main; main()", "weigh", *flags[:-2], "--threads", "1"]
    command += ["--no-cache"]  # else what one run encoded is there for the next
    names = ("weights.parquet", "selection.parquet", "kept.jsonl", "representations.parquet")
    started = time.monotonic()
    subprocess.run(
        [*command, "--out", str(tmp_path / "whole")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True,
    )  # fmt: skip
    seconds = time.monotonic() - started
    whole = digests(tmp_path / "whole", *names)
    outcomes = killed_runs_end_alike(
        command, tmp_path / "whole", names, moments=moments, seed=7, reference_seconds=seconds
    )
    assert outcomes == [whole] * moments


def test_a_killed_run_ends_with_the_same_bytes(flags, tmp_path):
    kill_test(flags, tmp_path, moments=1)


@pytest.mark.slow
def test_a_run_killed_at_ten_moments_ends_with_the_same_bytes(flags, tmp_path):
    kill_test(flags, tmp_path, moments=10)


def test_records_are_read_by_column_and_part_and_never_whole(cli, flags, monkeypatch):
    read, calls = artifacts._read_part, []

    def noted(parquet, number, wanted, asked):
        if parquet.schema_arrow.names == list(RECORDS.columns):
            calls.append((number, set(wanted), asked))
        return read(parquet, number, wanted, asked)

    monkeypatch.setattr(artifacts, "_read_part", noted)
    assert cli("weigh", *flags, "--quiet").exit_code == 0
    assert calls
    assert all(names and names < set(RECORDS.columns) for _, names, _ in calls)
    assert not any({"messages", "row"} <= names for _, names, _ in calls)
    own = [number for number, names, asked in calls if "row" in names and "set" in asked]
    texts = Counter(number for number, names, _ in calls if "messages" in names)
    assert sorted(own) == [0, 1, 2]  # to write the kept ones: of each set's part whether it is asked for
    assert set(texts) == {0, 1, 2}
    assert max(texts.values()) == 2  # to encode, and to hand to the method
