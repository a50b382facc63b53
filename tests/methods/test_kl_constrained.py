from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from sotune.methods.held_answers import HeldAnswers, HeldSets
from sotune.methods.kl_constrained import (
    KeepWithin,
    KlConstrainedSettings,
    Multiplier,
    answers_a_look,
    largest_scale,
    most_looked_at,
    train,
)
from sotune.training.trained_model import load_with_adapter
from sotune.training.training_rows import build_equal_rows


def descend(multiplier, *, target, steps=4000, rate=0.01):
    """Plain gradient descent on (θ − target)²/2 with drift θ²/2; returns θ and the last strength."""
    theta = strength = 0.0
    for _ in range(steps):
        strength = multiplier.strength(theta**2 / 2)
        theta -= rate * ((theta - target) + strength * theta)
    return theta, strength


def test_the_multiplier_settles_where_lagrange_says():
    """By hand: at the limit θ = √(2δ), and stationarity (θ − a) + μθ = 0 gives μ = a/θ − 1."""
    limit, target = 0.02, 1.0
    theta, strength = descend(Multiplier(limit=limit, start=1.0, damping=1.0, rate=0.05), target=target)
    assert theta == pytest.approx((2 * limit) ** 0.5, rel=1e-3)
    assert strength == pytest.approx(target / (2 * limit) ** 0.5 - 1, rel=1e-2)


def test_a_limit_that_does_not_bind_costs_nothing():
    theta, strength = descend(Multiplier(limit=1.0, start=1.0, damping=1.0, rate=0.05), target=0.5)
    assert theta == pytest.approx(0.5, rel=1e-6)
    assert strength == 0.0


def test_the_multiplier_is_clipped():
    multiplier = Multiplier(limit=0.01, start=1.0, damping=1.0, rate=1.0)
    assert multiplier.strength(1e6) == multiplier.value == 100.0
    assert Multiplier(limit=0.01, start=0.0, damping=1.0, rate=1.0).strength(0.0) == 0.0


def test_one_step_of_the_multiplier_by_hand():
    multiplier = Multiplier(limit=0.02, start=1.0, damping=0.5, rate=0.1)
    assert multiplier.strength(0.05) == pytest.approx(1 + 0.5 * 1.5)  # the drift is 1.5 limits above it
    assert multiplier.value == pytest.approx(1 + 0.1 * 1.5)


def test_the_largest_scale_that_keeps_a_condition(train_inputs):
    model = load_with_adapter(train_inputs.tools.model, train_inputs.tools.training)
    outer = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    with torch.no_grad():
        for parameter in outer.values():
            parameter.fill_(1.0)
    norm = lambda: max(float(parameter.detach().abs().max()) for parameter in outer.values())  # noqa: E731
    scale, found = largest_scale(model, norm, lambda size: size <= 0.3)
    assert scale == pytest.approx(0.3, abs=1 / 64)
    assert found == norm() == pytest.approx(0.3, abs=1 / 64)
    assert largest_scale(model, norm, lambda _: True) == (1.0, norm())


def test_the_limit_is_kept_by_magnitudes_too(roused):
    """DoRA learns a magnitude for each output beside the product, and no scale of the product alone undoes that."""
    training = roused.tools.training.replace(finetuning_type="dora")
    figures = train(replace(roused, tools=replace(roused.tools, training=training), hold_drift=1e-4)).figures
    assert max(value for name, value in figures.items() if name.endswith("drift")) <= 1e-4
    assert figures["scale"] < 1


@pytest.mark.parametrize(
    ("share", "every", "n"), [(1.0, 1, 4), (0.5, 1, 2), (0.25, 4, 4), (0.1, 1, 1), (0.01, 4, 1), (0.6, 4, 8)]
)
def test_a_look_keeps_to_its_share_of_tokens(train_inputs, share, every, n):
    """Four rows a step, and answers as long as rows: by hand, share · 4 answers a step, at once every few steps."""

    class Long:
        mean_length = sum(len(row.input_ids) for row in load_rows(train_inputs)) / len(train_inputs.records)

    own = KlConstrainedSettings(extra_tokens=share, look_every=every)
    assert answers_a_look(HeldSets(Long(), None, None), train_inputs, own) == n


def test_a_short_run_asks_for_no_more_than_it_looks_at(train_inputs):
    """By hand: ten steps are three looks, at steps 0, 4 and 8, of at most eight answers each."""
    training = train_inputs.tools.training.replace(max_steps=10)
    inputs = replace(train_inputs, tools=replace(train_inputs.tools, training=training))
    assert most_looked_at(inputs, KlConstrainedSettings()) == 24
    assert most_looked_at(inputs, KlConstrainedSettings(look_every=1, prompts_per_step=2)) == 20


def test_a_look_counts_for_the_steps_up_to_the_next(train_inputs):
    """Two looks of a model that drifted: the multiplier by hand, its term threefold, nothing between them."""
    rows = build_equal_rows(train_inputs.harmful_reference, train_inputs.tools.renderer)
    held = HeldAnswers(rows, decay=0.0)
    model = load_with_adapter(train_inputs.tools.model, train_inputs.tools.training)
    own = KlConstrainedSettings(look_every=3, anchor=0.0, dual_rate=0.1)
    change = KeepWithin(HeldSets(held, None, None), limit=0.02, own=own, n_each=len(rows.rows), measure_every=9, seed=0)
    change.start(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    drift = held.measure(model)
    first, *between, second = (float(torch.as_tensor(change.penalty(model, step)).detach()) for step in range(4))
    excess = drift / 0.02 - 1
    assert excess > 0
    assert between == [0.0, 0.0]
    assert first == pytest.approx(3 * (1 + excess) * drift, rel=1e-4)
    assert second == pytest.approx(3 * (1 + 0.3 * excess + excess) * drift, rel=1e-4)
    assert change.state()["risky"] == pytest.approx(1 + 2 * 0.3 * excess, rel=1e-4)


def test_only_what_exceeds_the_limit_is_measured_again(train_inputs, monkeypatch):
    """Risky answers drift too far and the others do not: both are measured before and after, in between the one."""
    rows = build_equal_rows(train_inputs.harmful_reference, train_inputs.tools.renderer)
    risky, harmless = HeldAnswers(rows, decay=0.0), HeldAnswers(rows, decay=0.0)
    model = load_with_adapter(train_inputs.tools.model, train_inputs.tools.training)
    change = KeepWithin(
        HeldSets(risky, harmless, None), limit=0.02, own=KlConstrainedSettings(), n_each=2, measure_every=9, seed=0
    )
    change.start(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    measured = []
    monkeypatch.setattr(harmless, "measure", lambda model: measured.append("harmless") or 0.0)
    monkeypatch.setattr(risky, "measure", lambda model: measured.append("risky") or HeldAnswers.measure(risky, model))
    figures = change.finish(model)
    assert 0 < figures["scale"] < 1
    assert 0.01 < figures["risky_drift"] <= 0.02
    assert measured == ["risky", "harmless", *["risky"] * 8, "risky", "harmless"]


def load_rows(inputs):
    return build_equal_rows(inputs.records, inputs.tools.renderer).rows


NF4 = pytest.param(
    "nf4",
    marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"),
)


@pytest.fixture(params=["none"])
def roused(train_inputs, request):
    """Training that drifts far: without a limit by more than the limits below."""
    train_inputs = replace(train_inputs, method_settings={"extra_tokens": 2.0, "look_every": 1, "measure_every": 4})
    training = train_inputs.tools.training.replace(learning_rate=0.1, max_steps=10, quantization=request.param)
    return replace(train_inputs, tools=replace(train_inputs.tools, training=training), hold_drift=0.02)


@pytest.mark.parametrize("roused", ["none", NF4], indirect=True)
def test_the_limit_is_kept_on_prompts_that_no_step_looked_at(roused, tmp_path):
    figures = train(roused).figures
    assert figures["limit"] == 0.02
    assert max(value for name, value in figures.items() if name.endswith("drift")) <= 0.02
    assert "unseen_drift" in figures
    loose = train(replace(roused, hold_drift=1e6, output_dir=tmp_path / "loose")).figures
    assert loose["scale"] == 1.0
    assert max(value for name, value in loose.items() if name.endswith("drift")) > 0.02


class Killed(Exception):
    """Stands for a kill."""


def kill_after(n):
    def on_step(step):
        if step.step == n:
            raise Killed

    return on_step


@pytest.mark.parametrize("roused", ["none", NF4], indirect=True)
def test_kill_and_resume_end_with_the_same_bytes(roused, tmp_path):
    """The multipliers are in the checkpoint, so that the run goes on and does not start over."""
    training = roused.tools.training.replace(save_steps=3, gradient_accumulation_steps=2)
    inputs = replace(roused, tools=replace(roused.tools, training=training))
    whole = train(replace(inputs, output_dir=tmp_path / "whole"))
    with pytest.raises(Killed):
        train(replace(inputs, output_dir=tmp_path / "killed", on_step=kill_after(7)))
    seen = []
    again = train(replace(inputs, output_dir=tmp_path / "killed", on_step=lambda step: seen.append(step.step)))
    assert seen == [7, 8, 9, 10]
    assert again.figures == whole.figures
    assert again.log.read_bytes() == whole.log.read_bytes()
    name = "adapter_model.safetensors"
    assert (again.adapter / name).read_bytes() == (whole.adapter / name).read_bytes()


def test_the_log_tells_drift_and_multiplier_of_each_step(roused):
    import json

    steps = [json.loads(line) for line in train(roused).log.read_text().splitlines()]
    assert all({"risky_drift", "risky_multiplier"} <= step.keys() for step in steps)
    assert [step["step"] for step in steps if "unseen_drift" in step] == [5, 9]
    assert steps[0]["risky_drift"] == pytest.approx(0, abs=1e-6)
    assert max(step["risky_drift"] for step in steps) > 0


def test_accumulation_changes_nothing(roused, tmp_path):
    """The term counts once a step, however the step is cut."""
    written = []
    for name, (size, parts) in {"whole": (4, 1), "cut": (1, 4)}.items():
        training = roused.tools.training.replace(
            per_device_train_batch_size=size, gradient_accumulation_steps=parts, learning_rate=1e-3, max_steps=3
        )
        inputs = replace(roused, tools=replace(roused.tools, training=training), output_dir=tmp_path / name)
        written.append(load_file(train(inputs).adapter / "adapter_model.safetensors"))
    for name, tensor in written[0].items():
        torch.testing.assert_close(tensor, written[1][name], rtol=1e-3, atol=1e-5)
