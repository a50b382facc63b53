"""The one evaluation: shared answers, diagnostics that can be left out, and one schema however it is saved."""

import json
from pathlib import Path

import pytest

from cases import prompt
from sotune.evaluation.candidates import Candidate
from sotune.evaluation.evaluator import evaluate, load_eval_prompts, served_under
from sotune.evaluation.judges.matching import default_judges
from sotune.evaluation.outcome import answers_file, load_evaluation, save_evaluation
from sotune.models import ModelSpec
from sotune.settings import EvaluationSettings, ModelEvaluation

PROMPTS = [prompt("h0", "harmful"), prompt("h1", "harmful"), prompt("t0", "task", reference="done")]
JUDGES = default_judges(task="label", skill="label")


@pytest.fixture
def models(tiny_model):
    spec = {name: ModelSpec(str(tiny_model(name)), dtype="float32", device="cpu") for name in ("llama", "qwen3")}
    return [Candidate("base", spec["llama"]), Candidate("tuned", spec["qwen3"])]


def ask(models, folder, *, prompts=PROMPTS, diagnostics=False):
    settings = EvaluationSettings(max_new_tokens=4, diagnostics=diagnostics)
    return evaluate(models, prompts, JUDGES, settings=settings, answers_dir=folder)


def test_a_shared_folder_asks_the_base_once(models, tmp_path, monkeypatch):
    first = ask(models[:1], tmp_path / "answers")
    asked = []
    load = Candidate.load
    monkeypatch.setattr(Candidate, "load", lambda self: asked.append(self.name) or load(self))
    both = ask(models, tmp_path / "answers")
    assert asked == ["tuned"]
    assert both.models["base"] == first.models["base"]
    assert ask([models[1]], tmp_path / "answers").models["tuned"].responses == both.models["tuned"].responses
    assert asked == ["tuned"]
    ask(models[:1], tmp_path / "answers", prompts=PROMPTS[:2])
    assert asked == ["tuned", "base"]  # other prompts are other answers
    ask(models[:1], tmp_path / "answers")
    assert asked == ["tuned", "base"]


def test_prompts_are_asked_under_the_system_prompt_that_is_served(tmp_path):
    own = {
        "messages": [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hello"}],
        "kind": "harmful",
    }
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ({"prompt": "Hello", "kind": "harmful"}, own)))
    given = {"model": "m", "eval_prompts": str(file)}
    plain = load_eval_prompts(ModelEvaluation(**given))
    served = load_eval_prompts(ModelEvaluation(**given, eval_system="Refuse what harms."))
    assert [p.id for p in served] == [p.id for p in plain]
    contents = [[(m.role, m.content) for m in p.messages] for p in served]
    assert [("system", "Refuse what harms."), ("user", "Hello")] in contents
    assert [("system", "Mine."), ("user", "Hello")] in contents


def test_another_system_prompt_is_another_answer(models, tmp_path):
    under = [served_under("Refuse.", prompt) for prompt in PROMPTS]
    assert ask(models[:1], tmp_path).models["base"] != ask(models[:1], tmp_path, prompts=under).models["base"]


def test_diagnostics_can_be_left_out(models, tmp_path):
    figures = {on: ask(models, tmp_path, diagnostics=on).diagnostics["figures"]["tuned"] for on in (True, False)}
    assert {"surprise", "drift_harmful"} <= set(figures[True]) - set(figures[False])
    assert set(figures[False]) <= set(figures[True])


def test_the_drift_of_a_model_that_a_run_tuned_whole(models, tmp_path):
    """Where all weights were trained the run's adapter folder holds a model, which has no adapter to switch off."""
    base, other = models
    whole = Candidate("tuned", base.spec, Path(other.spec.name))
    found, plain = (
        ask([base, one], tmp_path, diagnostics=True).diagnostics["figures"]["tuned"] for one in (whole, other)
    )
    assert found["drift_harmful"]["value"] == pytest.approx(plain["drift_harmful"]["value"], rel=1e-4)
    assert found["drift_harmful"]["value"] > 0


def test_without_harmful_prompts_nothing_is_said_of_safety(models, tmp_path):
    found = ask(models, tmp_path, prompts=PROMPTS[2:])
    assert found.assessments == {}
    assert "assessments" in found.as_json()


@pytest.mark.parametrize("kind", ["models", "run"])
def test_one_schema_however_it_is_saved(models, tmp_path, kind):
    found = ask(models, tmp_path / "answers")
    files = save_evaluation(tmp_path / kind, found, kind=kind)
    assert sorted(files) == sorted(path.name for path in (tmp_path / kind).iterdir())
    assert load_evaluation(tmp_path / kind) == found.as_json()
    assert {answers_file(tmp_path / kind, name).name for name in ("base", "tuned")} <= set(files)


def test_the_same_behavior_gets_the_same_word_from_base_and_tuned(models, tmp_path):
    """A base model that babbles sets no standard: what babbles like it is as broken as it is."""
    twin = Candidate("twin", models[0].spec)
    found = ask([models[0], twin], tmp_path)
    assert found.models["twin"].responses == found.models["base"].responses
    words = {name: word.label for name, word in found.assessments.items()}
    assert words == {"base": "broken", "twin": "broken"}
    assert found.assessments["twin"].reason == found.assessments["base"].reason
