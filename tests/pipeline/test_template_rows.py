"""What becomes of rows that a chat template refuses, or of which it leaves out a part."""

import json

import pytest

from chat_families import build_family_model
from pipeline_rows import rows, write_jsonl
from sotune.artifacts import read_json


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION, ANSWER = user("What is 8 plus 8?"), assistant("It is 16.")


@pytest.fixture
def weigh(cli, flags, data, tmp_path):
    """Weighs conversations after 20 plain rows with a model of a family."""

    def run(family, conversations, *more):
        plain = [[user(row["prompt"]), assistant(row["response"])] for row in rows("benign", 20, 1)]
        write_jsonl(data / "train.jsonl", [{"messages": turns} for turns in plain + conversations])
        model = build_family_model(family, tmp_path / "model")
        flags[flags.index("--model") + 1] = str(model)
        return cli("weigh", *flags, "--device", "cpu", *more)

    return run


def quarantined(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]


def test_a_row_that_the_template_refuses_is_quarantined_with_its_line(weigh, tmp_path):
    refused = [[SYSTEM, QUESTION, ANSWER], [QUESTION, QUESTION, ANSWER], [ANSWER, QUESTION, ANSWER]]
    result = weigh("mistral_inst", [[QUESTION, ANSWER], *refused], "--max-quarantine-fraction", "0.2")
    assert result.exit_code == 0, result.output
    assert [row["line"] for row in quarantined(tmp_path)] == [22, 23, 24]
    for row, roles in zip(quarantined(tmp_path), ["system, user", "user, user", "assistant, user"], strict=True):
        assert f"refuses a conversation of {roles}, assistant (Turns must alternate" in row["reason"]
    assert read_json(tmp_path / "run" / "records.json")["sets"]["downstream"]["n_valid"] == 21


def test_a_system_turn_is_folded_on_request(weigh, tmp_path):
    result = weigh("mistral_inst", [[SYSTEM, QUESTION, ANSWER]], "--fold-system")
    assert result.exit_code == 0, result.output
    assert quarantined(tmp_path) == []


def test_thoughts_that_the_template_drops_are_counted(weigh, tmp_path):
    thinking, only = assistant("<think>\nTwice 8.\n</think>\n\nIt is 16."), assistant("<think>\nTwice 8.\n</think>")
    result = weigh("deepseek_r1", [[QUESTION, thinking], [QUESTION, ANSWER], [QUESTION, thinking], [QUESTION, only]])
    assert result.exit_code == 0, result.output
    assert "in 2 rows the template drops a part of the completion" in " ".join(result.output.split())
    rendering = read_json(tmp_path / "run" / "records.json")["rendering"]
    assert (rendering["template"], rendering["n_lossy"], rendering["n_omitting"]) == ("chat", 2, 0)
    assert rendering["n_uncued"] > 20  # this template opens a thought for generation alone
    assert [(row["line"], "leaves out all that turn 2 says" in row["reason"]) for row in quarantined(tmp_path)] == [
        (24, True)
    ]
    assert "drops a part of the completion" in (tmp_path / "run" / "report.html").read_text()
