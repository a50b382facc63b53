"""What stands beside exported rows: a card, and the snippet or configuration that the target needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

CARD_TITLE = "# Rows kept for fine-tuning, for"


@dataclass(frozen=True)
class ExportFacts:
    """What a card and a configuration say of the run.

    Attributes:
        base: The model that is to be tuned, a Hub id; a placeholder where the run names none, or a local folder.
        revision: Its revision on the Hub.
        method: What weighed the rows, in words.
        finding: What the run found of safety, in one sentence.
        n_rows: Rows that were weighed.
        n_kept: Rows that were kept.
        seed: Of the run.
        max_length: Tokens of a row, at most.
        learning_rate: As `sotune train` would use it; so are those that follow.
        epochs: Passes over the rows.
        r: Rank of the adapter.
        alpha: Its scale.
        version: Of sotune.
    """

    base: str
    revision: str | None
    method: str
    finding: str
    n_rows: int
    n_kept: int
    seed: int
    max_length: int
    learning_rate: float
    epochs: float
    r: int
    alpha: int
    version: str


def dataset_card(title: str, facts: ExportFacts, weights: str, left_out: Mapping[str, int], *, file: str) -> str:
    """Returns README.md of an export: metadata as the Hub reads it, then what the rows are and are not."""
    metadata = {
        "tags": ["sotune", "safety", "supervised-fine-tuning"],
        "task_categories": ["text-generation"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}],
    }
    lost = [f"- {n:,} kept rows are not in it: {reason}." for reason, n in left_out.items()]
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n{CARD_TITLE} {title}\n\n"
        f"{facts.n_kept:,} of {facts.n_rows:,} rows were kept by {facts.method} (sotune {facts.version}); `{file}` has "
        f"them in the shape of {title}.\n\n"
        f"- Weights: {weights}.\n" + "".join(f"{line}\n" for line in lost) + f"- Safety: {facts.finding}\n\n"
        "The rows' texts are their author's; their licence is that of the data they come from, which this card does "
        "not know. What was measured holds for harm like the run's harmful reference, and for no other.\n"
    )


def trl_snippet(facts: ExportFacts, *, weighted: bool) -> Mapping[str, str]:
    """Returns a script for TRL, with the trainer that reads the weights where there are some."""
    if weighted:
        imports = "from peft import LoraConfig\nfrom trl import SFTConfig\n\nfrom sotune.trl import WeightedSFTTrainer"
        trainer, rows = "WeightedSFTTrainer", '"train.jsonl"'
    else:
        imports = (
            "from datasets import load_dataset\nfrom peft import LoraConfig\nfrom trl import SFTConfig, SFTTrainer"
        )
        trainer, rows = "SFTTrainer", 'load_dataset("json", data_files="train.jsonl", split="train")'
    options = f"max_length={facts.max_length}, learning_rate={facts.learning_rate!r}, num_train_epochs={facts.epochs!r}"
    script = f"""# Trains on the kept rows with TRL; run it in this folder.
{imports}

rows = {rows}
args = SFTConfig("tuned", {options})
lora = LoraConfig(r={facts.r}, lora_alpha={facts.alpha})
trainer = {trainer}({facts.base!r}, args, train_dataset=rows, peft_config=lora)
trainer.train()
trainer.save_model()
"""
    return {"train.py": script}


def axolotl_config(facts: ExportFacts) -> Mapping[str, str]:
    """Returns a YAML for Axolotl, in which each turn says whether it is learned."""
    config = {
        "base_model": facts.base,
        "datasets": [
            {
                "path": "train.jsonl",
                "ds_type": "json",
                "type": "chat_template",
                "field_messages": "messages",
                "message_field_training": "train",
                "roles_to_train": [],
                "train_on_eos": "turn",
            }
        ],
        "adapter": "lora",
        "lora_r": facts.r,
        "lora_alpha": facts.alpha,
        "lora_target_linear": True,
        "sequence_len": facts.max_length,
        "num_epochs": facts.epochs,
        "learning_rate": facts.learning_rate,
        "seed": facts.seed,
        "output_dir": "./tuned",
    }
    return {"axolotl.yaml": yaml.safe_dump(config, sort_keys=False)}


def llamafactory_config(facts: ExportFacts, *, last_turn_only: bool) -> Mapping[str, str]:
    """Returns dataset_info.json and a YAML for LLaMA-Factory; both lie in the folder of the rows."""
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "observation",
        "function_tag": "function_call",
        "system_tag": "system",
    }
    info = {
        "sotune": {
            "file_name": "train.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "tools": "tools"},
            "tags": tags,
        }
    }
    config = {
        "model_name_or_path": facts.base,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": facts.r,
        "lora_alpha": facts.alpha,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": "sotune",
        "template": "TEMPLATE_OF_THE_MODEL",
        "mask_history": last_turn_only,
        "cutoff_len": facts.max_length,
        "num_train_epochs": facts.epochs,
        "learning_rate": facts.learning_rate,
        "seed": facts.seed,
        "output_dir": "tuned",
    }
    return {
        "dataset_info.json": json.dumps(info, indent=2) + "\n",
        "llamafactory.yaml": yaml.safe_dump(config, sort_keys=False),
    }


def torchtune_config(facts: ExportFacts) -> Mapping[str, str]:
    """Returns the part of a torchtune configuration that names the rows."""
    dataset = {
        "_component_": "torchtune.datasets.chat_dataset",
        "source": "json",
        "data_files": "train.jsonl",
        "split": "train",
        "conversation_column": "messages",
        "conversation_style": "openai",
        "train_on_input": False,
    }
    return {"torchtune.yaml": yaml.safe_dump({"dataset": dataset, "seed": facts.seed}, sort_keys=False)}


def upload_snippet(service: str) -> Mapping[str, str]:
    """Returns the commands that hand the file to a service; nothing here sends it."""
    commands: dict[str, Sequence[str]] = {
        "openai": ('curl https://api.openai.com/v1/files -H "Authorization: Bearer $OPENAI_API_KEY" \\',
                   '    -F purpose=fine-tune -F file=@train.jsonl'),
        "together": ("together files check train.jsonl", "together files upload train.jsonl"),
        "fireworks": ("firectl dataset create sotune train.jsonl",),
    }  # fmt: skip
    return {"upload.sh": "\n".join(("# Sends the rows to the service.", *commands[service])) + "\n"}
