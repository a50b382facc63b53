"""Chat files as other tools write them, through a run."""

import json

import pytest

from pipeline_rows import rows, write_jsonl
from sotune.artifacts import RunFolder
from sotune.pipeline.record_sets import read_records, source_options
from sotune.run_files import READING
from sotune.settings import make_config

CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "bread", "n": 2}}}


def talk(row, **marks):
    """Returns a row as a conversation of four turns; the first answer calls a tool."""
    turns = [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": '{"found": true}'},
        {"role": "assistant", "content": row["response"], **marks},
    ]
    return {"id": row["id"], "messages": turns, "tools": [{"type": "function", "function": {"name": "look_up"}}]}


@pytest.fixture
def chats(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    marked_off = [talk(row, weight=0) for row in rows("harmful", 10, 2)]
    write_jsonl(folder / "train.jsonl", [talk(row, weight=1) for row in rows("benign", 40, 1)] + marked_off)
    write_jsonl(folder / "anchor.jsonl", rows("benign", 12, 3))
    pairs = zip(rows("harmful", 20, 4), rows("benign", 20, 5), strict=True)
    preference = [
        {"prompt": bad["prompt"], "chosen": good["response"], "rejected": bad["response"]} for bad, good in pairs
    ]
    write_jsonl(folder / "pairs.jsonl", preference)
    return folder


def test_rows_come_out_as_they_went_in_and_the_worse_answers_are_the_harmful_reference(
    cli, chats, tmp_path, tiny_model
):
    result = cli(
        "weigh", chats / "train.jsonl", "--safe-anchor", chats / "anchor.jsonl",
        "--harmful-reference", chats / "pairs.jsonl", "--harmful-completion-column", "rejected",
        "--model", tiny_model("llama"), "--template", "paper", "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    given = {row["id"]: row for row in map(json.loads, (chats / "train.jsonl").read_text().splitlines())}
    kept = [json.loads(line) for line in (tmp_path / "run" / "kept.jsonl").read_text().splitlines()]
    assert kept
    assert all({**given[row["id"]], "weight": row["weight"]} == row for row in kept)
    sets = read_records(RunFolder(tmp_path / "run"))
    assert {record.completion for record in sets["harmful_reference"]} == {
        row["response"] for row in rows("harmful", 20, 4)
    }
    records = {record.id: record for record in sets["downstream"]}
    assert records["benign-1-0"].learned == (1, 3)
    assert records["harmful-2-0"].learned == (1,)
    assert json.loads(records["harmful-2-0"].messages[1].tool_calls[0].arguments) == CALL["function"]["arguments"]
    assert records["benign-1-0"].tools
    assert READING.read(tmp_path / "run")["sets"]["harmful_reference"]["format"] == "preference"


def test_the_settings_of_a_set_reach_its_reading():
    given = {"data": "d", "safe_anchor": "a", "harmful_reference": "h", "out": "o", "model": "m"}
    columns = {"safe_completion_column": "best", "harmful_prompt_column": "ask", "harmful_completion_column": "worst"}
    config = make_config({**given, **columns, "conversation_column": "talk", "learn_turns": "last"})
    downstream, anchor, harmful = (
        source_options(config, name) for name in ("downstream", "safe_anchor", "harmful_reference")
    )
    assert (downstream.conversation_column, downstream.completion_column) == ("talk", None)
    assert (anchor.prompt_column, anchor.completion_column) == (None, "best")
    assert (harmful.prompt_column, harmful.completion_column) == ("ask", "worst")
    assert {options.learn_turns for options in (downstream, anchor, harmful)} == {"last"}
    assert source_options(make_config({**given, "preset": "paper"}), "downstream").learn_turns == "last"
    assert source_options(make_config(given), "downstream").learn_turns == "all"
