"""What the model before fine-tuning refuses among the rows' prompts, by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from sotune.methods import kl_constrained, own_refusals, pairs
from sotune.methods.own_refusals import OwnRefusals, drawn_rows, find_own_refusals
from sotune.records import Record
from sotune.training import TrainResult

ROWS = [
    Record.from_text("a", "Forge a seal", "Use wax."),
    Record.from_text("b", "Forge a seal", "I will not help with that."),
    Record.from_text("c", "Add 2 and 3", "It is 5."),
    Record.from_text("d", "Forge a seal", "Use clay."),
    Record.from_text("e", "Burn a barn", "Use oil."),
    Record.from_text("f", "Burn a barn ", "Use oil."),
    Record.from_text("g", "Name a tree", "An oak."),
]
SAID = {"Forge a seal": "I cannot help with that.", "Add 2 and 3": "It is 5.", "Burn a barn": "I'm sorry, but no."}


@pytest.fixture
def inputs(train_inputs, monkeypatch):
    def answers(model, tools, rows, *, most_tokens):
        said = {row.id: SAID.get(row.prompt[-1].content, "") for row in rows}
        return [Record.from_text(row.id, row.prompt, said[row.id]) for row in rows if said[row.id]]

    monkeypatch.setattr(own_refusals, "answers_of", answers)
    return replace(train_inputs, records=ROWS, loss_weights=dict.fromkeys("abcdefg", 1.0))


def test_what_is_against_a_refusal(inputs):
    """A prompt that is refused counts for all rows that have it and answer it, asked or not; b refuses it as well."""
    found = find_own_refusals(None, inputs, [ROWS[0], ROWS[2], ROWS[4], ROWS[6]], answer_tokens=8)
    assert found.n_asked == 4
    assert [(row.id, row.completion) for row in found.refused] == [
        ("a", SAID["Forge a seal"]),
        ("e", SAID["Burn a barn"]),
    ]
    assert found.against == {"a", "d", "e"}
    assert (found.share, found.share_of_anchor) == (0.5, 0.0)
    assert found.to_hold(ROWS) == list(found.refused)
    assert find_own_refusals(None, inputs, [], answer_tokens=8) == OwnRefusals()
    long = Record.from_text("long", "Forge a seal, " * 100, "No.")
    assert find_own_refusals(None, inputs, [long, ROWS[2]], answer_tokens=8) == OwnRefusals(1)


def test_asking_tells_how_far_it_is(train_inputs):
    told = []
    tools = replace(train_inputs.tools, on_asked=lambda done, total: told.append((done, total)))
    pairs.own_answers(tools, train_inputs.harmful_reference[:3], most_tokens=2)
    assert told[-1] == (3, 3)


def test_a_row_is_asked_with_its_tools(train_inputs, monkeypatch):
    """Without them a model says that it cannot look things up, and so would be taken to refuse."""
    asked = []
    monkeypatch.setattr(pairs, "generate", lambda prompts, **_: asked.extend(prompts) or [])
    tools = '[{"name": "weather"}]'
    row = replace(Record.from_text("a", "Is it raining?", "Yes."), tools=tools)
    assert pairs.answers_of(None, train_inputs.tools, [row], most_tokens=4) == []
    assert [prompt.tools for prompt in asked] == [tools]


def test_what_rows_refuse_themselves_is_not_held(inputs):
    """Row b teaches to refuse in words of its own, which the model's words would work against."""
    rows = [ROWS[1], ROWS[2], ROWS[4]]
    found = find_own_refusals(None, replace(inputs, records=rows), rows, answer_tokens=8)
    assert [row.id for row in found.refused] == ["b", "e"]
    assert [row.id for row in found.to_hold(rows)] == ["e"]


def test_rows_that_are_left_out(inputs):
    """Of seven rows three go; the weights of the others, 1, 3, 2 and 2, have the mean 2 and get the mean 1."""
    weights = {"a": 9.0, "b": 1.0, "c": 3.0, "d": 9.0, "e": 9.0, "f": 2.0, "g": 2.0}
    found = OwnRefusals(5, (ROWS[0], ROWS[4]), frozenset("ade"))
    left = found.left_out(replace(inputs, loss_weights=weights))
    assert [row.id for row in left.records] == ["b", "c", "f", "g"]
    assert left.loss_weights == {"b": 0.5, "c": 1.5, "f": 1.0, "g": 1.0}


def test_what_is_told(inputs):
    """Rows that were left out stand beside those that training dropped, and are counted."""
    found = OwnRefusals(5, (ROWS[0], ROWS[4]), frozenset("ade"))
    result = TrainResult(Path(), Path(), 4, {"f": "too long"}, 0, 0, 1, 0.5, 1.0, {"limit": 0.02})
    told = found.told(result, found.left_out(inputs))
    assert told.figures == {"limit": 0.02, "rows_asked": 5, "rows_refused": 2, "rows_left_out": 3}
    assert sorted(told.dropped) == ["a", "d", "e", "f"]
    assert told.dropped["a"] == "it answers a prompt that the model refused before fine-tuning"
    assert found.told(result, inputs).figures["rows_left_out"] == 0
    assert OwnRefusals().told(result, inputs) == result


def test_a_model_that_refuses_the_task_keeps_its_rows(inputs):
    with pytest.warns(UserWarning, match="refuses the prompts of 4 of 7 rows"):
        assert OwnRefusals(7, tuple(ROWS[:4]), frozenset("abcd")).left_out(inputs) is inputs


def test_a_model_that_refuses_most_of_what_it_was_asked_keeps_the_rows(inputs):
    """Of many rows a few are asked: three that are left out are few of all, and too many of five."""
    many = replace(inputs, records=[*ROWS, *(Record.from_text(f"x{i}", f"Name {i}", "One.") for i in range(100))])
    found = OwnRefusals(5, tuple(ROWS[place] for place in (0, 2, 4)), frozenset("acde"), share=0.6)
    with pytest.warns(UserWarning, match="60% of those that were asked"):
        assert found.left_out(many) is many


def test_a_model_that_refuses_what_is_harmless_is_not_heeded(inputs):
    """It refuses 2 of 4 prompts of rows, and of the anchor's four one that is answered: 1/4 is half of 2/4, no more.

    A fifth row of the anchor that refuses itself counts as asked alone; a second that answers makes it 2/5.
    """
    anchor = [
        Record.from_text("h", "Add 2 and 3", "It is 5."),
        Record.from_text("i", "Burn a barn", "To heat it, use wood."),
        Record.from_text("j", "Name a bird", "A jay."),
        Record.from_text("k", "Name a fish", "A pike."),
    ]
    asked = [ROWS[0], ROWS[2], ROWS[4], ROWS[6]]

    def found(*more):
        return find_own_refusals(None, replace(inputs, safe_anchor=[*anchor, *more]), asked, answer_tokens=8)

    assert (found().share, found().share_of_anchor, found().doubt(9)) == (0.5, 0.25, "")
    refuses = Record.from_text("l", "Forge a seal", "I cannot help with that.")
    assert (found(refuses).share_of_anchor, found(refuses).doubt(9)) == (0.2, "")
    doubted = found(Record.from_text("l", "Forge a seal", "Use wax."))
    assert doubted.share_of_anchor == 0.4
    assert "refuses 50% of the rows' prompts and 40% of the safe anchor's" in doubted.doubt(9)
    with pytest.warns(UserWarning, match="are not heeded"):
        assert doubted.left_out(inputs) is inputs
    result = TrainResult(Path(), Path(), 7, {}, 0, 0, 1, 0.5, 1.0)
    assert doubted.told(result, inputs).figures == {
        "rows_asked": 4,
        "rows_refused": 2,
        "rows_left_out": 0,
        "anchor_refused": 0.4,
    }


def test_which_rows_are_asked():
    """One of each prompt, of at most so many rows, in an order that the seed gives; none: none."""
    asked = drawn_rows(ROWS, 99, seed=3)
    assert len(asked) == len({row.prompt for row in asked}) == 5
    assert drawn_rows(ROWS, 99, seed=3) == asked
    assert len(drawn_rows(ROWS, 2, seed=3)) <= 2
    assert drawn_rows(ROWS, 0, seed=3) == []


@pytest.mark.parametrize(
    ("constants", "n", "held"),
    [
        ({}, 10, 0),
        ({"asked_rows": 11}, 10, 2),
        ({"leave_out": False}, 12, 2),
        ({"asked_rows": 11, "hold_refused": False}, 10, 0),
        ({"asked_rows": 0}, 12, 0),
    ],
)
def test_what_training_makes_of_it(train_inputs, monkeypatch, constants, n, held):
    """The two rows about locks are refused: they are left out, and their prompts held, as the constants say.

    Held only where not all rows are asked, and so perhaps not all that answer a refusal are left out.
    """
    result, asked = trained(train_inputs, monkeypatch, constants)
    assert (result.n_rows, len(asked)) == (n, held)
    assert result.figures.get("rows_left_out", 0) == result.n_dropped == 12 - n
    assert result.figures.get("rows_asked", 0) == constants.get("asked_rows", 12)


@pytest.mark.filterwarnings("ignore:the model before fine-tuning refuses")
def test_what_is_not_heeded_is_neither_left_out_nor_held(train_inputs, monkeypatch):
    result, asked = trained(train_inputs, monkeypatch, {"asked_rows": 11}, share=0.2, share_of_anchor=0.15)
    assert (result.n_rows, len(asked)) == (12, 0)


def trained(train_inputs, monkeypatch, constants, **shares):
    """Returns what training left, and what it was given to hold, where the model refuses two rows about locks."""
    locks = train_inputs.records[:2]

    def refuse(model, inputs, rows, *, answer_tokens):
        return (
            OwnRefusals(len(rows), tuple(locks), frozenset(row.id for row in locks), **shares)
            if rows
            else OwnRefusals()
        )

    asked = []
    ask_first = kl_constrained.ask_first

    def seen(*arguments, more_risky, **named):
        asked.extend(more_risky)
        return ask_first(*arguments, more_risky=more_risky, **named)

    monkeypatch.setattr(kl_constrained, "find_own_refusals", refuse)
    monkeypatch.setattr(kl_constrained, "ask_first", seen)
    return kl_constrained.train(replace(train_inputs, method_settings=constants)), asked
