"""Training beside transformers' Trainer and TRL: tokens a CPU second, and peak memory.

LoRA of rank 16 on q and v, on real rows, float32: with SmolLM2-135M (the world ``smol``), another ``--model``, or
random weights of a ``--shape``. Each way runs in a process of its own, in turns. A token is one of a row, without
padding. CPU seconds are those of the training process, so that other work on the machine counts little; peak memory is
what training takes beyond the loaded model. ``--beside`` adds sotune as it is in another checkout's ``src``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import Corpus
from sotune.artifacts import cache_folder, write_json
from sotune.models import ModelSpec, load_causal_lm
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training import WeightedTrainer, fine_tune
from sotune.training.training_rows import LOSS_WEIGHT, WeightedCollator, build_training_rows
from sotune.worlds.packaged_model import make_model, packaged_gguf
from ways import in_turns, measured, medians

Figures = dict[str, float]


class Work:
    """The rows, and how they are trained on."""

    def __init__(self, options: argparse.Namespace, **settings: Any) -> None:
        self.records = [row.record for row in Corpus(options.data).rows(options.rows)[: options.n]]
        self.weights = dict.fromkeys((record.id for record in self.records), 1.0)
        self.model = ModelSpec(str(options.model), dtype="float32", device="cpu")
        self.settings = TrainingSettings(
            template="chat",
            max_length=options.max_length,
            learning_rate=1e-3,
            per_device_train_batch_size=options.batch_size,
            num_train_epochs=1,
            save_steps=1_000_000,
            **settings,
        )
        self.renderer = load_renderer(self.model, self.settings)
        self.rows = build_training_rows(self.records, self.weights, self.renderer).rows

    def adapted(self) -> Any:
        """Returns the model with an adapter, as scripts make it."""
        from peft import LoraConfig, get_peft_model

        model = load_causal_lm(self.model, frozen=False)
        config = LoraConfig(r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        return get_peft_model(model, config)

    def arguments(self, out: str) -> dict[str, Any]:
        """Returns the arguments of a plain Trainer."""
        return {
            "output_dir": out,
            "per_device_train_batch_size": self.settings.per_device_train_batch_size,
            "num_train_epochs": 1,
            "learning_rate": self.settings.learning_rate,
            "lr_scheduler_type": "cosine",
            "save_strategy": "no",
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
        }


def measuring(kind: Any) -> Any:
    """Returns a trainer that notes CPU seconds and peak memory."""

    class Measured(kind):  # type: ignore[misc]  # a class that is given
        figures: Figures

        def train(self, *args: Any, **kwargs: Any) -> Any:
            result: list[Any] = []
            figures = measured(lambda: result.append(kind.train(self, *args, **kwargs)))
            Measured.figures = {**figures, "loss": result[0].training_loss}
            return result[0]

    return Measured


class AllLogits(WeightedTrainer):
    """Computes the logits of all tokens first."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Asks for the outputs, so that they must be computed."""
        found = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        return found if return_outputs else found[0]


def with_trainer(work: Work, out: str) -> Figures:
    """Trains by transformers' Trainer with the model's own loss."""
    from transformers import Trainer, TrainingArguments

    collate = WeightedCollator(pad_token_id=work.renderer.tokenizer.pad_token_id)

    def plain(features: list[Any]) -> dict[str, Any]:
        batch: dict[str, Any] = collate(features)
        del batch[LOSS_WEIGHT]
        return batch

    arguments = TrainingArguments(**work.arguments(out), remove_unused_columns=False)
    rows = [row.features() for row in work.rows]
    trainer = measuring(Trainer)(model=work.adapted(), args=arguments, train_dataset=rows, data_collator=plain)
    trainer.train()
    return dict(trainer.figures)


def with_trl(work: Work, out: str, **more: Any) -> Figures:
    """Trains by TRL's SFTTrainer, on the same tokens."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    columns = {
        "input_ids": [row.input_ids.tolist() for row in work.rows],
        "completion_mask": [row.learned.long().tolist() for row in work.rows],
    }
    arguments = SFTConfig(**work.arguments(out), max_length=work.settings.max_length, completion_only_loss=True, **more)
    trainer = measuring(SFTTrainer)(
        model=work.adapted(),
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=work.renderer.tokenizer,
    )
    trainer.train()
    return dict(trainer.figures)


def with_sotune(work: Work, out: str, *, kind: type[WeightedTrainer] = WeightedTrainer) -> Figures:
    """Trains as sotune does."""
    trainer = measuring(kind)
    fine_tune(
        work.records,
        work.weights,
        model=work.model,
        settings=work.settings,
        output_dir=Path(out),
        trainer_class=trainer,
    )
    return dict(trainer.figures)


Way = Callable[[argparse.Namespace, str], Figures]
BESIDE = "sotune, the other checkout"
PADDED: dict[str, Any] = {"max_tokens_per_batch": 1 << 30, "packing": False}
WAYS: dict[str, Way] = {
    "Trainer": lambda options, out: with_trainer(Work(options), out),
    "TRL": lambda options, out: with_trl(Work(options), out),
    "sotune, all logits": lambda options, out: with_sotune(Work(options, **PADDED), out, kind=AllLogits),
    "sotune, padded": lambda options, out: with_sotune(Work(options, **PADDED), out),
    "sotune": lambda options, out: with_sotune(Work(options), out),
    "sotune, token budget": lambda options, out: with_sotune(
        Work(options, max_tokens_per_batch=options.max_tokens, packing=False), out
    ),
    "sotune, packed": lambda options, out: with_sotune(
        Work(options, max_tokens_per_batch=options.max_tokens, packing=True), out
    ),
    BESIDE: lambda options, out: with_sotune(Work(options), out),
}


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains in one way, in this process."""
    with tempfile.TemporaryDirectory() as out:
        figures = WAYS[way](options, out)
    rows = Work(options).rows
    n_tokens = sum(len(row.input_ids) for row in rows)
    return {
        "way": way,
        "rows": options.rows,
        "tokens": n_tokens,
        "learned": sum(int(row.learned.sum()) for row in rows),
        "tokens_per_cpu_second": n_tokens / figures["cpu_seconds"],
        **figures,
    }


def print_table(results: list[dict[str, Any]]) -> None:
    """Prints the median of the rounds for each way."""
    by_way = medians(results, "tokens_per_cpu_second", "peak_mib", "loss")
    print("| way | tokens a CPU second | factor | peak MiB | mean loss |\n|---|---|---|---|---|")
    slowest = next(iter(by_way.values()))["tokens_per_cpu_second"]
    for way, found in by_way.items():
        speed, peak, loss = found.values()
        print(f"| {way} | {speed:.0f} | {speed / slowest:.2f} | {peak:.0f} | {loss:.4f} |")


def make_shape(shape: str, folder: Path) -> None:
    """Writes a Llama with random weights, its width, layers and vocabulary as in 576x4x128256."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    width, layers, vocabulary = map(int, shape.split("x"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 192),
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smol()).save_pretrained(folder)


def smol() -> Path:
    """Returns the folder of SmolLM2, made where it is missing."""
    folder = cache_folder("smol") / "base"
    if not folder.exists():
        make_model(packaged_gguf(), folder)
    return folder


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="gsm8k_train", help="file of the data folder")
    parser.add_argument("--n", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=2048, help="of a micro-batch, where there is a budget")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", default=",".join(w for w in WAYS if w != BESIDE).replace(", ", "; "))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shape", help="random weights instead: WIDTHxLAYERSxVOCABULARY")
    parser.add_argument("--beside", type=Path, help="src folder of another checkout")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SOTUNE_DATA", "../shared/data")))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    ways = [way.replace("; ", ", ") for way in options.ways.split(",")] + ([BESIDE] if options.beside else [])
    with tempfile.TemporaryDirectory() as made:
        if options.shape:
            make_shape(options.shape, Path(made))
        model = Path(made) if options.shape else options.model or smol()
        more = ("--model", str(model))
        sources = {BESIDE: options.beside} if options.beside else {}
        results = in_turns(ways, rounds=options.rounds, arguments=more, sources=sources)
    print_table(results)
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
