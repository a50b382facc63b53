import os

import pytest

import sotune
from sotune.models import ModelSpec
from sotune.records import Record
from sotune.settings import TrainingSettings
from sotune.training import fine_tune
from sotune.training.trackers import check_trackers


def test_tensorboard_gets_the_losses_and_the_adapter_stays_the_same(tiny_model, tmp_path):
    records = [Record.from_text(f"r{i}", f"Say {i}", f"It is {i}.") for i in range(4)]
    digests = []
    for name, watchers in (("without", ()), ("with", ("tensorboard",))):
        settings = TrainingSettings(max_steps=2, learning_rate=0.01, report_to=watchers)
        spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
        weights = {record.id: 1.0 for record in records}
        fine_tune(records, weights, model=spec, settings=settings, output_dir=tmp_path / name)
        digests.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert digests[0] == digests[1]
    assert not (tmp_path / "without" / "tensorboard").exists()
    assert [path.name.split(".")[0:2] for path in (tmp_path / "with" / "tensorboard").iterdir()] == [["events", "out"]]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_a_watcher_that_is_unknown_or_missing_is_told_before_the_work(monkeypatch):
    with pytest.raises(sotune.ConfigError, match="report_to: must be among tensorboard, .* without excel"):
        TrainingSettings(report_to=("excel",))
    monkeypatch.setattr("sotune.training.trackers.find_spec", lambda name: None)
    with pytest.raises(sotune.ConfigError, match="report_to needs wandb; run: pip install wandb"):
        check_trackers(("wandb",))
    check_trackers(())
