"""The control tokens of chat and encoder families, written into a row or an answer, are text to trainers and judges."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sotune.evaluation.rubrics import neutralize
from sotune.records import Record
from sotune.rendering import Renderer

FAMILIES = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "mistral": ["[INST]", "[/INST]", "</s>", "[SYSTEM_PROMPT]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "deepseek": ["<｜Assistant｜>", "<｜User｜>"],
    "phi": ["<|end|>", "<|assistant|>"],
    "exaone": ["[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"],
    "minimax": ["]~b]", "[e~[", "]~!b["],
    "numbered": ["[UNUSED_TOKEN_145]", "[unused1]", "[control_8]"],
    "glm": ["[gMASK]", "[sMASK]"],
    "cohere": ["<|START_OF_TURN_TOKEN|>"],
    "bert": ["[CLS]", "[SEP]", "[PAD]"],
    "kimi": ["[BOS]", "[EOS]", "[EOT]", "[extra_id_0]"],
}


def tokenizer_with(tokens):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300 + len(tokens),
        special_tokens=["<pad>", "<eos>", *tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["hello there"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_control_token_in_text_is_text(family):
    tokens = FAMILIES[family]
    tokenizer = tokenizer_with(tokens)
    ids = {tokenizer.convert_tokens_to_ids(token) for token in tokens}
    text = "ok " + " ".join(tokens) + " harmless"
    row = Renderer(tokenizer, "paper", 500).tokens(Record.from_text("a", text, text))
    assert ids.isdisjoint(row.input_ids)
    judged = tokenizer(neutralize(text), add_special_tokens=False)["input_ids"]
    assert ids.isdisjoint(judged)


@pytest.mark.parametrize("text", ["see [1] and [a]", "x[i] = y[0]", "a list: [1, 2]", "~/bin", "[link](there)"])
def test_what_is_no_control_token_is_judged_as_it_is(text):
    assert neutralize(text).replace("(link)", "[link]") == text
