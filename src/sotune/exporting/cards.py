"""What stands beside exported rows: a card, and the snippet or configuration that the target needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sotune.settings import TrainingSettings
from sotune.settings.train import PAPER_TARGET_MODULES
from sotune.wording import counted

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
        training: How `sotune train` would train on them.
        version: Of sotune.
    """

    base: str
    revision: str | None
    method: str
    finding: str
    n_rows: int
    n_kept: int
    training: TrainingSettings
    version: str


def dataset_card(title: str, facts: ExportFacts, weights: str, left_out: Mapping[str, int], *, file: str) -> str:
    """Returns README.md of an export: metadata as the Hub reads it, then what the rows are and are not."""
    metadata = {
        "tags": ["sotune", "safety", "supervised-fine-tuning"],
        "task_categories": ["text-generation"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}],
    }
    lost = [f"- Not in it: {counted(n, 'kept row')} with {reason}." for reason, n in left_out.items()]
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
    training = facts.training
    args = {
        "max_length": training.max_length,
        **_trainer_options(training),
        "warmup_steps": training.warmup_ratio,  # below 1 it is a share of all steps
        **({} if training.bf16 else {"bf16": False}),
        **({"model_init_kwargs": {"revision": facts.revision}} if facts.revision else {}),
    }
    whole = training.finetuning_type == "full"
    peft, adapter = ("", "") if whole else ("from peft import LoraConfig\n", f", peft_config={_lora(training)}")
    if weighted:
        imports = f"{peft}from trl import SFTConfig\n\nfrom sotune.trl import WeightedSFTTrainer"
        trainer, rows = "WeightedSFTTrainer", '"train.jsonl"'
    else:
        imports = f"from datasets import load_dataset\n{peft}from trl import SFTConfig, SFTTrainer"
        trainer, rows = "SFTTrainer", 'load_dataset("json", data_files="train.jsonl", split="train")'
    script = f"""# Trains on the kept rows with TRL; run it in this folder.
{imports}

rows = {rows}
args = SFTConfig("tuned", {_keywords(args)})
trainer = {trainer}({facts.base!r}, args, train_dataset=rows{adapter})
trainer.train()
trainer.save_model()
"""
    return {"train.py": script}


def _lora(training: TrainingSettings) -> str:
    """Returns the adapter in PEFT's words; without the paper's layers a model gets those that PEFT names for it."""
    own = {} if training.target_modules == PAPER_TARGET_MODULES else {"target_modules": [*training.target_modules]}
    kind = {} if training.finetuning_type == "lora" else {f"use_{training.finetuning_type}": True}
    sizes = {"r": training.r, "lora_alpha": training.lora_alpha, "lora_dropout": training.lora_dropout}
    return f"LoraConfig({_keywords({**sizes, **own, **kind})})"


def _trainer_options(training: TrainingSettings) -> dict[str, Any]:
    """Returns how `sotune train` takes its steps, by the names of transformers."""
    return {
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.num_train_epochs,
        **({} if training.max_steps is None else {"max_steps": training.max_steps}),
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
    }


def _keywords(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def axolotl_config(facts: ExportFacts) -> Mapping[str, str]:
    """Returns a YAML for Axolotl, in which each turn says whether it is learned."""
    training = facts.training
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
        "lora_r": training.r,
        "lora_alpha": training.lora_alpha,
        "lora_dropout": training.lora_dropout,
        "lora_target_linear": True,
        "sequence_len": training.max_length,
        "num_epochs": training.num_train_epochs,
        **({} if training.max_steps is None else {"max_steps": training.max_steps}),
        "micro_batch_size": training.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_ratio": training.warmup_ratio,
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
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
        "lora_rank": facts.training.r,
        "lora_alpha": facts.training.lora_alpha,
        "lora_dropout": facts.training.lora_dropout,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": "sotune",
        "template": "TEMPLATE_OF_THE_MODEL",
        "mask_history": last_turn_only,
        "cutoff_len": facts.training.max_length,
        **_trainer_options(facts.training),
        "warmup_ratio": facts.training.warmup_ratio,
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
    return {"torchtune.yaml": yaml.safe_dump({"dataset": dataset, "seed": facts.training.seed}, sort_keys=False)}


def upload_snippet(service: str) -> Mapping[str, str]:
    """Returns the commands that hand the file to a service; nothing here sends it."""
    commands: dict[str, Sequence[str]] = {
        "openai": ('curl https://api.openai.com/v1/files -H "Authorization: Bearer $OPENAI_API_KEY" \\',
                   '    -F purpose=fine-tune -F file=@train.jsonl'),
        "together": ("together files check train.jsonl", "together files upload train.jsonl"),
        "fireworks": ("firectl dataset create sotune train.jsonl",),
    }  # fmt: skip
    return {"upload.sh": "\n".join(("# Sends the rows to the service.", *commands[service])) + "\n"}
