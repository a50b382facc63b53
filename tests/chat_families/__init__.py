"""Chat templates of our own writing that behave as those of model families do, each with a small tokenizer.

``golden/NAME.txt`` holds, for each conversation, the text that the template of the family makes of it, with every
part that is learned between ⟦ and ⟧.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from chat_families.tokenizers import BUILDERS

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Family:
    """A family of chat models.

    Attributes:
        name: Its name; of its golden file too.
        tokenizer: Which kind of tokenizer it has.
        special: Its special tokens, in the order of their ids.
        bos: The special token that starts a text; empty: none.
        eos: The special token that ends an answer.
        pad: The padding token.
        added: Added tokens that are not special.
        writes_bos: Whether the tokenizer writes ``bos`` before every text.
        strips: Whether its special tokens swallow the whitespace beside them.
        template: The file of the template, where another family has the same.
        options: Values that the template is given.
    """

    name: str
    tokenizer: str
    special: tuple[str, ...]
    bos: str
    eos: str
    pad: str
    added: tuple[str, ...] = ()
    writes_bos: bool = False
    strips: bool = False
    template: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def template_text(self) -> str:
        return (FOLDER / "templates" / f"{self.template or self.name}.jinja").read_text()


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN3_ADDED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_QWEN3: dict[str, Any] = {
    "tokenizer": "byte_level", "special": _CHATML, "bos": "", "eos": "<|im_end|>", "pad": "<|endoftext|>",
    "added": _QWEN3_ADDED, "template": "qwen3",
}  # fmt: skip

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "llama3", "byte_level",
            ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
             "<|eot_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>"),
            bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|finetune_right_pad_id|>", writes_bos=True,
        ),
        Family("qwen3", **_QWEN3),
        Family("qwen3_not_thinking", **_QWEN3, options={"enable_thinking": False}),
        Family(
            "gemma3", "pieces", ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
            bos="<bos>", eos="<eos>", pad="<pad>", writes_bos=True,
        ),
        Family(
            "mistral", "byte_level",
            ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
             "[/TOOL_RESULTS]", "[TOOL_CALLS]", "<pad>"),
            bos="<s>", eos="</s>", pad="<pad>", writes_bos=True,
        ),
        Family(
            "mistral_inst", "prefixed_pieces", ("<unk>", "<s>", "</s>"),
            bos="<s>", eos="</s>", pad="</s>", writes_bos=True,
        ),
        Family(
            "phi4", "byte_level", (*_CHATML, "<|im_sep|>"),
            bos="<|endoftext|>", eos="<|im_end|>", pad="<|endoftext|>", strips=True,
        ),
        Family("smollm2", "byte_level", _CHATML, bos="<|im_start|>", eos="<|im_end|>", pad="<|im_end|>"),
        Family(
            "gpt_oss", "byte_level",
            ("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
             "<|message|>", "<|call|>"),
            bos="<|startoftext|>", eos="<|return|>", pad="<|endoftext|>",
        ),
        Family(
            "deepseek_r1", "byte_level",
            ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
             "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
             "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
            bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>", pad="<｜end▁of▁sentence｜>",
            added=("<think>", "</think>"), writes_bos=True,
        ),
    )
}  # fmt: skip


@cache
def build_family_tokenizer(name: str) -> Any:
    """Returns the tokenizer of a family, with its chat template; built once."""
    return build_tokenizer(FAMILIES[name])


def build_tokenizer(family: Family) -> Any:
    """Builds the tokenizer of a family, with its chat template."""
    from transformers import PreTrainedTokenizerFast

    core = BUILDERS[family.tokenizer](family)
    named = {"bos_token": family.bos} if family.bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=family.eos, pad_token=family.pad, chat_template=family.template_text,
        model_max_length=4096, clean_up_tokenization_spaces=False, **named,
    )  # fmt: skip


@dataclass(frozen=True)
class Golden:
    """What a template makes of a conversation.

    Attributes:
        full: The text.
        learned: The parts of it that are learned, as (start, end).
        refusal: What the template says where it refuses the conversation; then the rest is empty.
        lossy: Whether the template drops something of what is to be learned.
        omits: Whether it drops another turn, or the tools.
    """

    full: str = ""
    learned: tuple[tuple[int, int], ...] = ()
    refusal: str = ""
    lossy: bool = False
    omits: bool = False

    @property
    def parts(self) -> list[str]:
        return [self.full[start:end] for start, end in self.learned]


@cache
def read_golden(family: str) -> dict[str, Golden]:
    """Returns what is expected of a family, by conversation."""
    text = (FOLDER / "golden" / f"{family}.txt").read_text().removesuffix("\n").replace("{TODAY}", str(date.today()))
    sections = [section.partition("\n") for section in text.removeprefix("=== ").split("\n=== ")]
    return {head.split()[0]: _golden(head.split()[1:], body) for head, _, body in sections}


def _golden(flags: list[str], body: str) -> Golden:
    if "refused" in flags:
        return Golden(refusal=body)
    full, learned, start = "", [], 0
    for char in body:
        if char == "⟦":
            start = len(full)
        elif char == "⟧":
            learned.append((start, len(full)))
        else:
            full += char
    return Golden(full, tuple(learned), lossy="lossy" in flags, omits="omits" in flags)


def build_family_model(name: str, folder: Path) -> Path:
    """Saves a random-weight model with the tokenizer of a family; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_family_tokenizer(name)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
