"""What a run hands to its method: rows without what is secret, the model, judges, and to bounds the truth."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder
from sotune.errors import ConfigError
from sotune.evaluation.judges.registry import judge_key, make_judges
from sotune.evaluation.usage import CACHE
from sotune.methods import InputRecords, Method, Seam, Tools
from sotune.models import model_fingerprint, resolve_device
from sotune.monitoring import Monitor
from sotune.pipeline.base_model import base_model
from sotune.pipeline.record_sets import kinds_of
from sotune.records import SET_NAMES, Record, SetName
from sotune.settings import RunConfig, TrainingSettings, WeightSettings

HARMFUL = "harmful"
"""What the truth column calls harmful rows; any other value is not."""


def input_records(sets: Mapping[SetName, Sequence[Record]]) -> InputRecords:
    """Returns the rows as methods see them: texts and ids, and no other column, which might tell the truth."""
    return InputRecords(*(sets[name] for name in SET_NAMES))


def read_truth(config: RunConfig, run: RunFolder) -> dict[str, bool] | None:
    """Returns whether each row is harmful, by id; ``None`` where no column says so."""
    if config.truth_column is None:
        return None
    return {id: kind == HARMFUL for id, kind in kinds_of(config, run).items()}


def make_tools(
    config: RunConfig,
    run: RunFolder,
    monitor: Monitor,
    method: Method,
    *,
    safety_pairs: Sequence[Record],
    work_dir: Path,
) -> Tools | None:
    """Returns what a method may use besides the data; ``None`` where no model is named.

    Raises:
        ConfigError: A judge that the method needs cannot be loaded.
    """
    if config.model is None:
        return None
    judges = make_judges(config, run.file(CACHE), monitor) if "judge" in method.needs else {}
    return Tools(
        model=base_model(config),
        training=config.part(TrainingSettings),
        work_dir=work_dir,
        safety_pairs=safety_pairs,
        judge=judges.get("coherence"),
        guard=judges.get("harm") if config.harm_judge else None,
        on_asked=functools.partial(monitor.progress, "asking the model"),
    )


def tools_key(config: RunConfig, method: Method, *seams: Seam) -> dict[str, Any]:
    """Returns what a method's work at some seams depends on besides the data and its constants."""
    found: dict[str, Any] = {}
    acting = [part for part in method.parts or (method,) if set(seams) & set(part.seams)]
    needs = {need for part in acting for need in part.needs}
    if "model" in needs:
        settings = config.part(TrainingSettings).model_dump(mode="json")
        found |= {"model": model_fingerprint(base_model(config)), "training": settings}
        found |= {"dtype": config.dtype, "device": config.device}
    if "judge" in needs:
        found["judges"] = judge_key(config)
    return found


def check_needs(config: RunConfig, method: Method) -> None:
    """Finds what a run's method is missing before any work is done.

    Raises:
        ConfigError: Something is missing; says what.
    """
    if "model" in method.needs and config.model is None:
        raise ConfigError(f"method {method.name!r} runs the model that is fine-tuned; name it with model")
    if "truth" in method.needs and config.truth_column is None:
        raise ConfigError(
            f"method {method.name!r} is a bound that knows which rows are harmful; name the column that says so with "
            f"truth_column"
        )


def weight_settings(config: RunConfig) -> WeightSettings:
    """Returns how to weigh: on the run's device where nothing else is said."""
    settings = config.part(WeightSettings)
    if settings.solver_device != "auto":
        return settings
    return settings.model_copy(update={"solver_device": str(resolve_device(config.device))})
