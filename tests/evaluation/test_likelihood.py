import math

import pytest
import torch

from cases import prompt, response
from sotune.errors import ConfigError, DataError
from sotune.evaluation import likelihood
from sotune.evaluation.likelihood import Surprise, find_limit, measure_drift, measure_surprise, scramble
from sotune.models import ModelSpec, load_causal_lm
from sotune.rendering import load_renderer
from sotune.settings import RenderingSettings
from tiny_models import ARCHITECTURES

TEXTS = ["The capital is Paris.", "", "Eat well, sleep enough, and walk every day.", "42"]
PROMPTS = [prompt(f"p{i}") for i in range(len(TEXTS))]
RESPONSES = [response(text, f"p{i}") for i, text in enumerate(TEXTS)]


def load(folder):
    spec = ModelSpec(str(folder), dtype="float32", device="cpu")
    return load_causal_lm(spec, frozen=True), load_renderer(spec, RenderingSettings(template="paper"))


def surprise(model, renderer, prompts=PROMPTS, responses=RESPONSES, batch_size=3):
    return measure_surprise(prompts, responses, model=model, renderer=renderer, batch_size=batch_size)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_surprise_is_the_sum_by_hand(tiny_model, architecture):
    model, renderer = load(tiny_model(architecture))
    found, tokenizer = surprise(model, renderer), renderer.tokenizer
    assert [s.id for s in found] == [p.id for p in PROMPTS]
    text = renderer.prompt_text(PROMPTS[0].messages)
    asked, ids = tokenizer(text)["input_ids"], tokenizer(f"{text} {TEXTS[0]}")["input_ids"]
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    by_hand = -sum(log_p[t - 1, ids[t]].item() for t in range(len(asked), len(ids))) / (len(ids) - len(asked))
    assert found[0].nll == pytest.approx(by_hand, rel=1e-4)
    assert found[0].n_tokens == len(ids) - len(asked)


def test_it_does_not_depend_on_the_batch(tiny_model):
    model, renderer = load(tiny_model("llama"))
    alone, together = (surprise(model, renderer, batch_size=n) for n in (1, 4))
    for one, other in zip(alone, together, strict=True):
        assert one.nll == other.nll == None or one.nll == pytest.approx(other.nll, rel=1e-4)  # noqa: E711


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_logits_of_a_prompt_are_computed_and_chunks_change_nothing(tiny_model, architecture, monkeypatch):
    model, renderer = load(tiny_model(architecture))
    whole, whole_drift = surprise(model, renderer), drift(model, model, renderer)
    sizes = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, __, out: sizes.append(out.shape[:-1]))
    monkeypatch.setattr(likelihood, "_SCORED_LOGITS", 3 * len(renderer.tokenizer))
    assert surprise(model, renderer) == whole
    assert sizes == [(1, sum(s.n_tokens for s in whole))]  # of the three answers that have a token
    monkeypatch.setattr(likelihood, "_KEPT_LOGITS", 10 * len(renderer.tokenizer))
    sizes.clear()
    for one, other in zip(surprise(model, renderer), whole, strict=True):
        assert one.nll == (other.nll and pytest.approx(other.nll, rel=1e-5))
    assert len(sizes) > 1
    assert all(n <= max(10, *(s.n_tokens for s in whole)) for _, n in sizes)
    handle.remove()
    for one, other in zip(drift(model, model, renderer), whole_drift, strict=True):
        assert one.kl == (None if other.kl is None else pytest.approx(other.kl, abs=1e-6))


def test_an_answer_without_a_token_has_no_surprise(tiny_model):
    assert surprise(*load(tiny_model("llama")))[1] == Surprise("p1", None, 0)


def drift(tuned, base, renderer):
    return measure_drift(PROMPTS, RESPONSES, tuned=tuned, base=base, renderer=renderer, batch_size=2)


def test_drift_from_itself_is_zero_and_from_another_the_divergence(tiny_model):
    model, renderer = load(tiny_model("llama"))
    assert [d.kl for d in drift(model, model, renderer)] == [
        pytest.approx(0.0, abs=1e-6),
        None,
        *[pytest.approx(0.0, abs=1e-6)] * 2,
    ]
    other, _ = load(tiny_model("llama"))
    with torch.no_grad():
        other.lm_head.weight.add_(0.3 * torch.randn_like(other.lm_head.weight, generator=None))
    found, tokenizer = drift(other, model, renderer)[3], renderer.tokenizer
    text = renderer.prompt_text(PROMPTS[3].messages)
    asked, ids = tokenizer(text)["input_ids"], tokenizer(f"{text} {TEXTS[3]}")["input_ids"]
    with torch.no_grad():
        after, before = (m(torch.tensor([ids])).logits[0].log_softmax(-1) for m in (other, model))
    kl = torch.nn.functional.kl_div(before, after, log_target=True, reduction="none").sum(-1)
    assert found.kl == pytest.approx(kl[len(asked) - 1 : len(ids) - 1].mean().item(), rel=1e-4)
    assert found.kl > 0


def test_drift_needs_one_vocabulary(tiny_model):
    model, renderer = load(tiny_model("llama"))

    def narrow(**inputs):
        found = model(**inputs)
        return type(found)(logits=found.logits[..., :-1])

    with pytest.raises(ConfigError, match="over one vocabulary"):
        drift(model, narrow, renderer)


def test_a_model_with_broken_weights_raises(tiny_model):
    model, renderer = load(tiny_model("llama"))
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(DataError, match="is not a number"):
        surprise(model, renderer)


def test_scrambled_answers_keep_words_and_lengths():
    mixed = scramble(RESPONSES, seed=1)
    assert [len(r.text.split()) for r in mixed] == [len(r.text.split()) for r in RESPONSES]
    assert sorted(w for r in mixed for w in r.text.split()) == sorted(w for r in RESPONSES for w in r.text.split())
    assert mixed == scramble(RESPONSES, seed=1)
    assert mixed != RESPONSES


def spread(*values, n_tokens=9):
    return [Surprise(str(i), value, n_tokens) for i, value in enumerate(values)]


def test_the_limit_lies_half_way():
    found = find_limit(spread(0.5, 1.0, 9.0), spread(5.0, 7.0, 8.0), min_tokens=5, min_gap=1.0)
    assert (found.own, found.scrambled, found.limit, found.n) == (1.0, 7.0, 4.0, 3)


def test_no_limit_where_the_model_babbles():
    assert find_limit(spread(6.0), spread(6.5), min_tokens=5, min_gap=1.0).limit is None
    with pytest.raises(DataError, match="no answer has 5 tokens"):
        find_limit(spread(1.0, n_tokens=3), spread(5.0), min_tokens=5, min_gap=1.0)
