"""A change to the training step: another batch, and a term of the loss that counts once however a step is cut."""

import pytest
import torch
from tiny_trainer import gradient_of_first_step, make_model, make_rows, parameters

from sotune.training.change import StepChange
from sotune.training.training_rows import WeightedCollator


class Pull(StepChange):
    """Adds half the squared norm of all parameters, scaled."""

    name = "pull"

    def __init__(self, strength):
        self.strength, self.started = strength, 0

    def start(self, model):
        self.started += 1

    def batch(self, batch, step):
        return batch

    def penalty(self, model, step):
        return self.strength / 2 * sum((p**2).sum() for p in model.parameters())


class Swap(Pull):
    """Trains on other rows, and adds nothing."""

    def batch(self, batch, step):
        assert step == 0
        return WeightedCollator(pad_token_id=0)(make_rows(12)[8 : 8 + len(batch["labels"])])

    def penalty(self, model, step):
        return 0.0


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (2, 4), (4, 2)])
def test_the_term_counts_once_a_step(tmp_path, batch_size, accumulation):
    from functools import partial

    from sotune.training.trainer import WeightedTrainer

    change = Pull(0.1)
    arguments = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    plain = gradient_of_first_step(make_rows(8), tmp_path, **arguments)
    changed = gradient_of_first_step(
        make_rows(8), tmp_path, trainer_class=partial(WeightedTrainer, change=change), **arguments
    )
    assert change.started == 1
    torch.testing.assert_close(changed - plain, 0.1 * parameters(make_model()), rtol=1e-3, atol=1e-6)


def test_the_batch_is_the_one_that_the_change_gives(tmp_path):
    from functools import partial

    from sotune.training.trainer import WeightedTrainer

    arguments = {"per_device_train_batch_size": 4}
    swapped = gradient_of_first_step(
        make_rows(4), tmp_path, trainer_class=partial(WeightedTrainer, change=Swap(0.0)), **arguments
    )
    expected = gradient_of_first_step(make_rows(12)[8:], tmp_path, **arguments)
    torch.testing.assert_close(swapped, expected)
