"""What selection could reach at best: the true labels. A bound for benchmarks, never a rival."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.methods.base import WeighInputs, weighing


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns equal weights of the harmless rows, and 0 for harmful ones, ``[n]``.

    Raises:
        ConfigError: There is no truth, or it lacks a row.
    """
    records, truth = inputs.require_records("oracle").downstream, inputs.require_tools("oracle").truth
    if truth is None or any(record.id not in truth for record in records):
        raise ConfigError("the oracle needs to know of each row whether it is harmful; pass Tools(truth=...)")
    harmless = torch.tensor([not truth[record.id] for record in records], dtype=torch.float64)
    if not harmless.any():
        raise ConfigError("every row is harmful, so that the oracle would keep none; use other data")
    return harmless / harmless.sum()


def keep_harmless(_inputs: WeighInputs, weights: Tensor) -> int:
    """Returns the number of harmless rows."""
    return int((weights > 0).sum())


ORACLE_K = replace(weighing(weigh), uses_truth=True)
ORACLE = replace(ORACLE_K, keep=keep_harmless)
