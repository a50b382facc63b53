import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

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


def train_two_steps(tiny_model, folder, watcher):
    records = [Record.from_text(f"r{i}", f"Say {i}", f"It is {i}.") for i in range(4)]
    settings = TrainingSettings(max_steps=2, learning_rate=0.01, report_to=(watcher,))
    spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
    fine_tune(records, {record.id: 1.0 for record in records}, model=spec, settings=settings, output_dir=folder)


def test_a_folder_that_tensorboard_cannot_write_is_told_in_words(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "file"))
    with pytest.raises(sotune.ConfigError, match=r"tensorboard could not watch .*TENSORBOARD_LOGGING_DIR.*report_to"):
        train_two_steps(tiny_model, tmp_path / "out", "tensorboard")


@pytest.mark.parametrize("event", ["on_train_begin", "on_log", "on_train_end"])
def test_what_mlflow_raises_is_told_with_the_remedy(tiny_model, tmp_path, monkeypatch, event):
    class MLflowCallback(TrainerCallback):
        def _fails(self, *args, **kwargs):
            raise RuntimeError("the file store is closed\nset MLFLOW_ALLOW_FILE_STORE")

    setattr(MLflowCallback, event, MLflowCallback._fails)
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    sys.modules["mlflow"].__spec__ = ModuleSpec("mlflow", None)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", MLflowCallback)
    with pytest.raises(
        sotune.ConfigError,
        match=r"mlflow could not watch the training \(the file store is closed\); .*MLFLOW_TRACKING_URI",
    ):
        train_two_steps(tiny_model, tmp_path / "out", "mlflow")


def test_a_watcher_that_is_unknown_or_missing_is_told_before_the_work(monkeypatch):
    with pytest.raises(sotune.ConfigError, match="report_to: must be among tensorboard, .* without excel"):
        TrainingSettings(report_to=("excel",))
    monkeypatch.setattr("sotune.training.trackers.find_spec", lambda name: None)
    with pytest.raises(sotune.ConfigError, match="report_to needs wandb; run: pip install wandb"):
        check_trackers(("wandb",))
    check_trackers(())


def test_a_watcher_that_is_half_installed_is_told_before_the_work(monkeypatch, tmp_path):
    (tmp_path / "mlflow.py").write_text("import a_module_that_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(sotune.ConfigError, match=r"mlflow cannot be imported \(No module named 'a_module.*--upgrade"):
        check_trackers(("mlflow",))
