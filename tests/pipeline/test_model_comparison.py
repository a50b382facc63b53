import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from pipeline_rows import rows
from report_pages import read
from sotune.artifacts import read_json
from sotune.models import ModelSpec, load_causal_lm


def save_adapter(model, folder, *, scale):
    torch.manual_seed(1)
    tuned = get_peft_model(load_causal_lm(ModelSpec(str(model), dtype="float32"), frozen=False), LoraConfig(r=2))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, scale)
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path):
    content = [{"id": f"h{i}", "kind": "harmful", "prompt": r["prompt"]} for i, r in enumerate(rows("harmful", 6, 11))]
    content += [
        {"id": f"t{i}", "kind": "task", "prompt": r["prompt"], "reference": "done", "category": "<script>"}
        for i, r in enumerate(rows("benign", 6, 12))
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(p) + "\n" for p in content))
    return path


@pytest.fixture
def arguments(prompts, tmp_path, tiny_model):
    model = tiny_model("llama")
    adapters = [
        save_adapter(model, tmp_path / "a" / "adapter", scale=0.0),
        save_adapter(model, tmp_path / "wild", scale=9.0),
    ]
    return [
        "evaluate", "--model", model, "--adapter", adapters[0], "--adapter", adapters[1], "--eval-prompts", prompts,
        "--out", tmp_path / "out", "--max-new-tokens", 6, "--dtype", "float32", "--device", "cpu",
    ]  # fmt: skip


def test_before_and_after(cli, arguments, tmp_path):
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    found = read_json(tmp_path / "out" / "evaluation.json")
    assert list(found["models"]) == ["a", "base", "wild"]
    assert found["metrics"]["a"] == found["metrics"]["base"]  # an adapter of zeros changes nothing
    figures = found["diagnostics"]["figures"]
    assert figures["a"]["drift_harmful"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert figures["wild"]["drift_harmful"]["value"] > 0.1
    assert figures["wild"]["drift_task"]["n"] + figures["wild"]["drift_task"]["n_unscored"] == 6
    change = found["diagnostics"]["changes"]["a"]["harmful_rate"]
    assert (change["difference"], change["p_value"], change["n"]) == (0.0, 1.0, 6)
    assert change["p_adjusted"] >= change["p_value"]
    assert "safe" not in {word["label"] for word in found["assessments"].values()}
    page = read(tmp_path / "out" / "report.html")
    assert "What changed: wild against base" in page.text
    assert "6, 0 unscored" in page.text
    assert "script" not in page.tags
    assert str(tmp_path) not in json.dumps(found)


def test_texts_hide_behind_a_switch_and_answers_are_not_asked_again(cli, arguments, tmp_path, monkeypatch):
    first = json.loads(cli(*arguments, "--json").stdout)
    page = tmp_path / "out" / "report.html"
    assert "Tell me how to" not in read(page).text
    monkeypatch.setattr("sotune.evaluation.asking.generate", lambda *_, **__: pytest.fail("asked again"))
    again = json.loads(cli(*arguments, "--show-text", "--json").stdout)
    assert again["diagnostics"] == first["diagnostics"]
    changes = again["diagnostics"]["changes"]["wild"].values()
    flipped = [id for change in changes for id in change["gained"] + change["lost"]]
    assert ("Tell me how to" in read(page).text) == bool(flipped)


def test_limit_seed_and_dry_run(cli, arguments, tmp_path):
    planned = json.loads(cli(*arguments, "--limit", 2, "--dry-run", "--json").stdout)
    assert (planned["n_prompts"], planned["models"]) == (4, ["base", "a", "wild"])
    assert not (tmp_path / "out").exists()


def test_a_whole_model_may_stand_for_an_adapter(cli, prompts, tmp_path, tiny_model):
    result = cli(
        "evaluate", "--model", tiny_model("llama"), "--adapter", tiny_model("qwen3"), "--eval-prompts", prompts,
        "--out", tmp_path / "out", "--max-new-tokens", 4, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["diagnostics"]["figures"]
    assert any(name.startswith("drift_") for own in figures.values() for name in own)  # the vocabulary is the same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "setting 'model' is required"),
        (["evaluate", "--model", "MODEL"], "name a JSONL file or a task pack with eval_prompts"),
        (["evaluate", "--model", "MODEL", "--adapter", "nowhere", "--eval-prompts", "gsm8k=PROMPTS"], "gsm8k"),
        (["evaluate", "RUN", "--model", "MODEL"], "model cannot change a run's evaluation"),
    ],
)
def test_errors(cli, prompts, tmp_path, tiny_model, arguments, message):
    named = {"MODEL": str(tiny_model("llama")), "RUN": str(tmp_path), "gsm8k=PROMPTS": f"gsm8k={prompts}"}
    result = cli(*[named.get(a, a) for a in arguments], *([] if "RUN" in arguments else ["--out", tmp_path / "out"]))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_judge_check(cli, tmp_path):
    content = [
        {"prompt": "How?", "response": "Sure, so." if i % 4 else "I cannot help with that.", "label": i % 2,
         "category": "odd" if i % 2 else "mixed" if i % 6 else "x"}
        for i in range(40)
    ]  # fmt: skip
    path = tmp_path / "labeled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    (tmp_path / "metrics.json").write_text(
        json.dumps({"tuned": {"harmful_rate": {
            "value": 0.6, "low": 0.5, "high": 0.7, "n": 100, "n_unscored": 3, "interval": "wilson"}}})
    )  # fmt: skip
    out = tmp_path / "check.json"
    result = cli("judge-check", path, "--out", out, "--correct", tmp_path / "metrics.json", "--json")
    assert result.exit_code == 0, result.output
    found = read_json(out)
    assert found["overall"]["recall"]["value"] == 1.0
    assert found["overall"]["specificity"]["value"] == 0.5
    assert found["overall"]["precision"]["value"] == pytest.approx(20 / 30)
    assert found["by_category"]["odd"] == {"n": 20, "n_positive": 20, "figures": None}
    corrected = found["corrected"]["tuned"]
    assert corrected["corrected"]["value"] == pytest.approx((0.6 + 0.5 - 1) / 0.5)
    assert corrected["corrected"]["n_unscored"] == 3
    table = cli("judge-check", path, "--out", out).output
    assert "n = 40, 0 unscored" in " ".join(table.split())
    assert "kappa" in table
