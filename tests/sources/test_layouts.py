import json

import pytest
from conversing import ANSWER, SYSTEM, USER, fault, read, said
from reading import GOOD, load, load_with_bad, reasons, write_jsonl

from sotune.errors import ConfigError, DataError
from sotune.sources import SourceOptions
from sotune.sources.columns import choose_layout

TALK = [USER, ANSWER]
Q_A = [("user", "hi"), ("assistant", "hello")]


@pytest.mark.parametrize("name", ["messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns"])
@pytest.mark.parametrize("talk", [TALK, json.dumps(TALK), {"role": ["user", "assistant"], "content": ["hi", "hello"]}])
def test_a_conversation_is_found_under_the_names_that_it_has(tmp_path, name, talk):
    row = {"conversation_id": "1", name: talk, "model": "m", "turn": 1}
    assert said(read(tmp_path, row).messages) == Q_A
    assert said(read(tmp_path, row, format="messages").messages) == Q_A
    assert said(read(tmp_path, row, format="sharegpt").messages) == Q_A


@pytest.mark.parametrize("options", [{"conversation_column": "talk"}, {"prompt_column": "talk"}])
@pytest.mark.parametrize("talk", [TALK, json.dumps(TALK), "[INST] hi [/INST] hello", "Human: hi\n\nAssistant: hello"])
def test_a_conversation_is_read_from_the_column_that_is_named(tmp_path, options, talk):
    assert said(read(tmp_path, {"talk": talk, "messages": [USER, USER, ANSWER]}, **options).messages) == Q_A


def test_a_named_column_of_plain_text_is_no_conversation(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", {"talk": "hi"})
    with pytest.raises(DataError, match="none of its 1 rows .* not a list of turns: talk is text"):
        load_with_bad(path, conversation_column="talk")
    with pytest.raises(DataError, match="needs talk . completion or talk . response"):
        load(path, prompt_column="talk")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conversation_column": "a", "prompt_column": "b"}, "name either it or those two"),
        ({"conversation_column": "a", "completion_column": "b"}, "name either it or those two"),
        ({"conversation_column": "a", "format": "alpaca"}, "needs one of the formats messages, sharegpt, text"),
    ],
)
def test_contradicting_columns_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SourceOptions(**options)


@pytest.mark.parametrize(
    ("row", "schema", "turns"),
    [
        ({"question": "hi", "answer": "hello"}, "prompt-completion", Q_A),
        ({"question": "hi", "response": "hello"}, "prompt-completion", Q_A),
        ({"query": "hi", "response": "hello", "type": "x", "original_question": "y"}, "prompt-completion", Q_A),
        ({"query": "hi", "answer": "hello"}, "prompt-completion", Q_A),
        ({"input": "hi", "output": "hello"}, "prompt-completion", Q_A),
        ({"problem": "hi", "solution": "hello", "answer": "h"}, "prompt-completion", Q_A),
        ({"inputs": "hi", "targets": "hello", "language": "en"}, "prompt-completion", Q_A),
        ({"question": "hi", "answers": ["hello", "hey"]}, "prompt-completion", Q_A),
        ({"question": "hi", "answers": {"text": ["hello"], "answer_start": [0]}}, "prompt-completion", Q_A),
        (
            {"question": "hi", "context": "we met", "answers": {"text": ["hello"]}},
            "prompt-completion",
            [("user", "hi\n\nwe met"), ("assistant", "hello")],
        ),
        ({"instruction": "hi", "response": "hello"}, "alpaca", Q_A),
        ({"instruction": "hi", "context": "", "response": "hello", "category": "open_qa"}, "alpaca", Q_A),
        (
            {"instruction": "hi", "context": "we met", "response": "hello", "category": "closed_qa"},
            "alpaca",
            [("user", "hi\n\nwe met"), ("assistant", "hello")],
        ),
        ({"system_prompt": "", "question": "hi", "response": "hello"}, "prompt-completion", Q_A),
        (
            {"system_prompt": "be kind", "question": "hi", "response": "hello"},
            "prompt-completion",
            [("system", "be kind"), *Q_A],
        ),
        ({"system": "be kind", "conversations": TALK}, "sharegpt", [("system", "be kind"), *Q_A]),
        ({"system": "be kind", "conversations": [SYSTEM, *TALK]}, "sharegpt", [("system", "be kind"), *Q_A]),
        ({"instruction": "hi", "input": "", "output": "hello", "system": "", "history": []}, "alpaca", Q_A),
        (
            {
                "instruction": "hi", "input": "", "output": "hello", "system": "be kind",
                "history": [["one", "two"], ["three", "four"]],
            },
            "alpaca",
            [("system", "be kind"), ("user", "one"), ("assistant", "two"),
             ("user", "three"), ("assistant", "four"), *Q_A],
        ),
        ({"prompt": "hi", "response": "hello", "history": TALK}, "prompt-completion", Q_A + Q_A),
        ({"prompt": [SYSTEM, USER], "completion": "hello", "history": [["one", "two"]]}, "prompt-completion",
         [("system", "be kind"), ("user", "one"), ("assistant", "two"), *Q_A]),
        ({"text": "### Human: hi### Assistant: hello"}, "text", Q_A),
        ({"text": "<s>[INST] hi [/INST] hello </s>"}, "text", Q_A),
    ],
)  # fmt: skip
def test_the_layouts_of_public_sets_are_known(tmp_path, row, schema, turns):
    loaded = load(write_jsonl(tmp_path / "a.jsonl", row, row))
    assert (loaded.format, loaded.n_duplicates) == (schema, 1)
    assert said(loaded.records[0].messages) == turns
    assert load(tmp_path / "a.jsonl", format=schema).records == loaded.records


def test_a_table_of_text_may_hold_all_of_it_as_json(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "instruction,input,output,system,history\n"
        'hi,,hello,be kind,"[[""one"", ""two""]]"\nhi,,hello,,\nhi,,hello,,[]\n'
    )
    first, *others = load(path).records
    assert said(first.messages) == [("system", "be kind"), ("user", "one"), ("assistant", "two"), *Q_A]
    assert [said(record.messages) for record in others] == [Q_A, Q_A]


def test_an_earlier_answer_is_learned_too(tmp_path):
    row = {"instruction": "hi", "output": "hello", "history": [["one", "two"]]}
    assert read(tmp_path, row).learned == (1, 3)


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "hi", "solution": "hello", "messages": TALK},
        {"instruction": "hi", "response": "hello", "conversations": TALK, "turns": 1},
        {"messages": TALK, "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"prompt": "hi", "completion": "hello", "text": "### Human: bye### Assistant: bye", "chat": "bye"},
        {"prompt": "hi", "completion": "hello", "messages": [], "response": None, "turns": ["a", "b"]}
        | {"messages": None},
    ],
)
def test_layouts_that_read_the_same_are_as_good_as_one(tmp_path, row):
    assert said(read(tmp_path, row).messages) == Q_A


@pytest.mark.parametrize(
    "row",
    [
        {**GOOD, "response": "5"},
        {"instruction": "hi", "output": "hello", "response": "hey"},
        {"question": "hi", "answer": "hello", "chosen": "hey"},
        {"messages": TALK, "conversations": [USER, {**ANSWER, "content": "hey"}]},
        {**GOOD, "messages": []},
    ],
)
def test_layouts_that_differ_are_for_the_user_to_choose(tmp_path, row):
    with pytest.raises(DataError, match="fit more than one format .*--conversation-column"):
        load(write_jsonl(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize(
    ("row", "used"),
    [
        ({**GOOD, "id": "x", "context": "…"}, {"prompt", "completion"}),
        ({"instruction": "", "input": "", "output": "", "system": "s", "history": [["a", "b"]], "text": "…"},
         {"instruction", "input", "output", "system", "history"}),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": 1}, {"prompt", "chosen", "rejected"}),
        ({"conversations": TALK, "system": "s", "tools": [{"name": "add"}]}, {"conversations", "system", "tools"}),
        ({"messages": TALK, "system": None, "tools": None, "history": [["a", "b"]]}, {"messages"}),
    ],
)  # fmt: skip
def test_a_layout_says_which_columns_it_reads(row, used):
    assert choose_layout([row], SourceOptions(), place="a:1").used == used


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ("one", "not JSON: history"),
        ({"a": 1}, "not a list of turns: history is an object"),
        ([["one"]], "not a question and an answer: entry 1 of history"),
        ([["one", None]], "not a question and an answer: entry 1 of history"),
        ([["one", "two"], "three"], "not a question and an answer: entry 2 of history"),
        ([["one", ""]], "empty turn in the prompt"),
    ],
)
def test_a_history_that_cannot_be_read_is_quarantined(tmp_path, history, reason):
    good = {"instruction": "hi", "output": "hello", "history": [["one", "two"]]}
    assert fault(tmp_path, good, {**good, "history": history}) == reason


def test_a_text_without_a_known_template_is_an_error_that_says_what_to_do(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", {"text": "Once upon a time", "label": 1})
    for options in ({}, {"format": "text"}):
        with pytest.raises(DataError, match="the column text holds no conversation .*columns of their own"):
            load(path, **options)
    with pytest.raises(DataError, match="format text needs text"):
        load(write_jsonl(tmp_path / "c.jsonl", GOOD), format="text")
    rows = {"text": "### Human: hi### Assistant: hello"}, {"text": "Once upon a time"}
    path = write_jsonl(tmp_path / "b.jsonl", *rows)
    assert reasons(load_with_bad(path)) == {2: "not a list of turns: text is text"}


def test_the_prompt_named_alone_finds_its_answer(tmp_path):
    assert said(read(tmp_path, {"ask": "hi", "output": "hello"}, prompt_column="ask").messages) == Q_A
    assert said(read(tmp_path, {"question": "hi", "reply": "hello"}, completion_column="reply").messages) == Q_A
    row = {"instruction": "hi", "input": "we met", "reply": "hello"}
    assert said(read(tmp_path, row, completion_column="reply").messages)[0] == ("user", "hi\n\nwe met")


def test_a_system_column_that_is_named_goes_before_the_usual_one(tmp_path):
    row = {**GOOD, "system": "one", "persona": "two"}
    assert read(tmp_path, row, system_column="persona").messages[0].content == "two"
    assert read(tmp_path, row).messages[0].content == "one"
