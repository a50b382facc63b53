import hashlib

import pytest
import torch

from pipeline_rows import rows
from sotune import ConfigError
from sotune.artifacts import RunFolder, read_json
from sotune.comparison import BASE, Comparison, Draw, summarize, write_results
from sotune.evaluation import EvalPrompt
from sotune.monitoring import Silent
from sotune.pipeline.encoding import load_representations
from sotune.records import SET_NAMES, Message, Record
from sotune.settings import make_config

RATES = ("harmful_rate", "refusal_rate", "utility", "over_refusal", "coherence", "avg")


def records(kind, n, seed):
    # The seed makes prompts of one set unlike those of another.
    return [Record.from_text(r["id"], f"{r['prompt']} ({seed})", r["response"], meta=r) for r in rows(kind, n, seed)]


@pytest.fixture
def draw() -> Draw:
    downstream = records("benign", 30, 1) + records("harmful", 6, 2)
    prompts = [
        EvalPrompt(
            f"{kind}-{i}", kind, (Message("user", f"{row['prompt']} ({seed})"),), "done" if kind == "task" else None
        )
        for kind, source, seed in (("harmful", "harmful", 11), ("task", "benign", 12), ("lookalike", "benign", 13))
        for i, row in enumerate(rows(source, 4, seed))
    ]
    return Draw(
        "toy", 1 / 6, 0, downstream, records("benign", 10, 3), records("harmful", 12, 4), prompts,
        {r.id: r.meta["label"] for r in downstream},
    )  # fmt: skip


@pytest.fixture
def shared(tiny_model):
    """Settings that all cells share."""
    return {
        "model": str(tiny_model("llama")), "dtype": "float32", "device": "cpu", "max_length": 64,
        "learning_rate": 0.01, "per_device_train_batch_size": 8, "num_train_epochs": 1, "save_steps": 50,
        "keep_fraction": 0.8, "max_new_tokens": 4, "layer": -1, "pooling": "last", "task_match": "contains",
    }  # fmt: skip


def compare(methods, shared, draw, folder):
    return Comparison(methods, shared, folder=folder, monitor=Silent()).run([draw])


def adapter_digest(folder, draw, method):
    path = folder / "cells" / draw.name / method / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_cell_has_every_figure_with_its_interval(shared, draw, tmp_path):
    methods = [BASE, "sft", "random", "probe", "tfidf_probe", "sot"]
    results = compare(methods, shared, draw, tmp_path)
    assert results.failures == []
    write_results(tmp_path, results, settings={"n": 36}, safe_to_show=True)
    table = read_json(tmp_path / "compare.json")
    assert [row["method"] for row in table] == methods
    for row in table:
        for name in RATES:
            assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1
        assert row["seconds"] >= 0
        assert row["peak_bytes"] > 1e6
    details = read_json(tmp_path / "details.json")
    assert len(details["weights"]["harmful"]) == 6
    assert set(details["kept"]) == set(methods) - {BASE}
    assert details["kept"]["sft"]["harmful_rows_kept"] == 1
    assert {"prompt", "kind", *methods} == set(details["examples"][0])
    assert summarize(table, ["avg"])["sft"]["avg"] == pytest.approx(table[1]["avg"])


def test_a_comparison_goes_on_where_it_stood_and_starts_anew_when_the_budget_changes(
    shared, draw, tmp_path, monkeypatch
):
    first = compare([BASE, "sft"], shared, draw, tmp_path)
    calls = []
    monkeypatch.setattr("sotune.training.fine_tune", lambda *args, **kwargs: calls.append(args))
    again = compare([BASE, "sft"], shared, draw, tmp_path)
    assert again.draws[0].cells["sft"] == first.draws[0].cells["sft"]
    assert calls == []
    # The stand-in trains nothing, so the changed cell cannot finish; the other is measured all the same.
    changed = compare(["sft", BASE], {**shared, "learning_rate": 0.02}, draw, tmp_path)
    assert len(calls) == 1
    assert [(failure.variant, failure.error.partition(":")[0]) for failure in changed.failures] == [
        ("sft", "AttributeError")
    ]
    assert set(changed.draws[0].cells) == {BASE}


def test_filters_that_keep_everything_equal_plain_fine_tuning(shared, draw, tmp_path):
    everything = {**shared, "keep_fraction": 1.0}
    compare(["sft", "random", "probe"], everything, draw, tmp_path)
    digests = {adapter_digest(tmp_path, draw, method) for method in ("sft", "random", "probe")}
    assert len(digests) == 1


def representations(folder):
    config = make_config(read_json(folder / "config.json"))
    return [load_representations(config, RunFolder.open(folder), name).values for name in SET_NAMES[:3]]


def test_each_draw_has_one_representation_for_all_methods_and_records_it(shared, draw, tmp_path):
    cells = tmp_path / "cells" / draw.name
    compare(["adaptive", "probe"], {**shared, "layer": "auto", "pooling": "auto"}, draw, tmp_path)
    recorded = read_json(cells / "adaptive" / "representations.json")
    chosen = recorded["choice"]["candidates"]
    best = next(one for one in chosen if one["fingerprint"] == recorded["fingerprint"])
    assert best["separation"] == max(one["separation"] for one in chosen)
    assert read_json(cells / "probe" / "representations.json") == recorded
    again = {**shared, "layer": best["layer"], "pooling": best["pooling"]}
    compare(["adaptive"], again, draw, tmp_path / "again")
    first, second = (
        representations(folder)
        for folder in (cells / "adaptive", tmp_path / "again" / "cells" / draw.name / "adaptive")
    )
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the same up to what shares a batch
    assert [len(part) for part in first] == [36, 10, 12]


def test_an_unknown_method_is_named(shared, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown method 'magic'; known: sft, random"):
        Comparison(["magic"], shared, folder=tmp_path, monitor=Silent())
