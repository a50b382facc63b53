import pytest
import torch
from tiny_trainer import (
    StockTrainer,
    gradient_of_first_step,
    make_model,
    make_rows,
    make_trainer,
    parameters,
    stock_collator,
    train,
)
from torch.nn import functional
from transformers import Trainer

from sotune.errors import ConfigError, DataError
from sotune.training.trainer import WeightedTrainer

WEIGHTS = [0.5, 1.7, 0.0, 2.2, 1.1, 0.3, 1.4, 0.8]


def gradient_by_hand(rows):
    """Eq. 8 as a loop: the mean over rows of weight times mean token loss, one row at a time and unpadded."""
    model = make_model()
    for row in rows:
        logits = model(input_ids=row["input_ids"][None]).logits[0]
        mean_nll = functional.cross_entropy(logits[:-1], row["labels"][1:])
        (row["loss_weight"] * mean_nll / len(rows)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (2, 4), (1, 8), (4, 2)])
def test_gradient_is_that_of_eq_8(tmp_path, batch_size, accumulation):
    rows = make_rows(8, weights=WEIGHTS)
    got = gradient_of_first_step(
        rows, tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation
    )
    assert (got - gradient_by_hand(rows)).abs().max() < 1e-6


def test_changing_one_weight_changes_the_gradient_as_eq_8_says(tmp_path):
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    before = gradient_of_first_step(make_rows(8, weights=WEIGHTS), tmp_path, **arguments)
    rows = make_rows(8, weights=[*WEIGHTS[:3], WEIGHTS[3] + 1.5, *WEIGHTS[4:]])
    after = gradient_of_first_step(rows, tmp_path, **arguments)
    one_row = gradient_by_hand([{**rows[3], "loss_weight": 1.5}]) / 8
    assert one_row.abs().max() > 1e-2
    assert (after - before - one_row).abs().max() < 1e-5 * one_row.abs().max() + 1e-6


def test_an_incomplete_accumulation_divides_by_the_rows_that_it_has(tmp_path):
    rows = make_rows(5, weights=WEIGHTS[:5])
    got = gradient_of_first_step(rows, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert (got - gradient_by_hand(rows)).abs().max() < 1e-6


def test_weights_of_one_give_the_stock_trainers_parameters(tmp_path):
    """Rows of equal completion length: there the mean over rows and the mean over tokens agree."""
    rows = make_rows(16, equal_lengths=True)
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 8}
    ours, got = train(rows, tmp_path, **arguments)
    stock, expected = train(rows, tmp_path, trainer_class=StockTrainer, collator=stock_collator, **arguments)
    assert (got - expected).abs().max() < 1e-6
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (ours, stock)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_stock_normalizer_differs_where_lengths_do(tmp_path):
    """The reason for the row count: a mean over all tokens gives long completions more say."""
    rows = make_rows(8)
    arguments = {"per_device_train_batch_size": 8}
    ours = gradient_of_first_step(rows, tmp_path, **arguments)
    stock = gradient_of_first_step(rows, tmp_path, trainer_class=StockTrainer, collator=stock_collator, **arguments)
    assert (ours - stock).norm() > 0.05 * stock.norm()


def test_8_by_1_and_2_by_4_accumulation_agree(tmp_path):
    rows = make_rows(32, weights=WEIGHTS * 4)
    runs = [
        train(rows, tmp_path, per_device_train_batch_size=b, gradient_accumulation_steps=a, max_steps=6)
        for b, a in ((8, 1), (2, 4))
    ]
    assert (runs[0][1] - runs[1][1]).abs().max() < 1e-6
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t, _ in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_dataset_keeps_its_weight_column(tmp_path):
    """Trainer removes the columns of a `datasets.Dataset` that the model does not take."""
    from datasets import Dataset

    rows = make_rows(8, weights=WEIGHTS)
    columns = {name: [torch.as_tensor(row[name]).tolist() for row in rows] for name in rows[0]}
    columns["note"] = ["not for the model"] * 8
    got = gradient_of_first_step(Dataset.from_dict(columns), tmp_path, per_device_train_batch_size=8)
    assert (got - gradient_by_hand(rows)).abs().max() < 1e-6


def test_stock_trainer_still_drops_the_weight_column(tmp_path):
    """What the override guards against; when this fails, the override may go."""
    trainer = make_trainer(make_rows(2), tmp_path, trainer_class=Trainer)
    trainer._set_signature_columns_if_needed()
    assert "loss_weight" not in trainer._signature_columns


def test_a_batch_without_weights_raises(tmp_path):
    trainer = make_trainer(make_rows(4), tmp_path, collator=stock_collator)
    with pytest.raises(DataError, match="a batch lacks loss_weight.*use WeightedCollator"):
        trainer.train()


def test_a_batch_without_labels_raises(tmp_path):
    trainer = make_trainer(make_rows(4), tmp_path)
    with pytest.raises(DataError, match="a batch lacks labels"):
        trainer.compute_loss(trainer.model, {"input_ids": torch.ones(1, 2), "loss_weight": torch.ones(1)})


@pytest.mark.parametrize("arguments", [{"label_smoothing_factor": 0.1}])
def test_options_that_the_loss_would_ignore_are_refused(tmp_path, arguments):
    with pytest.raises(ConfigError, match="ignores label_smoothing_factor"):
        make_trainer(make_rows(4), tmp_path, **arguments)


def test_a_loss_function_of_the_users_own_is_refused():
    with pytest.raises(ConfigError, match="ignores compute_loss_func"):
        WeightedTrainer(model=make_model(), compute_loss_func=lambda *_, **__: 0)


def test_evaluation_loss_is_the_mean_over_rows(tmp_path):
    rows = make_rows(8, weights=WEIGHTS)
    trainer = make_trainer(rows, tmp_path, per_device_eval_batch_size=3)
    loss = trainer.evaluate(rows)["eval_loss"]
    model = make_model()
    with torch.no_grad():
        expected = sum(
            row["loss_weight"]
            * functional.cross_entropy(model(input_ids=row["input_ids"][None]).logits[0, :-1], row["labels"][1:])
            for row in rows
        )
    assert loss == pytest.approx(float(expected) / 8, abs=1e-5)


def test_training_moves_the_parameters(tmp_path):
    _, end = train(make_rows(8, weights=WEIGHTS), tmp_path, max_steps=2)
    assert (end - parameters(make_model())).abs().max() > 1e-4
