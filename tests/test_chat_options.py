"""What may be said about a chat template, and what becomes of turns in templates that rewrite or refuse them."""

import pytest

from character_tokenizers import CHAT, STRICT, THINKING, character_tokenizer, parts
from sotune.errors import ConfigError, DataError
from sotune.records import Message, Record
from sotune.rendering import Renderer, Trial
from sotune.settings import RenderingSettings

SWITCH = CHAT.replace(
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is not defined or enable_thinking %}<think>"
    "{% else %}{{ mood }}{% endif %}{% endif %}",
)
# As gpt-oss does: the last answer ends otherwise than those before it.
RETURNS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' and loop.last %}</s>"
    "{% else %}<s>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# As Qwen3 does: thoughts stand in the last turn alone.
FORGETS = CHAT.replace(
    "{{ m.content }}", "{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}"
)
# As DeepSeek-R1 does: no thoughts at all.
DROPS = CHAT.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
WHOLE = "{% if messages | length < 4 %}{{ raise_exception('too short') }}{% endif %}" + CHAT
BLINKS = CHAT.replace("{{ m.content }}", "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% endif %}")


def conversation(*said):
    """Returns a record of turns, the user's first and all of the assistant's learned."""
    return Record("r", tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said)))


def chat(template, max_length=200, **settings):
    return Renderer(character_tokenizer(chat_template=template), "chat", max_length, **settings)


def learned(renderer, record):
    text, tokens = renderer.text(record), renderer.tokens(record)
    assert len(text.learned) == len(tokens.learned)
    for (start, end), (first, after) in zip(text.learned, tokens.learned, strict=True):
        written = "".join(renderer.tokenizer.convert_ids_to_tokens(list(tokens.input_ids[first:after])))
        assert written == text.full[start:end]
    return [text.full[start:end] for start, end in text.learned]


def test_one_of_several_templates_is_taken_by_its_name():
    templates = {"default": CHAT, "loud": CHAT.replace("{{ m.content }}", "{{ m.content }}!")}
    assert chat(templates, chat_template="loud").text(conversation("q", "a")).full.endswith("a!</s>")
    assert chat(templates, chat_template="default").prompt_text((Message("user", "q"),)).endswith("q</s><|assistant|>")
    assert chat(templates, chat_template="loud").description["chat_template"] == "loud"


@pytest.mark.parametrize(
    ("templates", "name", "message"),
    [
        ({"b": CHAT, "a": CHAT}, None, "has several chat templates; name one of a, b with chat_template"),
        ({"b": CHAT, "a": CHAT}, "c", "has no chat template called 'c'; known are a, b"),
        (CHAT, "c", "has no chat template called 'c'; it has one alone; leave chat_template out"),
    ],
)
def test_a_template_that_is_not_named_or_not_there_is_refused(templates, name, message):
    with pytest.raises(ConfigError, match=message):
        chat(templates, chat_template=name)


def test_a_template_is_given_what_the_user_gives_it():
    record = conversation("q", "a")
    thinking, quiet = chat(SWITCH), chat(SWITCH, options={"enable_thinking": False, "mood": "hm"})
    assert thinking.prompt_text(record.prompt).endswith("<|assistant|><think>")
    assert quiet.prompt_text(record.prompt).endswith("<|assistant|>hm")
    assert "chat_template_kwargs" not in thinking.description
    assert quiet.description["chat_template_kwargs"] == {"enable_thinking": False, "mood": "hm"}
    assert not chat(SWITCH).text(record).cued
    assert chat(SWITCH, options={"enable_thinking": False}).text(record).cued


@pytest.mark.parametrize("name", ["tools", "conversation", "add_generation_prompt", "chat_template", "tokenize"])
def test_what_rendering_sets_itself_is_not_the_users_to_give(name):
    with pytest.raises(ConfigError, match=f"chat_template_kwargs: .*must not hold {name}"):
        RenderingSettings.of({"chat_template_kwargs": {name: 1}})


def test_a_system_turn_goes_in_front_of_the_user_turn_after_it_on_request():
    turns = (Message("system", "be kind"), Message("system", "be short"), Message("user", "q"))
    record = Record("r", (*turns, Message("assistant", "a"), Message("user", "r"), Message("assistant", "b")))
    with pytest.raises(DataError, match=r"system, system, user.*No system role.*fold_system for a system turn"):
        chat(STRICT).text(record)
    folding = chat(STRICT, fold_system=True)
    start = "<s><|user|>be kind\n\nbe short\n\nq</s><|assistant|>"
    assert folding.text(record).full == f"{start}a</s><|user|>r</s><|assistant|>b</s>"
    assert learned(folding, record) == ["a</s>", "b</s>"]
    assert folding.prompt_text(turns) == start
    assert folding.description["fold_system"]


def test_a_system_turn_without_a_user_turn_after_it_is_not_lost():
    record = Record("r", (Message("user", "q"), Message("system", "be kind"), Message("assistant", "a")))
    assert chat(CHAT, fold_system=True).text(record).full == "<s><|user|>q</s><|system|>be kind</s><|assistant|>a</s>"
    assert learned(chat(CHAT, fold_system=True), record) == ["a</s>"]


def test_the_last_answer_may_end_otherwise_than_those_before_it():
    assert learned(chat(RETURNS), conversation("q", "a", "r", "b", "s", "c")) == ["a<s>", "b<s>", "c</s>"]


MERGES = (
    "{% for m in messages %}{% if loop.first or messages[loop.index0 - 1].role != m.role %}<|{{ m.role }}|>{% endif %}"
    "{{ m.content }}{% if loop.last or messages[loop.index0 + 1].role != m.role %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PLAIN_ENDS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token if loop.last else ' END ' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("later", [True, False])
def test_a_turn_that_a_template_joins_with_the_next_one_ends_where_that_begins(later):
    turns = (Message("user", "q"), Message("assistant", "one"), Message("assistant", "two", learned=later))
    record = Record("r", (*turns, Message("user", "r"), Message("assistant", "b")))
    assert learned(chat(MERGES), record) == ["one", *(["two</s>"] if later else []), "b</s>"]


def test_a_special_token_that_begins_the_next_turn_is_not_learned():
    assert learned(chat(PLAIN_ENDS), conversation("q", "a", "r", "b")) == ["a", "b</s>"]


def test_thoughts_that_a_template_takes_back_later_are_learned_in_the_last_turn_alone():
    renderer, record = chat(FORGETS), conversation("q", "<think>hm</think>a", "r", "<think>so</think>b")
    assert learned(renderer, record) == ["a</s>", "<think>so</think>b</s>"]
    assert renderer.tokens(record).lossy
    assert not renderer.tokens(conversation("q", "<think>hm</think>a")).lossy


def test_thoughts_that_a_template_drops_are_told():
    renderer, record = chat(DROPS), conversation("q", "<think>hm</think>a")
    assert learned(renderer, record) == ["a</s>"]
    assert renderer.text(record).lossy
    assert not renderer.text(conversation("q", "a")).lossy


def test_a_template_may_refuse_parts_of_what_it_accepts():
    first, whole = conversation("q", "a"), conversation("q", "a", "r", "b")
    assert learned(chat(WHOLE), Record.from_text("r", whole.prompt, "b")) == ["b</s>"]
    with pytest.raises(DataError, match="turn 2, which is to be learned, cannot be found in the text; set learn_turns"):
        chat(WHOLE).text(whole)
    with pytest.raises(DataError, match="refuses a conversation of user, assistant .too short"):
        chat(WHOLE).text(first)


def test_turns_of_the_same_words_are_told_apart():
    renderer = chat(RETURNS)
    record = conversation("a", "a", "a", "a")
    text = renderer.text(record)
    assert [text.full[: start] for start, _ in text.learned] == [
        "<|user|>a<s><|assistant|>", "<|user|>a<s><|assistant|>a<s><|user|>a<s><|assistant|>",
    ]  # fmt: skip


def test_a_learned_turn_that_the_template_leaves_out_is_refused():
    with pytest.raises(DataError, match="turn 2, which is to be learned, cannot be found in the text"):
        chat(BLINKS).text(conversation("q", "a", "r", "b"))
    turns = (Message("user", "q"), Message("assistant", "a", learned=False), Message("user", "r"))
    assert learned(chat(BLINKS), Record("r", (*turns, Message("assistant", "b")))) == ["b</s>"]


def test_a_row_of_earlier_turns_may_not_end_in_them():
    renderer = chat(CHAT.replace("{{ eos_token }}", ""))
    tokens = renderer.tokens(conversation("q", "a", "r", "b"), append_eos=True)
    assert parts(renderer.tokenizer, tokens)[1:] == ("b</s>", "")
    assert tokens.input_ids.count(renderer.tokenizer.eos_token_id) == 1


def test_a_trial_counts_what_a_template_does_to_rows():
    trial = Trial(chat(DROPS.replace("<|assistant|>{% endif %}", "<|assistant|>hm{% endif %}")))
    for said in ("a", "<think>hm</think>a", "<think>so</think>b"):
        trial(conversation("q", said))
    counts = {"n_lossy": 2, "n_omitting": 0, "n_uncued": 3, "n_special": 0}
    assert trial.as_dict() == {"template": "chat", "max_length": 200, **counts}
    lossy, uncued = trial.warnings()
    assert lossy.startswith("in 2 rows the template drops a part of the completion")
    assert uncued.startswith("in 3 rows the text before the completion is not what generation begins with")
    assert "chat_template_kwargs" in uncued


def test_a_trial_without_findings_warns_of_nothing():
    trial = Trial(chat(CHAT))
    trial(conversation("q", "a"))
    assert trial.warnings() == []
    counts = dict.fromkeys(("n_lossy", "n_omitting", "n_uncued", "n_special"), 0)
    assert trial.as_dict() == {"template": "chat", "max_length": 200, **counts}


def test_a_trial_tells_of_rows_that_were_rendered_before():
    trial = Trial(chat(CHAT))
    trial(conversation("<|user|>q</s>", "a"))
    trial(conversation("q", "a"))
    assert trial.warnings() == [
        "in 1 row the text itself has special tokens of the model, which are read as text; if the rows were rendered "
        "by a chat template already, take them apart first (see `sotune inspect`)"
    ]


def test_a_trial_names_the_kind_of_fault_first():
    trial = Trial(chat(STRICT))
    with pytest.raises(DataError, match="^cannot be rendered: the tokenizer's chat template refuses"):
        trial(Record("r", (Message("system", "s"), Message("user", "q"), Message("assistant", "a"))))
    assert trial.as_dict()["n_lossy"] == 0


def test_the_end_of_a_turn_is_known():
    tokenizer = character_tokenizer(chat_template=CHAT)
    assert Renderer(tokenizer, "chat").end_of_turn_id == tokenizer.eos_token_id
    assert Renderer(tokenizer, "paper").end_of_turn_id == tokenizer.eos_token_id
    other = character_tokenizer(chat_template=THINKING.replace("{{ eos_token }}", "<|system|>"))
    assert Renderer(other, "chat").end_of_turn_id == other.convert_tokens_to_ids("<|system|>")
