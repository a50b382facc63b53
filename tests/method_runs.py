"""One method on inputs as they are, by the functions that a run calls, without a run folder."""

from dataclasses import dataclass

from sotune.methods import TrainInputs, Weighing
from sotune.selection import keep_count, select_rows


@dataclass(frozen=True)
class MethodRun:
    """What a method made of the rows, and the training that followed."""

    weighing: Weighing
    loss_weights: dict
    training: object


def select_by(method, inputs, *, keep_fraction):
    """Weighs and keeps as a run does; returns the weighing and the loss weights by id."""
    weighing = method.weigh(inputs)
    ids = [record.id for record in inputs.records.downstream]
    k = weighing.k if weighing.k is not None else keep_count(len(ids), keep_fraction=keep_fraction)
    rows = select_rows(ids, weighing.weights.tolist(), k=k, loss_weight_rule=method.loss_weight_rule)
    return weighing, {row.id: row.loss_weight for row in rows if row.loss_weight is not None}


def run_method(method, inputs, *, keep_fraction, output_dir, method_settings=None):
    """Weighs, keeps, trains and edits on the inputs as they are, without a run folder."""
    weighing, loss_weights = select_by(method, inputs, keep_fraction=keep_fraction)
    records = inputs.records
    trained = method.train(
        TrainInputs(
            records=[record for record in records.downstream if record.id in loss_weights],
            loss_weights=loss_weights,
            safe_anchor=records.safe_anchor,
            harmful_reference=records.harmful_reference,
            safe_reference=records.safe_reference,
            tools=inputs.tools,
            output_dir=output_dir,
            method_settings=method_settings or {},
        )
    )
    return MethodRun(weighing, loss_weights, trained)
