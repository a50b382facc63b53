"""Judge models in `sotune evaluate`: wiring, dry run, cost, resume."""

import json
import re
from importlib import resources

import pytest

from chat_server import KEY, ChatServer
from pipeline_rows import rows
from sotune.artifacts import read_json
from sotune.run_files import VERDICTS


@pytest.fixture
def server():
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def run_file(data, tmp_path, tiny_model):
    prompts = [
        {"id": f"h{i}", "kind": "harmful", "prompt": row["prompt"]} for i, row in enumerate(rows("harmful", 5, 11))
    ] + [
        {"id": f"t{i}", "kind": "task", "prompt": row["prompt"], "reference": "done"}
        for i, row in enumerate(rows("benign", 4, 12))
    ]
    (data / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    file = tmp_path / "run.yaml"

    def write(**changes):
        settings = {
            "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
            "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
            "model": str(tiny_model("llama")), "out": str(tmp_path / "run"), "threads": 1, "device": "cpu",
            "dtype": "float32", "eval_prompts": str(data / "prompts.jsonl"), "max_steps": 2, "max_new_tokens": 4,
            "learning_rate": 0.01, "per_device_train_batch_size": 4, **changes,
        }  # fmt: skip
        file.write_text(json.dumps(settings))
        return file

    return write


def test_chat_judges_take_their_roles(cli, run_file, server, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_KEY", KEY)
    run = tmp_path / "run"
    chat = {
        "harm_judge": ["chat"], "task_judge": ["chat"], "coherence_judge": ["chat"], "judge_base_url": server.url,
        "judge_model": "rule", "judge_key_env": "LOCAL_KEY", "judge_input_price": 2.0, "judge_output_price": 10.0,
    }  # fmt: skip
    file = run_file(**chat)
    assert cli("run", file, "--until", "train").exit_code == 0
    planned = json.loads(cli("evaluate", run, "--judge-dry-run", "--json").stdout)
    assert server.log == []
    assert planned["n_items"] == 2 * (5 + 4 + 9)
    assert 0 < planned["n_calls"] <= planned["n_items"]
    assert planned["cost"] == pytest.approx((planned["input_tokens"] * 2 + planned["n_calls"] * 512 * 10) / 1e6)
    assert not (run / "metrics.json").exists()

    result = cli("evaluate", run)
    assert result.exit_code == 0, result.output
    assert len(server.log) == len(server.answered) == planned["n_calls"]
    assert server.log[0].authorization == f"Bearer {KEY}"
    judging = read_json(run / "judging.json")
    assert judging["unscored"] == {"base": {}, "tuned": {}}
    assert sum(entry["n_answered"] for entry in judging["usage"].values()) == planned["n_calls"]
    cost = sum(entry["cost"] for entry in judging["usage"].values())
    assert cost == pytest.approx(planned["n_calls"] * (100 * 2 + 10 * 10) / 1e6)
    assert f"{cost:.4f}" in result.output
    judges = read_json(run / "assessment.json")["judges"]
    assert judges["harm"].startswith("rule/harmfulness@")
    assert judges["refusal"] == "refusal-patterns"
    verdicts = VERDICTS.columns_of(run)
    assert {e for e, r in zip(verdicts["label"], verdicts["role"], strict=True) if r == "task"} <= set("12345")

    again = json.loads(cli("evaluate", run, "--judge-concurrency", "3", "--json").stdout)
    assert {outcome["stage"]: outcome["status"] for outcome in again["stages"]}["evaluation"] == "skipped"
    # Judged anew for another reason, no question is asked that was answered before.
    assert cli("evaluate", run, "--task-judge", "chat:coherence").exit_code == 0
    assert len(server.answered) == len(set(server.answered)) <= planned["n_calls"] + 8
    written = "".join(path.read_bytes().decode("latin-1") for path in run.rglob("*") if path.is_file())
    assert KEY not in written


def test_a_panel_of_chat_models_and_a_guard(cli, run_file, server, tmp_path, tiny_model):
    own = tmp_path / "own.md"
    own.write_text((resources.files("sotune.evaluation.rubrics") / "harmfulness.md").read_text())
    file = run_file(
        harm_judge=["chat", f"chat:{own}", f"guard:{tiny_model('qwen3')}"], judge_base_url=server.url,
        judge_model="rule", guard_min_mass=0.0,
    )  # fmt: skip
    result = cli("run", file)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    name = read_json(run / "assessment.json")["judges"]["harm"]
    assert re.fullmatch(r"panel\(rule/harmfulness@\w{12}, rule/own@\w{12}, guard-\w{12}\)", name)
    verdicts = VERDICTS.columns_of(run)
    harm = [i for i, role in enumerate(verdicts["role"]) if role == "harm"]
    assert [verdicts["score"][i] for i in harm] == [0.0] * 5  # the two chat judges outvote whatever the guard says
    assert all(re.search(r"guard-\w{12}: (safe|unsafe|unscored)", verdicts["explanation"][i]) for i in harm)
    assert set(read_json(run / "judging.json")["usage"]) == {"harm", f"harm: {name.split(', ')[1]}"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"harm_judge": ["chat"]}, "a chat judge needs judge_base_url and judge_model"),
        ({"harm_judge": ["gpt"]}, "harm_judge must be chat, chat:RUBRIC, guard:MODEL or classifier:MODEL. Got 'gpt'"),
        ({"task_judge": ["guard:x"]}, "task_judge must be chat or chat:RUBRIC. Got 'guard:x'"),
        ({"harm_judge": ["guard:./none"]}, "model folder ./none does not exist"),
        ({"harm_judge": ["chat:no.md"], "judge_base_url": "http://h/v1", "judge_model": "m"}, "rubric must be one of"),
        (
            {"task_judge": ["chat", "chat:coherence"], "judge_base_url": "http://h/v1", "judge_model": "m"},
            "task_judge takes one judge",
        ),
        (
            {
                "harm_judge": ["chat"], "judge_base_url": "http://h/v1", "judge_model": "m",
                "judge_key_env": "NO_SUCH_VARIABLE",
            },
            "the environment variable NO_SUCH_VARIABLE holds no API key",
        ),
        ({"judge_key_env": KEY}, "judge_key_env must be the name of an environment variable, not the key itself"),
        ({"judge_base_url": f"https://user:{KEY}@host/v1"}, "judge_base_url must be like https://host/v1"),
        ({"judge_base_url": "ftp://host"}, "judge_base_url must be like https://host/v1"),
        ({"judge_base_url": "http://[host/v1"}, "judge_base_url must be like https://host/v1"),
    ],
)  # fmt: skip
def test_what_a_judge_lacks_is_said_before_any_work(cli, run_file, tmp_path, changes, message):
    result = cli("run", run_file(**changes))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert KEY not in result.output
    assert not (tmp_path / "run").exists()


def test_a_lost_judge_costs_a_run_only_its_own_figures(cli, run_file, server, tmp_path):
    run = tmp_path / "run"
    chat = {"harm_judge": ["chat"], "judge_base_url": server.url, "judge_model": "rule"}
    server.fault = lambda question, attempt: (400, b'{"error": {"message": "The model is being moved"}}')
    result = cli("run", run_file(**chat))
    told = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "harmful_rate could not be measured: none of 10 answers of base, tuned could be scored" in told
    assert "10 times: no answer: HTTP 400: The model is being moved; for example 'h0'" in told
    assert f"Verdicts and all other figures are in {run}" in told
    metrics = read_json(run / "metrics.json")
    assert all({"refusal_rate", "utility", "coherence"} == own.keys() for own in metrics.values())
    assert VERDICTS.columns_of(run)["score"].count(None) == 5

    server.fault = lambda question, attempt: None
    n_asked = len(server.log)
    assert cli("evaluate", run).exit_code == 0
    assert 0 < len(server.log) - n_asked <= 10  # the judge alone is asked again
    assert "harmful_rate" in read_json(run / "metrics.json")["tuned"]
