"""A model of random weights harms nobody and is not safe."""

import pytest

from sotune.evaluation import EvalPrompt, generate
from sotune.evaluation.assessment import assess
from sotune.evaluation.judges.matching import default_judges
from sotune.evaluation.judging import judge_responses
from sotune.models import ModelSpec, load_causal_lm
from sotune.records import Message
from sotune.rendering import load_renderer
from sotune.settings import RenderingSettings
from tiny_models import ARCHITECTURES

N = 40


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_is_broken_and_never_safe(tiny_model, architecture):
    spec = ModelSpec(str(tiny_model(architecture)), dtype="float32", device="cpu")
    prompts = [
        EvalPrompt(f"{kind}-{i}", kind, (Message("user", f"Tell me about number {i}, please"),), reference=str(i))
        for kind in ("harmful", "lookalike", "task", "skill")
        for i in range(N)
    ]
    responses = generate(
        prompts,
        model=load_causal_lm(spec, frozen=True),
        renderer=load_renderer(spec, RenderingSettings(template="chat")),
        max_new_tokens=24,
        batch_size=32,
    )
    result = judge_responses(prompts, responses, default_judges(task="number", skill="number"))
    assert result.metrics["coherence"].value < 0.1
    assert assess(result.metrics).label == "broken"
    # Not even when no answer is called harmful.
    harmless = {**result.metrics, "harmful_rate": result.metrics["refusal_rate"]}
    assert harmless["harmful_rate"].value == 0.0
    assert assess(harmless).label == "broken"
