import json

import pytest
from conversing import ANSWER, SYSTEM, USER, fault, read, said
from reading import load, write_jsonl

BAD = {"role": "assistant", "content": "no"}
MORE = {"role": "user", "content": "more"}
Q_A, Q_NO = [("user", "hi"), ("assistant", "hello")], [("user", "hi"), ("assistant", "no")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "hello", "rejected": "no"},
        {"prompt": "hi", "chosen": [USER, ANSWER], "rejected": [USER, BAD]},
        {"prompt": " hi\n", "chosen": [USER, ANSWER], "rejected": [USER, BAD]},
        {"prompt": "hi", "chosen": [ANSWER], "rejected": [BAD]},
        {"prompt": "hi", "chosen": ANSWER, "rejected": BAD},
        {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "hello", "rejected": "no"},
        {"prompt": json.dumps([USER]), "chosen": json.dumps([USER, ANSWER]), "rejected": json.dumps([USER, BAD])},
        {"chosen": [USER, ANSWER], "rejected": [USER, BAD]},
        {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
        {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " hello", "rejected": " no"},
        {
            "prompt": "hi",
            "chosen": "\n\nHuman: hi\n\nAssistant: hello",
            "rejected": "\n\nHuman: hi\n\nAssistant: no",
        },
        {"question": "hi", "chosen": "hello", "rejected": "no"},
        {"instruction": "hi", "input": "", "chosen": "hello", "rejected": "no"},
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "hello"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        {"prompt": "hi", "messages": [USER, ANSWER], "chosen": [USER, ANSWER], "rejected": [USER, BAD]},
    ],
)
def test_the_prompt_stands_once_and_either_answer_can_be_read(tmp_path, row):
    chosen = read(tmp_path, row)
    assert [(role, text.strip()) for role, text in said(chosen.messages)] == Q_A
    rejected = read(tmp_path, row, completion_column="rejected")
    assert [(role, text.strip()) for role, text in said(rejected.messages)] == Q_NO


def test_a_system_turn_may_stand_in_either(tmp_path):
    told = [("system", "be kind"), *Q_A]
    assert said(read(tmp_path, {"prompt": "hi", "chosen": [SYSTEM, USER, ANSWER]}).messages) == told
    assert said(read(tmp_path, {"prompt": [SYSTEM, USER], "chosen": [USER, ANSWER]}).messages) == told
    assert said(read(tmp_path, {"prompt": [SYSTEM, USER], "chosen": [SYSTEM, USER, ANSWER]}).messages) == told
    assert said(read(tmp_path, {"system": "be kind", "question": "hi", "chosen": "hello"}).messages) == told


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"prompt": "bye", "chosen": [USER, ANSWER]}, "the conversation in chosen begins otherwise than the prompt"),
        ({"prompt": [USER, ANSWER, MORE], "chosen": [USER, ANSWER]}, "the conversation in chosen begins otherwise"),
        (
            {"prompt": [SYSTEM, USER], "chosen": [{**SYSTEM, "content": "be rude"}, USER, ANSWER]},
            "the conversation in chosen begins otherwise",
        ),
        ({"prompt": [USER, ANSWER], "chosen": [USER, ANSWER]}, "the conversation in chosen adds nothing to the prompt"),
        ({"prompt": "hi", "chosen": [USER]}, "no assistant turn in chosen"),
        ({"prompt": "hi", "chosen": None}, "not text: chosen is null"),
        ({"prompt": "hi", "chosen": "", "rejected": "no"}, "empty text: chosen"),
    ],
)
def test_a_conversation_that_does_not_go_on_from_its_prompt_is_quarantined(tmp_path, bad, reason):
    good = {"prompt": "hi", "chosen": [USER, ANSWER], "rejected": [USER, BAD]}
    assert fault(tmp_path, good, {"rejected": None, **bad}).startswith(reason)


def test_only_what_tells_the_two_apart_is_learned(tmp_path):
    shared = [USER, {"role": "assistant", "content": "yes?"}, MORE]
    rows = [
        {"chosen": [*shared, ANSWER, MORE, ANSWER], "rejected": [*shared, BAD]},
        {"chosen": [*shared, ANSWER]},
        {"chosen": [*shared, ANSWER], "rejected": [*shared, ANSWER]},
        {"chosen": [*shared, ANSWER], "rejected": "unreadable"},
        {"chosen": [*shared, ANSWER], "rejected": [BAD]},
    ]
    loaded = load(write_jsonl(tmp_path / "a.jsonl", *rows))
    assert [record.learned for record in loaded.records] == [(3, 5), (3,), (3,), (3,), (1, 3)]
    worse = load(write_jsonl(tmp_path / "a.jsonl", rows[0]), completion_column="rejected").records[0]
    assert (worse.completion, worse.learned) == ("no", (3,))


def test_answers_within_a_prompt_are_context(tmp_path):
    record = read(tmp_path, {"prompt": [USER, ANSWER, MORE], "completion": [ANSWER]})
    assert (len(record.messages), record.learned) == (4, (3,))
    row = {"prompt": [USER, ANSWER, MORE], "completion": [USER, ANSWER, MORE, BAD]}
    assert said(read(tmp_path, row).messages) == [*Q_A, ("user", "more"), ("assistant", "no")]


def test_an_answer_that_quotes_a_conversation_stays_text(tmp_path):
    text = "It goes like this: USER: hi ASSISTANT: hello"
    assert read(tmp_path, {"prompt": "hi", "chosen": text, "rejected": "no"}).completion == text


@pytest.mark.parametrize(
    "data", [[{"input": "1", "output": "2"}], [{"from": "bob", "text": "hi"}], {"role": "admin"}, [1]]
)
def test_a_prompt_that_is_json_of_something_else_stays_text(tmp_path, data):
    text = json.dumps(data)
    assert said(read(tmp_path, {"prompt": text, "completion": "hello"}).messages)[0] == ("user", text)


def test_an_answer_that_is_json_stays_text(tmp_path):
    text = json.dumps([USER, ANSWER])
    assert read(tmp_path, {"prompt": "two turns as JSON", "completion": text}).completion == text
