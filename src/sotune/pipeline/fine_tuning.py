"""Fifth stage: kept rows and loss weights to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, library_versions, read_json, read_parquet, write_json
from sotune.errors import ConfigError
from sotune.monitoring import Monitor
from sotune.pipeline.record_sets import read_records
from sotune.pipeline.stage import Figures, Stage
from sotune.settings import RunConfig, TrainingSettings

if TYPE_CHECKING:
    from sotune.models import ModelSpec
    from sotune.training import TrainSettings

_SUMMARY, _LOG = "training.json", "training_log.jsonl"
ADAPTER = "adapter"


def base_model(config: RunConfig) -> ModelSpec:
    """Returns the model that is fine-tuned.

    Raises:
        ConfigError: Only an encoder is named, which cannot be fine-tuned.
    """
    from sotune.models import ModelSpec

    if config.model is None:
        raise ConfigError("training and evaluation need a causal LM; name it with model (the encoder only weighs)")
    return ModelSpec(config.model, config.revision, config.dtype, config.device, config.trust_remote_code)


def train_settings(config: RunConfig) -> TrainSettings:
    """Returns the settings of training that a configuration holds."""
    from sotune.training import TrainSettings

    values = {name: getattr(config, name) for name in TrainingSettings.model_fields}
    return TrainSettings(max_length=config.max_length, seed=config.seed, template=config.template, **values)


def _key(config: RunConfig) -> dict[str, Any]:
    from sotune.models import model_fingerprint

    settings = {name: getattr(config, name) for name in TrainingSettings.model_fields}
    shared = {name: getattr(config, name) for name in ("template", "max_length", "dtype", "device", "seed", "threads")}
    return {
        "settings": {**settings, **shared},
        "model": model_fingerprint(base_model(config)),
        "libraries": library_versions("torch", "transformers", "peft", "accelerate"),
    }


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    from sotune.training import fine_tune

    selection = read_parquet(run.file("selection.parquet"))
    loss_weights = {
        id: weight for id, weight in zip(selection["id"], selection["loss_weight"], strict=True) if weight is not None
    }
    records = [record for record in read_records(run, "downstream")["downstream"] if record.id in loss_weights]
    result = fine_tune(
        records,
        loss_weights,
        model=base_model(config),
        settings=train_settings(config),
        output_dir=run.path,
        on_step=lambda step: monitor.progress("training", step.step, step.n_steps),
    )
    if result.n_dropped:
        monitor.warn(f"{result.n_dropped} kept rows have no completion left within max_length and were not trained on")
    write_json(
        run.file(_SUMMARY),
        {
            "n_rows": result.n_rows,
            "n_steps": result.n_steps,
            "n_truncated": result.n_truncated,
            "final_loss": result.final_loss,
            "dropped": dict(result.dropped),
        },
    )
    adapter = sorted(str(path.relative_to(run.path)) for path in result.adapter.rglob("*") if path.is_file())
    return [*adapter, result.log.name, _SUMMARY]


def _summarize(run: RunFolder) -> Figures:
    summary = read_json(run.file(_SUMMARY))
    return {
        "steps": f"{summary['n_steps']:,} on {summary['n_rows']:,} rows",
        "final loss": f"{summary['final_loss']:.4f}",
        "adapter": str(run.file(ADAPTER)),
    }


TRAINING = Stage("training", "train", "selection", _key, _work, _summarize)
