"""Keys and passwords end up in no file, log, report, message or traceback, wherever they were put by mistake."""

import json
import traceback

import pytest
import typer

import sotune
from chat_server import KEY, ChatServer, rule
from sotune.cli.console import Output, errors_told
from sotune.errors import ConfigError, DataError, SotuneError, redacted
from sotune.evaluation.endpoint import ChatEndpoint
from sotune.settings import JudgeSettings, make_config, read_config

KEYS = [
    "sk-proj-4f9d1c77a0b2c3d4e5f6", "hf_AbCdEfGhIjKlMnOpQrStUv12", "AKIAIOSFODNN7EXAMPLE", "gsk_abcd1234abcd1234abcd",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "A1b2C3d4E5f6G7h8I9j0", "github_pat_11ABCDEFG0123456789",
]  # fmt: skip
SETS = {"data": "a", "safe_anchor": "b", "harmful_reference": "c", "model": "m"}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_not_taken_for_the_name_of_its_variable(key):
    with pytest.raises(ConfigError, match="must be the name of an environment variable, not the key itself") as error:
        make_config({**SETS, "judge_key_env": key})
    assert key not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "LOCAL_KEY", "_key", "AZURE_OPENAI_API_KEY_2024", "k2"])
def test_names_of_variables_are(name):
    assert make_config({**SETS, "judge_key_env": name}).judge_key_env == name


@pytest.mark.parametrize("key", [key for key in KEYS if not key.startswith("A1b2")])
def test_what_looks_like_a_key_is_left_out_of_every_message(key, capsys):
    for error in (SotuneError(f"x {key} y"), DataError(f"{key}"), ConfigError(f"https://host/?key={key}")):
        assert key not in str(error)
        assert key not in repr(error)
    with pytest.raises(typer.Exit), errors_told(Output(quiet=False, as_json=True, dry_run=False)):
        raise DataError(f"refused {key}")
    assert key not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "text",
    ["the pku-saferlhf-30k set", "user@host", "https://host/a@b", "row sk-1", "a.jsonl:3", "hf:owner/name-7b-v0.1"],
)
def test_other_text_is_left_alone(text):
    assert redacted(text) == text


@pytest.mark.parametrize("place", ["data", "safe_anchor", "model", "judge_base_url"])
def test_a_password_in_an_address_is_told_nowhere(cli, place, tmp_path):
    given = {**SETS, "out": str(tmp_path / "run"), place: "https://me:hunter2@host/v1"}
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(given))
    result = cli("run", file)
    assert result.exit_code == 2
    assert "hunter2" not in result.output
    assert "hunter2" not in everything(tmp_path / "run")


def test_keys_in_a_broken_file_of_settings_are_not_quoted(tmp_path):
    (tmp_path / "a.yaml").write_text(f"judge_api_key: {KEYS[0]}\nx: [")
    with pytest.raises(ConfigError) as error:
        read_config(tmp_path / "a.yaml")
    assert KEYS[0] not in str(error.value)
    with pytest.raises(ConfigError, match="unknown setting") as error:
        make_config({**SETS, "judge_api_key": KEYS[0], KEYS[1]: 1})
    assert not any(key in str(error.value) for key in KEYS)


@pytest.fixture
def server():
    def echo(question):
        return rule(question).replace("{", '{"auth": "Bearer ' + KEY + '", ', 1)

    made = ChatServer(judge=echo)
    yield made
    made.close()


def test_a_key_that_a_server_repeats_is_not_kept(server):
    settings = JudgeSettings(judge_base_url=server.url, judge_model="m")
    server.judge = lambda question: f"your key is {KEY}"
    found = ChatEndpoint(settings, KEY).ask("q")
    assert found.text == "your key is …"


def test_headers_of_one_provider_are_sent_to_no_other(server, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment-1")
    server.judge = lambda question: "hello"
    ChatEndpoint(JudgeSettings(judge_base_url=server.url, judge_model="m"), None).ask("q")
    sent = json.dumps(server.log[0].headers)
    assert not any(secret in sent for secret in ("org-secret", "proj-secret", "sk-from-the-environment"))


def test_planted_secrets_are_in_no_file_of_a_run(cli, data, server, tmp_path, tiny_model, monkeypatch):
    for name in ("LOCAL_KEY", "OPENAI_API_KEY", "HF_TOKEN", "OPENAI_ORG_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, KEY if name == "LOCAL_KEY" else f"planted-{name}")
    prompts = [{"kind": "harmful", "prompt": f"p {i}"} for i in range(2)]
    (data / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    given = {
        "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
        "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
        "model": str(tiny_model("llama")), "out": str(tmp_path / "run"), "eval_prompts": str(data / "prompts.jsonl"),
        "max_steps": 1, "max_new_tokens": 4, "harm_judge": ["chat"], "judge_base_url": server.url, "judge_model": "m",
        "judge_key_env": "LOCAL_KEY", "hold": "none", "diagnostics": False,
    }  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(given))
    result = cli("run", file)
    assert result.exit_code == 0, result.output
    assert server.log[0].authorization == f"Bearer {KEY}"
    refusal = (401, f'{{"error": {{"message": "Incorrect API key provided: {KEY}"}}}}'.encode())
    server.fault = lambda question, attempt: refusal
    with pytest.raises(SotuneError, match="refused the API key") as error:
        sotune.open_run(tmp_path / "run").evaluate(max_new_tokens=5)
    told = cli("evaluate", tmp_path / "run", "--max-new-tokens", "5", "--log-file", tmp_path / "run" / "log.txt")
    assert told.exit_code == 2
    assert cli("report", tmp_path / "run").exit_code == 0
    written = everything(tmp_path / "run") + result.output + told.output
    written += "".join(traceback.format_exception(error.value))
    assert KEY not in written
    assert "planted-" not in written


def everything(folder):
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())
