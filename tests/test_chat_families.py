"""Rendering and masks in the templates of model families; see `chat_families`."""

import json

import pytest

from chat_families import FAMILIES, build_family_tokenizer, read_golden
from chat_families.conversations import CONVERSATIONS, build_record
from sotune.errors import DataError
from sotune.records import as_turns
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
    """Returns the places of the tokens that lie wholly or with their end in a part of a text."""
    tokenizer = build_family_tokenizer(family)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [i for i, (start, end) in enumerate(found["offset_mapping"]) if span[0] < end <= span[1] and start < end]


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
