import dataclasses
import hashlib

import pytest
import torch

from pipeline_rows import rows
from sotune import ConfigError
from sotune.artifacts import read_json
from sotune.comparison import BASE, Budget, Comparison, Draw, summarize, write_results
from sotune.comparison.measure import Bench
from sotune.comparison.variants import Variant
from sotune.evaluation import EvalPrompt, default_judges
from sotune.models import ModelSpec
from sotune.monitoring import Silent
from sotune.records import Message, Record
from sotune.settings import TrainingSettings

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
def budget(tiny_model) -> Budget:
    training = TrainingSettings(
        max_length=64, learning_rate=0.01, per_device_train_batch_size=8, num_train_epochs=1, save_steps=50
    )
    spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
    return Budget(spec, training, keep_fraction=0.8, max_new_tokens=4)


def compare(methods, budget, draw, folder):
    judges = default_judges(task="contains", skill="contains")
    return Comparison(methods, budget, judges, folder=folder, monitor=Silent()).run([draw])


def adapter_digest(folder, draw, method):
    path = folder / "cells" / draw.name / method / "adapter" / "adapter_model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_cell_has_every_figure_with_its_interval(budget, draw, tmp_path):
    methods = [BASE, "sft", "random", "probe", "tfidf_probe", "sot"]
    results = compare(methods, budget, draw, tmp_path)
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
    budget, draw, tmp_path, monkeypatch
):
    first = compare([BASE, "sft"], budget, draw, tmp_path)
    calls = []
    monkeypatch.setattr("sotune.training.fine_tune", lambda *args, **kwargs: calls.append(args))
    again = compare([BASE, "sft"], budget, draw, tmp_path)
    assert again[0][1]["sft"] == first[0][1]["sft"]
    assert calls == []
    with pytest.raises(AttributeError):  # the stand-in trains nothing, so the changed cell cannot finish
        compare(["sft"], dataclasses.replace(budget, keep_fraction=0.5), draw, tmp_path)
    assert len(calls) == 1


def test_filters_that_keep_everything_equal_plain_fine_tuning(budget, draw, tmp_path):
    everything = dataclasses.replace(budget, keep_fraction=1.0)
    compare(["sft", "random", "probe"], everything, draw, tmp_path)
    digests = {adapter_digest(tmp_path, draw, method) for method in ("sft", "random", "probe")}
    assert len(digests) == 1


def test_each_draw_has_one_representation_for_all_methods_and_records_it(budget, draw, tmp_path):
    def represent(budget):
        return Bench(Variant("sot", "sot"), budget, {}, folder=tmp_path / "c", monitor=Silent())._representations(draw)

    first = represent(dataclasses.replace(budget, layer="auto", pooling="auto"))
    recorded = read_json(tmp_path / "c" / "cells" / draw.name / "representations.json")
    chosen = next(one for one in recorded["candidates"] if one["fingerprint"] == recorded["fingerprint"])
    assert chosen["separation"] == max(one["separation"] for one in recorded["candidates"])
    again = represent(dataclasses.replace(budget, layer=chosen["layer"], pooling=chosen["pooling"]))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [len(part) for part in first] == [36, 10, 12]


def test_an_unknown_method_is_named(budget, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown method 'magic'; known: sft, random"):
        Comparison(["magic"], budget, {}, folder=tmp_path, monitor=Silent())
