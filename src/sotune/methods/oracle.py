"""What selection could reach at best: the true labels. A bound for benchmarks, never a rival."""

from __future__ import annotations

from dataclasses import replace

import torch

from sotune.errors import ConfigError
from sotune.methods.inputs import Weighing, WeighInputs
from sotune.methods.method import Method, Need


def weigh(inputs: WeighInputs) -> Weighing:
    """Returns equal weights of the harmless rows, and 0 for harmful ones, ``[n]``.

    Raises:
        ConfigError: There is no truth, or it lacks a row.
    """
    records, truth = inputs.require_records("oracle").downstream, inputs.truth
    if truth is None or any(record.id not in truth for record in records):
        raise ConfigError("the oracle must know whether each row is harmful; name the column with truth_column")
    harmless = torch.tensor([not truth[record.id] for record in records], dtype=torch.float64)
    if not harmless.any():
        raise ConfigError("every row is harmful, so the oracle would keep none; use other data")
    return Weighing(harmless / harmless.sum(), note="no sentinels: the oracle weighs by the truth")


def keep_harmless(inputs: WeighInputs) -> Weighing:
    """Returns the same, and keeps every harmless row.

    Raises:
        ConfigError: There is no truth, or it lacks a row.
    """
    weighing = weigh(inputs)
    return replace(weighing, k=int((weighing.weights > 0).sum()))


_TRUTH: frozenset[Need] = frozenset({"truth"})
METHODS = (
    Method("oracle", "oracle (all clean rows)", "bound", weigher=keep_harmless, needs=_TRUTH),
    Method("oracle_k", "oracle (K clean rows)", "bound", weigher=weigh, needs=_TRUTH),
)
