"""How much of a ranking the prompts alone bring about: a sample of the rows, weighed without its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sotune.artifacts import RunFolder
from sotune.errors import ConfigError, DataError
from sotune.methods import Method, WeighInputs
from sotune.monitoring import Monitor
from sotune.pipeline.encoding import encode_records, map_representations
from sotune.pipeline.method_tools import weight_settings
from sotune.pipeline.prompts_alone import sample_places, sample_prompts
from sotune.records import SET_NAMES, Record, SetName
from sotune.settings import RunConfig, SentinelSettings
from sotune.weights import held_out_separation

_N_FOLDS = 5


def measure_prompts_alone(
    config: RunConfig,
    run: RunFolder,
    monitor: Monitor,
    method: Method,
    *,
    sets: Mapping[SetName, Sequence[Record]],
    weights: Tensor,
) -> dict[str, Any] | None:
    """Weighs a sample of the rows by their prompts alone, and compares it with the run.

    Args:
        config: The settings.
        run: Holds the representations.
        monitor: Receives progress.
        method: Weighs.
        sets: The rows.
        weights: The run's, of the downstream rows.

    Returns:
        Spearman's correlation of the two rankings, and how well each representation tells held-out harm from the
        sampled rows (`held_out_separation`); ``None`` for a method that reads more than representations.
    """
    places = {name: sample_places(len(sets[name])) for name in SET_NAMES if sets[name]}
    whole = {
        name: map_representations(config, run, name).values[torch.tensor(chosen)] for name, chosen in places.items()
    }
    if _weigh(config, method, whole) is None:  # before the long work of encoding
        return None
    records = sample_prompts(sets)
    values = encode_records(config, run, [record for name in SET_NAMES for record in records[name]], monitor).values
    parts = torch.split(values, [len(records[name]) for name in SET_NAMES])
    alone = {name: part for name, part in zip(SET_NAMES, parts, strict=True) if len(part)}
    by_prompts = _weigh(config, method, alone)
    return {
        "n": len(records["downstream"]),
        "spearman": None if by_prompts is None else _spearman(by_prompts, weights[places["downstream"]]),
        "auroc": _separation(alone, records),
        "auroc_with_answers": _separation(whole, records),
    }


def _weigh(config: RunConfig, method: Method, of: Mapping[SetName, Tensor]) -> Tensor | None:
    try:
        return method.weigh(
            WeighInputs(
                of["downstream"],
                of["safe_anchor"],
                of["harmful_reference"],
                config.seed,
                safe_reference=of.get("safe_reference"),
                settings=weight_settings(config),
                sentinels=SentinelSettings(sentinels="off"),
                method_settings=config.method_settings,
            )
        ).weights
    except ConfigError:
        return None


def _separation(of: Mapping[SetName, Tensor], records: Mapping[SetName, Sequence[Record]]) -> float | None:
    try:
        return held_out_separation(
            of["downstream"],
            of["safe_anchor"],
            of["harmful_reference"],
            safe_prompts=[record.prompt for record in records["safe_anchor"]],
            harmful_prompts=[record.prompt for record in records["harmful_reference"]],
            n_folds=_N_FOLDS,
            generator=torch.Generator().manual_seed(0),
        )
    except DataError:  # a single prompt, or a vector of zeros
        return None


def _spearman(one: Tensor, other: Tensor) -> float | None:
    from scipy.stats import rankdata

    ranks = torch.stack([torch.from_numpy(rankdata(values.double().cpu().numpy())) for values in (one, other)])
    found = torch.corrcoef(ranks)[0, 1]
    return float(found) if torch.isfinite(found) else None  # equal weights rank nothing


def describe_prompts_alone(found: Mapping[str, Any]) -> str:
    """Returns what was found, in short."""
    return "none" if found["spearman"] is None else f"rank correlation {found['spearman']:.2f}"
