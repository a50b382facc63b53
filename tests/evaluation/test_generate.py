import copy
import dataclasses

import pytest
import torch
from transformers import GenerationConfig

from sotune.errors import ConfigError, DataError
from sotune.evaluation import EvalPrompt, generate
from sotune.models import ModelSpec, load_causal_lm, load_tokenizer
from sotune.records import Message
from sotune.rendering import Renderer
from tiny_models import ARCHITECTURES

TEXTS = [
    "What is the capital of France?",
    "Add 12 and 30.",
    "Give three tips for staying healthy, and say for each of them why it helps, in one sentence or two.",
    "Ice",
    "The quick brown fox jumps over the lazy dog, while seven wizards mix a jolly brew.",
]
PROMPTS = [EvalPrompt(f"p{i}", "task", (Message("user", text),)) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def load(tiny_model):
    def get(architecture):
        spec = ModelSpec(str(tiny_model(architecture)), dtype="float32", device="cpu")
        return load_causal_lm(spec, frozen=True), load_tokenizer(spec)

    return get


@pytest.fixture(scope="module")
def llama(load):
    return load("llama")


def ask(pair, prompts=PROMPTS, *, template="paper", **overrides):
    model, tokenizer = pair
    settings = {"max_new_tokens": 12, "batch_size": 3, **overrides}
    return generate(prompts, model=model, renderer=Renderer(tokenizer, template), **settings)


def test_a_prompt_is_rendered_with_its_tools(llama, monkeypatch):
    seen = []
    own = Renderer.prompt_tokens

    def prompt_tokens(self, messages, tools=""):
        seen.append(tools)
        return own(self, messages)

    monkeypatch.setattr(Renderer, "prompt_tokens", prompt_tokens)
    with_tools = dataclasses.replace(PROMPTS[0], tools='[{"name": "atlas"}]')
    ask(llama, [with_tools, PROMPTS[1]])
    assert sorted(seen) == ["", with_tools.tools]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batches_answer_like_single_prompts(load, architecture):
    pair = load(architecture)
    batched = ask(pair)
    assert [response.id for response in batched] == [prompt.id for prompt in PROMPTS]
    assert batched == [ask(pair, [prompt], batch_size=1)[0] for prompt in PROMPTS]
    assert len({response.text for response in batched}) > 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_greedy_reference_without_cache(load, architecture):
    model, tokenizer = load(architecture)
    ids = tokenizer("Human: Add 12 and 30.; Assistant:")["input_ids"]
    n_prompt = len(ids)
    with torch.inference_mode():
        while len(ids) < n_prompt + 12 and ids[-1] != tokenizer.eos_token_id:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    [response] = ask((model, tokenizer), [PROMPTS[1]])
    assert response.text == tokenizer.decode(ids[n_prompt:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_have_ended_are_left_out_and_no_answer_changes(load, architecture, monkeypatch):
    import importlib

    module = importlib.import_module("sotune.evaluation.generate")
    model, tokenizer = load(architecture)
    renderer = Renderer(tokenizer, "paper")
    prompts = [renderer.prompt_tokens((Message("user", f"{'fox ' * i}{TEXTS[i % 5]}"),)) for i in range(12)]
    config, sizes = module._greedy_config(model, renderer, 24), []
    config.eos_token_id = [-1]  # no answer of a random model ends by itself
    plain = [module._answer([prompt], model, config)[0] for prompt in prompts]
    # Instead a row ends where the sum of its tokens says so.
    monkeypatch.setattr(module, "_ended", lambda answers, _: (answers.cumsum(1) % 11 == 3).any(1))
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    with torch.inference_mode():
        together = module._answer(prompts, model, config)
    handle.remove()
    for answer, whole in zip(together, plain, strict=True):
        assert answer == whole[: len(answer)]
        assert len(answer) == 24 or (torch.tensor(answer).cumsum(0) % 11 == 3).any()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 12
    assert len(set(sizes)) > 1
    assert len(sizes) == max(len(answer) for answer in together)  # nothing is read twice


def test_chat_template(llama):
    responses = ask(llama, template="chat")
    assert responses != ask(llama, template="paper")
    assert responses == ask(llama, template="chat", batch_size=1)


def test_end_token_ends_an_answer_early(llama):
    model, tokenizer = llama
    plain = ask(llama, [PROMPTS[0]])[0]
    assert (plain.n_tokens, plain.finished) == (12, False)
    ids = tokenizer("Human: What is the capital of France?; Assistant:")["input_ids"]
    with torch.inference_mode():
        first = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=[first, 2])
    try:
        ended = ask(llama, PROMPTS)[0]
    finally:
        model.generation_config = own
    assert (ended.text, ended.n_tokens, ended.finished) == ("", 0, True)


def test_settings_of_the_model_do_not_bend_the_decoding(llama):
    model, _ = llama
    expected, own = ask(llama), model.generation_config
    bent = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, no_repeat_ngram_size=1, eos_token_id=2, num_beams=3
    )
    model.generation_config = bent
    try:
        assert ask(llama) == expected
        assert model.generation_config is bent
    finally:
        model.generation_config = own


def test_peft_model(load):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load("llama")
    plain = ask((model, tokenizer))
    own = model.generation_config
    adapted = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    adapted.train()
    assert ask((adapted, tokenizer)) == plain  # a fresh adapter adds nothing
    assert adapted.training
    assert adapted.get_base_model().generation_config is own
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    assert ask((adapted, tokenizer)) != plain
    assert ask((adapted, tokenizer)) == ask((adapted, tokenizer), batch_size=1)


def test_a_tokenizer_without_padding_token(llama):
    model, tokenizer = llama
    expected, pad = ask(llama), tokenizer.pad_token
    tokenizer.pad_token = None
    try:
        assert ask(llama) == expected
    finally:
        tokenizer.pad_token = pad


def test_progress_counts_prompts(llama):
    seen = []
    ask(llama, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_errors(llama):
    with pytest.raises(DataError, match="0 prompts"):
        ask(llama, [])
    with pytest.raises(DataError, match="2 prompts have the id 'p0'"):
        ask(llama, [PROMPTS[0], PROMPTS[0]])
    with pytest.raises(ConfigError, match="at least 1. Got 0 and 3"):
        ask(llama, max_new_tokens=0)
    long = dataclasses.replace(PROMPTS[0], messages=(Message("user", "fox " * 400),))
    with pytest.raises(DataError, match="'p0' has .* tokens, with 12 new ones .* the model reads 512; lower"):
        ask(llama, [long])


def test_a_prompt_that_the_template_refuses_is_named(llama):
    model, tokenizer = llama
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = "{% if 'Ice' in messages[0].content %}{{ raise_exception('no ice') }}{% endif %}hello"
    with pytest.raises(DataError, match="prompt 'p3' cannot be asked: .*no ice"):
        ask((model, tokenizer), template="chat")
