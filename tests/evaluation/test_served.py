"""Models under test behind a server: a real one on loopback, which serves the tiny models by name."""

import json
import threading
import time

import pytest

from cases import prompt
from chat_server import ChatServer
from sotune.errors import ConfigError, SotuneError
from sotune.evaluation import EvalPrompt
from sotune.evaluation.candidates import Candidate, find_candidates
from sotune.evaluation.evaluator import evaluate
from sotune.evaluation.judges.matching import default_judges
from sotune.models import ModelSpec, load_causal_lm
from sotune.records import Message
from sotune.rendering import load_renderer
from sotune.settings import EvaluationSettings, ModelEvaluation, RenderingSettings, make_settings

PROMPTS = [
    *(prompt(f"h{i}", "harmful") for i in range(6)),
    *(EvalPrompt(f"t{i}", "task", (Message("user", f"Add {i} and 30."),), reference="done") for i in range(6)),
    EvalPrompt("turns", "task", (Message("system", "Be brief."), Message("user", "Ice?")), reference="done"),
]
JUDGES = default_judges(task="label", skill="label")
RENDERING = RenderingSettings(template="chat")
NEW_TOKENS = 6


@pytest.fixture
def models(tiny_model):
    spec = {name: ModelSpec(str(tiny_model(name)), dtype="float32", device="cpu") for name in ("llama", "qwen3")}
    return [Candidate("base", spec["llama"]), Candidate("tuned", spec["qwen3"])]


class Served:
    """Answers as vLLM would: the named model's own template, greedy, and as many tokens as were asked for."""

    def __init__(self, models):
        self._lock = threading.Lock()
        self._models = {
            name: (load_causal_lm(c.spec, frozen=True), load_renderer(c.spec, RENDERING)) for name, c in models
        }

    def __call__(self, body):
        import torch

        time.sleep(0.05)  # a model takes its time, so that requests meet
        with self._lock:
            model, renderer = self._models[body["model"]]
            messages = tuple(Message(turn["role"], turn["content"]) for turn in body["messages"])
            ids = torch.tensor([renderer.prompt_tokens(messages)])
            assert body["temperature"] == 0
            output = model.generate(ids, max_new_tokens=body["max_tokens"], do_sample=False)[0, ids.shape[1] :].tolist()
        eos = renderer.tokenizer.eos_token_id
        reason = "stop" if eos in output else "length"
        text = renderer.tokenizer.decode(output, skip_special_tokens=True)
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(output), "total_tokens": 0}
        return json.dumps({
            "id": "c", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": reason, "message": message}], "usage": usage,
        }).encode()  # fmt: skip


@pytest.fixture
def server(models):
    with_names = Served([("the-base", models[0]), ("my-adapter", models[1])])
    served = ChatServer(serve=with_names)
    yield served
    served.close()


def ask(models, folder, server=None, **settings):
    where = {} if server is None else {
        "server_base_url": server.url, "server_models": ("base=the-base", "tuned=my-adapter"),
        "server_max_retries": 0, "server_concurrency": 8,
    }  # fmt: skip
    chosen = EvaluationSettings(**{"max_new_tokens": NEW_TOKENS, "diagnostics": False, **where, **settings})
    return evaluate(models, PROMPTS, JUDGES, settings=chosen, rendering=RENDERING, answers_dir=folder)


def texts(found):
    return {
        name: [(response.id, response.text, response.finished) for response in model.responses]
        for name, model in found.models.items()
    }


def test_served_answers_equal_those_of_local_generation(models, server, tmp_path):
    served = ask(models, tmp_path / "served", server)
    assert texts(served) == texts(ask(models, tmp_path / "local"))
    assert {request.body["model"] for request in server.log} == {"the-base", "my-adapter"}
    assert len(server.log) == 2 * len({prompt.messages for prompt in PROMPTS})
    assert server.most_open > 3  # requests are concurrent
    assert all(request.body["max_tokens"] == NEW_TOKENS for request in server.log)


def test_a_server_that_dies_goes_on_from_the_answers_that_were_kept(models, server, tmp_path):
    whole = ask(models, tmp_path / "whole", server)
    asked, limit = len(server.log), 5
    server.log.clear()
    server.fault = lambda question, attempt: "reset" if len(server.log) > limit else None
    with pytest.raises(SotuneError, match="the server at .* left a question unanswered .*answers so far are kept"):
        ask(models, tmp_path / "killed", server)
    kept = sum(request.outcome == "answered" for request in server.log)
    assert 0 < kept < asked
    server.fault = lambda question, attempt: None
    server.log.clear()
    again = ask(models, tmp_path / "killed", server)
    assert texts(again) == texts(whole)
    assert len(server.log) == asked - kept
    server.close()
    assert texts(ask(models, tmp_path / "killed", server)) == texts(whole)  # nothing is asked any more


def test_failures_that_pass_are_tried_again(models, server, tmp_path):
    server.fault = lambda question, attempt: "503" if attempt == 0 else None
    found = ask(models[:1], tmp_path / "served", server, server_max_retries=2)
    server.fault = lambda question, attempt: None
    assert texts(found) == texts(ask(models[:1], tmp_path / "local"))


def test_a_model_that_the_server_does_not_know(models, server, tmp_path):
    server.fault = lambda question, attempt: (404, b'{"error": {"message": "The model `x` does not exist."}}')
    with pytest.raises(ConfigError, match=r"the server at .* does not know the address or the model .*server_models"):
        ask(models[:1], tmp_path, server)


def test_likelihoods_are_local(models, server, tmp_path):
    served = ask(models, tmp_path / "served", server, diagnostics=True)
    local = ask(models, tmp_path / "local", diagnostics=True)
    assert served.diagnostics["figures"] == local.diagnostics["figures"]


def test_what_only_the_server_has_is_measured_without_likelihoods_and_with_a_word(server, tmp_path, tiny_model):
    class Told:
        messages = []

        def progress(self, *_):
            """Ignores progress."""

        def warn(self, message):
            self.messages.append(message)

    settings = make_settings(ModelEvaluation, {
        "model": "the-base", "adapter": ["my-adapter"], "server_base_url": server.url, "max_new_tokens": NEW_TOKENS,
    })  # fmt: skip
    candidates = find_candidates(settings)
    assert [(c.name, c.remote) for c in candidates] == [("base", True), ("my-adapter", True)]
    found = evaluate(
        candidates, PROMPTS, JUDGES, settings=settings, rendering=RENDERING, answers_dir=tmp_path, monitor=Told()
    )
    assert "surprise" not in found.diagnostics["figures"]["my-adapter"]
    assert Told.messages[0].startswith("surprise and drift need the weights")
    assert "base, my-adapter" in Told.messages[0]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"server_base_url": "http://user:pw@host/v1"}, "server_base_url must be like https://host/v1"),
        ({"server_base_url": "http://host/v1", "server_key_env": "sk-1-2"}, "server_key_env must be the name"),
        ({"server_base_url": "http://host/v1", "server_models": ["tuned"]}, "server_models must be like NAME=SERVED"),
        ({"server_models": ["a=b"]}, "server_models needs server_base_url"),
        ({"server_base_url": "http://host/v1", "template": "paper"}, "leave out template: paper"),
    ],
)
def test_faults_of_the_settings_are_named(given, fault):
    with pytest.raises(ConfigError, match=fault):
        make_settings(ModelEvaluation, {"model": "m", **given})
