"""Small models of random weights, one of each architecture that extraction, training and evaluation must handle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARCHITECTURES = ("llama", "qwen3", "gemma3_text", "gemma3", "gpt2")

_SENTENCES = [
    "Human: What is the capital of France?; Assistant: The capital of France is Paris.",
    "Give three tips for staying healthy. Eat well, sleep enough, and walk every day.",
    "Water boils at one hundred degrees; ice melts at zero. Add 12 and 30 to get 42.",
    "The quick brown fox jumps over the lazy dog, while seven wizards mix a jolly brew.",
]
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def build_tiny_model(architecture: str, folder: Path, *, chat_template: bool = True, seed: int = 0) -> Path:
    """Saves a random-weight model and a tokenizer of its own; returns the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer(chat_template=chat_template)
    with torch.random.fork_rng(devices=[]):  # a test's own random numbers do not depend on what was built before
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(architecture, tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(*, chat_template: bool = True) -> Any:
    """Returns a byte-level BPE tokenizer with begin, end and padding tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>", "<img>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_SENTENCES, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=512
    )
    if chat_template:
        tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _config(architecture: str, tokenizer: Any) -> Any:
    import transformers

    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": 512,
    }
    if architecture == "llama":
        return transformers.LlamaConfig(**_SHAPE, **ids)
    if architecture == "qwen3":
        return transformers.Qwen3Config(**_SHAPE, **ids, head_dim=8)
    if architecture in ("gemma3_text", "gemma3"):
        text = transformers.Gemma3TextConfig(
            **_SHAPE, **ids, head_dim=8, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
        )
        if architecture == "gemma3_text":
            return text
        vision = transformers.SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
        return transformers.Gemma3Config(
            text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4,
            image_token_index=tokenizer.convert_tokens_to_ids("<img>"), initializer_range=0.2,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    if architecture == "gpt2":
        return transformers.GPT2Config(
            vocab_size=ids["vocab_size"], n_positions=512, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2,
            bos_token_id=ids["bos_token_id"], eos_token_id=ids["eos_token_id"], pad_token_id=ids["pad_token_id"],
        )  # fmt: skip
    raise ValueError(architecture)
