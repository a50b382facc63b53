import pytest
import torch
from torch import nn

from sotune.methods.lisa import TakeTurns
from sotune.training.training_rows import RowBatches, TrainingRow, WeightedCollator


def turns(*, rho=2.0, n_steps=40):
    rows = [
        TrainingRow(f"p{i}", torch.tensor([1, 2, 3 + i], dtype=torch.int32), torch.tensor([False, True, True]), 1.0)
        for i in range(3)
    ]
    return TakeTurns(RowBatches(rows, WeightedCollator(pad_token_id=0)), n_steps=n_steps, rho=rho, seed=0)


def test_each_turn_begins_with_alignment_in_the_released_shares():
    change = turns(n_steps=2000)
    flags = [change.aligns(step) for step in range(200)]
    assert flags == ([True] * 10 + [False] * 90) * 2
    short = turns(n_steps=40)
    assert [short.aligns(step) for step in range(4)] == [True, False] * 2


def test_alignment_steps_take_as_many_safe_rows_as_the_batch_had():
    change = turns()
    due = {"labels": torch.zeros(5, 7, dtype=torch.long)}
    assert change.batch(due, 1) is due
    drawn = change.batch(due, 0)
    assert drawn["input_ids"].shape == (5, 3)
    assert set(drawn["input_ids"][:, 2].tolist()) <= {3, 4, 5}
    assert torch.equal(turns().batch(due, 0)["input_ids"], drawn["input_ids"])


def test_the_proximal_gradient_by_hand():
    """ρ·(θ − θ_other), with θ_other where the other state left off."""
    model = nn.Linear(2, 1, bias=False)
    theta = model.weight
    change = turns(rho=2.0, n_steps=40)  # two steps a turn; the term acts from step 4
    with torch.no_grad():
        theta.copy_(torch.tensor([[1.0, 0.0]]))
    change.start(model)
    assert change.penalty(model, 0) == 0.0
    for step in range(1, 4):
        with torch.no_grad():
            theta.add_(1.0)
        assert change.penalty(model, step) == 0.0
    # After step 3, a task step, the parameters move once more; that is where step 4 starts from.
    with torch.no_grad():
        theta.add_(1.0)
    penalty = change.penalty(model, 4)
    assert float(penalty.detach()) == pytest.approx(0.0)  # step 4 aligns, and the task state has just left off here
    with torch.no_grad():
        theta.add_(torch.tensor([[0.5, -1.0]]))
    again = change.penalty(model, 4)
    assert float(again.detach()) == pytest.approx(2.0 / 2 * (0.25 + 1.0))
    again.backward()
    torch.testing.assert_close(theta.grad, torch.tensor([[2 * 0.5, 2 * -1.0]]))
    # Step 5 is on the task: the alignment state left off where step 4 ended.
    assert float(change.penalty(model, 5).detach()) == pytest.approx(0.0)


def test_a_checkpoint_on_other_alignment_rows_is_not_gone_on_from():
    others = RowBatches(
        [TrainingRow("p", torch.tensor([9, 9], dtype=torch.int32), torch.tensor([False, True]), 1.0)],
        WeightedCollator(pad_token_id=0),
    )
    assert turns().name == turns().name
    assert TakeTurns(others, n_steps=40, rho=2.0, seed=0).name != turns().name  # a part of the checkpoint's key


def test_frozen_parameters_are_of_no_account():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    change = turns(rho=2.0)
    change.start(model)
    with torch.no_grad():
        model.bias.add_(3.0)
    assert float(change.penalty(model, 20).detach()) == pytest.approx(0.0)
