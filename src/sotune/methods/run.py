"""One method, from representations to an adapter: the same path for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from sotune.errors import ConfigError
from sotune.methods.base import EditInputs, Method, TrainInputs, WeighInputs, train_weighted
from sotune.selection import keep_count, select_rows

if TYPE_CHECKING:
    from sotune.training import TrainResult
    from sotune.training.progress import OnStep


@dataclass(frozen=True)
class Selection:
    """What a method makes of the rows.

    Attributes:
        weights: One for each downstream row, ``[n]``.
        loss_weights: The loss weight of each kept row, by id.
    """

    weights: Tensor
    loss_weights: Mapping[str, float]


@dataclass(frozen=True)
class MethodRun:
    """What a method leaves behind."""

    selection: Selection
    training: TrainResult


def select_by(method: Method, inputs: WeighInputs, *, keep_fraction: float) -> Selection:
    """Weighs the rows and keeps K of them, or those that the method itself decides on.

    Args:
        method: Any method.
        inputs: Representations with the records behind them. The truth among the tools is hidden from all methods
            but those that say that they use it.
        keep_fraction: K as a share of the rows.

    Raises:
        ConfigError: There are no records, the fraction keeps none, or the method lacks what it needs.
        DataError: The weights are unusable.
    """
    if inputs.records is None:
        raise ConfigError("a method selects among rows, and only representations were given; pass records=...")
    records = inputs.records.downstream
    if inputs.tools is not None and not method.uses_truth:
        inputs = replace(inputs, tools=replace(inputs.tools, truth=None))
    weights = method.weigh(inputs)
    n = len(records)
    k = n if method.keeps_all else keep_count(n, keep_fraction=keep_fraction)
    k = k if method.keep is None else method.keep(inputs, weights)
    ids = [record.id for record in records]
    rows = select_rows(ids, weights.tolist(), k=k, loss_weight_rule=method.loss_weight_rule)
    return Selection(weights, {row.id: row.loss_weight for row in rows if row.loss_weight is not None})


def run_method(
    method: Method,
    inputs: WeighInputs,
    *,
    keep_fraction: float,
    output_dir: Path,
    on_step: OnStep | None = None,
) -> MethodRun:
    """Weighs, keeps, trains and edits, each as the method says or else as usual.

    Args:
        method: Any method.
        inputs: Representations with records and tools; their training settings hold for every method.
        keep_fraction: K as a share of the rows.
        output_dir: Gets ``adapter/`` and the training log.
        on_step: Called after each optimizer step.

    Raises:
        ConfigError: Records or tools are missing, or the method lacks what it needs.
        DataError: The weights are unusable, or nothing is left to learn.
        SotuneError: Training diverged.
    """
    if inputs.records is None or inputs.tools is None:
        raise ConfigError(
            "a method is run on rows and trains a model; pass records=InputRecords(...), tools=Tools(...)"
        )
    records, tools = inputs.records, inputs.tools
    selection = select_by(method, inputs, keep_fraction=keep_fraction)
    train_inputs = TrainInputs(
        records=[record for record in records.downstream if record.id in selection.loss_weights],
        loss_weights=selection.loss_weights,
        safe_anchor=records.safe_anchor,
        harmful_reference=records.harmful_reference,
        tools=replace(tools, truth=None),
        output_dir=output_dir,
        on_step=on_step,
    )
    result = (method.train or train_weighted)(train_inputs)
    if method.edit is not None:
        method.edit(EditInputs(result.adapter, train_inputs))
    return MethodRun(selection, result)
