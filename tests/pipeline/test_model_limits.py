"""A tokenizer that knows more than its model, and rows that are longer than the model reads."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from pipeline_rows import rows, write_jsonl
from sotune.artifacts import read_json
from sotune.errors import ConfigError, DataError
from sotune.models import ModelSpec, load_tokenizer
from sotune.records import Record
from sotune.rendering import load_renderer
from sotune.settings import RenderingSettings, TrainingSettings
from sotune.training import fine_tune

OPEN, CLOSE = "<|open|>", "<|close|>"
TEMPLATE = (
    "{% for m in messages %}<|open|>{{ m['role'] }}\n{{ m['content'] }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|open|>assistant\n{% endif %}"
)
TRAIN = ("--max-steps", "2", "--per-device-train-batch-size", "2")


@pytest.fixture
def changed(tiny_model, tmp_path):
    """Copies a tiny model with its tokenizer changed; returns the folder."""

    def make(change, architecture="llama"):
        folder = shutil.copytree(tiny_model(architecture), tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def add_turn_tokens(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": [OPEN, CLOSE]})
    tokenizer.chat_template = TEMPLATE


def add_pad_token(tokenizer):
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})


def over(flags, folder):
    kept = list(flags)
    kept[kept.index("--model") + 1] = str(folder)
    return [*kept, "--device", "cpu"]


def test_a_template_of_tokens_that_the_model_lacks_is_refused_before_any_work(cli, flags, changed, tmp_path):
    folder = changed(add_turn_tokens)
    size = read_json(folder / "config.json")["vocab_size"]
    result = cli("weigh", *over(flags, folder), "--template", "chat")
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert f"knows {size + 2} tokens, the model {size}, and the chat template uses one of those" in said
    assert "resize the model's embeddings" in said
    assert "Traceback" not in result.output
    result = cli("weigh", *over(flags, folder), "--template", "paper")
    assert result.exit_code == 0, result.output


def test_a_padding_token_that_the_model_lacks_gives_way_to_one_that_it_has(cli, flags, changed, tmp_path):
    folder = changed(add_pad_token)
    tokenizer = load_tokenizer(ModelSpec(str(folder)))
    assert tokenizer.pad_token == tokenizer.eos_token
    result = cli("weigh", *over(flags, folder))
    assert result.exit_code == 0, result.output
    result = cli("train", tmp_path / "run", *TRAIN)
    assert result.exit_code == 0, result.output


def test_without_any_padding_token_that_the_model_has_it_is_refused(changed):
    def change(tokenizer):
        tokenizer.add_special_tokens({"pad_token": "<|pad|>", "eos_token": "<|end|>"})

    with pytest.raises(ConfigError, match="neither a padding nor an end-of-sequence token that the model knows"):
        load_tokenizer(ModelSpec(str(changed(change))))


@pytest.mark.parametrize("template", ["paper", "chat"])
def test_an_end_of_sequence_token_that_the_model_lacks_is_refused_before_any_work(cli, flags, changed, template):
    folder = changed(lambda tokenizer: tokenizer.add_special_tokens({"eos_token": "<|end|>"}))
    result = cli("weigh", *over(flags, folder), "--template", template)
    assert result.exit_code == 2
    assert f"the {template} template uses one of those that the model lacks, '<|end|>'" in " ".join(
        result.output.split()
    )


def test_a_configuration_that_transformers_refuses_is_named(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": None}))
    with pytest.raises(ConfigError, match=r"could not be loaded \(.*max_position_embeddings.*check the folder's files"):
        load_renderer(ModelSpec(str(folder)), RenderingSettings())


def test_a_row_with_a_token_that_the_model_lacks_is_quarantined(cli, flags, data, changed, tmp_path):
    folder = changed(lambda tokenizer: tokenizer.add_tokens(["zebra"]))
    odd = {"id": "odd", "prompt": "Paint a zebra", "response": "Sure: black, then white.", "label": "benign"}
    write_jsonl(data / "train.jsonl", [*rows("benign", 80, 1), odd, *rows("harmful", 10, 2)])
    result = cli("weigh", *over(flags, folder))
    assert result.exit_code == 0, result.output
    [row] = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert row["line"] == 81
    assert "has the token 'zebra', which the tokenizer knows and the model does not" in row["reason"]
    assert list(read_json(tmp_path / "run" / "records.json")["quarantine_reasons"]) == ["cannot be rendered"]
    renderer = load_renderer(ModelSpec(str(folder)), RenderingSettings())
    with pytest.raises(DataError, match="'zebra'"):
        renderer.prompt_tokens(Record.from_text("x", "a zebra", "b").prompt)


@pytest.mark.parametrize(("architecture", "template"), [("gpt2", "chat"), ("llama", "paper")])
def test_weighing_and_training_cut_alike_at_the_models_positions(
    cli, flags, data, tiny_model, tmp_path, architecture, template
):
    long = [{**row, "response": "then wait, " * (150 + 3 * i)} for i, row in enumerate(rows("benign", 12, 1))]
    write_jsonl(data / "train.jsonl", [*long, *rows("benign", 12, 9), *rows("harmful", 4, 2)])
    model = over(flags, tiny_model(architecture))
    result = cli("weigh", *model, "--template", template, "--keep-fraction", "1", "--sentinels", "off")
    assert result.exit_code == 0, result.output
    result = cli("train", tmp_path / "run", *TRAIN)
    assert result.exit_code == 0, result.output
    assert read_json(tmp_path / "run" / "representations.json")["n_truncated"] == 12
    assert read_json(tmp_path / "run" / "training.json")["n_truncated"] == 12


def test_the_limit_is_the_lower_of_the_users_and_the_models(tiny_model, tmp_path):
    spec = ModelSpec(str(tiny_model("gpt2")), dtype="float32", device="cpu")
    limits = (64, 512, 2048)
    assert [load_renderer(spec, RenderingSettings(max_length=n)).max_length for n in limits] == [64, 512, 512]
    record = Record.from_text("r", "sea " * 600, "wide " * 600)
    result = fine_tune(
        [record], {"r": 1.0}, model=spec, settings=TrainingSettings(max_length=2048, max_steps=1), output_dir=tmp_path
    )
    assert result.n_truncated == 1
