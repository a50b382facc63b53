"""The miniature's tokenizer: one id for each word of the language."""

from __future__ import annotations

from typing import Any

from sotune.miniature.language import vocabulary

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MAX_LENGTH = 64
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '; ' if message['role'] != 'user' else ' ' }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ 'Human: ' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '; Assistant:' }}{% endif %}"
)


def build_tokenizer() -> Any:
    """Builds the word-level tokenizer, a ``PreTrainedTokenizerFast``.

    Its chat template writes the same words as the template ``paper`` and then the end-of-sequence token.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate((*SPECIAL.values(), *vocabulary()))}
    core = Tokenizer(models.WordLevel(words, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    bos = SPECIAL["bos_token"]
    core.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, words[bos])])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=CHAT_TEMPLATE, model_max_length=MAX_LENGTH, padding_side="left", **SPECIAL
    )
