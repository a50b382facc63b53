"""Weigh the rows of a training set in a script of your own, with transformers' Trainer.

Two kinds of rows teach a small random model opposite answers to the same question. The weights decide which it
learns. Run it with ``python examples/weighted_trainer.py``; it needs no network and takes some seconds.
"""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from sotune.training import WeightedCollator, WeightedTrainer

QUESTION, YES, NO = [5, 6, 7], 1, 2


def make_rows(weight_of_yes: float, weight_of_no: float) -> list[dict]:
    """Returns rows as Trainer takes them, with one column more: the weight."""
    answers = {YES: weight_of_yes, NO: weight_of_no}
    return [
        # -100 masks the question: only the answer is learned.
        {"input_ids": [*QUESTION, answer], "labels": [-100] * len(QUESTION) + [answer], "loss_weight": weight}
        for answer, weight in answers.items()
    ] * 16


def train(rows: list[dict]) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = WeightedTrainer(
            model=LlamaForCausalLM(config),
            args=TrainingArguments(
                output_dir=output_dir,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=2,  # the weighted mean is over all 8 rows of a step
                num_train_epochs=20,
                learning_rate=1e-2,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=rows,
            data_collator=WeightedCollator(pad_token_id=0),
        )
        trainer.train()
    return trainer.model


def main() -> None:
    for weights in ((1.0, 1.0), (1.8, 0.2), (0.2, 1.8)):
        model = train(make_rows(*weights)).eval()
        with torch.no_grad():
            probability = model(torch.tensor([QUESTION])).logits[0, -1].softmax(dim=0)
        print(f"weights {weights}: P(yes) = {probability[YES]:.2f}, P(no) = {probability[NO]:.2f}")


if __name__ == "__main__":
    main()
