import json

import pytest
from conversing import ANSWER, SYSTEM, USER, read, read_turns, said, turn_fault
from reading import load, write_jsonl

from sotune.records import Message

HI, HELLO = Message("user", "hi"), Message("assistant", "hello")
NULLS = {"role": None, "content": None, "from": None, "value": None, "weight": None, "tool_calls": None, "name": None}


@pytest.mark.parametrize(
    "turns",
    [
        [{**NULLS, "from": "human", "value": "hi"}, {**NULLS, "from": "gpt", "value": "hello"}],
        [{**NULLS, **USER}, {**NULLS, "from": "gpt", "value": "hello"}],
        [{"role": "", "content": "", "from": "human", "value": "hi"}, ANSWER],
        [{"role": "user", "value": "hi"}, {"from": "gpt", "content": "hello"}],
        [{"speaker": "human", "text": "hi"}, {"speaker": "bot", "text": "hello"}],
        [{"author": "User", "content": "hi"}, {"author": " Assistant ", "content": "hello"}],
        [{**SYSTEM, "content": None}, USER, ANSWER],
        [{**SYSTEM, "content": " "}, USER, ANSWER],
        [USER, ANSWER, {**NULLS, "from": "human", "value": "bye"}],
        [{"human": "hi", "assistant": "hello"}],
        [{"input": "hi", "output": "hello", "role": None}],
        [{"role": "user", "content": [{"type": "text", "text": "h", "image": None}, {"text": "i"}]}, ANSWER],
        [{"role": "user", "content": [{"type": None, "text": "hi"}]}, ANSWER],
        [USER, {**ANSWER, "content": [{"type": "output_text", "text": "hello"}]}],
        {"role": ["user", "assistant"], "content": ["hi", "hello"]},
        {"role": None, "from": ["human", "gpt"], "value": ["hi", "hello"]},
        json.dumps([USER, ANSWER]),
        " " + json.dumps({"role": ["user", "assistant"], "content": ["hi", "hello"]}),
    ],
)
def test_turns_are_read_in_any_of_their_forms(tmp_path, turns):
    assert read_turns(tmp_path, turns) == (HI, HELLO)


def test_a_table_that_merges_two_kinds_of_turns_is_read_whole(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"conversations": [USER, {**ANSWER, "weight": 1}]},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    parquet.write_table(arrow.Table.from_pylist(table), tmp_path / "b.parquet")
    assert [record.messages for record in load(tmp_path / "b.parquet").records] == [(HI, HELLO)] * 2


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ({"role": ["user"], "content": ["hi", "hello"]}, "the keys of turns have unequally many values: messages"),
        ({"role": ["user"], "content": "hi"}, "the keys of turns have unequally many values"),
        ({"role": [], "content": []}, "no assistant turn"),
        (["hi", "hello"], "not a turn: turn 1 is text"),
        ([NULLS, ANSWER], "a turn without a known speaker: turn 1"),
        ([{"text": "hi"}, ANSWER], "a turn without a known speaker: turn 1"),
        ("[broken", "not JSON: messages"),
        ('[{"role": "user", "content": "\\ud800"}]', "text that is not Unicode"),
        ('[{"role": "user", "role": "user"}]', "the same key twice in one object"),
        ("[" * 50_000 + "]" * 50_000, "n"),
        ("7", "not a list of turns: messages is text"),
        (7, "not a list of turns: messages is a number"),
        ([USER, {**ANSWER, "reasoning": {"a": 1}}], "thoughts that are not text: turn 2"),
        ([{"user": "hi", "assistant": None}], "a turn without a known speaker: turn 1"),
    ],
)
def test_what_is_no_conversation_is_quarantined(tmp_path, turns, reason):
    assert turn_fault(tmp_path, turns).startswith(reason)


def test_turns_of_one_speaker_stay_apart_and_what_answers_nothing_is_dropped(tmp_path):
    more = {"role": "user", "content": "there?"}
    turns = read_turns(tmp_path, [SYSTEM, USER, more, ANSWER, ANSWER, more])
    assert said(turns) == [
        ("system", "be kind"), ("user", "hi"), ("user", "there?"), ("assistant", "hello"), ("assistant", "hello")
    ]  # fmt: skip
    assert all(turn.learned for turn in turns)


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"weight": False},
        {"train": False},
        {"training": False},
        {"trainable": False},
        {"loss": 0},
        {"loss": False},
        {"weight": 1, "train": False},
    ],
)
def test_a_turn_that_is_marked_off_is_not_learned(tmp_path, mark):
    wrong = {"role": "assistant", "content": "wrong", **mark}
    assert read_turns(tmp_path, [USER, ANSWER, USER, wrong]) == (HI, HELLO)
    turns = read_turns(tmp_path, [USER, wrong, USER, ANSWER])
    assert [turn.learned for turn in turns] == [True, False, True, True]
    assert turn_fault(tmp_path, [USER, wrong]) == "no assistant turn that is to be learned"
    pairs = read_turns(tmp_path, [{"user": "hi", "assistant": "wrong", **mark}, USER, ANSWER])
    assert [turn.learned for turn in pairs] == [True, False, True, True]


@pytest.mark.parametrize("mark", [{"weight": 1}, {"weight": 1.0}, {"weight": None}, {"train": True}, {"loss": None}])
def test_a_turn_that_is_marked_on_is_learned(tmp_path, mark):
    assert read_turns(tmp_path, [{**USER, "weight": 0, "train": True}, {**ANSWER, **mark}]) == (HI, HELLO)


@pytest.mark.parametrize("weight", [0.5, 2, -1, "0", [], {}])
def test_a_weight_between_learned_and_not_is_quarantined(tmp_path, weight):
    assert turn_fault(tmp_path, [USER, {**ANSWER, "weight": weight}]) == ("a turn's weight is neither 0 nor 1: turn 2")


def test_a_turn_that_is_learned_in_part_is_quarantined(tmp_path):
    detail = [{"begin_offset": 0, "end_offset": 2, "train": False}]
    assert turn_fault(tmp_path, [USER, {**ANSWER, "train_detail": detail}]).startswith("a turn of which only a part")
    assert read_turns(tmp_path, [USER, {**ANSWER, "train_detail": None}]) == (HI, HELLO)


def test_learn_turns_last_keeps_the_others_as_context(tmp_path):
    turns = [USER, ANSWER, USER, ANSWER, USER, {**ANSWER, "weight": 0}]
    assert read(tmp_path, {"messages": turns}).learned == (1, 3)
    record = read(tmp_path, {"messages": turns}, learn_turns="last")
    assert (record.learned, record.completion) == ((3,), "hello")


def test_rows_that_learn_other_turns_have_other_ids(tmp_path):
    rows = [{"messages": [USER, {**ANSWER, "weight": weight}, USER, ANSWER]} for weight in (0, 1, 1)]
    loaded = load(write_jsonl(tmp_path / "a.jsonl", *rows))
    assert (len({record.id.partition("-")[0] for record in loaded.records}), loaded.n_duplicates) == (2, 1)


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm", "reasoning_content": None},
        {"thinking": "hm"},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "hello"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "hello"}]},
    ],
)
def test_thoughts_are_kept_apart_where_the_row_does(tmp_path, more):
    assert read_turns(tmp_path, [USER, {**ANSWER, **more}]) == (HI, Message("assistant", "hello", reasoning="hm"))


def test_thoughts_in_the_text_stay_there_and_alone_are_no_answer(tmp_path):
    thought = {**ANSWER, "content": "<think>hm</think>hello"}
    assert read_turns(tmp_path, [USER, thought])[1] == Message("assistant", "<think>hm</think>hello")
    assert read_turns(tmp_path, [USER, {**ANSWER, "reasoning": " "}]) == (HI, HELLO)
    assert turn_fault(tmp_path, [USER, {**ANSWER, "content": "", "reasoning": "hm"}]) == "empty completion"


def test_a_pair_of_question_and_answer_may_have_a_system_prompt_and_a_mark(tmp_path):
    first = {"system": "be kind", "input": "hi", "output": "hello", "output_with_loss": False}
    turns = read_turns(tmp_path, [first, {"system": "", "input": "more", "output": "no"}])
    assert said(turns) == [
        ("system", "be kind"),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "more"),
        ("assistant", "no"),
    ]
    assert [turn.learned for turn in turns if turn.role == "assistant"] == [False, True]


@pytest.mark.parametrize("key", ["images", "audio"])
def test_a_turn_that_shows_what_is_no_text_is_refused(tmp_path, key):
    assert turn_fault(tmp_path, [{**USER, key: ["a.jpg"]}, ANSWER]) == "a turn with images or sound: turn 1"
    assert len(read_turns(tmp_path, [{**USER, key: []}, ANSWER])) == 2
