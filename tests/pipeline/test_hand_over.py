"""The adapter is a plain PEFT folder: lm-evaluation-harness scores it with a task of its own."""

import importlib.util
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sotune.miniature import generate_eval_prompts, model_path
from sotune.models import ModelSpec, load_causal_lm

pytestmark = pytest.mark.slow

TASK = """
task: sotune_skill
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Human: {{{{prompt}}}}; Assistant:"
doc_to_target: "{{{{reference}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24, do_sample: false}}
filter_list:
  - name: stripped
    filter: [{{function: remove_whitespace}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def task(tmp_path):
    rows = [p for p in generate_eval_prompts("verdict", n_each=40, seed=0) if p.kind == "skill"]
    data = tmp_path / "skill.jsonl"
    lines = [{"prompt": row.messages[0].content, "reference": row.reference} for row in rows]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "sotune_skill.yaml").write_text(TASK.format(data=json.dumps(str(data))))
    return folder


def adapter(tmp_path, *, scale):
    torch.manual_seed(0)
    base = load_causal_lm(ModelSpec(str(model_path()), dtype="float32", device="cpu"), frozen=False)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, scale)
    tuned.save_pretrained(tmp_path / f"adapter-{scale}")
    return tmp_path / f"adapter-{scale}"


def test_lm_evaluation_harness_runs_on_the_adapter(task, tmp_path):
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed; it is the eval extra")
    import lm_eval
    from lm_eval.tasks import TaskManager

    def accuracy(folder):
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={model_path()},peft={folder},dtype=float32",
            tasks=["sotune_skill"],
            task_manager=TaskManager(include_path=str(task), include_defaults=False),
            device="cpu",
            batch_size=16,
        )
        return found["results"]["sotune_skill"]["exact_match,stripped"]

    assert accuracy(adapter(tmp_path, scale=0.0)) > 0.9  # an adapter of zeros leaves the aligned model as it was
    assert accuracy(adapter(tmp_path, scale=9.0)) < 0.5  # and a wild one is seen to be read
