"""Fifth stage: kept rows and loss weights to an adapter."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder, library_versions
from sotune.errors import ConfigError
from sotune.methods import TrainInputs, method_of
from sotune.models import model_fingerprint
from sotune.monitoring import Monitor
from sotune.pipeline.base_model import NO_MODEL, base_model
from sotune.pipeline.method_tools import input_records, make_tools
from sotune.pipeline.record_sets import read_records
from sotune.pipeline.stage import Figures, Stage
from sotune.records import SET_NAMES
from sotune.run_files import ADAPTER, SELECTION, TRAINING
from sotune.settings import RunConfig, TrainingSettings


def _key(config: RunConfig) -> dict[str, Any]:
    method = method_of(config)
    shared = {name: getattr(config, name) for name in ("dtype", "device", "threads")}
    return {
        "method": {
            "names": method.at("train", "edit"),
            "constants": method.constants(config.method_settings, "train", "edit"),
            "hold_drift": config.hold_drift if method.at("train") else None,
        },
        "settings": {**config.part(TrainingSettings).model_dump(mode="json"), **shared},
        "model": model_fingerprint(base_model(config)),
        "libraries": library_versions("torch", "transformers", "peft", "accelerate"),
    }


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    selected = SELECTION.rows_of(run, "id", "loss_weight", where={"kept": [True]})
    loss_weights = {row["id"]: row["loss_weight"] for row in selected}
    method, read = method_of(config), read_records(run, *SET_NAMES, "safety_pairs")
    sets = input_records(read)
    with tempfile.TemporaryDirectory() as folder:
        tools = make_tools(config, run, monitor, method, safety_pairs=read["safety_pairs"], work_dir=Path(folder))
        if tools is None:
            raise ConfigError(NO_MODEL)
        result = method.train(
            TrainInputs(
                records=[record for record in sets.downstream if record.id in loss_weights],
                loss_weights=loss_weights,
                safe_anchor=sets.safe_anchor,
                harmful_reference=sets.harmful_reference,
                safe_reference=sets.safe_reference,
                tools=tools,
                output_dir=run.path,
                on_step=lambda step: monitor.progress("training", step.step, step.n_steps),
                method_settings=config.method_settings,
                hold_drift=config.hold_drift,
            )
        )
    if result.n_dropped:
        monitor.warn(f"{result.n_dropped} kept rows have no completion left within max_length and were not trained on")
    summary = {
        **method.described("train", "edit"),
        "n_rows": result.n_rows,
        "n_steps": result.n_steps,
        "n_truncated": result.n_truncated,
        "final_loss": result.final_loss,
        "dropped": dict(result.dropped),
        "figures": dict(result.figures),
    }
    adapter = sorted(str(path.relative_to(run.path)) for path in result.adapter.rglob("*") if path.is_file())
    return [*adapter, result.log.name, TRAINING.write(run, summary)]


def _summarize(run: RunFolder) -> Figures:
    summary = TRAINING.read(run)
    figures = summary.get("figures") or {}
    drift = {name: value for name, value in figures.items() if name.endswith("_drift")}
    held = f"{max(drift.values()):.4f} nats a token" if drift else ""
    if "limit" in figures:
        held += f", limit {figures['limit']:g}; adapter at {figures['scale']:.0%}"
    return {
        **({} if summary["method"] == "sft" else {"method": summary["title"]}),
        "steps": f"{summary['n_steps']:,} on {summary['n_rows']:,} rows",
        "final loss": f"{summary['final_loss']:.4f}",
        **({"drift": held} if held else {}),
        **({"stopped": _stop(figures)} if "stopped_at" in figures else {}),
        "adapter": str(run.file(ADAPTER)),
    }


def _stop(figures: Mapping[str, float]) -> str:
    """Says when training ended as too little was refused, and what is handed over."""
    return f"at step {figures['stopped_at']:.0f}, weights of step {figures['kept_step']:.0f}"


TRAIN = Stage("training", "train", "selection", _key, _work, _summarize, reads=("records",))
