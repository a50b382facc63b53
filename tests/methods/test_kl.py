from dataclasses import replace

import pytest
import torch

from sotune.errors import DataError
from sotune.methods import held_answers
from sotune.methods.held_answers import HeldAnswers, HeldSets, held_sets
from sotune.methods.kl import StayClose, train
from sotune.methods.method import train_weighted
from sotune.models import load_adapted
from sotune.records import Record
from sotune.training import fine_tune
from sotune.training.trained_model import load_with_adapter
from sotune.training.training_rows import build_equal_rows


def held(inputs, *, decay=0.0):
    rows = build_equal_rows(inputs.harmful_reference, inputs.tools.renderer)
    answers = HeldAnswers(rows, decay=decay)
    answers.start(load_with_adapter(inputs.tools.model, inputs.tools.training))
    return answers, rows.rows


def anchor(inputs, *, coefficient=1.0, n_each=3, decay=0.0):
    answers, rows = held(inputs, decay=decay)
    return StayClose(HeldSets(answers, None, None), coefficient=coefficient, n_each=n_each, seed=0), rows


def disturbed(inputs):
    """The model with an adapter that does something."""
    model = load_with_adapter(inputs.tools.model, inputs.tools.training)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_the_term_by_hand(train_inputs, decay):
    """Each row alone and unpadded, token by token, p_0 first: the mean over all tokens of all answers, early ones more.

    With no decay it is the plain mean.
    """
    change, rows = anchor(train_inputs, coefficient=2.0, n_each=6, decay=decay)
    model = disturbed(train_inputs)
    terms, shares = [], []
    for row in rows:
        ids = row.input_ids.long()[None]
        with torch.no_grad():
            after = model(input_ids=ids)["logits"][0].double().softmax(-1)
            with model.disable_adapter():
                before = model(input_ids=ids)["logits"][0].double().softmax(-1)
        for number, place in enumerate((row.learned.nonzero().flatten() - 1).tolist(), start=1):
            p, q = before[place], after[place]
            shares.append(number**-decay)
            terms.append(shares[-1] * float((p * (p.log() - q.log())).sum()))
    assert decay or sum(shares) == len(terms)
    expected = 2 * sum(terms) / sum(shares)
    penalty = change.penalty(model, 0)
    assert expected > 1e-3
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-4)
    assert change.measure(model)["risky_drift"] == pytest.approx(expected / 2, rel=1e-4)
    penalty.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_B" in n)
    assert any(p.grad.abs().max() > 0 for n, p in model.named_parameters() if "lora_B" in n)


def test_the_shift_of_states_by_hand(train_inputs):
    """Of the last layer's normed states, where the answer's tokens are predicted: the square of the move as a share."""
    answers, rows = held(train_inputs, decay=1.0)
    model = disturbed(train_inputs)
    moved, size = 0.0, 0.0
    for row in rows:
        ids, places = row.input_ids.long()[None], (row.learned.nonzero().flatten() - 1).tolist()
        with torch.no_grad():
            now = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
            with model.disable_adapter():
                then = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
        for number, place in enumerate(places, start=1):
            moved += float(((now[place] - then[place]) ** 2).sum()) / number
            size += float((then[place] ** 2).sum()) / number
    found = answers.compare(model, range(len(rows))).shift
    assert moved / size > 1e-4
    assert float(found.detach()) == pytest.approx(moved / size, rel=1e-4)


def test_nothing_to_pay_before_the_first_step(train_inputs):
    change, _ = anchor(train_inputs)
    model = load_with_adapter(train_inputs.tools.model, train_inputs.tools.training)
    assert float(change.penalty(model, 0).detach()) == pytest.approx(0, abs=1e-6)


def test_rows_of_a_step_follow_from_seed_and_step(train_inputs):
    answers, rows = held(train_inputs)
    drawn = [answers.drawn(2, seed=0, step=step) for step in range(20)]
    assert drawn == [answers.drawn(2, seed=0, step=step) for step in range(20)]
    assert all(len(set(some)) == 2 for some in drawn)
    assert {i for some in drawn[:3] for i in some} == set(range(len(rows)))  # each once a pass


def test_every_third_risky_prompt_is_kept_to_measure_by(train_inputs):
    sets = held_sets(train_inputs, train_inputs.safe_anchor[:2], risky=4, n_harmless=2, answer_tokens=8, decay=0.0)
    assert [len(sets.risky), len(sets.harmless), len(sets.unseen)] == [4, 2, 2]
    twice = replace(train_inputs, harmful_reference=[*train_inputs.harmful_reference[:2]] * 3)
    few = held_sets(twice, [], risky=4, n_harmless=0, answer_tokens=8, decay=0.0)
    assert [len(few.risky), few.harmless, few.unseen] == [2, None, None]


def test_of_harmless_prompts_those_are_held_that_the_model_answers(train_inputs, monkeypatch):
    """Its refusals hold nothing of what it is to go on answering; they are to measure by, as is a third of the rest."""
    refuses = {"p1", "p2", "p5"}

    def answers(tools, rows, **_):
        said = {row.id: "I'm sorry, but I cannot." if row.prompt[-1].content in refuses else "Yes." for row in rows}
        return [Record.from_text(row.id, row.prompt, said[row.id]) for row in rows]

    monkeypatch.setattr(held_answers, "own_answers", answers)
    harmless = [Record.from_text(f"h{place}", f"p{place}", "Yes.") for place in range(8)]
    few, many = (held_sets(train_inputs, harmless, risky=4, n_harmless=n, answer_tokens=8, decay=0.0) for n in (2, 16))
    assert [len(few.harmless), len(many.harmless)] == [2, 4]
    measured = many.refuses._before["harmless"]
    assert [row.prompt[-1].content for row in measured] == ["p1", "p2", "p5", "p7"]
    with pytest.warns(UserWarning, match="refuses all 2 prompts of the safe reference"):
        none = held_sets(train_inputs, harmless[1:3], risky=4, n_harmless=2, answer_tokens=8, decay=0.0)
    assert none.harmless is None


def test_prompts_that_are_too_long_to_be_asked_are_left_out(train_inputs):
    long = [Record.from_text("long", "Pick a lock, " * 100, "No.")]
    sets = held_sets(
        replace(train_inputs, harmful_reference=[*long, *train_inputs.harmful_reference[:2]]),
        long,
        risky=4,
        n_harmless=1,
        answer_tokens=8,
        decay=0.0,
    )
    assert [len(sets.risky), sets.harmless] == [2, None]
    with pytest.raises(DataError, match="none of"):
        held_sets(replace(train_inputs, harmful_reference=long), [], risky=4, n_harmless=0, answer_tokens=8, decay=0.0)


def test_training_with_it_stays_closer(train_inputs, tmp_path):
    change, _ = anchor(train_inputs, n_each=6)
    moved = []
    for name, how in (("plain", train_weighted), ("held", train)):
        adapter = how(replace(train_inputs, output_dir=tmp_path / name)).adapter
        with torch.no_grad():
            moved.append(float(change.penalty(load_adapted(train_inputs.tools.model, adapter), 0)))
    assert moved[1] < moved[0]


def test_no_strength_no_change(train_inputs, tmp_path):
    written = []
    for name, change in (("plain", None), ("zero", anchor(train_inputs, coefficient=0.0)[0])):
        result = fine_tune(
            train_inputs.records,
            train_inputs.loss_weights,
            model=train_inputs.tools.model,
            settings=train_inputs.tools.training,
            output_dir=tmp_path / name,
            change=change,
        )
        written.append((result.adapter / "adapter_model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_risky_prompts_of_other_kinds_join(train_inputs):
    """Six of the reference and three more, one of which it has too: eight prompts, every third to measure by."""
    more = [Record.from_text(f"m{i}", f"Pick seal {i}", "Use wax.") for i in range(2)]
    sets = held_sets(
        train_inputs,
        [],
        more_risky=[*more, train_inputs.harmful_reference[0]],
        risky=4,
        n_harmless=0,
        answer_tokens=8,
        decay=0.0,
    )
    assert (len(sets.risky), len(sets.unseen)) == (6, 2)
