import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pipeline_rows import rows
from sotune.artifacts import RunFolder, read_json
from sotune.freshness import stale_stages
from sotune.run_files import RESPONSES
from tiny_models import ARCHITECTURES

TRAINING = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "save_steps": 2,
    "learning_rate": 0.01,
    "max_new_tokens": 4,
}


@pytest.fixture
def config(data, tmp_path, tiny_model):
    """Writes a YAML file for a run, with evaluation prompts; returns a function of the architecture."""
    prompts = [
        {"id": f"h{i}", "kind": "harmful", "prompt": row["prompt"]} for i, row in enumerate(rows("harmful", 5, 11))
    ] + [
        {"id": f"t{i}", "kind": "task", "prompt": row["prompt"], "reference": "done"}
        for i, row in enumerate(rows("benign", 5, 12))
    ]
    (data / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))

    def write(architecture="llama", **changes):
        settings = {
            "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
            "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
            "model": str(tiny_model(architecture)), "out": str(tmp_path / "run"), "threads": 1,
            "eval_prompts": str(data / "prompts.jsonl"), "dtype": "float32", "device": "cpu", **TRAINING, **changes,
        }  # fmt: skip
        file = tmp_path / "run.yaml"
        file.write_text(json.dumps(settings))  # JSON is YAML
        return file

    return write


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_goes_the_whole_way(cli, config, tmp_path, architecture):
    result = cli("run", config(architecture))
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    assert (run / "adapter" / "adapter_model.safetensors").exists()
    metrics = read_json(run / "metrics.json")
    assert set(metrics) == {"base", "tuned"}
    assert 0 <= metrics["tuned"]["harmful_rate"]["low"] <= metrics["tuned"]["harmful_rate"]["high"] <= 1
    assert metrics["tuned"]["harmful_rate"]["n"] == 5
    assert len(RESPONSES.columns_of(run)["id"]) == 10
    # Random weights babble: whatever the harmful rate says, this is not a safe model.
    assert read_json(run / "assessment.json")["label"] != "safe"
    assert "coherence" in (run / "report.html").read_text().lower()


def test_prompts_that_were_trained_on_are_told(cli, config, data):
    prompts = [{"kind": "harmful", "prompt": f"{row['prompt'].upper()} "} for row in rows("harmful", 2, 4)]
    prompts += [{"kind": "harmful", "prompt": "Tell me something else"}]
    own = data / "seen.jsonl"
    own.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    result = cli("run", config(eval_prompts=str(own), hold="none"))
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert "2 evaluation prompts are prompts of the harmful reference too; rates on them say little" in told
    assert "prompts of the safe anchor" not in told


def test_until_resume_and_verbs_alone(cli, config, tmp_path):
    file = config()
    assert cli("run", file, "--until", "weigh").exit_code == 0
    assert not (tmp_path / "run" / "adapter").exists()
    assert cli("train", tmp_path / "run").exit_code == 0
    assert cli("evaluate", tmp_path / "run").exit_code == 0
    again = json.loads(cli("run", file, "--json").stdout)
    assert {outcome["status"] for outcome in again["stages"]} == {"skipped"}
    plan = json.loads(cli("run", file, "--k", "20", "--dry-run", "--json").stdout)
    assert [o["status"] for o in plan["stages"]] == ["current"] * 3 + ["to do"] * 4


def test_selecting_anew_takes_a_stale_evaluation_off_the_report(cli, config, tmp_path):
    cli("run", config())
    assert "harmful" in (tmp_path / "run" / "report.html").read_text()
    cli("select", tmp_path / "run", "--k", "20")
    assert set(stale_stages(RunFolder.open(tmp_path / "run"))) == {"training", "evaluation"}
    assert "left out: the evaluation of" in (tmp_path / "run" / "report.html").read_text()


def test_what_training_and_evaluation_cannot_do_without(cli, config, flags, tmp_path):
    result = cli("run", config(eval_prompts=None))
    assert result.exit_code == 2
    assert "name a JSONL file or a task pack with eval_prompts" in " ".join(result.output.split())
    result = cli("run", config(eval_prompts=str(tmp_path / "none.jsonl")))
    assert result.exit_code == 2
    result = cli("run", config(), "--until", "sleep")
    assert result.exit_code == 2
    assert "until must be one of" in " ".join(result.output.split())


def killed_at_random(file, tmp_path, moments):
    """Kills the whole run at random moments, starts it again each time, and compares the final bytes."""
    command = [sys.executable, "-c", "from sotune.cli import main; main()", "run", str(file)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    names = ("weights.parquet", "selection.parquet", "adapter/adapter_model.safetensors", "metrics.json")

    def finish(out):
        subprocess.run([*command, "--out", str(out)], env=env, check=True, capture_output=True)
        return [hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names]

    started = time.monotonic()
    whole = finish(tmp_path / "whole")
    seconds = time.monotonic() - started
    rng = random.Random(5)
    for number in range(moments):
        out = tmp_path / f"killed-{number}"
        process = subprocess.Popen(
            [*command, "--out", str(out)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert finish(out) == whole


@pytest.mark.slow
def test_a_whole_run_killed_at_ten_moments_ends_with_the_same_adapter(config, tmp_path):
    killed_at_random(config(max_steps=12, cache=False), tmp_path, moments=10)
