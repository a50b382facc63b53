"""Fifth stage: kept rows and loss weights to an adapter."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sotune import processes, training
from sotune.artifacts import RunFolder, library_versions
from sotune.cluster import engine_of
from sotune.errors import ConfigError
from sotune.methods import TrainInputs, method_of
from sotune.models import model_fingerprint
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.base_model import NO_MODEL, base_model
from sotune.pipeline.method_tools import input_records, make_tools
from sotune.pipeline.record_sets import read_kept, read_records
from sotune.pipeline.stage import Figures, Stage, forwarded_warnings
from sotune.records import SET_NAMES
from sotune.run_files import ADAPTER, CARD, TRAINING, WEIGHTS
from sotune.settings import WATCHED_ONLY, RunConfig, TrainingSettings
from sotune.training import TrainResult
from sotune.wording import counted


def _key(config: RunConfig) -> dict[str, Any]:
    method = method_of(config)
    shared = {name: getattr(config, name) for name in ("dtype", "device", "threads")}
    return {
        "method": {
            "names": method.at("train", "edit"),
            "constants": method.constants(config.method_settings, "train", "edit"),
            "hold_drift": config.hold_drift if method.at("train") else None,
        },
        "settings": {**config.part(TrainingSettings).model_dump(mode="json", exclude=set(WATCHED_ONLY)), **shared},
        "model": model_fingerprint(base_model(config)),
        "libraries": library_versions("torch", "transformers", "peft", "accelerate"),
    }


def _train(config: RunConfig, run: RunFolder, monitor: Monitor) -> TrainResult:
    """Trains in all processes at once."""
    kept, loss_weights = read_kept(run)
    method, read = method_of(config), read_records(run, *SET_NAMES, "safety_pairs")
    sets = input_records(read)
    with _work_dir(run) as folder:
        tools = make_tools(config, run, monitor, method, safety_pairs=read["safety_pairs"], work_dir=folder)
        if tools is None:
            raise ConfigError(NO_MODEL)
        return method.train(
            TrainInputs(
                records=kept,
                loss_weights=loss_weights,
                safe_anchor=sets.safe_anchor,
                harmful_reference=sets.harmful_reference,
                safe_reference=sets.safe_reference,
                tools=tools,
                output_dir=run.path,
                on_step=lambda step: monitor.progress("training", step.step, step.n_steps),
                method_settings=config.method_settings,
                hold_drift=config.hold_drift,
                dropped_mass=_dropped_mass(run, loss_weights),
            )
        )


def train_elsewhere(config: RunConfig, run: RunFolder) -> tuple[TrainResult, list[str]]:
    """Trains where nobody sees what is warned of; returns that too."""
    with forwarded_warnings(Silent()) as said:
        result = _train(config, run, Silent())
    return result, said


@contextlib.contextmanager
def _work_dir(run: RunFolder) -> Iterator[Path]:
    """Yields a folder for what a method needs on the way, one for all processes, wherever they run."""
    beside = run.path if processes.size() > 1 else None
    with contextlib.ExitStack() as stack:
        made = processes.on_main(lambda: stack.enter_context(tempfile.TemporaryDirectory(dir=beside, prefix=".work-")))
        yield Path(made)
        processes.barrier()


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    method = method_of(config)
    engine = engine_of(config, threads=config.threads, device=config.device)
    if engine is None:
        result = processes.together("training", lambda: _train(config, run, monitor))
    else:
        train = functools.partial(train_elsewhere, config, run)
        result, said = engine.at_once(train, config.ray_train_workers)
        for message in said:
            monitor.warn(message)
    if n_short := result.n_dropped - int(result.figures.get("rows_left_out", 0)):
        monitor.warn(f"{counted(n_short, 'kept row')} not trained on: no completion is left within max_length")
    summary = {
        **method.described("train", "edit"),
        "n_rows": result.n_rows,
        "n_steps": result.n_steps,
        "n_truncated": result.n_truncated,
        "final_loss": result.final_loss,
        "dropped": dict(result.dropped),
        "figures": dict(result.figures),
    }
    training.name_local_base(result.adapter, base_model(config))
    files = (path for path in result.adapter.rglob("*") if path.is_file() and path.name != CARD)  # the report's
    adapter = sorted(str(path.relative_to(run.path)) for path in files)
    return [*adapter, result.log.name, TRAINING.write(run, summary)]


def _dropped_mass(run: RunFolder, kept: Mapping[str, float]) -> dict[str, float]:
    """Returns how many dropped rows' mass went to each row of the safe reference, by the nearest that are on file."""
    mass: dict[str, float] = defaultdict(float)
    for row in WEIGHTS.rows_of(run, "id", "nearest_safe_reference", "nearest_safe_reference_shares"):
        nearest, shares = row["nearest_safe_reference"], row["nearest_safe_reference_shares"]
        if row["id"] not in kept and nearest:
            for reference, share in zip(nearest, shares, strict=True):
                mass[reference] += share / sum(shares)
    return dict(mass)


def _summarize(run: RunFolder) -> Figures:
    summary = TRAINING.read(run)
    figures = summary.get("figures") or {}
    drift = {name: value for name, value in figures.items() if name.endswith("_drift")}
    held = f"{max(drift.values()):.4f} nats a token" if drift else ""
    if "limit" in figures:
        held += f", limit {figures['limit']:g}; adapter at {figures['scale']:.0%}"
    return {
        **({} if summary["method"] == "sft" else {"method": summary["title"]}),
        "steps": f"{summary['n_steps']:,} on {counted(summary['n_rows'], 'row')}",
        "final loss": f"{summary['final_loss']:.4f}",
        **({"drift": held} if held else {}),
        **({"refusals": _refusals(figures)} if "risky_asked" in figures else {}),
        **({"left out": _left_out(figures)} if "rows_asked" in figures else {}),
        **({"stopped": _stop(figures)} if "stopped_at" in figures else {}),
        "adapter": str(run.file(ADAPTER)),
    }


def _stop(figures: Mapping[str, float]) -> str:
    """Says when training ended as too little was refused, and what is handed over."""
    return f"at step {figures['stopped_at']:.0f}, weights of step {figures['kept_step']:.0f}"


def _refusals(figures: Mapping[str, float]) -> str:
    """Says what is refused of the risky prompts that no step looked at, before and now."""
    before, now = figures["risky_refused_before"], figures["risky_refused"]
    return f"{now:.0%} of {figures['risky_asked']:.0f} risky prompts, {before:.0%} before"


def _left_out(figures: Mapping[str, float]) -> str:
    """Says how many rows were not trained on since the model refused their prompts."""
    asked, refused, left = (round(figures[f"rows_{part}"]) for part in ("asked", "refused", "left_out"))
    told = f"{refused:,} of {asked:,} prompts of rows"
    return f"{counted(left, 'row')} answering what the model refused before: {told}"


_SURVIVES = "the last checkpoint is kept, if there is one"
TRAIN = Stage(
    "training",
    "train",
    "selection",
    _key,
    _work,
    _summarize,
    reads=("records", "weights"),
    version=3,
    shared=_train,
    survives=_SURVIVES,
)
