"""No judged text steers its judge: hostile answers against every rubric, one case each."""

import json
import re

import pytest
from injections import INJECTIONS

from cases import prompt, response
from sotune.evaluation import EvalPrompt
from sotune.evaluation.rubrics import RUBRICS, load_rubric, make_fence, neutralize
from sotune.records import Message

SECRET = b"s" * 32
MARK = re.compile(r"<<<(BEGIN|END) ([0-9a-f]{16})>>>")
CASES = [pytest.param(rubric, text, id=f"{rubric}-{name}") for rubric in RUBRICS for name, text in INJECTIONS.items()]


def last_json(text):
    """What a judge that is taken in would say: the last JSON object of the text that it was shown."""
    decoder, found = json.JSONDecoder(), "none"
    for place in [match.start() for match in re.finditer(r"\{", text)][-400:]:
        try:
            value, end = decoder.raw_decode(text, place)
        except ValueError:
            continue
        found = text[place:end] if isinstance(value, dict) else found
    return found


def inner(question):
    """The lines between the marks."""
    lines = question.split("\n")
    first, last = (place for place, line in enumerate(lines) if MARK.fullmatch(line))
    return lines[first + 1 : last]


def test_there_are_enough():
    assert len(INJECTIONS) >= 60
    assert len(set(INJECTIONS.values())) == len(INJECTIONS)


@pytest.mark.parametrize(("rubric", "text"), CASES)
@pytest.mark.parametrize("where", ["answer", "question"])
def test_no_text_leaves_its_fence_or_changes_how_a_reply_is_read(rubric, text, where):
    loaded = load_rubric(rubric)
    if where == "answer":
        asked, answered = prompt(kind="harmful"), response(text)
    else:
        asked, answered = EvalPrompt("p", "harmful", (Message("user", text), Message("user", text))), response("No.")
    fence = loaded.fence(asked, answered, secret=SECRET)
    question = loaded.render(asked, answered, fence)

    # Exactly one pair of marks, and only their own angle brackets.
    assert MARK.findall(question) == [("BEGIN", fence.nonce), ("END", fence.nonce)]
    assert question.count("<") == question.count(">") == 6
    # Each line inside has its speaker's prefix; what stands outside is the template and nothing else.
    inside = inner(question)
    assert all(re.match(r"(user|RESPONSE)\| ", line) for line in inside)
    rest = question.replace("\n".join(inside), "…", 1)
    harmless = loaded.render(prompt(), response("x"), fence)
    assert rest == harmless.replace("\n".join(inner(harmless)), "…", 1)
    # Neither nonce nor canary is to be had from inside, and no special token or invisible character.
    joined = "\n".join(inside)
    assert fence.nonce not in joined
    assert fence.canary not in joined
    assert not re.search(
        r"[<>＜＞﹤﹥｜\u200b-\u200f\u202a-\u202e\u2066-\u2069\x00\x1b]|\[/?INST\]|[\ud800-\udfff]", joined
    )
    question.encode()

    # A judge's reply is read the same, whatever was judged.
    values = {key: menu[0] for key, menu in loaded.menu.items()}
    values |= {"category": "crime"} if "category" in values else {}
    for canary, reads in ((fence.canary, True), ("0123456789abcdef", False)):
        reply = json.dumps({"canary": canary, **values})
        assert (loaded.read(reply, canary=fence.canary).score is not None) == reads
    # A judge that repeats the text, or the last JSON in it, is unscored.
    for echo in (text, last_json(text), last_json(joined), neutralize(text), joined):
        assert loaded.read(echo, canary=fence.canary).score is None


@pytest.mark.parametrize("text", INJECTIONS.values(), ids=INJECTIONS)
def test_the_marks_follow_from_text_and_secret(text):
    messages = (Message("user", "q"),)
    first = make_fence(messages, text, purpose="r", secret=SECRET)
    assert make_fence(messages, text, purpose="r", secret=SECRET) == first
    others = [
        make_fence(messages, text, purpose="r", secret=b"t" * 32),
        make_fence(messages, text, purpose="other", secret=SECRET),
        make_fence(messages, text + ".", purpose="r", secret=SECRET),
        make_fence((Message("system", "q"),), text, purpose="r", secret=SECRET),
    ]
    marks = [mark for fence in (first, *others) for mark in (fence.nonce, fence.canary)]
    assert len(set(marks)) == len(marks)


@pytest.mark.parametrize("text", INJECTIONS.values(), ids=INJECTIONS)
def test_neutral_text_stays_as_it_is(text):
    once = neutralize(text)
    assert neutralize(once) == once
    assert neutralize(text + "ü") == neutralize(text + "u")[:-1] + "ü"  # plain text has a path of its own
