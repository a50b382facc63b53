"""Tokenizers of one id a character, and small chat templates for them."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{{ eos_token }}\n{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINKING = CHAT.replace("<|assistant|>{% endif %}", "<|assistant|>think {% endif %}")
TRIMMING = CHAT.replace("{{ m.content }}", "{{ m.content | trim('x') }}")
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + CHAT


def character_tokenizer(*, bos=True, eos_too=False, chat_template=None):
    """A tokenizer of one id a character, so that every length can be counted by hand."""
    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    vocab = {token: i for i, token in enumerate([*SPECIALS, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if bos or eos_too:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=("<s> " if bos else "") + "$A" + (" </s>" if eos_too else ""),
            special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])],
        )
    tokenizer.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        chat_template=chat_template,
    )


def text_of(tokenizer, ids):
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


def parts(tokenizer, tokens):
    """Returns what stands before the last learned turn, that turn, and what stands after it, as text."""
    start, end = tokens.learned[-1]
    ids = tokens.input_ids
    return tuple(text_of(tokenizer, part) for part in (ids[:start], ids[start:end], ids[end:]))
