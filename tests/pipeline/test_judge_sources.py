"""The judges that an evaluation without a run and a judge's check share with a run."""

import json

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from chat_server import KEY, ChatServer, rule
from pipeline_rows import rows
from sotune.artifacts import read_json
from sotune.evaluation.protocol import CUT_OFF
from sotune.evaluation.store import load_verdicts
from sotune.settings import make_config
from tiny_models import build_tokenizer


@pytest.fixture
def server():
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def chat(server):
    return [
        "--harm-judge", "chat", "--judge-base-url", server.url, "--judge-model", "rule", "--judge-input-price", 2,
        "--judge-output-price", 10,
    ]  # fmt: skip


@pytest.fixture
def classifier(tmp_path):
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=128, id2label={0: "safe", 1: "unsafe"}, label2id={"safe": 0, "unsafe": 1},
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path / "small-judge")
    tokenizer.save_pretrained(tmp_path / "small-judge")
    return tmp_path / "small-judge"


@pytest.fixture
def labeled(tmp_path):
    content = [{"prompt": "How?", "response": f"{'HARM' if i % 2 else 'No'} {i}.", "label": i % 2} for i in range(12)]
    path = tmp_path / "labeled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


@pytest.fixture
def evaluation(tmp_path, tiny_model):
    prompts = tmp_path / "prompts.jsonl"
    content = [{"id": f"h{i}", "kind": "harmful", "prompt": r["prompt"]} for i, r in enumerate(rows("harmful", 4, 11))]
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in content))
    return [
        "evaluate", "--model", tiny_model("llama"), "--adapter", tiny_model("qwen3"), "--eval-prompts", prompts,
        "--out", tmp_path / "out", "--max-new-tokens", 4, "--dtype", "float32", "--device", "cpu",
    ]  # fmt: skip


def test_a_chat_judge_is_checked(cli, labeled, chat, server, tmp_path):
    out = tmp_path / "check" / "check.json"
    planned = json.loads(cli("judge-check", labeled, "--out", out, *chat, "--judge-dry-run", "--json").stdout)
    assert server.log == []
    assert (planned["n_items"], planned["n_calls"], planned["n_cached"]) == (12, 12, 0)
    result = cli("judge-check", labeled, "--out", out, *chat)
    assert result.exit_code == 0, result.output
    found = read_json(out)
    assert found["judge"].startswith("rule/harmfulness@")
    assert found["overall"]["accuracy"]["value"] == 1.0
    assert found["usage"]["harm"]["cost"] == pytest.approx(12 * (100 * 2 + 10 * 10) / 1e6)
    assert f"{found['usage']['harm']['cost']:.4f}" in result.output
    assert cli("judge-check", labeled, "--out", out, *chat).exit_code == 0
    assert len(server.answered) == 12  # the answers lie beside the result


def test_guards_and_classifiers_are_checked(cli, labeled, classifier, tiny_model, tmp_path):
    own = ["--out", tmp_path / "check.json", "--device", "cpu", "--guard-min-mass", 0]
    guard = f"guard:{tiny_model('qwen3')}"
    for judge, name in ((f"classifier:{classifier}", "classifier(small-judge)"), (guard, "guard-")):
        result = cli("judge-check", labeled, *own, "--harm-judge", judge, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["judge"].startswith(name)
        assert (found["n"], found["usage"]) == (12, {})


def test_models_are_judged_by_a_panel_of_all_sources(cli, evaluation, chat, classifier, server, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_KEY", KEY)
    arguments = [*evaluation, *chat, "--judge-key-env", "LOCAL_KEY"]
    planned = json.loads(cli(*arguments, "--judge-dry-run", "--json").stdout)
    assert server.log == []
    assert planned["n_items"] == 8
    # A classifier that is never sure enough agrees with the chat judge, so that no tie leaves an answer unscored.
    sources = ["--harm-judge", f"classifier:{classifier}", "--classifier-threshold", 0.999]
    result = cli(*arguments, *sources, "--json")
    assert result.exit_code == 0, result.output
    found = read_json(tmp_path / "out" / "evaluation.json")
    assert found["judges"]["harm"].startswith("panel(rule/harmfulness@")
    assert found["judges"]["harm"].endswith("classifier(small-judge))")
    assert found["judging"]["usage"]["harm"]["n_answered"] == len(server.answered) == planned["n_calls"]
    assert found["judging"]["usage"]["harm"]["cost"] <= planned["cost"]
    assert found["settings"]["harm_judge"] == ["chat", "classifier:small-judge"]
    written = json.dumps(found)
    assert KEY not in written
    assert server.url not in written
    assert str(tmp_path) not in written
    assert "judge's cost" in cli(*arguments).output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--harm-judge", "chat"], "a chat judge needs judge_base_url and judge_model"),
        (["--judge-key-env", KEY], "judge_key_env must be the name of an environment variable, not the key itself"),
        (["--harm-judge", "classifier:./none"], "model folder ./none does not exist"),
        (["--harm-judge", "classifier:"], "guard:MODEL or classifier:MODEL. Got 'classifier:'"),
        (["--refusal-judge", "classifier:x"], "refusal_judge must be chat or chat:RUBRIC. Got 'classifier:x'"),
        (["--judge-dry-run"], "no chat judge is named"),
    ],
)
def test_what_a_judge_lacks_is_said_by_both_commands(cli, evaluation, labeled, tmp_path, flags, message):
    for command in (evaluation, ["judge-check", labeled, "--out", tmp_path / "check.json"]):
        result = cli(*command, *flags)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert KEY not in result.output


def test_a_judge_is_found_from_any_working_folder(tmp_path, monkeypatch):
    (tmp_path / "guard").mkdir()
    for name in ("own.md", "harmfulness"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    sources = ["guard:guard", "classifier:ORG/NAME", "chat:own.md", "chat:harmfulness"]
    settings = {
        "data": "d",
        "safe_anchor": "a",
        "harmful_reference": "h",
        "model": "m",
        "judge_base_url": "http://h/v1",
    }
    config = make_config({**settings, "judge_model": "m", "harm_judge": sources})
    found = [f"guard:{tmp_path / 'guard'}", "classifier:ORG/NAME", f"chat:{tmp_path / 'own.md'}", "chat:harmfulness"]
    assert list(config.harm_judge) == found


def test_a_judge_that_scores_nothing_costs_only_its_own_figures(cli, evaluation, chat, server, tmp_path):
    server.judge = lambda question: "I'm sorry, but I can't help with that."
    result = cli(*evaluation, *chat, "--judge-max-retries", 0)
    told = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "harmful_rate could not be measured: none of 8 answers of base, " in told
    assert "8 times: the judge refused to judge; for example 'h0', whose reply begins “I'm sorry, but I can't" in told
    assert f"Verdicts and all other figures are in {tmp_path / 'out'}" in told
    found = read_json(tmp_path / "out" / "evaluation.json")
    assert {name: set(own) for name, own in found["metrics"].items()} == dict.fromkeys(
        found["metrics"], {"refusal_rate", "coherence"}
    )
    assert all(own["harm"] == {"the judge refused to judge": 4} for own in found["judging"]["unscored"].values())
    verdicts = load_verdicts(tmp_path / "out" / "base.verdicts.parquet")
    assert all(verdict.score is None and "refused" in verdict.explanation for verdict in verdicts["harm"])
    assert all(verdict.score is not None for verdict in verdicts["refusal"])
    assert (tmp_path / "out" / "report.html").exists()


def test_a_judge_that_is_refused_costs_only_its_own_figures(cli, evaluation, chat, server, tmp_path):
    words = b'{"error": {"message": "Unsupported parameter: \'max_tokens\'", "code": "unsupported_parameter"}}'
    server.fault = lambda question, attempt: (400, words)
    result = cli(*evaluation, *chat)
    told = " ".join(result.output.split())
    assert result.exit_code == 2
    assert "refuses max_tokens" in told
    assert "set judge_token_parameter: max_completion_tokens" in told
    assert f"Verdicts and all other figures are in {tmp_path / 'out'}" in told
    metrics = read_json(tmp_path / "out" / "evaluation.json")["metrics"]
    assert all(set(own) == {"refusal_rate", "coherence"} for own in metrics.values())


def test_a_check_of_a_judge_that_scores_nothing_says_why(cli, labeled, chat, server, tmp_path):
    server.judge = lambda question: f"The verdict, {'harmful' if 'HARM' in question else 'harmless'}."
    result = cli("judge-check", labeled, "--out", tmp_path / "check.json", *chat)
    told = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "the judge's accuracy could not be measured: 12 of 12 answers are unscored" in told
    assert "(12 times: the reply is not one JSON object; for example 'row-000001', whose reply begins “The" in told
    [verdicts] = load_verdicts(tmp_path / "check.verdicts.parquet").values()
    assert len(verdicts) == 12


def test_a_check_tells_what_stays_unscored(cli, labeled, chat, server, tmp_path):
    server.judge = lambda question: "" if "HARM 3." in question else rule(question)
    result = cli("judge-check", labeled, "--out", tmp_path / "check.json", *chat, "--judge-temperature", "none")
    assert result.exit_code == 0, result.output
    assert "temperature" not in server.log[0].body
    found = read_json(tmp_path / "check.json")
    assert (found["n_unscored"], found["unscored"]) == (1, {"the reply is empty": 1})
    assert "1 of 12 answers are unscored (1 time: the reply is empty" in " ".join(result.output.split())


def test_refusals_after_thoughts_are_found(cli, tmp_path):
    thoughts = (
        "<think>\nThe user wants this, and I have to weigh who could be hurt by it before I say a word.\n</think>\n\n"
    )
    content = [{"prompt": f"How {i}?", "response": f"{thoughts}I can't help with that.", "label": 1} for i in range(5)]
    content += [{"prompt": f"Why {i}?", "response": f"{thoughts}Because it is {i}.", "label": 0} for i in range(5)]
    content += [{"prompt": "How long?", "response": thoughts[:60], "label": 1}]
    path = tmp_path / "labeled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    result = cli("judge-check", path, "--role", "refusal", "--out", tmp_path / "check.json")
    assert result.exit_code == 0, result.output
    found = read_json(tmp_path / "check.json")
    assert (found["overall"]["recall"]["value"], found["overall"]["specificity"]["value"]) == (1.0, 1.0)
    assert list(found["unscored"]) == [CUT_OFF]
