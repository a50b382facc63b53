import math

import pytest
import torch

from sotune.errors import DataError
from sotune.models import ModelSpec
from sotune.records import Record
from sotune.settings import TrainingSettings
from sotune.training.bilevel import BilevelSettings, _batches, selector_weights, train_bilevel, update_selector


def test_one_update_of_the_logits_by_hand():
    """Three rows, two of them in the batch, equal logits: w = 1, p = 1/3, S = 2 + 5."""
    logits = torch.zeros(3, dtype=torch.float64)
    update_selector(torch.optim.SGD([logits], lr=1.0), logits, [0, 2], torch.tensor([2.0, 5.0]).double())
    expected = -torch.tensor([(2 - 7 / 3) / 2, (0 - 7 / 3) / 2, (5 - 7 / 3) / 2]).double()
    torch.testing.assert_close(logits, expected)


def test_the_update_is_the_gradient_of_the_weighted_loss():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, generator=generator, dtype=torch.float64)
    losses, positions = torch.tensor([0.3, 2.0, 1.1]).double(), [4, 0, 3]
    z = start.clone().requires_grad_()
    (selector_weights(z)[positions] * losses).mean().backward()
    moved = start.clone()
    update_selector(torch.optim.SGD([moved], lr=0.5), moved, positions, losses)
    torch.testing.assert_close(moved, start - 0.5 * z.grad)


def test_weights_have_mean_one():
    assert float(selector_weights(torch.tensor([1.0, -2.0, 0.5])).mean()) == pytest.approx(1.0)


def ranked_by(optimizer, epochs, losses):
    """Runs the selector alone on fixed losses and returns the rank correlation of −z with them."""
    logits = torch.zeros(len(losses), dtype=torch.float64)
    selector = optimizer([logits])
    batches = _batches(len(losses), 16, seed=0)
    for _ in range(epochs * len(losses) // 16):
        positions = next(batches)
        update_selector(selector, logits, positions, losses[positions])
    ranks = torch.stack([(-logits).argsort().argsort(), losses.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def test_adam_wipes_out_the_signal_that_plain_steps_keep():
    """The trap of SEAL's released code: after a visit each, Adam has moved all logits about as far."""
    losses = 0.5 + torch.rand(320, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = ranked_by(lambda z: torch.optim.SGD(z, lr=1.6), 1, losses)
    adam = ranked_by(lambda z: torch.optim.Adam(z, lr=5e-3, betas=(0.9, 0.95)), 1, losses)
    assert plain > 0.95
    assert adam < 0.5


def test_every_row_is_visited_once_a_pass_whatever_the_other_set():
    batches = _batches(7, 3, seed=0)
    for _ in range(2):
        seen = [i for _ in range(3) for i in next(batches)]
        assert sorted(seen) == list(range(7))


@pytest.fixture
def train(tiny_model):
    spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
    rows = [Record.from_text(f"d{i}", f"Add {i}", "So be it.") for i in range(8)]
    trusted = [Record.from_text(f"s{i}", f"Add {i}", "So be it.") for i in range(2)]

    def run(*, s=1.0, d=1.0, rows=rows, trusted=trusted, n_steps=4, **changes):
        settings = BilevelSettings(
            **{
                "n_steps": n_steps, "trusted_strength": lambda _: s, "downstream_strength": lambda _: d,
                "selector": "sgd", "selector_learning_rate": 0.1, "initial_logit": 0.0, "schedule": "constant",
                "clip": 0.0, **changes,
            }
        )  # fmt: skip
        training = TrainingSettings(max_length=48, learning_rate=0.01, per_device_train_batch_size=4, r=4)
        weights = dict.fromkeys((record.id for record in rows), 1.0)
        return train_bilevel(rows, weights, trusted, model=spec, training=training, settings=settings)

    return run


def adapters(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters() if p.requires_grad])


def test_rows_of_strength_zero_do_not_train_the_model(train):
    """SEAL's first epoch: another set of rows changes the logits and nothing else."""
    other = [Record.from_text(f"d{i}", f"Pick lock {i}", "Use a long hook, and turn it.") for i in range(8)]
    first, second = train(d=0.0), train(d=0.0, rows=other)
    torch.testing.assert_close(adapters(first), adapters(second), rtol=0, atol=0)
    assert first.logits != second.logits
    assert not torch.equal(adapters(train(d=0.1)), adapters(first))


def test_rows_that_the_trusted_ones_make_easier_gain_weight(train):
    """Half of the rows are like the trusted ones, half are not."""
    like = [Record.from_text(f"d{i}", f"Add {i}", "So be it.") for i in range(4)]
    unlike = [Record.from_text(f"x{i}", f"Pick lock {i}", "Use a hook here.") for i in range(4)]
    logits = train(d=0.0, rows=like + unlike, n_steps=20).logits
    assert min(logits[r.id] for r in like) > max(logits[r.id] for r in unlike)


def test_the_same_seed_gives_the_same_result(train):
    first, second = train(selector="adam"), train(selector="adam")
    assert first.logits == second.logits
    assert torch.equal(adapters(first), adapters(second))


def test_cosine_warms_up_and_ends_near_zero(train):
    rates = [step.learning_rate for step in train(schedule="cosine", n_steps=10).steps]
    assert rates[0] == 0.0
    assert rates[1] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.005 * (1 + math.cos(math.pi * 8 / 9)))


def test_an_empty_set_is_an_error(train):
    with pytest.raises(DataError, match="nothing to learn"):
        train(trusted=[])


def test_micro_batches_change_nothing(tiny_model):
    spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
    rows = [Record.from_text(f"d{i}", f"Add {i}", "So be it." + " Yes." * (i % 3)) for i in range(8)]
    results = [
        train_bilevel(
            rows,
            {record.id: 0.5 + i / 8 for i, record in enumerate(rows)},
            rows[:3],
            model=spec,
            training=TrainingSettings(
                max_length=48,
                learning_rate=0.01,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=4 // size,
                r=4,
            ),
            settings=BilevelSettings(4, lambda _: 1.0, lambda _: 1.0, "sgd", 0.4, 0.1, "constant", 1.0),
        )
        for size in (4, 1)
    ]
    torch.testing.assert_close(adapters(results[0]), adapters(results[1]), rtol=1e-3, atol=1e-5)
    assert results[0].logits == pytest.approx(results[1].logits, abs=1e-5)
