"""Kept rows in the shapes of other tools: each read back by the tool where it installs, or by its published schema."""

import ast
import csv
import json
import re
from collections import Counter
from dataclasses import replace
from typing import Annotated, Literal

import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sotune.errors import DataError
from sotune.exporting import TARGETS, ExportFacts, export_files, export_rows, resample
from sotune.records import Message, Record, ToolCall
from sotune.settings import TARGET_NAMES, TrainingSettings
from sotune.sources import load_set
from sotune.wording import counted

FACTS = ExportFacts(
    base="owner/model", revision=None, method="sotune", finding="At most 5.5 % of harm passes.", n_rows=9, n_kept=6,
    training=TrainingSettings(seed=0, max_length=128, learning_rate=1e-4, r=8), version="0.1.0",
)  # fmt: skip
ASK, SAY = Message("user", "What is 2 + 2?"), Message("assistant", "4")
PLAIN = Record("plain", (ASK, SAY))
SYSTEM = Record("system", (Message("system", "Be brief."), ASK, SAY))
LAST = Record("last", (ASK, Message("assistant", "5?", learned=False), Message("user", "Sure?"), SAY))
BOTH = Record("both", (ASK, Message("assistant", "4."), Message("user", "Sure?"), Message("assistant", "Yes.")))
CALL = ToolCall("add", '{"a": 2, "b": 2}')
TOOLS = json.dumps([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}])
TOOL = Record("tool", (ASK, Message("assistant", "", tool_calls=(CALL,)), Message("tool", "4", name="add"), SAY), TOOLS)
THOUGHT = Record("thought", (ASK, Message("assistant", "4", reasoning="Two and two.")))
RECORDS = [PLAIN, SYSTEM, LAST, BOTH, TOOL, THOUGHT]
WEIGHTS = dict(zip((record.id for record in RECORDS), (2.0, 1.0, 0.5, 1.5, 0.25, 0.75), strict=True))


def export(tmp_path, name, records=RECORDS, **changes):
    given = {"seed": 0, **changes}
    return export_rows(records, WEIGHTS, TARGETS[name], FACTS, tmp_path / name, **given)


def lines(tmp_path, name):
    return [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def bare(message):
    """Returns what of a turn a target without ids of calls keeps."""
    calls = tuple((call.name, json.dumps(json.loads(call.arguments))) for call in message.tool_calls)
    return message.role, message.content, calls


@pytest.mark.parametrize("name", [name for name in TARGET_NAMES if TARGETS[name].file == "train.jsonl"])
def test_our_own_reader_finds_the_same_conversations(tmp_path, name):
    done = export(tmp_path, name)
    found = load_set(tmp_path / name / "train.jsonl", set_name="downstream", max_quarantine_fraction=0.0).records
    assert len(found) == done.n_written
    # Axolotl's rows are drawn, and so some stand there twice; no conversation is another one than ours.
    learned = {tuple(map(bare, record.messages)): record.learned for record in RECORDS}
    assert all(tuple(map(bare, record.messages)) in learned for record in found)
    if TARGETS[name].masks == "marked":
        assert all(record.learned == learned[tuple(map(bare, record.messages))] for record in found)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("trl", {}),
        ("axolotl", {}),
        ("openai", {"thoughts apart from the answer": 1}),
        ("fireworks", {"thoughts apart from the answer": 1}),
        ("llamafactory", {"thoughts apart from the answer": 1}),
        ("together", {"tools or tool calls": 1, "thoughts apart from the answer": 1}),
        ("torchtune", {"tools or tool calls": 1, "thoughts apart from the answer": 1}),
        ("csv", {"more than one question and one answer": 2, "tools or tool calls": 1,
                 "thoughts apart from the answer": 1}),
        ("hf", {}),
    ],
)  # fmt: skip
def test_what_has_no_place_is_left_out_and_counted(tmp_path, name, left_out):
    done = export(tmp_path, name)
    assert done.left_out == left_out
    assert done.n_kept == len(RECORDS)
    assert done.n_written == len(RECORDS) - sum(left_out.values())
    card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
    assert all(f"Not in it: {counted(n, 'kept row')} with {reason}." in card for reason, n in left_out.items())
    assert FACTS.finding in card
    assert "2 + 2" not in card


def test_a_target_with_a_place_for_none_is_an_error(tmp_path):
    with pytest.raises(DataError, match="CSV has a place for none of the kept rows: 1 row with tools or tool calls"):
        export(tmp_path, "csv", [TOOL])


def test_other_turns_that_would_be_learned_are_counted(tmp_path):
    masks = {name: export(tmp_path, name).n_other_masks for name in TARGET_NAMES}
    assert masks == {
        "trl": 2, "axolotl": 0, "llamafactory": 1, "torchtune": 1, "openai": 0, "together": 0, "fireworks": 0, "hf": 0,
        "csv": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trl", "WeightedSFTTrainer reads and TRL's own trainer ignores"),
        ("fireworks", "by which Fireworks multiplies its loss"),
        ("openai", "none: OpenAI has no weight for a row"),
        ("axolotl", "6 rows drawn from 6, each as often as its weight says (seed 0)"),
        ("csv", "a column `weight`"),
    ],
)
def test_what_becomes_of_the_weights_is_said(tmp_path, name, words):
    done = export(tmp_path, name)
    assert words in done.weights
    assert words in (tmp_path / name / "README.md").read_text(encoding="utf-8")


def test_rows_are_drawn_as_often_as_their_weights_say(tmp_path):
    done = export(tmp_path, "openai", [PLAIN, SYSTEM], draw=300)
    assert "300 rows drawn from 2" in done.weights
    n_turns = Counter(len(row["messages"]) for row in lines(tmp_path, "openai"))
    assert n_turns == {2: 200, 3: 100}


def test_plain_rows_have_no_weights_anywhere(tmp_path):
    done = export(tmp_path, "trl", plain=True)
    assert done.weights == "none: the kept rows count alike"
    assert all("weight" not in row for row in lines(tmp_path, "trl"))
    assert "SFTTrainer(" in (tmp_path / "trl" / "train.py").read_text()
    assert "sotune.trl" not in (tmp_path / "trl" / "train.py").read_text()


def test_nothing_is_written_where_only_a_plan_was_asked_for(tmp_path):
    done = export(tmp_path, "hf", write=False)
    assert done.n_written == 6
    assert not (tmp_path / "hf").exists()


def test_an_export_that_was_killed_is_done_again(tmp_path, monkeypatch):
    def killed(path, rows):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export_files, "_write_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path, "trl")
    assert export(tmp_path, "trl").n_written == len(lines(tmp_path, "trl"))


class TestResample:
    def test_shares_are_those_of_the_weights_to_within_one_copy(self):
        weights = [0.1, 0.0, 2.5, 1.0, 0.4]
        for seed in range(20):
            counts = Counter(resample(weights, 37, seed=seed))
            assert sum(counts.values()) == 37
            for place, weight in enumerate(weights):
                assert abs(counts[place] - 37 * weight / 4.0) < 1

    def test_the_seed_decides(self):
        weights = [1.0, 2.0, 3.0]
        assert resample(weights, 11, seed=1) == resample(weights, 11, seed=1)
        assert resample(weights, 11, seed=1) != resample(weights, 11, seed=2)

    @pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
    def test_unusable_weights_are_errors(self, weights):
        with pytest.raises(DataError, match="not all 0"):
            resample(weights, 3, seed=0)


class TestTRL:
    @pytest.fixture(autouse=True)
    def _needs_trl(self):
        pytest.importorskip("trl")

    def trainer(self, tmp_path, kind, folder):
        from datasets import load_dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import SFTConfig

        rows = load_dataset(
            "json", data_files=str(tmp_path / "trl" / "train.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
        )
        args = SFTConfig(str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none", shuffle_dataset=False)
        return kind(
            AutoModelForCausalLM.from_pretrained(folder), args, train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(folder),
        )  # fmt: skip

    def test_its_own_trainer_reads_plain_rows(self, tmp_path, tiny_model):
        from trl import SFTTrainer

        export(tmp_path, "trl", [PLAIN, SYSTEM, LAST], plain=True)
        found = self.trainer(tmp_path, SFTTrainer, tiny_model("llama")).train_dataset
        assert len(found) == 3
        assert all(-100 in labels and any(one != -100 for one in labels) for labels in found["labels"])

    def test_the_weighted_trainer_reads_the_weights(self, tmp_path, tiny_model):
        from sotune.trl import WeightedSFTTrainer

        export(tmp_path, "trl", [PLAIN, SYSTEM, LAST])
        found = self.trainer(tmp_path, WeightedSFTTrainer, tiny_model("llama")).train_dataset
        assert found["loss_weight"] == [2.0, 1.0, 0.5]

    @pytest.mark.parametrize("plain", [False, True])
    def test_the_script_beside_it_trains(self, tmp_path, tiny_model, monkeypatch, plain):
        facts = replace(FACTS, base=str(tiny_model("llama")))
        export_rows([PLAIN, SYSTEM, LAST], WEIGHTS, TARGETS["trl"], facts, tmp_path, plain=plain, seed=0)
        script = (tmp_path / "train.py").read_text()
        assert ("WeightedSFTTrainer" in script) is not plain
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        on_cpu = script.replace('SFTConfig("tuned", ', 'SFTConfig("tuned", use_cpu=True, ')  # it takes a GPU otherwise
        exec(compile(on_cpu, "train.py", "exec"), {"__name__": "__main__"})
        assert (tmp_path / "tuned" / "adapter_model.safetensors").exists()


def test_configurations_train_as_the_run_does(tmp_path):
    training = TrainingSettings(
        per_device_train_batch_size=4, gradient_accumulation_steps=8, max_steps=50, warmup_ratio=0.1, max_grad_norm=0.5,
        seed=7, lora_dropout=0.05, finetuning_type="dora", target_modules=("o_proj",), bf16=False,
    )  # fmt: skip
    facts = replace(FACTS, training=training, revision="v1")
    for name in ("trl", "axolotl", "llamafactory"):
        export_rows([PLAIN], WEIGHTS, TARGETS[name], facts, tmp_path / name, seed=0)
    calls = {
        node.func.id: {one.arg: ast.literal_eval(one.value) for one in node.keywords}
        for node in ast.walk(ast.parse((tmp_path / "trl" / "train.py").read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("SFTConfig", "LoraConfig")
    }
    common = {
        "num_train_epochs": 2, "max_steps": 50, "gradient_accumulation_steps": 8, "max_grad_norm": 0.5, "seed": 7,
        "learning_rate": 4e-5,
    }  # fmt: skip
    hugging = {**common, "per_device_train_batch_size": 4, "lr_scheduler_type": "cosine"}
    assert calls["SFTConfig"] == {
        **hugging, "warmup_steps": 0.1, "bf16": False, "max_length": training.max_length,
        "model_init_kwargs": {"revision": "v1"},
    }  # fmt: skip
    assert calls["LoraConfig"] == {
        "r": 16, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["o_proj"], "use_dora": True,
    }  # fmt: skip
    llamafactory = yaml.safe_load((tmp_path / "llamafactory" / "llamafactory.yaml").read_text())
    assert {**hugging, "warmup_ratio": 0.1, "lora_dropout": 0.05}.items() <= llamafactory.items()
    axolotl = yaml.safe_load((tmp_path / "axolotl" / "axolotl.yaml").read_text())
    common["num_epochs"] = common.pop("num_train_epochs")
    own = {"micro_batch_size": 4, "lr_scheduler": "cosine", "warmup_ratio": 0.1, "lora_dropout": 0.05}
    assert {**common, **own}.items() <= axolotl.items()


def test_of_a_run_that_trains_all_weights_so_does_the_script(tmp_path):
    facts = replace(FACTS, training=TrainingSettings(finetuning_type="full"))
    export_rows([PLAIN], WEIGHTS, TARGETS["trl"], facts, tmp_path, seed=0)
    script = (tmp_path / "train.py").read_text()
    compile(script, "train.py", "exec")
    assert not re.search("lora|peft", script, re.IGNORECASE)


class TestDatasets:
    """The shapes that Hugging Face's own library reads."""

    def test_a_folder_for_the_hub_is_one_data_set(self, tmp_path):
        from datasets import load_dataset

        export(tmp_path, "hf")
        found = load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
        assert found["weight"] == [WEIGHTS[id] for id in found["id"]]
        assert found[4]["messages"][1]["tool_calls"].startswith('[{"type": "function"')
        assert json.loads(found[4]["tools"]) == json.loads(TOOLS)
        table = pq.read_table(tmp_path / "hf" / "train.parquet")
        assert table.column_names == ["id", "messages", "tools", "weight"]

    def test_a_table(self, tmp_path):
        from datasets import load_dataset

        export(tmp_path, "csv")
        path = tmp_path / "csv" / "train.csv"
        with path.open(encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file))
        assert [(row["id"], row["system"], row["prompt"], row["completion"]) for row in read] == [
            ("plain", "", "What is 2 + 2?", "4"), ("system", "Be brief.", "What is 2 + 2?", "4"),
        ]  # fmt: skip
        found = load_dataset("csv", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        assert found["weight"] == [2.0, 1.0]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Function(Strict):
    name: str
    arguments: str


class Call(Strict):
    id: str
    type: Literal["function"]
    function: Function


class System(Strict):
    role: Literal["system"]
    content: str


class User(Strict):
    role: Literal["user"]
    content: str


class Assistant(Strict):
    role: Literal["assistant"]
    content: str | None = None
    weight: Literal[0, 1] | None = None
    tool_calls: Annotated[list[Call], Field(min_length=1)] | None = None


class Tool(Strict):
    role: Literal["tool"]
    content: str
    tool_call_id: str


class OpenAIRow(Strict):
    """FineTuneChatRequestInput of openai/openai-openapi."""

    messages: Annotated[list[System | User | Assistant | Tool], Field(min_length=1)]
    tools: list[dict] | None = None


class FireworksRow(OpenAIRow):
    weight: float


def test_openai(tmp_path):
    export(tmp_path, "openai")
    rows = TypeAdapter(list[OpenAIRow]).validate_python(lines(tmp_path, "openai"))
    calls = rows[-1].messages
    assert calls[1].tool_calls[0].id == calls[2].tool_call_id == "call_0"
    assert [turn.weight for turn in rows[2].messages if turn.role == "assistant"] == [0, 1]
    assert all(row.messages[-1].role == "assistant" for row in rows)


def test_fireworks(tmp_path):
    export(tmp_path, "fireworks")
    rows = TypeAdapter(list[FireworksRow]).validate_python(lines(tmp_path, "fireworks"))
    assert [row.weight for row in rows] == [2.0, 1.0, 0.5, 1.5, 0.25]
    assert [turn.weight for turn in rows[2].messages if turn.role == "assistant"] == [0, None]


def test_together(tmp_path):
    """The rules of together-python's check of a file (src/together/utils/files.py)."""
    export(tmp_path, "together")
    for row in lines(tmp_path, "together"):
        assert row.keys() == {"messages"}  # any other column is refused
        spoken = [turn["role"] for turn in row["messages"]]
        assert all(one != other for one, other in zip(spoken, spoken[1:], strict=False))
        for turn in row["messages"]:
            assert isinstance(turn["content"], str)
            assert turn["role"] in ("system", "user", "assistant")
            assert turn.get("weight", 0) in (0, 1)
            assert type(turn.get("weight", 0)) is int


def test_axolotl(tmp_path):
    """Keys of axolotl's SFTDataset (src/axolotl/utils/schemas/datasets.py)."""
    export(tmp_path, "axolotl")
    config = yaml.safe_load((tmp_path / "axolotl" / "axolotl.yaml").read_text())
    (dataset,) = config["datasets"]
    assert dataset.keys() <= {
        "path", "ds_type", "type", "field_messages", "message_field_training", "roles_to_train", "train_on_eos",
    }  # fmt: skip
    assert (tmp_path / "axolotl" / dataset["path"]).exists()
    for row in lines(tmp_path, "axolotl"):
        assert all(isinstance(turn[dataset["message_field_training"]], bool) for turn in row["messages"])
        assert all(turn["train"] is False for turn in row["messages"] if turn["role"] != "assistant")


def test_llamafactory(tmp_path):
    """Keys of LLaMA-Factory's dataset_info.json, and the order of turns that its converter asks for."""
    export(tmp_path, "llamafactory")
    folder = tmp_path / "llamafactory"
    (name, entry), config = *json.loads((folder / "dataset_info.json").read_text()).items(), None
    config = yaml.safe_load((folder / "llamafactory.yaml").read_text())
    assert config["dataset"] == name
    assert config["dataset_dir"] == "."
    assert entry.keys() == {"file_name", "formatting", "columns", "tags"}
    assert (folder / entry["file_name"]).exists()
    tags = entry["tags"]
    for row in lines(tmp_path, "llamafactory"):
        assert set(entry["columns"].values()) <= row.keys()
        spoken = [turn[tags["role_tag"]] for turn in row["messages"]]
        spoken = spoken[1:] if spoken[0] == tags["system_tag"] else spoken
        assert len(spoken) % 2 == 0
        assert set(spoken[::2]) <= {tags["user_tag"], tags["observation_tag"]}
        assert set(spoken[1::2]) <= {tags["assistant_tag"], tags["function_tag"]}
        assert isinstance(row["tools"], str)
    assert config["mask_history"] is False
    export(tmp_path, "llamafactory", [PLAIN, LAST])
    assert yaml.safe_load((folder / "llamafactory.yaml").read_text())["mask_history"] is True
    assert export(tmp_path, "llamafactory", [PLAIN, LAST]).n_other_masks == 0


def test_torchtune(tmp_path):
    """Arguments of torchtune's chat_dataset, and the rules of its validate_messages."""
    export(tmp_path, "torchtune")
    config = yaml.safe_load((tmp_path / "torchtune" / "torchtune.yaml").read_text())["dataset"]
    assert config["_component_"] == "torchtune.datasets.chat_dataset"
    assert (tmp_path / "torchtune" / config["data_files"]).exists()
    for row in lines(tmp_path, "torchtune"):
        roles = [turn["role"] for turn in row[config["conversation_column"]]]
        assert "system" not in roles[1:]
        assert all(isinstance(turn["content"], str) for turn in row["messages"])
