"""Every verb in two processes, against one: the same bytes, and each row computed once."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from launching import launch
from pipeline_rows import rows
from sotune.artifacts import read_json

# The command line with small shards, so that both processes get some; tells which rows this one ran the model on.
COMMAND = """
import json, sys
from sotune import processes
from sotune.evaluation import asking
from sotune.representations import filling
from sotune.representations.causal_lm import FrozenCausalLM
import sotune.evaluation.generate as generating

seen, fails = {"encoded": [], "asked": []}, sys.argv.pop(1)
filling.fill_cache.__kwdefaults__["shard_rows"] = 8
asking._SHARD_SIZE = 3
encode, answer, rank = FrozenCausalLM.encode_batch, asking.generate, processes.rank()

def encode_batch(self, inputs, readings):
    if fails == f"encoding in {rank}":
        raise generating.DataError("the model returned nonsense")
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
ONE = "import os; [os.environ.pop(name, None) for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK')]\n" + COMMAND


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

    def run(*arguments, n=2, fails="", statuses=None, cache=""):
        seen = tmp_path / "seen"
        monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / f"cache-{n}{cache}"))
        found, outs, errors = launch(COMMAND if n > 1 else ONE, fails, seen, *arguments, n=n)
        assert found == (statuses or [0] * n), errors
        if n > 1 and not fails:
            assert outs[1] == ""
            assert "error" not in errors[1]
        counts = [read_json(Path(f"{seen}.{rank}.json")) for rank in range(n) if found[rank] != -9]
        return counts, errors

    return run


def contents(folder):
    """Returns the digest of each file that must not depend on how many processes there were."""
    told = ("config.json", "report.html", "report.manifest.json", ".lock", "evaluation.json")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in told
    }


def test_two_processes_fill_the_cache_with_the_bytes_of_one(command, settings, tmp_path):
    one, _ = command("extract", "--config", settings, "--out", tmp_path / "one", n=1)
    two, _ = command("extract", "--config", settings, "--out", tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert all(part["encoded"] for part in two)
    once = Counter(json.dumps(row) for part in two for row in part["encoded"])
    assert once == Counter(json.dumps(row) for row in one[0]["encoded"])


@pytest.mark.slow
def test_every_verb_in_two_processes_leaves_what_one_leaves(command, settings, tmp_path, data):
    for folder, n in ((tmp_path / "one", 1), (tmp_path / "two", 2)):
        parts, _ = command("run", settings, "--out", folder, n=n)
        asked = Counter(id for part in parts for id in part["asked"])
        assert len(asked) == 10
        assert set(asked.values()) == {2}  # the base model and the tuned one
        command("score", folder, data / "harm.jsonl", "--scores", folder / "scores.parquet", n=n)
        command("select", folder, "--keep-fraction", "0.5", n=n)
        command("train", folder, "--method", "resta", "--max-steps", "2", n=n)
        command("evaluate", folder, "--eval-limit", "2", n=n)
        models = ["--model", read_json(folder / "config.json")["model"], "--adapter", folder / "adapter"]
        asked_of = ["--eval-prompts", data / "prompts.jsonl", "--max-new-tokens", "4", "--out", folder / "models"]
        command("evaluate", *models, *asked_of, "--device", "cpu", n=n)
        for verb in (["report", folder], ["explain", folder, "benign-1-3"], ["env"]):
            command(*verb, n=n)
    assert contents(tmp_path / "one").keys() == contents(tmp_path / "two").keys()
    got, expected = contents(tmp_path / "two"), contents(tmp_path / "one")
    trained = {name for name in got if got[name] != expected[name]}
    assert not {name for name in trained if name.startswith(("rec", "repr", "weights", "selection", "kept", "scores"))}
    adapters = [load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("one", "two")]
    assert max(float((adapters[0][name] - adapters[1][name]).abs().max()) for name in adapters[0]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("hold", ["bds", "tokenmask", "sbr", "kl_constrained", "safegrad"])
def test_methods_train_in_two_processes(command, settings, tmp_path, hold):
    flags = ["--until", "train", "--hold", "none", "--method", hold]
    command("run", settings, *flags, "--out", tmp_path / "one", n=1)
    command("run", settings, *flags, "--out", tmp_path / "two")
    adapters = [load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("one", "two")]
    assert max(float((adapters[0][name] - adapters[1][name]).abs().max()) for name in adapters[0]) < 1e-5
    assert not list((tmp_path / "two").glob(".work-*"))


@pytest.mark.slow
def test_a_comparison_shares_its_cells_out(command, tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text(
        "methods: [sft, random]\ndatasets: [miniature-verdict]\nharmful_fractions: [0.1]\nseeds: [0]\n"
        "n: 40\nn_anchor: 12\nn_reference: 12\nn_eval: 4\nmax_steps: 2\n"
    )
    command("compare", file, "--out", tmp_path / "one", n=1)
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
