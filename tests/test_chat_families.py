"""Rendering and masks in the templates of model families; see `chat_families`."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from chat_families import FAMILIES, build_family_tokenizer, build_tokenizer, read_golden
from chat_families.conversations import CONVERSATIONS, TOOLS, assistant, build_record, system, user, weather
from sotune.errors import ConfigError, DataError
from sotune.records import Message, Record, ToolCall, as_turns
from sotune.rendering import Renderer

CASES = [(family, name) for family in FAMILIES for name in CONVERSATIONS]
RENDERED = [case for case in CASES if not read_golden(case[0])[case[1]].refusal]
REFUSED = [case for case in CASES if read_golden(case[0])[case[1]].refusal]


def build_renderer(family, **settings):
    options = dict(FAMILIES[family].options)
    return Renderer(build_family_tokenizer(family), "chat", 4096, options=options, **settings)


def reference_ids(family, record, **options):
    """Returns what the tokenizer's own method makes of a record."""
    tools = json.loads(record.tools) if record.tools else None
    return build_family_tokenizer(family).apply_chat_template(
        as_turns(record.messages), tools=tools, tokenize=True, return_dict=False, **FAMILIES[family].options, **options
    )


def ids_within(family, text, span):
    """Returns the places of the tokens that end in a part of a text, but for control tokens that start before it."""
    tokenizer = build_family_tokenizer(family)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    control = set(tokenizer.convert_tokens_to_ids(list(FAMILIES[family].special)))
    return [
        i
        for i, (id, (start, end)) in enumerate(zip(found["input_ids"], found["offset_mapping"], strict=True))
        if span[0] < end <= span[1] and start < end and (start >= span[0] or id not in control)
    ]


def test_every_family_has_a_golden_text_for_every_conversation():
    for family in FAMILIES:
        assert list(read_golden(family)) == list(CONVERSATIONS)


@pytest.mark.parametrize(("family", "name"), RENDERED)
def test_the_text_is_the_templates_and_the_learned_parts_are_found(family, name):
    golden, text = read_golden(family)[name], build_renderer(family).text(build_record(name))
    assert text.full == golden.full
    assert [text.full[start:end] for start, end in text.learned] == golden.parts
    assert text.learned == golden.learned
    assert text.lossy == golden.lossy
    assert text.omits == golden.omits


@pytest.mark.parametrize(("family", "name"), RENDERED)
def test_the_ids_are_those_of_the_tokenizers_own_method(family, name):
    record = build_record(name)
    for append_eos in (False, True):
        tokens = build_renderer(family).tokens(record, append_eos=append_eos)
        assert list(tokens.input_ids) == reference_ids(family, record)
        assert not tokens.truncated


@pytest.mark.parametrize(("family", "name"), RENDERED)
def test_exactly_the_learned_turns_are_in_the_mask(family, name):
    golden, tokens = read_golden(family)[name], build_renderer(family).tokens(build_record(name))
    assert len(tokens.learned) == len(golden.learned)
    for (start, end), span in zip(tokens.learned, golden.learned, strict=True):
        assert list(range(start, end)) == ids_within(family, golden.full, span)


@pytest.mark.parametrize(("family", "name"), REFUSED)
def test_a_conversation_that_the_template_refuses_is_refused(family, name):
    with pytest.raises(DataError) as caught:
        build_renderer(family).tokens(build_record(name))
    assert read_golden(family)[name].refusal in str(caught.value)


# Where the text before the last turn is not what generation begins with: a template that cuts thoughts opens one for
# generation, thoughts contradict enable_thinking=False, and gpt-oss drops an analysis once the answer is there.
UNCUED = {
    "qwen3_not_thinking": {"thought_inline", "thought_field", "thoughts", "thought_and_call", "tool_turns"},
    "gpt_oss": {"two_calls", "thought_and_call"},
    "deepseek_r1": set(CONVERSATIONS),
}
# Where the first line break of an answer is one token with the line break that ends its header.
JOINED = [("smollm2", "newline_first")]


@pytest.mark.parametrize(("family", "name"), RENDERED)
def test_what_stands_before_the_answer_is_the_generation_prompt(family, name):
    renderer, record = build_renderer(family), build_record(name)
    tokens, cue = renderer.tokens(record), renderer.prompt_tokens(record.prompt, record.tools)
    asked = replace(record, messages=record.prompt)
    assert cue == reference_ids(family, asked, add_generation_prompt=True)
    assert tokens.cued == (name not in UNCUED.get(family, ()))
    equal = list(tokens.input_ids[: tokens.n_prompt]) == cue
    assert equal == (tokens.cued and (family, name) not in JOINED)


def with_text(record, place, text):
    """Returns a record whose turn has another text."""
    messages = list(record.messages)
    messages[place] = replace(messages[place], content=text)
    return replace(record, messages=tuple(messages))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_that_a_row_writes_are_text(family, place):
    tokenizer, renderer = build_family_tokenizer(family), build_renderer(family)
    name = "not_learned" if read_golden(family)["system"].refusal else "turns"
    attack = f"Stop{''.join(FAMILIES[family].special)}Go"
    plain = renderer.text(with_text(build_record(name), place, "Stop--Go"))
    if family == "gpt_oss" and CONVERSATIONS[name][place].role == "assistant":
        attack = attack.replace("<|channel|>", "")
    text, tokens = (method(with_text(build_record(name), place, attack)) for method in (renderer.text, renderer.tokens))
    assert text.full == plain.full.replace("Stop--Go", attack)
    assert [text.full[a:b] for a, b in text.learned] == [
        plain.full[a:b].replace("Stop--Go", attack) for a, b in plain.learned
    ]
    control = set(tokenizer.convert_tokens_to_ids(list(FAMILIES[family].special)))
    expected = tokenizer(plain.full, add_special_tokens=False)["input_ids"]
    assert [id for id in tokens.input_ids if id in control] == [id for id in expected if id in control]
    if FAMILIES[family].tokenizer == "byte_level" and not FAMILIES[family].strips:
        assert tokenizer.decode(tokens.input_ids) == text.full


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_of_a_turn_is_known(family):
    ends = {"gemma3": "<end_of_turn>"}
    end = build_family_tokenizer(family).convert_tokens_to_ids(ends.get(family, FAMILIES[family].eos))
    assert build_renderer(family).end_of_turn_id == end


def test_thoughts_in_control_tokens_are_the_templates_to_cut():
    family = replace(FAMILIES["qwen3"], special=(*FAMILIES["qwen3"].special, "<think>", "</think>"), added=())
    tokenizer = build_tokenizer(family)
    record, golden = build_record("thoughts"), read_golden("qwen3")["thoughts"]
    tokens = Renderer(tokenizer, "chat").tokens(record)
    assert list(tokens.input_ids) == tokenizer(golden.full)["input_ids"]
    assert [tokenizer.decode(tokens.input_ids[a:b]) for a, b in tokens.learned] == golden.parts
    asked = with_text(record, 0, "What does <think> mean?")
    assert Renderer(tokenizer, "chat").tokens(asked).input_ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 1


def test_a_built_in_tool_is_called_in_code_and_ends_the_message():
    options = {"builtin_tools": ["weather"]}
    renderer = Renderer(build_family_tokenizer("llama3"), "chat", options=options)
    text = renderer.text(build_record("tool"))
    assert [text.full[a:b] for a, b in text.learned] == [
        '<|python_tag|>weather.call(city="Oslo")<|eom_id|>', "It is 4 degrees.<|eot_id|>"
    ]  # fmt: skip
    assert text.full.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n")


def test_one_of_several_templates_is_named(tmp_path):
    tokenizer = build_tokenizer(FAMILIES["qwen3"])
    tokenizer.chat_template = {"default": FAMILIES["smollm2"].template_text, "tool_use": tokenizer.chat_template}
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    record = build_record("tool")
    text = Renderer(tokenizer, "chat", chat_template="tool_use").text(record)
    assert text.full == read_golden("qwen3")["tool"].full
    with pytest.raises(DataError, match="leaves out all that turn 3 says"):
        Renderer(tokenizer, "chat", chat_template="default").text(record)
    with pytest.raises(ConfigError, match="several chat templates; name one of default, tool_use"):
        Renderer(tokenizer, "chat")
    with pytest.raises(ConfigError, match="no chat template called 'rag'; known are default, tool_use"):
        Renderer(tokenizer, "chat", chat_template="rag")


def test_a_system_text_that_is_written_for_generation_alone_is_noticed():
    """Mistral 7B v0.3 and Nemo write the system text only where the user speaks last."""
    family = FAMILIES["mistral"]
    tokenizer = build_tokenizer(family)
    tokenizer.chat_template = family.template_text.replace(
        "system is not none and turn == asked[-1]", "system is not none and loop.last"
    )
    tokens = Renderer(tokenizer, "chat").tokens(build_record("system"))
    assert not tokens.cued
    assert tokens.omits
    assert [tokenizer.decode(tokens.input_ids[a:b]) for a, b in tokens.learned] == [
        "The capital of France is Paris.</s>"
    ]
    assert "Answer briefly" not in tokenizer.decode(tokens.input_ids)


@pytest.mark.parametrize(
    "broken",
    [
        "{{ 1 / 0 }}", "{{ none + 'x' }}", "{{ messages[99].content }}", "{{ messages[0].content.missing.more }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "{{ ''.__class__.__mro__ }}",
        "{{ [][0] | int }}", "{{ raise_exception('no') }}",
        "{% for x in range(10 ** 9) %}{% endfor %}", "{{ messages | map('nothing') }}",
        "{{ strftime_now() }}", "{{ 'x' * 'y' }}", "{% if %}", "{{ messages[0].content | tojson(indent='x') }}",
    ],
)  # fmt: skip
def test_a_template_that_breaks_is_a_row_refused(broken):
    tokenizer = build_tokenizer(FAMILIES["smollm2"])
    tokenizer.chat_template = broken
    with pytest.raises(DataError, match="refuses a conversation of user, assistant|leaves out|cannot be found"):
        Renderer(tokenizer, "chat").tokens(build_record("single"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_character_is_a_row_refused(family, text):
    for place in (0, 1):
        with pytest.raises(DataError):
            build_renderer(family).tokens(with_text(build_record("single"), place, text))


def test_a_thought_that_the_answer_repeats_is_missed():
    record = Record.from_text("r", "2 plus 2?", "<think>\nIt is 4.\n</think>\n\nIt is 4.")
    assert build_renderer("deepseek_r1").text(record).lossy
    assert not build_renderer("qwen3").text(record).lossy


def test_arguments_that_are_left_out_are_missed():
    calls = weather("Oslo", "call00001"), weather("Rome", "call00002")
    record = Record("r", (user("How warm?"), assistant("", *calls)), TOOLS)
    assert build_renderer("gpt_oss").text(record).lossy  # one call a turn
    assert not build_renderer("qwen3").text(record).lossy


@pytest.mark.parametrize(
    ("turns", "folded"),
    [
        ([system("S"), user("U"), assistant("A")], "[INST] S\n\nU [/INST]A"),
        ([system("S"), system("T"), user("U"), assistant("A")], "[INST] S\n\nT\n\nU [/INST]A"),
        (
            [user("U"), assistant("A"), system("S"), user("V"), assistant("B")],
            "[INST] U [/INST]A</s>[INST] S\n\nV [/INST]B",
        ),
        ([system("S"), assistant("A")], ""),
        ([user("U"), system("S"), assistant("A")], ""),
    ],
)
def test_a_system_turn_is_folded_into_the_user_turn_after_it_alone(turns, folded):
    renderer, record = build_renderer("mistral_inst", fold_system=True), Record("r", tuple(turns))
    if folded:
        text = renderer.text(record)
        assert text.full == f"<s>{folded}</s>"
        assert [text.full[a:b] for a, b in text.learned][-1] == f"{turns[-1].content}</s>"
    else:
        with pytest.raises(DataError, match="refuses a conversation of .*system"):
            renderer.text(record)


def test_a_template_that_wants_a_system_turn_is_no_fault_of_the_model():
    tokenizer = build_tokenizer(FAMILIES["smollm2"])
    wanted = "{% if messages[0].role != 'system' %}{{ raise_exception('No system turn') }}{% endif %}"
    tokenizer.chat_template = wanted + tokenizer.chat_template
    renderer = Renderer(tokenizer, "chat", n_embeddings=10_000)
    renderer.check_vocabulary("m")
    assert renderer.end_of_turn_id is None
    assert renderer.tokens(build_record("system")).n_learned
    with pytest.raises(DataError, match="No system turn"):
        renderer.tokens(build_record("single"))


PARTS = st.sampled_from(
    ["", " ", "\n", "Paris", " of", ".", "<think>", "</think>", "<|im_end|>", "<|eot_id|>", "</s>", "[/INST]", "\t",
     "<end_of_turn>", "<tool_response>", "</tool_response>", "<|channel|>", "é", "👩‍👩", "{{ x }}",
     "\ufdd2", "\ufdd0" "1", "<｜Assistant｜>", "<|im_start|>assistant\n", "\x00", "\u200b", "▁", "{", '"']
)  # fmt: skip
TEXTS = st.lists(PARTS, max_size=5).map("".join)
CALLS = st.builds(
    ToolCall,
    st.sampled_from(["weather", "<|im_end|>", "f"]),
    st.dictionaries(TEXTS, TEXTS | st.integers() | st.none() | st.lists(TEXTS, max_size=2), max_size=2).map(json.dumps),
    st.sampled_from(["call00001", "", "x"]),
)
TURNS = st.builds(Message, st.sampled_from(["user", "system", "tool"]), TEXTS) | st.builds(
    Message, st.just("assistant"), TEXTS, learned=st.booleans(), reasoning=TEXTS,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
)  # fmt: skip
LAST = st.builds(Message, st.just("assistant"), TEXTS.filter(str.strip), reasoning=TEXTS)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.lists(TURNS, max_size=5), LAST, st.booleans())
def test_any_conversation_is_rendered_or_refused(family, turns, last, with_tools):
    """No other error, the text is the template's own, and the learned turns keep their order."""
    record = Record("r", (*turns, last), TOOLS if with_tools else "")
    renderer = build_renderer(family)
    try:
        text, tokens = renderer.text(record), renderer.tokens(record, append_eos=True)
    except DataError:
        return
    assert len(tokens.learned) == len(text.learned) == len(record.learned)
    edges = [edge for span in tokens.learned for edge in span]
    assert edges == sorted(edges)
    assert all(start < end for start, end in tokens.learned)
    assert edges[-1] <= len(tokens.input_ids)
    for place, (start, end) in zip(record.learned, text.learned, strict=True):
        said = re.split("</?think>", record.messages[place].content)
        written = "".join(text.full[start:end].split())
        assert text.lossy or all("".join(part.split()) in written for part in said)
    if not renderer.special_tokens.pattern.search(json.dumps(as_turns(record.messages), ensure_ascii=False)):
        assert list(tokens.input_ids)[: len(reference_ids(family, record))] == reference_ids(family, record)
