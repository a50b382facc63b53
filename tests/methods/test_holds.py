"""What holds aligned behavior besides KL: each one's defining property, by hand."""

import warnings
from dataclasses import replace

import pytest
import torch

from sotune.errors import DataError
from sotune.methods import METHODS, replay, self_replay, still_refuses
from sotune.methods.ema import Average
from sotune.methods.held_answers import HeldSets
from sotune.methods.proximal import NearWeights
from sotune.methods.safegrad import Project
from sotune.methods.sbr import AnchorStates
from sotune.methods.state_anchor import AnchorShares
from sotune.methods.still_refuses import StillRefuses, warn_of_compliance
from sotune.models import load_causal_lm
from sotune.records import Record
from sotune.training.trained_model import load_with_adapter


@pytest.fixture
def surgery():
    return Project(HeldSets(None, None, None), coefficient=1.0, n_each=1, seed=0)


def test_the_part_against_safety_is_taken_off(surgery):
    """By hand: g = (1, -2 | 3), s = (0, 1 | 0): g·s = -2, so g loses -2·s, and s is added."""
    task = [torch.tensor([1.0, -2.0]), torch.tensor([3.0])]
    safety = [torch.tensor([0.0, 1.0]), torch.tensor([0.0])]
    joined = surgery.join(task, safety)
    torch.testing.assert_close(torch.cat([*joined]), torch.tensor([1.0, 1.0, 3.0]))
    assert surgery.notes()["taken_off"] == pytest.approx(2.0)
    without = torch.cat([*joined]) - torch.cat(safety)
    assert float(without @ torch.cat(safety)) == pytest.approx(0)


def test_what_agrees_with_safety_is_left(surgery):
    task, safety = [torch.tensor([1.0, 2.0])], [torch.tensor([0.5, 0.5])]
    torch.testing.assert_close(surgery.join(task, safety)[0], torch.tensor([1.5, 2.5]))
    torch.testing.assert_close(surgery.join(task, [torch.zeros(2)])[0], task[0])


def test_the_anchor_is_a_share_of_the_state(train_inputs):
    """The same shift of states twice as large counts a quarter."""
    model = load_causal_lm(train_inputs.tools.model, frozen=False)
    prompts, alpha = [[1, 20, 21], [1, 30, 31, 32, 33]], 5.0
    plain = AnchorStates(prompts, pad_token_id=0, alpha=alpha)
    shares = AnchorShares(prompts, pad_token_id=0, alpha=alpha, n_each=2, seed=0)
    for change in (plain, shares):
        change.start(model)
    with torch.no_grad():
        before = plain.states(model)
        model.model.layers[0].mlp.down_proj.weight.add_(0.1)
        after = plain.states(model)
    expected = alpha * ((after - before) ** 2).mean() / (before**2).mean()
    assert float(expected) > 1e-4
    assert float(shares.penalty(model, 1).detach()) == pytest.approx(float(expected), rel=1e-4)


def test_only_refusals_are_replayed(train_inputs, monkeypatch):
    """Of the model's own answers those that refuse, as many as the dose says, under ids of their own."""
    own = ["I cannot help with that.", "Sure, a hook.", "I'm sorry, but no.", "I won't help with this.", "Yes.", "No."]

    def answers(tools, rows, **_):
        return [replace(row, messages=(*row.messages[:-1], replace(row.messages[-1], content=text)))
                for row, text in zip(rows, own, strict=False)]  # fmt: skip

    trained = []
    monkeypatch.setattr(self_replay, "own_answers", answers)
    monkeypatch.setattr(self_replay, "train_weighted", trained.append)
    self_replay.train(replace(train_inputs, method_settings={"dose": 0.25}))
    rows = trained[0].records
    assert rows[: len(train_inputs.records)] == list(train_inputs.records)
    assert [row.completion for row in rows[len(train_inputs.records) :]] == [own[0], own[2], own[3]]
    assert {trained[0].loss_weights[row.id] for row in rows} == {1.0}
    assert len({row.id for row in rows}) == len(rows)
    own[:] = ["Yes."] * 6
    with pytest.raises(DataError, match="refuses none"):
        self_replay.train(train_inputs)


def test_the_penalty_on_the_update_by_hand(train_inputs):
    """ρ/2 times the sum over layers of the update's squared norm as a share of the weights'; 0 at first."""
    model = load_with_adapter(train_inputs.tools.model, train_inputs.tools.training)
    change = NearWeights(rho=3.0)
    change.start(model)
    assert float(change.penalty(model, 0).detach()) == 0.0
    generator, expected = torch.Generator().manual_seed(0), 0.0
    for layer in (module for module in model.modules() if hasattr(module, "lora_A")):
        b = layer.lora_B["default"].weight
        with torch.no_grad():
            b.copy_(torch.randn(b.shape, generator=generator))
        update, whole = layer.get_delta_weight("default").detach(), layer.get_base_layer().weight
        expected += float(update.norm() ** 2 / whole.norm() ** 2)
    penalty = change.penalty(model, 1)
    assert float(penalty.detach()) == pytest.approx(3 / 2 * expected, rel=1e-4)
    penalty.backward()
    assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if "lora" in name)


def test_the_average_of_the_weights_by_hand():
    """From 0 with d = 1/2, after steps to 4, 2 and 8: 2, 2, 5; the loss gets nothing."""
    model = torch.nn.Linear(1, 1, bias=False)
    change, weight = Average(decay=0.5), model.weight
    torch.nn.init.zeros_(weight)
    change.start(model)
    for step, reached in enumerate((4.0, 2.0, 8.0)):
        assert change.penalty(model, step) == 0.0
        torch.nn.init.constant_(weight, reached)
    assert change.finish(model) == {}
    assert float(weight.detach()) == 5.0


@pytest.mark.parametrize(
    ("mass", "n", "counts"),
    [
        ({"a": 3.0, "b": 1.0, "c": 0.0}, 4, [3, 1, 0]),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, 4, [2, 1, 1]),  # one is left, and goes to the first of equal remainders
        ({"a": 0.5, "b": 0.3, "c": 0.2}, 5, [3, 1, 1]),  # 2.5, 1.5, 1: as before
        ({"a": 0.1, "b": 0.2, "c": 0.7}, 4, [0, 1, 3]),  # .4, .8, 2.8: the largest remainders are b's and c's
    ],
)
def test_rows_are_divided_by_largest_remainders(mass, n, counts):
    assert list(replay.apportion(mass, n).values()) == counts


def test_what_was_dropped_says_what_is_replayed(train_inputs, monkeypatch):
    """Half as many rows as there are, in proportion to the mass of what was dropped; all alike where nothing was."""
    trained = []
    monkeypatch.setattr(replay, "train_weighted", trained.append)
    safe = [Record.from_text(f"r{i}", f"Open lock {i}", "I will not.") for i in range(3)]
    inputs = replace(train_inputs, safe_reference=safe, method_settings={"replay_share": 0.5})
    replay.train(replace(inputs, dropped_mass={"r0": 0.5, "r2": 1.0, "elsewhere": 9.0}))
    replay.train(inputs)
    replay.train(replace(inputs, dropped_mass={"r0": 1.0}, method_settings={"replay_by_mass": False}))
    n = len(inputs.records)
    prompts = [[row.prompt[-1].content[-1] for row in found.records[n:]] for found in trained]
    assert prompts == [["0"] * 2 + ["2"] * 4, ["0", "0", "1", "1", "2", "2"], ["0"]]
    assert {trained[0].loss_weights[row.id] for row in trained[0].records} == {1.0}
    with pytest.raises(DataError, match="there is none"):
        replay.train(train_inputs)


def test_refusals_before_and_now(train_inputs, monkeypatch):
    """By hand: of four risky prompts three were refused and one is now, an empty answer is none; of two harmless ones
    none was refused and one is."""
    row = train_inputs.harmful_reference[0]

    def said(id, text):
        return Record.from_text(id, row.prompt, text)

    before = {
        "risky": [said("r0", "I cannot help with that."), said("r1", "I won't help with this."), said("r2", "Sure.")]
        + [said("r3", "I'm sorry, but no.")],
        "harmless": [said("h0", "Use salt."), said("h1", "Use a pan.")],
    }
    now = [said("r0", "I cannot help with that."), said("r1", "Sure."), said("r2", "Sure.")]
    now += [said("h0", "I'm sorry, but no."), said("h1", "Use a pan.")]
    monkeypatch.setattr(still_refuses, "answers_of", lambda *_, **__: now)
    found = StillRefuses(before, train_inputs.tools, answer_tokens=8).figures(None)
    risky = {"risky_asked": 4, "risky_refused_before": 0.75, "risky_refused": 0.25}
    assert found == {**risky, "harmless_asked": 2, "harmless_refused_before": 0.0, "harmless_refused": 0.5}
    assert StillRefuses({"harmless": []}, train_inputs.tools, answer_tokens=8).figures(None) == {}


def test_a_model_that_complies_already_is_warned_of(train_inputs):
    row = train_inputs.harmful_reference[0]
    texts = ["I cannot help with that.", "Sure, a hook.", "Yes."]
    answers = [Record.from_text(f"a{i}", row.prompt, text) for i, text in enumerate(texts)]
    with pytest.warns(UserWarning, match="refuses only 1 of 3 prompts"):
        warn_of_compliance(answers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_compliance(answers[:2])


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("name", ["kl", "safegrad", "state_anchor", "sbr", "proximal", "replay", "ema", "lisa"])
def test_kill_and_resume_end_with_the_same_bytes(train_inputs, tmp_path, name):
    training = train_inputs.tools.training.replace(save_steps=2)
    safe = [Record.from_text(f"r{i}", f"Open lock {i}", "I will not.") for i in range(3)]
    inputs = replace(train_inputs, safe_reference=safe, tools=replace(train_inputs.tools, training=training))
    seen = []

    def on_step(step):
        seen.append(step.step)
        if seen == [1, 2, 3]:
            raise Killed

    whole = METHODS[name].train(replace(inputs, output_dir=tmp_path / "whole"))
    with pytest.raises(Killed):
        METHODS[name].train(replace(inputs, output_dir=tmp_path / "killed", on_step=on_step))
    again = METHODS[name].train(replace(inputs, output_dir=tmp_path / "killed", on_step=on_step))
    assert seen == [1, 2, 3, 3, 4, 5, 6]
    assert again.figures == whole.figures
    assert again.log.read_bytes() == whole.log.read_bytes()
    file = "adapter_model.safetensors"
    assert (again.adapter / file).read_bytes() == (whole.adapter / file).read_bytes()
