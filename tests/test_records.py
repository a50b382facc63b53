import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotune.errors import DataError
from sotune.records import SET_NAMES, IdAssigner, Message, Record, content_hash

PROMPT = (Message("user", "q"),)


def hashed(prompt, completion):
    return content_hash((*prompt, Message("assistant", completion)))


def test_a_record_from_text_is_a_conversation_of_one_question_and_its_answer():
    record = Record.from_text("r1", "q", "a", meta={"k": 1}, origin="f:1")
    assert record.messages == (Message("user", "q"), Message("assistant", "a"))
    assert (record.prompt, record.completion, record.meta, record.origin) == (PROMPT, "a", {"k": 1}, "f:1")
    assert Record.from_text("r1", "q", "a").meta == {}


def test_records_are_values():
    record = Record.from_text("r1", "q", "a", meta={"k": 1}, origin="f:1")
    same = Record.from_text("r1", "q", "a", meta={"k": 2}, origin="g:9")
    assert record == same
    assert hash(record) == hash(same)
    assert record != Record.from_text("r2", "q", "a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.messages = ()


def test_the_three_sets_have_the_papers_names():
    assert SET_NAMES == ("downstream", "safe_anchor", "harmful_reference", "safe_reference")


def test_the_content_hash_is_the_same_in_every_version():
    # Run folders of earlier versions hold these ids.
    assert hashed(PROMPT, "a") == "73fee4452b2e1869"


CONVERSATIONS = st.tuples(
    st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=4)), max_size=3),
    st.text(max_size=4),
)


@given(CONVERSATIONS, CONVERSATIONS)
def test_the_content_hash_tells_conversations_apart(left, right):
    same = (tuple(left[0]), left[1]) == (tuple(right[0]), right[1])
    assert (hashed(*left) == hashed(*right)) == same
    assert len(hashed(*left)) == 16


def test_hashed_ids_count_occurrences():
    ids = IdAssigner("f.jsonl")
    digest = hashed(PROMPT, "a")
    assert ids.assign(None, digest, origin="f:1") == f"{digest}-1"
    assert ids.assign(None, hashed(PROMPT, "b"), origin="f:2") == f"{hashed(PROMPT, 'b')}-1"
    assert ids.assign(None, digest, origin="f:3") == f"{digest}-2"
    assert IdAssigner("g.jsonl").assign(None, digest, origin="g:1") == f"{digest}-1"


def test_an_own_id_stands_and_does_not_count_as_an_occurrence():
    ids = IdAssigner("f.jsonl")
    assert ids.assign("mine", hashed(PROMPT, "a"), origin="f:1") == "mine"
    assert ids.assign(None, hashed(PROMPT, "a"), origin="f:2").endswith("-1")


@pytest.mark.parametrize("own", ["x", f"{hashed(PROMPT, 'a')}-1"])
def test_a_repeated_id_names_both_places(own):
    ids = IdAssigner("f.jsonl")
    ids.assign(None, hashed(PROMPT, "a"), origin="f:1")
    ids.assign("x", hashed(PROMPT, "b"), origin="f:2")
    with pytest.raises(DataError, match=f"f.jsonl: id '{own}' occurs twice, at f:[12] and f:3; .* --id-column"):
        ids.assign(own, hashed(PROMPT, "c"), origin="f:3")
