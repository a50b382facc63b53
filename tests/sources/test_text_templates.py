import contextlib

import pytest
from conversing import said

from sotune.sources.rows import RowFault
from sotune.sources.text_templates import parse_open_text, parse_text

TALK = [("user", "hi"), ("assistant", "hello"), ("user", "more"), ("assistant", "no")]
TOLD = [("system", "be kind"), *TALK]
BELOW = "Below is an instruction that describes a task"


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        (
            "<|im_start|>system\nbe kind<|im_end|>\n"
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"
            "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n",
            TOLD,
        ),
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eom_id|>"
            "<|start_header_id|>ipython<|end_header_id|>\n\n1<|eot_id|>",
            [*TOLD[:3], ("tool", "1")],
        ),
        ("<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nhello<end_of_turn>\n", TALK[:2]),
        ("<|system|>\nbe kind</s>\n<|user|>\nhi</s>\n<|assistant|>\nhello</s>\n", TOLD[:3]),
        ("<|user|>hi<|end|><|assistant|>hello<|end|>", TALK[:2]),
        (
            "<s>[INST] <<SYS>>\nbe kind\n<</SYS>>\n\nhi [/INST] hello </s><s>[INST] more [/INST] no </s>",
            TOLD,
        ),
        ("[INST] hi [/INST] hello</s>[INST] more [/INST] no</s>", TALK),
        (
            f"{BELOW}. Write a response that appropriately completes the request.\n\n### Instruction:\nhi\n\n"
            "### Response:\nhello",
            TALK[:2],
        ),
        (
            f"{BELOW}, paired with an input that provides further context. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nhi\n\n### Input:\nwe met\n\n### Response:\nhello</s>",
            [("user", "hi\n\nwe met"), ("assistant", "hello")],
        ),
        ("be kind\n\n### Instruction:\nhi\n\n### Response:\nhello", TOLD[:3]),
        ("### Human: hi### Assistant: hello### Human: more### Assistant: no", TALK),
        ("### System:\nbe kind\n\n### User:\nhi\n\n### Assistant:\nhello", TOLD[:3]),
        ("\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant: no", TALK),
        ("Human: hi\n\nAssistant:hello", TALK[:2]),
        (
            "A chat between two. USER: hi ASSISTANT: hello</s>USER: more ASSISTANT: no</s>",
            [("system", "A chat between two."), *TALK],
        ),
        # A question that quotes another template.
        (
            "\n\nHuman: what is\n### Instruction:\nx\n\n### Response:\ny\n\nAssistant: hello",
            [("user", "what is\n### Instruction:\nx\n\n### Response:\ny"), ("assistant", "hello")],
        ),
        (
            "\n\nHuman: hi\nHuman: not a mark\n\nAssistant: hello",
            [("user", "hi\nHuman: not a mark"), ("assistant", "hello")],
        ),
    ],
)
def test_a_rendered_text_is_taken_apart(text, turns):
    assert said(parse_text(text)) == turns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Once upon a time",
        "[INST] hi",
        "[INST] hi [INST] hi [/INST] hello",
        "<|im_start|>user\nhi<|im_end|>",
        "<|im_start|>villain\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nhi<|im_end|>",
        "He said: USER: hi ASSISTANT: hello",
        "As in ### Human: hi### Assistant: hello",
        "Once, a man said:\n\nHuman: hi\n\nAssistant: hello",
        "### Instruction:\nhi",
        "a ### Instruction: hi ### Response: hello",
    ],
)
def test_other_text_is_not(text):
    assert parse_text(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Human: hi\n\nAssistant: A scene:\n\nHuman: Who?\n\nAssistant: Me.\n\nHuman: Bye.",
        "### Human: hi### Assistant: write ### Assistant: in front",
        "### Instruction:\nhi\n\n### Response:\nsay\n### Response:\nhello",
        "USER: hi ASSISTANT: The field USER: is empty",
    ],
)
def test_marks_that_are_said_are_no_turns(text):
    with pytest.raises(RowFault, match="do not take turns"):
        parse_text(text)


def test_an_input_is_one_only_after_an_instruction():
    text = "### Instruction:\nhi\n\n### Response:\nso:\n### Input:\n5\n### Output:\n6"
    assert said(parse_text(text)) == [("user", "hi"), ("assistant", "so:\n### Input:\n5\n### Output:\n6")]


@pytest.mark.parametrize(
    "text",
    ["### Instruction:\nhi\n\n### Response:\n", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"],
)
def test_a_prompt_that_ends_with_a_line_is_open(text):
    assert said(parse_open_text(text)) == TALK[:1]


def test_an_open_prompt_ends_where_the_assistant_speaks():
    assert said(parse_open_text("\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant:")) == TALK[:3]
    assert parse_open_text("\n\nHuman: hi\n\nAssistant: hello") is None
    assert parse_open_text("hi") is None


@pytest.mark.parametrize(
    "piece", ["[INST]", "<s>", " ", "\n", "### ", "Human: ", "</s>", "<|im_start|>user\n", "USER: "]
)
def test_hostile_text_is_read_in_little_time(piece):
    text = piece * (400_000 // len(piece))
    for around in ("{}", "[INST]{}[/INST]{}", "Human: {}\n\nAssistant: {}", "USER: {} ASSISTANT: {}"):
        with contextlib.suppress(RowFault):  # many turns of one speaker
            parse_text(around.format(text, text))
