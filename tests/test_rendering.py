import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sotune.errors import ConfigError, DataError
from sotune.records import Message, Record
from sotune.rendering import render, render_prompt, tokenize

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

RECORD = Record.from_text("r1", "hello there", "good day")
LONG = Record(
    "r2",
    (Message("system", "be kind"), Message("user", "one"), Message("assistant", "two"), Message("user", "three")),
    "four",
)


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
    """Returns the prompt and the trained part of a tokenized record as text."""
    return text_of(tokenizer, tokens.input_ids[: tokens.n_prompt]), text_of(
        tokenizer, tokens.input_ids[tokens.n_prompt :]
    )


def test_the_papers_template():
    text = render(RECORD, "paper")
    assert text.prompt == "Human: hello there; Assistant:"
    assert text.full == "Human: hello there; Assistant: good day"


def test_the_papers_template_goes_on_over_turns():
    text = render(LONG, "paper")
    assert text.full == "System: be kind; Human: one; Assistant: two; Human: three; Assistant: four"
    assert text.full.startswith(text.prompt)
    assert render_prompt(LONG.prompt, "paper") == text.prompt


@pytest.mark.parametrize("template", [CHAT, MARKED])
def test_the_chat_template_is_the_tokenizers_own(template):
    text = render(LONG, "chat", character_tokenizer(chat_template=template))
    end = "</s>\n" if template == MARKED else "</s>"
    assert text.prompt == (
        f"<s><|system|>be kind{end}<|user|>one{end}<|assistant|>two{end}<|user|>three{end}<|assistant|>"
    )
    assert text.full == text.prompt + f"four{end}"


@pytest.mark.parametrize("tokenizer", [None, character_tokenizer()])
def test_a_chat_template_that_is_missing_is_refused(tokenizer):
    for call in (lambda: render(RECORD, "chat", tokenizer), lambda: render_prompt(RECORD.prompt, "chat", tokenizer)):
        with pytest.raises(ConfigError, match="tokenizer with a chat template.* use template 'paper'"):
            call()


def test_an_unknown_template_is_refused():
    with pytest.raises(ConfigError, match="template must be one of paper, chat. Got 'alpaca'"):
        render(RECORD, "alpaca")


def test_a_conversation_that_the_template_refuses_is_a_data_error():
    tokenizer = character_tokenizer(chat_template=STRICT)
    assert render(RECORD, "chat", tokenizer).full.endswith("good day</s>")
    with pytest.raises(
        DataError, match="refuses a conversation of system, user, .*No system role.*use template 'paper'"
    ):
        tokenize(LONG, tokenizer, template="chat", max_length=100)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos_too", [True, False])
def test_the_prompt_is_told_from_the_completion_under_the_papers_template(bos, eos_too):
    tokenizer = character_tokenizer(bos=bos, eos_too=eos_too)
    tokens = tokenize(RECORD, tokenizer, template="paper", max_length=200)
    start, end = "<s>" if bos else "", "</s>" if eos_too else ""
    assert parts(tokenizer, tokens) == (f"{start}Human: hello there; Assistant:", f" good day{end}")
    assert not tokens.truncated


@pytest.mark.parametrize("template", [CHAT, MARKED])
def test_the_prompt_is_told_from_the_completion_with_and_without_generation_markers(template):
    tokenizer = character_tokenizer(chat_template=template)
    tokens = tokenize(LONG, tokenizer, template="chat", max_length=200)
    prompt, completion = parts(tokenizer, tokens)
    assert prompt == render(LONG, "chat", tokenizer).prompt
    assert completion.rstrip("\n") == "four</s>"
    assert tokens.input_ids.count(tokenizer.bos_token_id) == 1


def test_a_cue_that_the_whole_text_lacks_falls_back_on_the_common_prefix():
    tokenizer = character_tokenizer(chat_template=THINKING)
    prompt, completion = parts(tokenizer, tokenize(RECORD, tokenizer, template="chat", max_length=200))
    assert (prompt, completion) == ("<s><|user|>hello there</s><|assistant|>", "good day</s>")


@pytest.mark.parametrize(
    ("template", "chat_template", "eos_too", "end"),
    [
        ("paper", None, False, " good day</s>"),
        ("paper", None, True, " good day</s>"),
        ("chat", CHAT, False, "good day</s>"),
        ("chat", MARKED, False, "good day</s>\n"),
        ("chat", CHAT.replace("{{ eos_token }}", ""), False, "good day</s>"),
    ],
)
def test_the_end_token_is_written_once(template, chat_template, eos_too, end):
    tokenizer = character_tokenizer(eos_too=eos_too, chat_template=chat_template)
    tokens = tokenize(RECORD, tokenizer, template=template, max_length=200, append_eos=True)
    assert parts(tokenizer, tokens)[1] == end


@pytest.mark.parametrize("append_eos", [True, False])
def test_a_completion_that_the_template_swallows_is_refused(append_eos):
    tokenizer = character_tokenizer(chat_template=TRIMMING.replace("{{ eos_token }}", ""))
    record = Record.from_text("r9", "hello", "xxx")
    with pytest.raises(DataError, match="record 'r9' has a completion that adds no token; drop the row"):
        tokenize(record, tokenizer, template="chat", max_length=200, append_eos=append_eos)


@pytest.mark.parametrize(
    ("n_prompt", "n_completion", "max_length", "kept"),
    [
        (10, 10, 20, (10, 10)),
        (30, 30, 20, (10, 10)),
        (30, 4, 20, (16, 4)),
        (4, 30, 20, (4, 16)),
        (30, 30, 21, (11, 10)),
        (30, 30, 2, (1, 1)),
        (11, 10, 20, (10, 10)),
    ],
)
def test_an_over_long_row_keeps_the_end_of_its_prompt_and_the_start_of_its_completion(
    n_prompt, n_completion, max_length, kept
):
    tokenizer = character_tokenizer(bos=False, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    prompt = "".join(chr(ord("a") + i % 26) for i in range(n_prompt))
    completion = "".join(chr(ord("A") + i % 26) for i in range(n_completion))
    tokens = tokenize(Record.from_text("r", prompt, completion), tokenizer, template="chat", max_length=max_length)
    assert parts(tokenizer, tokens) == (prompt[n_prompt - kept[0] :], completion[: kept[1]])
    assert tokens.truncated == (n_prompt + n_completion > max_length)


def test_a_truncated_row_keeps_its_first_special_token():
    tokenizer = character_tokenizer()
    tokens = tokenize(RECORD, tokenizer, template="paper", max_length=12)
    assert parts(tokenizer, tokens) == ("<s>tant:", " good ")


@given(
    st.text("ab ", min_size=1, max_size=30).filter(str.strip),
    st.text("ab ", min_size=1, max_size=30).filter(str.strip),
    st.integers(2, 60),
    st.sampled_from(["paper", "chat"]),
    st.booleans(),
)
def test_every_row_fits_and_keeps_its_share(prompt, completion, max_length, template, append_eos):
    tokenizer = SHARED
    record = Record.from_text("r", prompt, completion)
    whole = tokenize(record, tokenizer, template=template, max_length=10_000, append_eos=append_eos)
    cut = tokenize(record, tokenizer, template=template, max_length=max_length, append_eos=append_eos)
    assert len(cut.input_ids) == min(len(whole.input_ids), max_length)
    assert cut.truncated == (len(whole.input_ids) > max_length)
    n_completion, n_cut = len(whole.input_ids) - whole.n_prompt, len(cut.input_ids) - cut.n_prompt
    assert n_cut >= min(n_completion, max_length // 2) >= 1
    assert cut.n_prompt >= min(whole.n_prompt, max_length // 2)
    assert whole.input_ids[whole.n_prompt :][:n_cut] == cut.input_ids[cut.n_prompt :]
    assert cut.input_ids[0] == tokenizer.bos_token_id


SHARED = character_tokenizer(chat_template=CHAT)


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_a_length_without_room_for_both_parts_is_refused(max_length):
    with pytest.raises(ConfigError, match=f"max_length must be at least 2, .* Got {max_length}"):
        tokenize(RECORD, SHARED, template="paper", max_length=max_length)
