"""TRL with weights: the gradient is that of Eq. 8, weights of 1 are TRL's own loss, and nothing vanishes unseen."""

import json

import pytest
import torch

trl = pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from pipeline_rows import rows, write_jsonl  # noqa: E402
from sotune.artifacts import RunFolder, write_json  # noqa: E402
from sotune.errors import ArtifactError, ConfigError, DataError  # noqa: E402
from sotune.models import ModelSpec  # noqa: E402
from sotune.rendering import load_renderer  # noqa: E402
from sotune.settings import RenderingSettings  # noqa: E402
from sotune.sources import load_set  # noqa: E402
from sotune.training.loss import compute_weighted_loss  # noqa: E402
from sotune.training.output_layer import compute_model_losses  # noqa: E402
from sotune.training.training_rows import WeightedCollator, build_training_rows  # noqa: E402
from sotune.trl import WeightedSFTTrainer  # noqa: E402

WEIGHTS = [0.5, 1.5, 2.0, 0.25, 0.75, 1.0, 1.25, 0.75]


@pytest.fixture(scope="module")
def folder(tiny_model):
    return tiny_model("llama")


@pytest.fixture
def kept(tmp_path):
    own = [{**row, "weight": weight} for row, weight in zip(rows("benign", 8, 1), WEIGHTS, strict=True)]
    return write_jsonl(tmp_path / "kept.jsonl", own)


def arguments(tmp_path, **changes):
    given = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "max_length": 256,
        "disable_tqdm": True,
        "bf16": False,
    }
    return SFTConfig(**{**given, **changes})


def trainer(folder, tmp_path, source, *, kind=WeightedSFTTrainer, changes=(), **kwargs):
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return kind(model, arguments(tmp_path, **dict(changes)), train_dataset=source, processing_class=tokenizer, **kwargs)


def gradient(one, *, in_step):
    """Returns the gradient of one batch of all rows, as a training step takes it."""
    batch = one.data_collator([one.train_dataset[i] for i in range(len(one.train_dataset))])
    one.model.train()
    one.model.zero_grad()
    _, n_items = one.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    loss = one.compute_loss(one.model, batch, num_items_in_batch=n_items if in_step else None)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in one.model.parameters() if p.grad is not None])


def ours(folder, path, weights):
    """Returns loss and gradient of Eq. 8 by sotune's own loss, without TRL."""
    records = load_set(path, set_name="downstream", max_quarantine_fraction=0.0).records
    renderer = load_renderer(ModelSpec(str(folder)), RenderingSettings(max_length=256))
    built = build_training_rows(records, {r.id: w for r, w in zip(records, weights, strict=True)}, renderer)
    batch = WeightedCollator(pad_token_id=renderer.tokenizer.pad_token_id)([row.features() for row in built.rows])
    model = AutoModelForCausalLM.from_pretrained(folder)
    labels, loss_weight = batch.pop("labels"), batch.pop("loss_weight")
    loss = compute_weighted_loss(compute_model_losses(model, batch, labels), labels, loss_weight, n_rows=len(labels))
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("in_step", [True, False])
def test_the_gradient_is_that_of_eq_8(folder, tmp_path, kept, in_step):
    loss, found = gradient(trainer(folder, tmp_path, kept), in_step=in_step)
    expected_loss, expected = ours(folder, kept, WEIGHTS)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_changing_one_weight_changes_the_gradient_by_that_row_alone(folder, tmp_path, kept):
    _, before = gradient(trainer(folder, tmp_path, kept), in_step=True)
    changed = [json.loads(line) for line in kept.read_text().splitlines()]
    changed[2]["weight"] += 1.0
    _, after = gradient(trainer(folder, tmp_path, write_jsonl(tmp_path / "other.jsonl", changed)), in_step=True)
    _, of_row = ours(folder, kept, [0.0, 0.0, 1.0, *[0.0] * 5])
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after - before, of_row, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("in_step", [True, False])
def test_weights_of_1_are_trls_own_loss_exactly(folder, tmp_path, kept, in_step):
    equal = [{**json.loads(line), "weight": 1.0} for line in kept.read_text().splitlines()]
    weighted = trainer(folder, tmp_path, write_jsonl(tmp_path / "equal.jsonl", equal), normalize="tokens")
    plain = trainer(folder, tmp_path, weighted.train_dataset.select_columns(["input_ids", "labels"]), kind=SFTTrainer)
    loss, found = gradient(weighted, in_step=in_step)
    own_loss, own = gradient(plain, in_step=in_step)
    assert loss == own_loss
    assert torch.equal(found, own)


def test_rows_are_masked_as_sotune_train_masks_them(folder, tmp_path, kept):
    records = load_set(kept, set_name="downstream", max_quarantine_fraction=0.0).records
    renderer = load_renderer(ModelSpec(str(folder)), RenderingSettings(max_length=256))
    built = build_training_rows(records, {record.id: 1.0 for record in records}, renderer)
    found = trainer(folder, tmp_path, kept).train_dataset
    assert found["input_ids"] == [row.input_ids.tolist() for row in built.rows]
    assert found["labels"] == [row.features()["labels"].tolist() for row in built.rows]
    assert found["loss_weight"] == WEIGHTS


@pytest.mark.parametrize("normalize", ["rows", "tokens"])
def test_a_step_is_the_same_however_it_is_cut(folder, tmp_path, kept, normalize):
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "optim": "sgd"}
        one = trainer(folder, tmp_path, kept, changes=cut, normalize=normalize)
        before = torch.cat([p.detach().flatten().clone() for p in one.model.parameters()])
        one.train()
        ends.append(torch.cat([p.detach().flatten() for p in one.model.parameters()]) - before)
    assert float(ends[0].abs().max()) > 1e-4
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-6)


def test_a_data_set_of_kept_rows_is_read_like_the_file(folder, tmp_path, kept):
    loaded = Dataset.from_json(str(kept), cache_dir=str(tmp_path / "cache"))
    assert trainer(folder, tmp_path, loaded).train_dataset[:] == trainer(folder, tmp_path, kept).train_dataset[:]


def test_rows_beside_a_model_are_those_of_no_run(folder, tmp_path, kept):
    kept.with_name("config.json").write_text("{}")
    assert len(trainer(folder, tmp_path, kept).train_dataset) == len(WEIGHTS)


def test_rows_that_were_weighed_again_are_refused(folder, tmp_path, kept):
    run = RunFolder(tmp_path / "run")
    kept.rename(run.file("kept.jsonl"))
    write_json(run.file("weights.json"), {})
    run.commit("weights", {}, ["weights.json"])
    run.commit("selection", {"upstream": {"weights.json": "of before"}}, ["kept.jsonl"])
    with pytest.raises(ArtifactError, match="selection of .* is stale: the weighing has been done again since"):
        trainer(folder, tmp_path, run.file("kept.jsonl"))


def test_evaluation_counts_rows_alike(folder, tmp_path, kept):
    bare = write_jsonl(tmp_path / "held.jsonl", rows("benign", 4, 2))
    one = trainer(folder, tmp_path, kept, eval_dataset=bare)
    assert one.evaluate()["eval_loss"] == pytest.approx(ours(folder, bare, [1.0] * 4)[0], rel=1e-4)


def test_rows_without_weights_are_refused(folder, tmp_path):
    bare = write_jsonl(tmp_path / "bare.jsonl", rows("benign", 4, 2))
    with pytest.raises(DataError, match="4 of 4 rows have no number in the column 'weight'.*weight_column"):
        trainer(folder, tmp_path, bare)


def test_a_row_that_cannot_be_read_is_no_matter_of_a_flag(folder, tmp_path, kept):
    with kept.open("a") as file:
        file.write('{"prompt": "a", "response": "", "weight": 1.0}\n')
    with pytest.raises(DataError, match="rows cannot be used.*Fix them, or leave them out$"):
        trainer(folder, tmp_path, kept)


def test_rows_of_another_kind_are_refused(folder, tmp_path, kept):
    with pytest.raises(DataError, match="a file or a datasets.Dataset. Got list"):
        trainer(folder, tmp_path, [{"prompt": "a", "completion": "b", "weight": 1.0}])


@pytest.mark.parametrize(
    ("name", "value"),
    [("packing", True), ("padding_free", True), ("assistant_only_loss", True), ("loss_type", "dft"),
     ("label_smoothing_factor", 0.1)],
)  # fmt: skip
def test_settings_that_would_undo_the_weights_are_refused(folder, tmp_path, kept, name, value):
    with pytest.raises(ConfigError, match=name):
        trainer(folder, tmp_path, kept, changes={name: value})


def test_a_loss_function_of_ones_own_is_refused(folder, tmp_path, kept):
    with pytest.raises(ConfigError, match="compute_loss_func"):
        trainer(folder, tmp_path, kept, compute_loss_func=lambda *_: 0)


class TestMovedInternals:
    """What a later TRL may change is told before a step is taken on it."""

    def test_a_loss_that_ignores_the_log_probabilities(self, folder, tmp_path, kept, monkeypatch):
        def other(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs, fused_lm_head=True).loss

        monkeypatch.setattr(SFTTrainer, "compute_loss", other)
        with pytest.raises(ConfigError, match=r"TRL 1\.\d+.*first batch.*by its weights"):
            gradient(trainer(folder, tmp_path, kept), in_step=True)

    def test_a_loss_without_the_fused_head(self, folder, tmp_path, kept, monkeypatch):
        def other(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs).loss

        monkeypatch.setattr(SFTTrainer, "compute_loss", other)
        with pytest.raises(ConfigError, match="no longer comes from the fused head"):
            gradient(trainer(folder, tmp_path, kept), in_step=True)

    def test_a_preparation_that_drops_the_weights(self, folder, tmp_path, kept, monkeypatch):
        prepare = SFTTrainer._prepare_dataset

        def other(self, dataset, *rest):
            return prepare(self, dataset.select_columns(["input_ids", "labels"]), *rest)

        monkeypatch.setattr(SFTTrainer, "_prepare_dataset", other)
        with pytest.raises(ConfigError, match="dropped loss_weight"):
            trainer(folder, tmp_path, kept)

    def test_a_setting_that_is_gone(self, folder, tmp_path, kept, monkeypatch):
        monkeypatch.setitem(__import__("sotune.trl", fromlist=["_OWN"])._OWN, "a_setting_of_old", None)
        with pytest.raises(ConfigError, match="SFTConfig has no a_setting_of_old"):
            trainer(folder, tmp_path, kept)
