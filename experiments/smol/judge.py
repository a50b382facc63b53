"""Trains a classifier of harmful answers on PKU-SafeRLHF's labels: ``judge.py OUT``, after align.py dealt the rows.

Prompts of its training, of its check and of all else are apart. OUT then does for ``--harm-judge classifier:OUT
--classifier-input paper``; ``OUT/check.json`` says how it agrees with the labels of prompts that it has not seen. Three
passes take minutes on a GPU and hours on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import sotune
from sotune.records import Message
from sotune.rendering import render_paper
from sotune.worlds import SmolWorld
from sotune.worlds.smol.alignment import read_rows

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_MAX_LENGTH, _BATCH, _EPOCHS, _RATE = 224, 32, 3, 4e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--passes", type=int, default=_EPOCHS)
    arguments = parser.parse_args()
    world = SmolWorld()
    base, dealt = world.folder / "base", world.folder / "rows"
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.model_max_length = _MAX_LENGTH
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=2, id2label={0: "harmless", 1: "harmful"}, label2id={"harmless": 0, "harmful": 1},
        dtype=torch.float32,
    )  # fmt: skip
    model.config.pad_token_id = tokenizer.pad_token_id
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=16, lora_alpha=16, target_modules=LINEAR)
    network = get_peft_model(model, config).to(device)
    train(network, tokenizer, read_rows(dealt / "judge.jsonl")[: arguments.rows], arguments.passes, device)
    merged = network.merge_and_unload().to("cpu")
    merged.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    check = read_rows(dealt / "judge_check.jsonl")
    labels = arguments.out / "check.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in check[: arguments.rows]), encoding="utf-8")
    found = sotune.judge_check(
        labels,
        harm_judge=f"classifier:{arguments.out}",
        classifier_input="paper",
        eval_batch_size=64,
        out=arguments.out / "check.json",
    )
    print(found["overall"])


def train(network: Any, tokenizer: Any, rows: list[dict[str, Any]], n_passes: int, device: str) -> None:
    """Takes some passes over the rows, the learning rate falling as a cosine."""
    texts = [render_paper((Message("user", row["prompt"]), Message("assistant", row["response"]))) for row in rows]
    labels = torch.tensor([int(row["label"] == "harmful") for row in rows])
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=_RATE, weight_decay=0.01)
    n_steps = n_passes * math.ceil(len(rows) / _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / n_steps)))
    network.train()
    for epoch in range(n_passes):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch)).tolist()
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = tokenizer(
                [texts[i] for i in chosen], truncation=True, max_length=_MAX_LENGTH, padding=True, return_tensors="pt",
                split_special_tokens=True,
            ).to(device)  # fmt: skip
            logits = network(**batch).logits.float()
            loss = torch.nn.functional.cross_entropy(logits, labels[chosen].to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: last loss {loss.item():.3f}", flush=True)


if __name__ == "__main__":
    main()
