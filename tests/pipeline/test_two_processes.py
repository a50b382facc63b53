"""Every verb in two processes, against one: the same bytes, and each row computed once."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.distributed import TCPStore

from launching import TIMEOUT, launch
from pipeline_rows import rows
from sotune.artifacts import read_json
from sotune.evaluation import asking
from sotune.representations import filling

# The command line with small shards, so that both processes get some; tells which rows this one ran the model on.
COMMAND = """
import json, sys
from sotune import processes
from sotune.evaluation import asking
from sotune.representations import filling
from sotune.representations.causal_lm import FrozenCausalLM
from sotune.errors import DataError

seen, fails = {"encoded": [], "asked": []}, sys.argv.pop(1)
if fails.startswith("told "):  # to stop at the second step, in some process or in all
    import os, signal
    from sotune.training.step_callback import StepCallback

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _, signum, ranks = fails.split()
    log = StepCallback.on_log

    def on_log(self, args, state, *others, **more):
        log(self, args, state, *others, **more)
        if state.global_step == 2 and str(processes.rank()) in ranks:
            os.kill(os.getpid(), int(signum))

    StepCallback.on_log = on_log
filling.SHARD_ROWS = 8
asking._SHARD_SIZE = 3
encode, answer, rank = FrozenCausalLM.encode_batch, asking.generate, processes.rank()

def encode_batch(self, inputs, readings):
    if fails == f"encoding in {rank}":
        raise DataError("the model returned nonsense")
    if fails == f"dying in {rank}":
        import os
        os.kill(os.getpid(), 9)
    names = [f"{reading.layer}{reading.pooling}" for reading in readings]
    seen["encoded"] += [[name, list(row.ids), row.learned] for name in names for row in inputs]
    return encode(self, inputs, readings)

def generate(part, **how):
    seen["asked"] += [prompt.id for prompt in part]
    return answer(part, **how)

FrozenCausalLM.encode_batch, asking.generate = encode_batch, generate
from sotune.cli import main
seen_in = sys.argv.pop(1)
try:
    main()
finally:
    with open(f"{seen_in}.{rank}.json", "w") as file:
        json.dump(seen, file)
"""


@pytest.fixture
def settings(data, tmp_path, tiny_model):
    prompts = [{"id": f"h{i}", "kind": "harmful", "prompt": r["prompt"]} for i, r in enumerate(rows("harmful", 5, 11))]
    prompts += [
        {"id": f"t{i}", "kind": "task", "prompt": r["prompt"], "reference": "done"}
        for i, r in enumerate(rows("benign", 5, 12))
    ]
    (data / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    content = {
        "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
        "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
        "model": str(tiny_model("llama")), "eval_prompts": str(data / "prompts.jsonl"), "dtype": "float32",
        "device": "cpu", "threads": 1, "batch_tokens": 256, "max_steps": 3, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4, "learning_rate": 0.01, "max_new_tokens": 4, "hold": "none",
    }  # fmt: skip
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps(content))  # JSON is YAML
    return file


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command line in some processes; returns what each ran the model on."""

    def run(*arguments, fails="", statuses=None, cache=""):
        seen = tmp_path / "seen"
        monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / f"cache-2{cache}"))
        found, outs, errors = launch(COMMAND, fails, seen, *arguments)
        assert found == (statuses or [0, 0]), errors
        if not fails:
            assert outs[1] == ""
            assert "error" not in errors[1]
        # One that follows another's failure ends at once.
        counts = [] if fails else [read_json(Path(f"{seen}.{rank}.json")) for rank in (0, 1)]
        return counts, errors

    return run


def contents(folder):
    """Returns the digest of each file that must not depend on how many processes there were."""
    told = ("config.json", "config.manifest.json", "report.html", "report.manifest.json", ".lock", "evaluation.json")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in told
    }


def test_two_processes_fill_the_cache_with_the_bytes_of_one(command, here, settings, tmp_path):
    here("extract", "--config", settings, "--out", tmp_path / "one")
    two, _ = command("extract", "--config", settings, "--out", tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert all(part["encoded"] for part in two)
    times = Counter(json.dumps(row) for part in two for row in part["encoded"])
    assert set(times.values()) == {1}


@pytest.fixture
def here(cli, monkeypatch, tmp_path):
    """Runs the command line in this process, with shards as small as those of `command`."""
    monkeypatch.setattr(filling, "SHARD_ROWS", 8)
    monkeypatch.setattr(asking, "_SHARD_SIZE", 3)

    def run(*arguments):
        monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / "cache-1"))
        result = cli(*arguments)
        assert result.exit_code == 0, result.output

    return run


@pytest.mark.slow
def test_every_verb_in_two_processes_leaves_what_one_leaves(command, here, settings, tmp_path, data):
    one, two = tmp_path / "one", tmp_path / "two"
    models = ["--model", json.loads(settings.read_text())["model"], "--device", "cpu", "--max-new-tokens", "4"]
    for folder, run in ((one, here), (two, command)):
        ran = run("run", settings, "--out", folder)
        run("score", folder, data / "harm.jsonl", "--scores", folder / "scores.parquet")
        run("evaluate", *models, "--eval-prompts", data / "prompts.jsonl", "--out", folder / "models")
        run("explain", folder, "benign-1-3")
    asked = Counter(id for part in ran[0] for id in part["asked"])
    assert set(asked.values()) == {2}  # the base model and the tuned one
    assert len(asked) == 10
    same_but_for_training(one, two)
    for folder, run in ((one, here), (two, command)):
        run("select", folder, "--keep-fraction", "0.5")
        run("train", folder, "--method", "resta", "--max-steps", "2")
        run("evaluate", folder, "--eval-limit", "2")
    same_but_for_training(one, two)


def same_but_for_training(one, two):
    """Checks that two runs hold the same bytes, and adapters that differ by the order of sums at most."""
    expected, got = contents(one), contents(two)
    assert expected.keys() == got.keys()
    differ = {name for name in got if got[name] != expected[name]}
    assert not {name for name in differ if name.startswith(("rec", "repr", "weights", "selection", "kept", "scores"))}
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two)]
    assert max(float((adapters[0][name] - adapters[1][name]).abs().max()) for name in adapters[0]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("hold", ["bds", "tokenmask", "sbr", "kl_constrained", "safegrad"])
def test_methods_train_in_two_processes(command, here, settings, tmp_path, hold):
    flags = ["--until", "train", "--hold", "none", "--method", hold]
    here("run", settings, *flags, "--out", tmp_path / "one")
    command("run", settings, *flags, "--out", tmp_path / "two")
    adapters = [load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("one", "two")]
    assert max(float((adapters[0][name] - adapters[1][name]).abs().max()) for name in adapters[0]) < 1e-5
    assert not list((tmp_path / "two").glob(".work-*"))


@pytest.mark.slow
def test_a_comparison_shares_its_cells_out(command, here, tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text(
        "methods: [sft, random]\ndatasets: [miniature-verdict]\nharmful_fractions: [0.1]\nseeds: [0]\n"
        "n: 40\nn_anchor: 12\nn_reference: 12\nn_eval: 4\nmax_steps: 2\n"
    )
    here("compare", file, "--out", tmp_path / "one")
    command("compare", file, "--out", tmp_path / "two")
    one, two = (read_json(tmp_path / n / "compare.json") for n in ("one", "two"))
    measured = [
        {key: value for key, value in row.items() if key not in ("seconds", "peak_bytes")}
        for found in (one, two)
        for row in found
    ]
    assert measured[: len(measured) // 2] == measured[len(measured) // 2 :]


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1])
def test_an_error_while_encoding_ends_both_with_one_message(command, settings, tmp_path, at):
    flags = ["extract", "--config", settings, "--out", tmp_path / "run"]
    _, errors = command(*flags, fails=f"encoding in {at}", statuses=[2, 2])
    assert "".join(errors).count("the model returned nonsense") == 1
    assert "Traceback" not in "".join(errors)
    command(*flags)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "ranks"), [(2, "01"), (15, "1")])
def test_training_that_is_stopped_goes_on_to_the_same_bytes(command, settings, tmp_path, signum, ranks):
    flags = ["run", settings, "--until", "train", "--save-steps", "100", "--max-steps", "4"]
    command(*flags, "--out", tmp_path / "whole")
    flags += ["--out", tmp_path / "run"]
    _, errors = command(*flags, fails=f"told {signum} {ranks}", statuses=[128 + signum] * 2)
    said = " ".join("".join(errors).split())
    assert said.count("stopped by " + ("Ctrl-C" if signum == 2 else "SIGTERM")) == 1
    assert re.search("train: the checkpoint of step [23] of 4 is kept", said)
    assert "To go on, give the same command again" in said
    assert "Traceback" not in said
    command(*flags)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_wrong_setting_is_told_once(command, settings, tmp_path):
    _, errors = command("run", settings, "--max-steps", "0", "--out", tmp_path / "run", fails="-", statuses=[2, 2])
    assert "".join(errors).count("max_steps") == 1


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_finished(command, settings, tmp_path):
    flags = ["extract", "--config", settings, "--out", tmp_path / "run"]
    command(*flags, fails="dying in 1", statuses=[1, -9])
    command(*flags)
    command(*flags[:-1], tmp_path / "whole", cache="-whole")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_two_nodes_leave_what_one_process_leaves(cli, settings, tmp_path, monkeypatch):
    """Two launchers that find each other on one machine, with one process each and a folder that both see."""
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / "cache-1"))
    assert cli("run", settings, "--until", "train", "--out", tmp_path / "one").exit_code == 0
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / "cache-2"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    flags = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two-nodes"]
    meeting = ["--rdzv-endpoint", f"127.0.0.1:{store.port}", "--rdzv-conf", "is_host=0", "--local-addr", "127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", *flags, *meeting, "-m", "sotune", "run", str(settings)]
    command += ["--until", "train", "--out", str(tmp_path / "two")]
    nodes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    try:
        told = [node.communicate(timeout=TIMEOUT)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], told
    same_but_for_training(tmp_path / "one", tmp_path / "two")
