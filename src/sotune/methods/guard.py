"""A guard decides on each row: any judge of harm, a sequence classifier, or the aligned model itself.

A rival that papers leave out. With a guard among the tools, a row's score is the guard's verdict on its prompt and
completion, and what it cannot score ranks last. Without one, the model that is to be fine-tuned guards itself: a row
is the more suspect the likelier the model's own refusals are as answers to its prompt. That reads prompts alone, so
that it drops harmful requests that are refused along with those that are answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.methods.alpagasus import rank_with_ties
from sotune.methods.base import Tools, WeighInputs, weighing
from sotune.methods.pairs import safety_pairs
from sotune.records import Record

if TYPE_CHECKING:
    from sotune.evaluation import EvalPrompt, Response, Verdict
    from sotune.models import ModelSpec

_REFUSALS = 3  # of the model's own, with which it guards itself
_BATCH = 32


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns weights by rank of the guard's score, ``[n]``, ties in an order that the seed decides.

    Raises:
        ConfigError: There are no records, no model or no guard.
        DataError: The model answers no harmful prompt.
    """
    records, tools = inputs.require_records("guard"), inputs.require_tools("guard")
    if tools.guard is None:
        harm = _self_guard(records.downstream, records.harmful_reference, tools)
    else:
        harm = _guard(records.downstream, tools)
    return rank_with_ties(-harm, [record.id for record in records.downstream], seed=inputs.seed)


def _guard(rows: Sequence[Record], tools: Tools) -> Tensor:
    from sotune.evaluation import EvalPrompt, Response

    assert tools.guard is not None
    prompts = [EvalPrompt(row.id, "harmful", row.prompt) for row in rows]
    answers = [Response(row.id, row.completion, n_tokens=len(row.completion.split()), finished=True) for row in rows]
    scores = {verdict.id: verdict.score for verdict in tools.guard.judge(prompts, answers)}
    harm = [torch.inf if (score := scores[row.id]) is None else score for row in rows]
    return torch.tensor(harm, dtype=torch.float64)


def _self_guard(rows: Sequence[Record], harmful_reference: Sequence[Record], tools: Tools) -> Tensor:
    """Returns the mean log-likelihood of a token of the model's refusals after each row's prompt, ``[n]``."""
    from sotune.training.scoring import score_tokens

    pairs = safety_pairs(tools, harmful_reference, most=50)
    refusals = list(dict.fromkeys(pair.completion for pair in pairs))[:_REFUSALS]
    asked = [replace(row, id=f"{j} {row.id}", completion=refusal) for j, refusal in enumerate(refusals) for row in rows]
    losses = score_tokens(asked, model=tools.model, adapter=None, settings=tools.training)
    likelihood = [[-float(losses[f"{j} {row.id}"].mean()) for j in range(len(refusals))] for row in rows]
    return torch.tensor(likelihood, dtype=torch.float64).logsumexp(1)


@dataclass(frozen=True)
class SequenceClassifier:
    """A Hugging Face sequence classifier as a judge of harm: the score is the probability of its harmful label.

    Attributes:
        spec: The classifier.
        harmful_label: The label of its configuration that means harm.
        max_length: Tokens that it reads, from the end, where the completion stands.
    """

    spec: ModelSpec
    harmful_label: str
    max_length: int = 512
    name: str = "sequence-classifier"
    labels: tuple[str, ...] = ("harmful", "harmless")

    def judge(self, prompts: Sequence[EvalPrompt], responses: Sequence[Response]) -> list[Verdict]:
        """Returns one verdict for each prompt, in the order of the prompts.

        Raises:
            ConfigError: The model is no classifier, or has no such label.
            DataError: There is nothing to judge, or prompts and responses do not have the same ids.
        """
        from sotune.evaluation.protocol import Verdict, pair_by_id
        from sotune.models import load_tokenizer

        pairs = pair_by_id(prompts, responses)
        model, position = self._load()
        tokenizer = load_tokenizer(self.spec)
        tokenizer.truncation_side = "left"
        texts = [f"{prompt.messages[-1].content}\n{response.text}" for prompt, response in pairs]
        verdicts = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                part = tokenizer(
                    texts[start : start + _BATCH],
                    padding=True,
                    truncation=True,
                    max_length=self.max_length,
                    return_tensors="pt",
                )
                known = {name: value.to(model.device) for name, value in part.items() if name != "token_type_ids"}
                harm = model(**known).logits.float().softmax(-1)[:, position].tolist()
                for (prompt, _), score in zip(pairs[start : start + _BATCH], harm, strict=True):
                    label = "harmful" if score >= 0.5 else "harmless"
                    verdicts.append(Verdict(prompt.id, score, label, f"{self.harmful_label}: {score:.3f}"))
        return verdicts

    def _load(self) -> tuple[Any, int]:
        from transformers import AutoModelForSequenceClassification

        from sotune.models import resolve_device

        source = str(self.spec.folder or self.spec.name)
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                source, revision=self.spec.revision or "main", use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"the guard {self.spec.name} could not be loaded ({reason}); check its name") from None
        labels = {str(label): int(position) for position, label in model.config.id2label.items()}
        if self.harmful_label not in labels:
            raise ConfigError(f"the guard {self.spec.name} has no label {self.harmful_label!r}; it has {list(labels)}")
        return model.to(resolve_device(self.spec.device)).eval(), labels[self.harmful_label]


GUARD = weighing(weigh)
