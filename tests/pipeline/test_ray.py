"""Runs and comparisons with Ray as the engine, against this process."""

import hashlib
import json
import os
import signal
import threading
import time

import pytest
from safetensors.torch import load_file

from pipeline_rows import rows
from sotune.artifacts import read_json

pytestmark = pytest.mark.slow


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


def test_a_training_whose_worker_is_killed_goes_on_from_its_checkpoint(cli, cluster, data, tmp_path, tiny_model):
    import psutil

    settings = {
        "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
        "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
        "model": str(tiny_model("llama")), "dtype": "float32", "device": "cpu", "threads": 1, "batch_tokens": 256,
        "max_steps": 60, "save_steps": 5, "per_device_train_batch_size": 2, "hold": "none",
    }  # fmt: skip
    file, killed = tmp_path / "settings.yaml", []

    def kill_after(folder):
        while not list(folder.glob("checkpoints/checkpoint-*/complete.json")):
            time.sleep(0.01)
        training = [p for p in psutil.process_iter(["name"]) if "_work_alone" in (p.info["name"] or "")]
        killed.append((training[0].pid, sorted(path.name for path in folder.glob("checkpoints/*"))))
        os.kill(training[0].pid, signal.SIGKILL)

    for name, engine in (("one", "local"), ("ray", "ray")):
        file.write_text(json.dumps({**settings, "engine": engine, "out": str(tmp_path / name)}))
        if engine == "ray":
            threading.Thread(target=kill_after, args=(tmp_path / name,), daemon=True).start()
        result = cli("run", file, "--until", "train")
        assert result.exit_code == 0, result.output
    assert killed
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
