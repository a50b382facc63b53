import pytest
from reading import GOOD, good, load, load_with_bad, reasons, write_jsonl

from sotune.errors import ConfigError, DataError
from sotune.records import Message
from sotune.sources import SourceOptions

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def turns(*pairs):
    return [{"from": speaker, "value": text} for speaker, text in pairs]


def messages(*pairs):
    return tuple(Message(role, text) for role, text in pairs)


@pytest.mark.parametrize(
    ("row", "schema", "prompt", "completion"),
    [
        (GOOD, "prompt-completion", [("user", "What is 2 + 2?")], "4"),
        ({"prompt": "q", "response": " a\n"}, "prompt-completion", [("user", "q")], " a\n"),
        ({"instruction": "do", "output": "done"}, "alpaca", [("user", "do")], "done"),
        ({"instruction": "do", "input": " ", "output": "done"}, "alpaca", [("user", "do")], "done"),
        ({"instruction": "do", "input": None, "output": "done"}, "alpaca", [("user", "do")], "done"),
        ({"instruction": "do", "input": "it", "output": "done", "text": "…"}, "alpaca", [("user", "do\n\nit")], "done"),
        (
            {"conversations": turns(("system", "be kind"), ("human", "hi"), ("gpt", "hello"))},
            "sharegpt",
            [("system", "be kind"), ("user", "hi")],
            "hello",
        ),
        (
            {"conversations": turns(("user", "1"), ("chatgpt", "2"), ("human", "3"), ("bing", "4"), ("user", "5"))},
            "sharegpt",
            [("user", "1"), ("assistant", "2"), ("user", "3")],
            "4",
        ),
        ({"conversations": [USER, ANSWER]}, "sharegpt", [("user", "hi")], "hello"),
        ({"messages": turns(("human", "hi"), ("assistant", "hello"))}, "messages", [("user", "hi")], "hello"),
        ({"messages": [{"role": "system", "content": ""}, USER, ANSWER]}, "messages", [("user", "hi")], "hello"),
        (
            {
                "messages": [
                    {"role": "developer", "content": "be brief"},
                    {"role": "User", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                    {**ANSWER, "tool_calls": None, "weight": 1},
                ],
                "prompt": "only half of a pair",
            },
            "messages",
            [("system", "be brief"), ("user", "ab")],
            "hello",
        ),
        ({"prompt": [USER], "completion": [ANSWER]}, "prompt-completion", [("user", "hi")], "hello"),
        ({"prompt": [USER], "completion": "hello"}, "prompt-completion", [("user", "hi")], "hello"),
        (
            {"prompt": "q", "completion": [ANSWER, {"role": "user", "content": "more"}, ANSWER]},
            "prompt-completion",
            [("user", "q"), ("assistant", "hello"), ("user", "more")],
            "hello",
        ),
        ({"messages": None, **GOOD}, "prompt-completion", [("user", "What is 2 + 2?")], "4"),
        ({"prompt": "q", "completion": None, "response": "a"}, "prompt-completion", [("user", "q")], "a"),
    ],
)
def test_the_schema_is_detected(tmp_path, row, schema, prompt, completion):
    loaded = load(write_jsonl(tmp_path / "a.jsonl", row, row))
    assert loaded.format == schema
    for record in loaded.records:
        assert (record.prompt, record.completion) == (messages(*prompt), completion)
        assert record.meta == row
    assert load(tmp_path / "a.jsonl", format=schema).records == loaded.records


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([], "no assistant turn"),
        ([USER], "no assistant turn"),
        ([ANSWER], "no user turn before the last assistant turn"),
        ([{"role": "system", "content": "s"}, ANSWER], "no user turn before the last assistant turn"),
        ([USER, {"role": "assistant", "content": " "}], "empty completion"),
        ([USER, {"role": "assistant", "content": ""}, USER, ANSWER], "empty turn in the prompt"),
        ([{"role": "user", "content": "\n"}, ANSWER], "empty turn in the prompt"),
        ("text", "not a list of turns: messages is text"),
        ([USER, "text"], "not a turn: turn 2 is text"),
        ([USER, {"role": "villain", "content": "x"}], "a turn without a known speaker: turn 2"),
        ([USER, {"content": "x"}], "a turn without a known speaker: turn 2"),
        ([USER, {"role": 3, "content": "x"}], "a turn without a known speaker: turn 2"),
        ([USER, {"role": "assistant", "content": None}], "a turn whose content is not text: turn 2 has null"),
        ([USER, {"role": "assistant"}], "a turn whose content is not text: turn 2 has null"),
        ([USER, {**ANSWER, "tool_calls": [{"id": "1"}]}], "a tool call without a name: turn 2"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ANSWER], "a part of a turn is not text: turn 1"),
        ([{"role": "user", "content": ["bare"]}, ANSWER], "a part of a turn is not text: turn 1"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}, ANSWER], "a part of a turn is not text: turn 1"),
    ],
)
def test_a_conversation_that_cannot_be_split_is_quarantined(tmp_path, conversation, reason):
    path = write_jsonl(tmp_path / "a.jsonl", {"messages": [USER, ANSWER]}, {"messages": conversation})
    assert reasons(load_with_bad(path))[2].startswith(reason)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "do", "input": 3, "output": "x"}, "not text: input is a number"),
        ({"instruction": "do", "input": "", "output": ""}, "empty text: output"),
        ({"prompt": "x"}, "missing column: instruction; the row has prompt"),
    ],
)
def test_a_bad_alpaca_row_is_quarantined(tmp_path, row, reason):
    path = write_jsonl(tmp_path / "a.jsonl", {"instruction": "do", "output": "x"}, row)
    assert reasons(load_with_bad(path)) == {2: reason}


def test_a_completion_list_needs_an_answer_of_its_own(tmp_path):
    row = {"prompt": [USER, ANSWER], "completion": [USER]}
    loaded = load_with_bad(write_jsonl(tmp_path / "a.jsonl", good(1), row))
    assert reasons(loaded) == {2: "no assistant turn in completion"}


def test_an_unknown_schema_names_place_keys_formats_and_remedy(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", "", {"ask": "a", "reply": "b"})
    with pytest.raises(DataError) as error:
        load(path)
    for part in [f"{path}:2", "keys found: ask, reply", "alpaca: instruction + output", "--format"]:
        assert part in str(error.value)


def test_an_ambiguous_schema_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", {**GOOD, "messages": [USER, ANSWER]})
    with pytest.raises(DataError, match="fit more than one format .prompt-completion: prompt . completion; messages"):
        load(path)
    assert load(path, format="messages").records[0].completion == "hello"
    path = write_jsonl(tmp_path / "b.jsonl", {**GOOD, "response": "5"})
    with pytest.raises(DataError, match="--completion-column"):
        load(path, format="prompt-completion")
    assert load(path, completion_column="response").records[0].completion == "5"


def test_a_named_format_needs_its_columns(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(
        DataError,
        match="format alpaca needs instruction . output or instruction . response .keys found: prompt, completion",
    ):
        load(path, format="alpaca")


def test_columns_named_by_the_user(tmp_path):
    row = {"question": "q", "answer": "a", "system": "be kind", "uid": 7}
    path = write_jsonl(tmp_path / "a.jsonl", row, {**row, "system": None, "uid": 8}, {**row, "system": 3, "uid": 9})
    loaded = load_with_bad(
        path, prompt_column="question", completion_column="answer", system_column="system", id_column="uid"
    )
    assert loaded.records[0].prompt == messages(("system", "be kind"), ("user", "q"))
    assert loaded.records[1].prompt == messages(("user", "q"))
    assert [record.id for record in loaded.records] == ["7", "8"]
    assert reasons(loaded) == {3: "not text: system is a number"}
    assert loaded.quarantined[0].row_id == "9"


def test_a_second_system_prompt_is_quarantined(tmp_path):
    conversation = [{"role": "system", "content": "s"}, USER, ANSWER]
    rows = {"messages": [USER, ANSWER], "system": "s"}, {"messages": conversation, "system": "t"}
    loaded = load_with_bad(write_jsonl(tmp_path / "a.jsonl", *rows), system_column="system")
    assert loaded.records[0].prompt[0] == Message("system", "s")
    assert reasons(loaded) == {2: "a system prompt both in its column and in the conversation"}


@pytest.mark.parametrize("option", ["prompt_column", "completion_column", "system_column", "id_column"])
def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path, option):
    flag = "--" + option.replace("_", "-")
    path = write_jsonl(tmp_path / "a.jsonl", {**GOOD, "question": "q"})
    with pytest.raises(DataError, match=f"a.jsonl:1: .*'questoin' that {flag} names; did you mean 'question'"):
        load(path, **{option: "questoin"})
    with pytest.raises(DataError, match="known are completion, prompt, question"):
        load(path, **{option: "zzz"})


def test_only_the_first_hundred_rows_decide(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", *(good(i) for i in range(100)), {"messages": [USER, ANSWER]})
    loaded = load_with_bad(path)
    assert (len(loaded.records), loaded.format) == (100, "prompt-completion")
    assert reasons(loaded) == {101: "missing column: prompt; the row has messages"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "jsonl"}, "format must be one of auto, prompt-completion, .* Got 'jsonl'"),
        ({"limit": 0}, "limit must be at least 1. Got 0"),
        ({"max_row_bytes": 0}, "max_row_bytes must be at least 1. Got 0"),
        ({"format": "alpaca", "prompt_column": "x"}, "need the format prompt-completion. Got 'alpaca'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SourceOptions(**options)
