"""Part 3: LoRA (rank 16, q and v) of an 8 B shape: our trainer, plain Trainer, and a hand-written loop."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from bench import (
    Bench,
    build_model,
    free_memory,
    make_model_folder,
    make_records,
    peak_memory,
    spread,
    synchronize,
)

PART = "training"
MEDIAN, LONGEST = 160, 1024
_WARM_UP = 4  # steps that are not timed


@dataclass(frozen=True)
class _Case:
    name: str
    batch: int
    steps: int  # timed
    rounds: int
    fixed_length: int | None = None


def run(bench: Bench) -> None:
    """Times the trainers in turn, with the same rows in the same order."""
    free_memory()
    folder = make_model_folder(bench, n_layers=4 if bench.tiny else bench.layers)
    model = build_model(bench, folder)
    cases = [_Case("batch_1", 1, 16, 2), _Case("batch_4", 4, 12, 2), _Case("one_row_of_2048", 1, 3, 1, 2048)]
    if bench.tiny:
        cases = [_Case("batch_1", 1, 3, 2), _Case("batch_4", 4, 3, 1), _Case("one_row_of_2048", 1, 1, 1, 256)]
    bench.note(PART, layers=model.config.num_hidden_layers, device=bench.device, warm_up_steps=_WARM_UP)
    contestants = {"ours": _ours, "trainer": _trainer, "loop": _loop}
    for case in cases:
        found: dict[str, list[_Run]] = {name: [] for name in contestants}
        for number in range(case.rounds):
            for name, train in contestants.items():
                if bench.left > 15:
                    work = _Work(bench, folder, model, case)
                    bench.attempt(PART, f"{case.name}_{name}_{number}", partial(_once, train, work, found[name]))
                    strip(model)
                    free_memory()
            bench.note(PART, **{case.name: {name: _summary(runs) for name, runs in found.items() if runs}})
    del model
    free_memory()


@dataclass
class _Run:
    """One trainer's steps: their ends, and the tokens of each."""

    ends: list[float] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)

    def end_step(self) -> None:
        """Notes the end of a step."""
        synchronize()
        self.ends.append(time.perf_counter())


class _Work:
    """What each trainer is given."""

    def __init__(self, bench: Bench, folder: Path, model: Any, case: _Case) -> None:
        from sotune.models import ModelSpec, load_tokenizer
        from sotune.settings import TrainingSettings

        self.bench, self.model, self.case = bench, model, case
        self.spec = ModelSpec(str(folder), dtype="bfloat16", device=bench.device)
        self.tokenizer = load_tokenizer(self.spec)
        self.n_steps = _WARM_UP + case.steps
        self.settings = TrainingSettings(
            template="paper",
            max_length=case.fixed_length or LONGEST,
            per_device_train_batch_size=case.batch,
            max_steps=self.n_steps,
            save_steps=1_000_000,
        )
        n_rows = case.batch * self.n_steps
        if case.fixed_length:
            self.records = make_records(n_rows, median=20 * case.fixed_length, longest=case.fixed_length)
        else:
            self.records = make_records(n_rows, median=MEDIAN, longest=LONGEST)
        self.scratch = Path(f"{folder}-training")

    def rows(self) -> Any:
        """Returns the rows in the order of our trainer, and its collator."""
        from sotune.rendering import load_renderer
        from sotune.training.training_rows import ShuffledRows, build_equal_rows

        batches = build_equal_rows(self.records, load_renderer(self.spec, self.settings))
        return ShuffledRows(batches.rows, seed=0), batches.collate

    def adapted(self) -> Any:
        """Returns the model with a fresh adapter."""
        from peft import LoraConfig, get_peft_model

        self.model.config.use_cache = False
        config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        return get_peft_model(self.model.train(), config)


def _once(train: Any, work: _Work, runs: list[_Run]) -> dict[str, Any]:
    run = _Run()
    shutil.rmtree(work.scratch, ignore_errors=True)
    with _counted(work.model, run), peak_memory() as memory:
        train(work, run)
    run.memory = memory
    runs.append(run)
    return {"seconds": round(run.ends[-1] - run.ends[_WARM_UP - 1], 3), "losses": run.losses[:3], **memory}


@contextlib.contextmanager
def _counted(model: Any, run: _Run) -> Iterator[None]:
    """Counts the tokens of each forward pass without waiting for the device."""

    def count(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        run.computed.append(kwargs["input_ids"].numel())
        run.tokens.append(kwargs["attention_mask"].sum())

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _summary(runs: list[_Run]) -> dict[str, Any]:
    rates, steps = [], []
    for run in runs:
        seconds = run.ends[-1] - run.ends[_WARM_UP - 1]
        passes = len(run.tokens) // len(run.ends)  # of one step
        tokens = sum(int(n) for n in run.tokens[passes * _WARM_UP :])
        rates.append(tokens / seconds)
        steps.append(seconds / (len(run.ends) - _WARM_UP))
    last = runs[-1]
    return {
        "tokens_per_second": spread(rates),
        "seconds_per_step": spread(steps),
        "computed_over_real_tokens": round(sum(last.computed) / sum(int(n) for n in last.tokens), 3),
        **last.memory,
    }


def _ours(work: _Work, run: _Run) -> None:
    """Trains by `fine_tune`; the model lies on the device already, and its folder holds no weights to hash."""
    from sotune.training import finetune

    def on_step(step: Any) -> None:
        run.losses.append(step.loss)
        run.end_step()

    with (
        mock.patch.object(finetune, "load_causal_lm", return_value=work.model.train()),
        mock.patch.object(finetune, "model_fingerprint", return_value="random weights"),
    ):
        finetune.fine_tune(
            work.records,
            {record.id: 1.0 for record in work.records},
            model=work.spec,
            settings=work.settings,
            output_dir=work.scratch,
            on_step=on_step,
        )


def _trainer(work: _Work, run: _Run) -> None:
    """Trains by transformers' Trainer with its own loss."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers comes without types
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                run.losses.append(logs["loss"])
                run.end_step()

    from sotune.training.training_rows import LOSS_WEIGHT

    settings, (rows, collate) = work.settings, work.rows()

    def plain(features: list[Any]) -> dict[str, Any]:
        batch: dict[str, Any] = collate(features)
        del batch[LOSS_WEIGHT]
        return batch

    trainer = Trainer(
        model=work.adapted(),
        args=TrainingArguments(
            output_dir=str(work.scratch),
            per_device_train_batch_size=work.case.batch,
            max_steps=work.n_steps,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            optim="adamw_torch_fused",
            bf16=work.bench.device == "cuda",
            use_cpu=work.bench.device == "cpu",
            remove_unused_columns=False,
            train_sampling_strategy="sequential",  # the rows come shuffled
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=rows,
        data_collator=plain,
        callbacks=[Clock()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def _loop(work: _Work, run: _Run) -> None:
    """Trains by a loop as scripts write it, with the model's own loss."""
    import torch

    from sotune.training.training_rows import LOSS_WEIGHT

    model, (rows, collate) = work.adapted(), work.rows()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=work.settings.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / work.n_steps))
    )
    device, size = work.bench.device, work.case.batch
    for start in range(0, size * work.n_steps, size):
        batch = {k: v.to(device) for k, v in collate([rows[i] for i in range(start, start + size)]).items()}
        del batch[LOSS_WEIGHT]
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        run.losses.append(float(loss.detach()))
        run.end_step()


def strip(model: Any) -> None:
    """Takes the adapters off a model, whoever put them there."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "base_layer"):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.base_layer)
    model.requires_grad_(False).eval()
    for name in ("peft_config", "_hf_peft_config_loaded"):
        model.__dict__.pop(name, None)
