import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from sotune.artifacts import sha256_file
from sotune.errors import ConfigError, DataError, SotuneError
from sotune.evaluation import EvalPrompt
from sotune.evaluation.generate import generate
from sotune.miniature import model_path
from sotune.models import ModelSpec, load_adapted, load_causal_lm, load_tokenizer
from sotune.records import Message, Record, as_turns
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training import fine_tune
from sotune.training.trainer import WeightedTrainer

ARCHITECTURES = ("llama", "qwen3", "gemma3_text", "gemma3", "gpt2")


def make_records(n=6):
    return [Record.from_text(f"r{i}", f"Add {i} and {i + 1}", f"The sum is {2 * i + 1}.") for i in range(n)]


def make_weights(n=6):
    return {f"r{i}": 0.5 + i / n for i in range(n)}


def make_settings(**changes):
    return TrainingSettings(**{"max_length": 64, "r": 4, "learning_rate": 1e-2, "save_steps": 2, **changes})


def run(model, output_dir, *, n=6, **changes):
    arguments = {name: changes.pop(name) for name in ("resume", "on_step", "keep_checkpoints") if name in changes}
    return fine_tune(
        make_records(n),
        make_weights(n),
        model=ModelSpec(str(model), device="cpu"),
        settings=make_settings(**changes),
        output_dir=output_dir,
        **arguments,
    )


def digest(result):
    return sha256_file(result.adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains_and_its_adapter_loads(tiny_model, tmp_path, architecture):
    from peft import PeftModel

    folder = tiny_model(architecture)
    result = run(folder, tmp_path, max_steps=3)
    spec = ModelSpec(str(folder), device="cpu")
    base = load_causal_lm(spec, frozen=True)
    input_ids = load_tokenizer(spec)("Add 3 and 4", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = base(input_ids=input_ids).logits
        after = PeftModel.from_pretrained(base, result.adapter)(input_ids=input_ids).logits
    assert (after - before).abs().max() > 1e-3
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    adapted = config["target_modules"]
    assert "vision" not in str(adapted)
    assert adapted == ["c_attn"] if architecture == "gpt2" else "q_proj" in str(adapted)


def test_gemma_3_adapts_the_language_model_and_not_the_vision_tower(tiny_model, tmp_path):
    from safetensors import safe_open

    result = run(tiny_model("gemma3"), tmp_path, max_steps=1)
    with safe_open(result.adapter / "adapter_model.safetensors", "pt") as adapter:
        names = list(adapter.keys())
    assert len(names) == 2 * 2 * 2  # layers, projections, and matrices of each
    assert all("language_model" in name for name in names)


def test_result_counts_and_log(tiny_model, tmp_path):
    told = []
    result = run(tiny_model("llama"), tmp_path, on_step=told.append)
    assert (result.n_rows, result.n_dropped, result.n_truncated, result.n_steps) == (6, 0, 0, 12)
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["loss"] for line in lines] == [step.loss for step in told]
    assert all(line["grad_norm"] > 0 for line in lines)
    assert lines[0]["n_steps"] == 12
    assert lines[0]["learning_rate"] == pytest.approx(0.0)
    assert lines[1]["learning_rate"] == pytest.approx(1e-2)
    assert result.final_loss == pytest.approx(lines[-1]["loss"])


def test_training_lowers_the_loss(tiny_model, tmp_path):
    result = run(tiny_model("llama"), tmp_path, num_train_epochs=8)
    losses = [json.loads(line)["loss"] for line in result.log.read_text().splitlines()]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])


def test_only_the_adapter_and_the_log_are_left(tiny_model, tmp_path):
    run(tiny_model("llama"), tmp_path, max_steps=3)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == [
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/chat_template.jinja",
        "adapter/tokenizer.json",
        "adapter/tokenizer_config.json",
        "training_log.jsonl",
    ]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("template", ["paper", "chat"])
def test_the_adapter_carries_the_tokenizer_with_the_template_that_it_was_trained_in(
    tiny_model, tmp_path, architecture, template
):
    folder = tiny_model(architecture)
    result = run(folder, tmp_path, max_steps=1, template=template)
    spec = ModelSpec(str(folder), device="cpu")
    renderer = load_renderer(spec, make_settings(template=template))
    own = AutoTokenizer.from_pretrained(result.adapter)
    for record in make_records(2):
        prompt = own.apply_chat_template(as_turns(record.prompt), add_generation_prompt=True, return_dict=False)
        assert prompt == renderer.prompt_tokens(record.prompt)
    assert (result.adapter / "README.md").read_text().count(f"template `{template}`") == 1


@pytest.mark.parametrize("template", ["auto", "paper"])
@pytest.mark.parametrize("model", ["llama", "miniature"])
def test_the_adapter_answers_without_sotune_as_in_our_evaluation(tiny_model, tmp_path, model, template):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = model_path() if model == "miniature" else tiny_model(model)
    result = run(folder, tmp_path, max_steps=8, template=template)
    spec = ModelSpec(str(folder), device="cpu", dtype="float32")
    asked = [EvalPrompt(record.id, "task", record.prompt) for record in make_records()]
    ours = generate(
        asked, model=load_adapted(spec, result.adapter), renderer=load_renderer(spec, make_settings(template=template)),
        max_new_tokens=12, batch_size=2,
    )  # fmt: skip
    own = AutoTokenizer.from_pretrained(result.adapter)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, result.adapter).eval()
    for prompt, answer in zip(asked, ours, strict=True):
        inputs = own.apply_chat_template(
            as_turns(prompt.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = adapted.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
        assert own.decode(ids, skip_special_tokens=True).strip() == answer.text
    assert any(answer.text for answer in ours)


@pytest.mark.parametrize("bos", ["added", "not added"])
def test_the_template_of_the_paper_begins_as_the_tokenizer_begins_a_text(tiny_model, tmp_path, bos):
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    if bos == "not added":  # as SmolLM2 and GPT-2, which have such a token all the same
        own = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps({**own, "post_processor": None}))
    result = run(folder, tmp_path / "out", max_steps=1, template="paper")
    renderer = load_renderer(ModelSpec(str(folder), device="cpu"), make_settings(template="paper"))
    turns = [Message("user", "hi")]
    handed = AutoTokenizer.from_pretrained(result.adapter)
    prompt = handed.apply_chat_template(as_turns(turns), add_generation_prompt=True, return_dict=False)
    assert prompt == renderer.prompt_tokens(turns)
    assert (prompt[0] == handed.bos_token_id) is (bos == "added")


def test_of_several_templates_the_adapter_carries_the_one_that_was_used(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    tokenizer = load_tokenizer(ModelSpec(str(folder), device="cpu"))
    plain = tokenizer.chat_template
    tokenizer.chat_template = {"default": plain, "loud": plain.replace("{{ m['content'] }}", "{{ m['content'] }}!")}
    tokenizer.save_pretrained(folder)
    result = run(folder, tmp_path / "out", max_steps=1, template="chat", chat_template="loud")
    own = AutoTokenizer.from_pretrained(result.adapter)
    assert own.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False).endswith("hi!<eos>\n")
    with pytest.raises(ConfigError, match="has several chat templates; name one of default, loud with chat_template"):
        run(folder, tmp_path / "other", max_steps=1, template="chat")


def test_the_readme_names_the_token_that_ends_an_answer_where_it_is_no_end_of_sequence(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    tokenizer = load_tokenizer(ModelSpec(str(folder), device="cpu"))
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "<img>")
    tokenizer.save_pretrained(folder)
    for template, told in (("chat", f"do_sample=False, eos_token_id={tokenizer.convert_tokens_to_ids('<img>')})"),
                           ("paper", "do_sample=False)")):  # fmt: skip
        result = run(folder, tmp_path / template, max_steps=1, template=template)
        assert told in (result.adapter / "README.md").read_text()


def test_the_adapter_tells_nothing_about_this_machine(tiny_model, tmp_path):
    folder = tiny_model("llama")
    result = run(folder, tmp_path, max_steps=1)
    for path in result.adapter.iterdir():
        content = path.read_bytes()
        assert str(folder).encode() not in content
        assert str(tmp_path).encode() not in content
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    readme = (result.adapter / "README.md").read_text()
    assert folder.name in readme
    assert "More Information Needed" not in readme


def test_same_seed_same_bytes_and_another_seed_others(tiny_model, tmp_path):
    results = [run(tiny_model("llama"), tmp_path / str(i), seed=seed, max_steps=3) for i, seed in enumerate((0, 0, 1))]
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (results[0].adapter / name).read_bytes() == (results[1].adapter / name).read_bytes()
    assert digest(results[0]) != digest(results[2])


def test_the_callers_random_state_is_left_as_it_was(tiny_model, tmp_path):
    import random

    random.seed(3)
    torch.manual_seed(3)
    expected = random.Random(3).random(), torch.rand(1, generator=torch.Generator().manual_seed(3))
    run(tiny_model("llama"), tmp_path, max_steps=1)
    assert (random.random(), torch.rand(1)) == expected


class Killed(Exception):
    """Stands for a kill at a certain step."""


def kill_at(step):
    def on_step(progress):
        if progress.step == step:
            raise Killed

    return on_step


@pytest.mark.parametrize("step", [pytest.param(s, marks=[] if s == 9 else pytest.mark.slow) for s in range(1, 13)])
def test_a_run_stopped_at_any_step_ends_with_the_same_bytes(tiny_model, tmp_path, step):
    """Step 6 ends an epoch, 12 the run; dropout makes the result depend on the random state too."""
    settings = {"lora_dropout": 0.2}
    expected = run(tiny_model("llama"), tmp_path / "straight", **settings)
    with pytest.raises(Killed):
        run(tiny_model("llama"), tmp_path / "killed", on_step=kill_at(step), **settings)
    assert not (tmp_path / "killed" / "adapter").exists()
    steps = []
    got = run(tiny_model("llama"), tmp_path / "killed", on_step=lambda s: steps.append(s.step), **settings)
    assert digest(got) == digest(expected)
    assert got.log.read_bytes() == expected.log.read_bytes()
    resumed_after = (step - 1) // 2 * 2
    assert steps == list(range(resumed_after + 1, 13))


@pytest.mark.parametrize("grouped", [False, True])
def test_resuming_with_accumulation_and_batches(tiny_model, tmp_path, grouped):
    settings = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 3, "n": 7,
        "group_by_length": grouped,
    }  # fmt: skip
    expected = run(tiny_model("llama"), tmp_path / "straight", **settings)
    with pytest.raises(Killed):
        run(tiny_model("llama"), tmp_path / "killed", on_step=kill_at(5), **settings)
    assert digest(run(tiny_model("llama"), tmp_path / "killed", **settings)) == digest(expected)


def test_a_half_written_checkpoint_is_passed_over(tiny_model, tmp_path):
    expected = run(tiny_model("llama"), tmp_path / "straight", max_steps=6)
    with pytest.raises(Killed):
        run(tiny_model("llama"), tmp_path / "killed", on_step=kill_at(5), max_steps=6)
    half = tmp_path / "killed" / "checkpoints" / "checkpoint-5"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    steps = []
    got = run(tiny_model("llama"), tmp_path / "killed", on_step=lambda s: steps.append(s.step), max_steps=6)
    assert steps == [5, 6]
    assert digest(got) == digest(expected)


@pytest.mark.parametrize("change", [{"learning_rate": 2e-2}, {"resume": False}])
def test_a_checkpoint_of_another_run_is_never_resumed(tiny_model, tmp_path, change):
    with pytest.raises(Killed):
        run(tiny_model("llama"), tmp_path, on_step=kill_at(3), max_steps=4)
    steps = []
    run(tiny_model("llama"), tmp_path, on_step=lambda s: steps.append(s.step), max_steps=4, **change)
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("max_steps", [4, 5])
def test_a_run_stopped_after_its_last_step_takes_no_step_too_many(tiny_model, tmp_path, max_steps):
    """Trainer itself, resumed from a checkpoint of the last step within an epoch, goes one step beyond."""
    expected = run(tiny_model("llama"), tmp_path, max_steps=max_steps, keep_checkpoints=True)
    last = (max_steps - 1) // 2 * 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"checkpoint-{last}"]
    before = digest(expected), expected.log.read_bytes()
    steps = []
    got = run(tiny_model("llama"), tmp_path, max_steps=max_steps, on_step=lambda s: steps.append(s.step))
    assert steps == list(range(last + 1, max_steps + 1))
    assert (digest(got), got.log.read_bytes()) == before


def test_a_diverging_run_stops_and_leaves_no_adapter(tiny_model, tmp_path):
    with pytest.raises(SotuneError, match=r"training diverged at step \d+.*lower learning_rate"):
        fine_tune(
            make_records(),
            dict.fromkeys(make_weights(), 1e38),
            model=ModelSpec(str(tiny_model("llama")), device="cpu"),
            settings=make_settings(),
            output_dir=tmp_path,
        )
    assert not (tmp_path / "adapter").exists()


def test_a_missing_weight_is_an_error(tiny_model, tmp_path):
    with pytest.raises(DataError, match="1 of 6 records have no loss weight: 'r5'"):
        fine_tune(
            make_records(6),
            make_weights(5),
            model=ModelSpec(str(tiny_model("llama")), device="cpu"),
            settings=make_settings(),
            output_dir=tmp_path,
        )


def test_unknown_target_modules_name_the_candidates(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match=r"target_modules query, v_proj; .* linear layers: down_proj, .*, q_proj, .*"):
        run(tiny_model("llama"), tmp_path, target_modules=("query", "v_proj"))


def test_float16_is_refused(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="training in float16 overflows"):
        fine_tune(
            make_records(),
            make_weights(),
            model=ModelSpec(str(tiny_model("llama")), device="cpu", dtype="float16"),
            settings=make_settings(),
            output_dir=tmp_path,
        )


def test_all_faults_of_the_settings_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        make_settings(r=0, learning_rate=-1.0, lora_dropout=1.0, max_steps=0)
    for name in ("r: must be", "learning_rate: must be", "lora_dropout: must be", "max_steps: must be"):
        assert name in str(error.value)


def test_defaults_are_those_of_table_4():
    settings = TrainingSettings(max_length=8)
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (16, 16, 0.0)
    assert settings.target_modules == ("q_proj", "v_proj")
    assert (settings.learning_rate, settings.warmup_ratio, settings.num_train_epochs) == (4e-5, 0.03, 2)
    assert (settings.per_device_train_batch_size, settings.gradient_accumulation_steps) == (1, 1)


SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_finetune import run
torch.set_num_threads(1)
run({model!r}, Path({out!r}), num_train_epochs=8, lora_dropout=0.1)
"""


@pytest.mark.slow
def test_a_process_killed_twice_ends_with_the_same_bytes(tiny_model, tmp_path):
    def start(out):
        script = SCRIPT.format(
            tests=str(Path(__file__).parent), model=str(tiny_model("llama")), out=str(tmp_path / out)
        )
        return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})

    assert start("straight").wait() == 0
    for seconds_after_a_checkpoint in (0.0, 0.4):
        before = set((tmp_path / "killed").glob("checkpoints/*"))
        victim = start("killed")
        while not set((tmp_path / "killed").glob("checkpoints/*")) - before:
            assert victim.poll() is None
            time.sleep(0.005)
        time.sleep(seconds_after_a_checkpoint)
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "adapter").exists()
    assert start("killed").wait() == 0
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "training_log.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_fsdp_is_refused_before_the_first_step(tiny_model, tmp_path):
    class Sharded(WeightedTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.is_fsdp_enabled = True  # as accelerate's launcher would have it

        def train(self, *args, **kwargs):
            raise AssertionError("nothing must be trained")

    with pytest.raises(ConfigError, match="start without FSDP"):
        fine_tune(
            make_records(2),
            make_weights(2),
            model=ModelSpec(str(tiny_model("llama")), device="cpu"),
            settings=make_settings(),
            output_dir=tmp_path,
            trainer_class=Sharded,
        )
