"""Runs and comparisons with Ray as the engine, against this process."""

import hashlib
import json
import os
import signal
import threading
import time

import pytest
from safetensors.torch import load_file

from launching import launch
from pipeline_rows import rows
from sotune.artifacts import read_json

pytestmark = pytest.mark.slow

TRAIN = "from sotune.cli import main; main()"


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two cores."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sotune[ray]'")
    from sotune.cluster import _ray_engine

    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    yield ray
    _ray_engine.cache_clear()
    ray.shutdown()


def contents(folder):
    told = ("config.json", "config.manifest.json", "report.html", "report.manifest.json", ".lock")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in told
    }


def test_a_run_on_ray_leaves_the_bytes_of_one_process(cli, cluster, data, tmp_path, tiny_model):
    prompts = [{"id": f"h{i}", "kind": "harmful", "prompt": r["prompt"]} for i, r in enumerate(rows("harmful", 5, 11))]
    (data / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    settings = {
        "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
        "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
        "model": str(tiny_model("llama")), "eval_prompts": str(data / "prompts.jsonl"), "dtype": "float32",
        "device": "cpu", "threads": 1, "batch_tokens": 256, "max_steps": 2, "per_device_train_batch_size": 2,
        "max_new_tokens": 4, "hold": "none",
    }  # fmt: skip
    file = tmp_path / "settings.yaml"
    for name, engine in (("one", "local"), ("ray", "ray")):
        file.write_text(json.dumps({**settings, "engine": engine, "out": str(tmp_path / name)}))
        result = cli("run", file)
        assert result.exit_code == 0, result.output
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    adapters = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "ray")]
    assert all((adapters[0][name] == adapters[1][name]).all() for name in adapters[0])


def test_the_cells_of_a_comparison_are_tasks_of_the_cluster(cli, cluster, tmp_path):
    found = []
    for engine in ("local", "ray"):
        file = tmp_path / "compare.yaml"
        file.write_text(
            f"engine: {engine}\nmethods: [sft, random]\ndatasets: [miniature-verdict]\nharmful_fractions: [0.1]\n"
            "seeds: [0]\nn: 40\nn_anchor: 12\nn_reference: 12\nn_eval: 4\nmax_steps: 2\n"
        )
        result = cli("compare", file, "--out", tmp_path / engine)
        assert result.exit_code == 0, result.output
        rows_found = read_json(tmp_path / engine / "compare.json")
        found.append([{k: v for k, v in row.items() if k not in ("seconds", "peak_bytes")} for row in rows_found])
    assert found[0] == found[1]


@pytest.fixture
def train(cli, cluster, data, tmp_path, tiny_model):
    """Trains with an engine in this process or, locally, in several; returns the digests of what it leaves."""
    settings = {
        "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
        "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
        "model": str(tiny_model("llama")), "dtype": "float32", "device": "cpu", "threads": 1, "batch_tokens": 256,
        "save_steps": 5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "hold": "none",
    }  # fmt: skip
    file = tmp_path / "settings.yaml"

    def run(name, n=1, **more):
        file.write_text(json.dumps({**settings, **more, "out": str(tmp_path / name)}))
        if n > 1:
            statuses, _, errors = launch(TRAIN, "run", file, "--until", "train", n=n)
            assert statuses == [0] * n, errors
        else:
            result = cli("run", file, "--until", "train")
            assert result.exit_code == 0, result.output
        return contents(tmp_path / name)

    return run


def kill_after_a_checkpoint(folder, number):
    """Kills one of the processes that train as soon as there is something to go on from; returns what was killed."""
    import psutil

    killed = []

    def kill():
        while not list(folder.glob("checkpoints/checkpoint-*/complete.json")):
            time.sleep(0.01)
        training = [p for p in psutil.process_iter(["name"]) if "_Member" in (p.info["name"] or "")]
        killed.append((training[number].pid, sorted(path.name for path in folder.glob("checkpoints/*"))))
        os.kill(training[number].pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    return killed


def test_a_training_whose_worker_is_killed_goes_on_from_its_checkpoint(train, tmp_path):
    one = train("one", max_steps=60)
    killed = kill_after_a_checkpoint(tmp_path / "ray", 0)
    assert train("ray", max_steps=60, engine="ray") == one
    assert killed


def test_two_workers_train_to_the_bytes_of_two_processes(train):
    two = train("two", n=2, max_steps=4)
    assert train("ray", max_steps=4, engine="ray", ray_train_workers=2) == two


@pytest.mark.parametrize("number", [0, 1])
def test_two_workers_of_which_one_is_killed_go_on_from_their_checkpoint(train, tmp_path, number):
    whole = train("whole", max_steps=40, engine="ray", ray_train_workers=2)
    killed = kill_after_a_checkpoint(tmp_path / "killed", number)
    assert train("killed", max_steps=40, engine="ray", ray_train_workers=2) == whole
    assert killed
