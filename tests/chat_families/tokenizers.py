"""Small tokenizers of the kinds that model families have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chat_families import Family

_SENTENCES = [
    "What is the capital of France?\n\nThe capital of France is Paris.\n",
    "It is 4 degrees in Oslo, and it is 21 in Rome. user assistant system model tool",
    "You are a helpful assistant. Answer briefly, and say so when you do not know the answer.\n",
    '{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}',
    "[INST] Twice two is four. [/INST]It is four.",
    "Good morning! Thank you, and good bye.",
    "system\n\nassistant\n\nuser",
] * 2
# Words with the space before them, single digits, punctuation with the line breaks after it, and whitespace:
# a line break at the start of an answer joins the one that ends the header of the turn.
_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"


def byte_level(family: Family) -> Any:
    """Returns a byte-level BPE as Llama 3, Qwen, Mistral's tekken, Phi-4, gpt-oss, and SmolLM2 have it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        _SENTENCES, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    return _finished(core, family)


def pieces(family: Family) -> Any:
    """Returns a BPE over whole texts with ▁ for a space and bytes for rare characters, as Gemma has it."""
    from tokenizers import decoders, normalizers

    core = _byte_fallback()
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finished(core, family)


def prefixed_pieces(family: Family) -> Any:
    """Returns such a BPE that also writes ▁ before every text between special tokens, as Llama 2 has it."""
    from tokenizers import decoders, normalizers

    core = _byte_fallback()
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(core, family)


BUILDERS = {"byte_level": byte_level, "pieces": pieces, "prefixed_pieces": prefixed_pieces}


def _byte_fallback() -> Any:
    from tokenizers import Tokenizer, models, trainers

    learned = Tokenizer(models.BPE())
    spaced = [sentence.replace(" ", "▁") for sentence in _SENTENCES]
    # Without a pre-tokenizer a whole sentence would become one token: the size of the vocabulary stops that.
    learned.train_from_iterator(spaced, trainers.BpeTrainer(vocab_size=200, show_progress=False))

    model = json.loads(learned.to_str())["model"]
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for token in model["vocab"]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(merge) for merge in model["merges"]]
    return Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))


def _finished(core: Any, family: Family) -> Any:
    from tokenizers import AddedToken, processors

    core.add_special_tokens(
        [AddedToken(token, normalized=False, lstrip=family.strips, rstrip=family.strips) for token in family.special]
    )
    core.add_tokens([AddedToken(token, normalized=False) for token in family.added])
    if family.writes_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, core.token_to_id(family.bos))]
        )
    return core
