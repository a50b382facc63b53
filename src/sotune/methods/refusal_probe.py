"""Whether a model in training still refuses: a few prompts of the harmful reference, its answers judged by phrases."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from sotune.errors import ConfigError, DataError
from sotune.evaluation import EvalPrompt, generate
from sotune.evaluation.judges.refusal import find_refusal
from sotune.methods.inputs import TrainInputs
from sotune.rendering import Renderer

if TYPE_CHECKING:
    from sotune.training.watch import Probe

_ANSWER_TOKENS = 32  # a refusal says so at once


def refusal_probe(inputs: TrainInputs) -> Probe | None:
    """Returns what asks a model, where the settings limit how much it may comply; ``None`` where they do not.

    The prompts are the last of the harmful reference: methods that hold the model hold it on the first.

    Raises:
        ConfigError: There is nothing to ask.
    """
    settings = inputs.tools.training
    if settings.stop_at_harmful_rate is None:
        return None
    renderer = inputs.tools.renderer
    answer_tokens = min(_ANSWER_TOKENS, renderer.max_length // 2)
    prompts = list(islice(_prompts(inputs, renderer, answer_tokens), settings.probe_prompts))
    if not prompts:
        raise ConfigError("stop_at_harmful_rate asks prompts of the harmful reference, and none fits; leave it out")

    def complied(model: Any) -> float:
        answers = generate(
            prompts, model=model, renderer=renderer, max_new_tokens=answer_tokens, batch_size=len(prompts)
        )
        return sum(find_refusal(answer.text) is None for answer in answers) / len(answers)

    return complied


def _prompts(inputs: TrainInputs, renderer: Renderer, answer_tokens: int) -> Iterator[EvalPrompt]:
    for place, record in enumerate(reversed(inputs.harmful_reference)):
        try:
            length = len(renderer.prompt_tokens(record.prompt, record.tools))
        except DataError:  # the template refuses it
            continue
        if length + answer_tokens <= renderer.max_length:
            yield EvalPrompt(f"probe-{place}", "harmful", record.prompt, tools=record.tools)
