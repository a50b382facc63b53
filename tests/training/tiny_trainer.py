"""A tiny random model, rows and a training run of a few steps, shared by the tests of the trainer."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sotune.training.loss import IGNORE_INDEX
from sotune.training.trainer import WeightedTrainer
from sotune.training.training_rows import WeightedCollator

VOCABULARY = 31


def make_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config)


def make_rows(n, *, equal_lengths=False, weights=None):
    generator = torch.Generator().manual_seed(1)
    rows = []
    for i in range(n):
        n_prompt = 2 + i % 3
        length = n_prompt + (4 if equal_lengths else 3 + 3 * (i % 4))
        input_ids = torch.randint(VOCABULARY, (length,), generator=generator)
        labels = input_ids.clone()
        labels[:n_prompt] = IGNORE_INDEX
        weight = 1.0 if weights is None else weights[i]
        rows.append({"input_ids": input_ids, "labels": labels, "loss_weight": weight})
    return rows


def make_trainer(rows, output_dir, *, trainer_class=WeightedTrainer, collator=None, model=None, **arguments):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "learning_rate": 1e-3,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 1,
        **arguments,
    }
    trainer = trainer_class(
        model=model or make_model(),
        args=TrainingArguments(output_dir=str(output_dir), **settings),
        train_dataset=rows,
        data_collator=collator or WeightedCollator(pad_token_id=0),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def train(rows, output_dir, **arguments):
    """Trains and returns the trainer and its parameters as one vector."""
    trainer = make_trainer(rows, output_dir, **arguments)
    trainer.train()
    return trainer, parameters(trainer.model)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient_of_first_step(rows, output_dir, **arguments):
    """Returns the gradient at initialization: one step of plain gradient descent at rate 1 takes exactly that."""
    start = parameters(make_model())
    _, end = train(
        rows,
        output_dir,
        optim="sgd",
        learning_rate=1.0,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        **arguments,
    )
    return start - end


def stock_collator(rows):
    """Batches for a stock Trainer: the same padding without the weight."""
    batch = WeightedCollator(pad_token_id=0)(rows)
    del batch["loss_weight"]
    return batch


class StockTrainer(Trainer):
    """Trainer as it is, with the weight column let through to `stock_collator`."""

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns.append("loss_weight")
