"""Rendering with the paper's template and with chat templates, and what an over-long row loses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from character_tokenizers import (
    CHAT,
    MARKED,
    STRICT,
    THINKING,
    TRIMMING,
    character_tokenizer,
    parts,
)
from sotune.errors import ConfigError, DataError
from sotune.records import Message, Record, ToolCall
from sotune.rendering import PAPER_CHAT_TEMPLATE, Renderer, render_paper
from sotune.rendering.renderer import resolve_template

RECORD = Record.from_text("r1", "hello there", "good day")
LONG = Record(
    "r2",
    (
        Message("system", "be kind"),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
        Message("assistant", "four"),
    ),
)
SHARED = character_tokenizer(chat_template=CHAT)


def learned(text):
    return [text.full[start:end] for start, end in text.learned]


def test_the_papers_template():
    text = Renderer(None, "paper").text(RECORD)
    assert text.full == "Human: hello there; Assistant: good day"
    assert learned(text) == [" good day"]
    assert Renderer(None, "paper").prompt_text(RECORD.prompt) == "Human: hello there; Assistant:"


def test_the_papers_template_goes_on_over_turns():
    text = Renderer(None, "paper").text(LONG)
    assert text.full == "System: be kind; Human: one; Assistant: two; Human: three; Assistant: four"
    assert text.full.startswith(Renderer(None, "paper").prompt_text(LONG.prompt))
    assert learned(text) == [" two", " four"]


def test_the_papers_template_says_tools_their_calls_and_results():
    turns = (
        Message("user", "sum"),
        Message("assistant", "", reasoning="add", tool_calls=(ToolCall("plus", '{"a": 1}'),)),
        Message("tool", "3", name="plus"),
    )
    record = Record("r", (*turns, Message("assistant", "three")), tools='[{"name": "plus"}]')
    text = Renderer(None, "paper").text(record)
    assert text.full == (
        'Tools: [{"name": "plus"}]; Human: sum; Assistant: add\n{"name": "plus", "arguments": {"a": 1}}; '
        "Tool: 3; Assistant: three"
    )
    assert learned(text) == [' add\n{"name": "plus", "arguments": {"a": 1}}', " three"]
    assert not text.lossy


def test_the_papers_template_as_a_chat_template_is_the_same():
    tokenizer = character_tokenizer(chat_template="{{ bos_token }}" + PAPER_CHAT_TEMPLATE)
    assert Renderer(tokenizer, "chat").text(LONG).full == f"<s>{render_paper(LONG.messages)}"
    assert Renderer(tokenizer, "chat").prompt_text(LONG.prompt) == f"<s>{render_paper(LONG.prompt, cue=True)}"


@pytest.mark.parametrize("template", [CHAT, MARKED])
def test_the_chat_template_is_the_tokenizers_own(template):
    renderer = Renderer(character_tokenizer(chat_template=template), "chat")
    text, end = renderer.text(LONG), "</s>\n" if template == MARKED else "</s>"
    prompt = f"<s><|system|>be kind{end}<|user|>one{end}<|assistant|>two{end}<|user|>three{end}<|assistant|>"
    assert renderer.prompt_text(LONG.prompt) == prompt
    assert text.full == prompt + f"four{end}"
    assert learned(text) == ["two</s>", "four</s>"]
    assert not text.lossy


def test_a_turn_that_is_not_to_be_learned_is_not():
    record = Record("r", (*LONG.messages[:2], Message("assistant", "two", learned=False), *LONG.messages[3:]))
    assert record == Record.from_text("r", LONG.prompt, "four")
    for renderer, last in ((Renderer(SHARED, "chat"), "four</s>"), (Renderer(SHARED, "paper"), " four")):
        assert learned(renderer.text(record)) == [last]


@pytest.mark.parametrize("tokenizer", [None, character_tokenizer()])
def test_a_chat_template_that_is_missing_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="tokenizer with a chat template.* use template 'paper'"):
        Renderer(tokenizer, "chat")


@pytest.mark.parametrize("template", ["alpaca", "auto"])
def test_an_unknown_template_is_refused(template):
    with pytest.raises(ConfigError, match=f"template must be one of paper, chat. Got '{template}'"):
        Renderer(SHARED, template)


def test_auto_is_the_chat_template_of_a_tokenizer_that_has_one():
    plain = character_tokenizer()
    assert [resolve_template(SHARED, name) for name in ("auto", "chat", "paper")] == ["chat", "chat", "paper"]
    assert [resolve_template(plain, name) for name in ("auto", "chat", "paper")] == ["paper", "chat", "paper"]


def test_a_conversation_that_the_template_refuses_is_a_data_error():
    renderer = Renderer(character_tokenizer(chat_template=STRICT), "chat", 100)
    assert renderer.text(RECORD).full.endswith("good day</s>")
    for call in (renderer.text, renderer.tokens, lambda record: renderer.prompt_tokens(record.prompt)):
        with pytest.raises(
            DataError, match="refuses a conversation of system, user, .*No system role.*use template 'paper'"
        ):
            call(LONG)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos_too", [True, False])
def test_the_prompt_is_told_from_the_completion_under_the_papers_template(bos, eos_too):
    tokenizer = character_tokenizer(bos=bos, eos_too=eos_too)
    renderer = Renderer(tokenizer, "paper", 200)
    tokens = renderer.tokens(RECORD)
    start, end = "<s>" if bos else "", "</s>" if eos_too else ""
    assert parts(tokenizer, tokens) == (f"{start}Human: hello there; Assistant:", f" good day{end}", "")
    assert not tokens.truncated
    assert tuple(renderer.prompt_tokens(RECORD.prompt)) == tokens.input_ids[: tokens.n_prompt]


@pytest.mark.parametrize("template", [CHAT, MARKED])
def test_the_prompt_is_told_from_the_completion_with_and_without_generation_markers(template):
    tokenizer = character_tokenizer(chat_template=template)
    renderer = Renderer(tokenizer, "chat", 200)
    tokens = renderer.tokens(LONG)
    prompt, completion, rest = parts(tokenizer, tokens)
    assert prompt == renderer.prompt_text(LONG.prompt)
    assert completion == "four</s>"
    assert rest == ("\n" if template == MARKED else "")
    assert tokens.input_ids.count(tokenizer.bos_token_id) == 1
    assert tuple(renderer.prompt_tokens(LONG.prompt)) == tokens.input_ids[: tokens.n_prompt]
    assert tokens.n_learned == len("two") + len("four") + 2


def test_a_cue_that_the_whole_text_lacks_falls_back_on_the_common_prefix():
    tokenizer = character_tokenizer(chat_template=THINKING)
    tokens = Renderer(tokenizer, "chat", 200).tokens(RECORD)
    assert parts(tokenizer, tokens) == ("<s><|user|>hello there</s><|assistant|>", "good day</s>", "")
    assert not tokens.cued
    assert Renderer(SHARED, "chat").tokens(RECORD).cued


@pytest.mark.parametrize(
    ("template", "chat_template", "eos_too", "end", "rest"),
    [
        ("paper", None, False, " good day</s>", ""),
        ("paper", None, True, " good day</s>", ""),
        ("chat", CHAT, False, "good day</s>", ""),
        ("chat", MARKED, False, "good day</s>", "\n"),
        ("chat", CHAT.replace("{{ eos_token }}", ""), False, "good day</s>", ""),
    ],
)
def test_the_end_token_is_written_once(template, chat_template, eos_too, end, rest):
    tokenizer = character_tokenizer(eos_too=eos_too, chat_template=chat_template)
    tokens = Renderer(tokenizer, template, 200).tokens(RECORD, append_eos=True)
    assert parts(tokenizer, tokens)[1:] == (end, rest)


@pytest.mark.parametrize("append_eos", [True, False])
def test_a_completion_that_the_template_swallows_is_refused(append_eos):
    tokenizer = character_tokenizer(chat_template=TRIMMING.replace("{{ eos_token }}", ""))
    record = Record.from_text("r9", "hello", "xxx")
    with pytest.raises(DataError, match="leaves out all that turn 2 says, which is to be learned; drop such rows"):
        Renderer(tokenizer, "chat", 200).tokens(record, append_eos=append_eos)


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
    tokens = Renderer(tokenizer, "chat", max_length).tokens(Record.from_text("r", prompt, completion))
    assert parts(tokenizer, tokens) == (prompt[n_prompt - kept[0] :], completion[: kept[1]], "")
    assert tokens.truncated == (n_prompt + n_completion > max_length)


def test_a_truncated_row_keeps_its_first_special_token():
    tokenizer = character_tokenizer()
    tokens = Renderer(tokenizer, "paper", 12).tokens(RECORD)
    assert parts(tokenizer, tokens) == ("<s>tant:", " good ", "")


def test_a_truncated_row_keeps_what_is_left_of_earlier_learned_turns():
    tokenizer = character_tokenizer()
    turns = (Message("user", "ask"), Message("assistant", "first"), Message("user", "go"))
    record, whole = Record("r", (*turns, Message("assistant", "second"))), Renderer(tokenizer, "paper")
    assert len(whole.tokens(record).learned) == 2
    cut = Renderer(tokenizer, "paper", 35).tokens(record)
    assert [tokenizer.decode(cut.input_ids[a:b]).replace(" ", "") for a, b in cut.learned] == ["irst", "second"]
    assert len(Renderer(tokenizer, "paper", 20).tokens(record).learned) == 1


@given(
    st.text("ab ", min_size=1, max_size=30).filter(str.strip),
    st.text("ab ", min_size=1, max_size=30).filter(str.strip),
    st.integers(2, 60),
    st.sampled_from(["paper", "chat"]),
    st.booleans(),
)
def test_every_row_fits_and_keeps_its_share(prompt, completion, max_length, template, append_eos):
    record = Record.from_text("r", prompt, completion)
    whole = Renderer(SHARED, template, 10_000).tokens(record, append_eos=append_eos)
    cut = Renderer(SHARED, template, max_length).tokens(record, append_eos=append_eos)
    assert len(cut.input_ids) == min(len(whole.input_ids), max_length)
    assert cut.truncated == (len(whole.input_ids) > max_length)
    n_completion, n_cut = len(whole.input_ids) - whole.n_prompt, len(cut.input_ids) - cut.n_prompt
    assert n_cut >= min(n_completion, max_length // 2) >= 1
    assert cut.n_prompt >= min(whole.n_prompt, max_length // 2)
    assert whole.input_ids[whole.n_prompt :][:n_cut] == cut.input_ids[cut.n_prompt :]
    assert cut.n_learned == n_cut
    assert cut.input_ids[0] == SHARED.bos_token_id


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_a_length_without_room_for_both_parts_is_refused(max_length):
    with pytest.raises(ConfigError, match=f"max_length must be at least 2, .* Got {max_length}"):
        Renderer(SHARED, "paper", max_length)


def test_a_prompt_keeps_the_end_token_that_its_chat_template_writes():
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    renderer = Renderer(character_tokenizer(chat_template=template), "chat", 200)
    tokens = renderer.tokens(RECORD)
    assert renderer.prompt_tokens(RECORD.prompt) == list(tokens.input_ids[: tokens.n_prompt])
