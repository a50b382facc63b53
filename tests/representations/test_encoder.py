import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sotune.errors import ConfigError, DataError
from sotune.records import Record
from sotune.representations.encoder import Encoder, PreparedTexts, find_keys, keys_from_hex, plan_shards


def prepared_texts(lengths, names=None):
    names = names or [str(i) for i in range(len(lengths))]
    return PreparedTexts(
        ids=tuple(names),
        keys=keys_from_hex([hashlib.sha256(name.encode()).hexdigest() for name in names]),
        lengths=np.array(lengths, dtype=np.int64),
        truncated=np.zeros(len(lengths), dtype=np.bool_),
        inputs=names,
    )


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    batch_tokens=st.integers(1, 100),
    shard_rows=st.integers(1, 30),
)
def test_plan_covers_each_text_once_within_the_budget(lengths, batch_tokens, shard_rows):
    shards = plan_shards(prepared_texts(lengths), batch_tokens=batch_tokens, shard_rows=shard_rows)
    batches = [batch for shard in shards for batch in shard.batches]
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert [lengths[row] for batch in batches for row in batch] == sorted(lengths)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= batch_tokens
    for shard in shards[:-1]:
        assert len(shard.rows) >= shard_rows
        assert len(shard.rows) - len(shard.batches[-1]) < shard_rows


def test_a_batch_is_padded_as_long_as_another_pass_would_cost_more():
    lengths = [10] * 100 + [11] * 2 + [20] * 13 + [100] * 20 + [300]
    (shard,) = plan_shards(prepared_texts(lengths), batch_tokens=4000, shard_rows=1000)
    found = [[lengths[row] for row in batch] for batch in shard.batches]
    # A pass costs as much as 125 tokens: a hundred short rows wait for two, not for rows of twice their length.
    assert found == [[10] * 100 + [11] * 2, [20] * 13, [100] * 20, [300]]
    for batch in found:
        assert len(batch) * max(batch) - sum(batch) <= 4000 / 32


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=80), data=st.data())
def test_without_some_whole_shards_the_others_are_planned_as_before(lengths, data):
    prepared = prepared_texts(lengths)
    plan = plan_shards(prepared, batch_tokens=60, shard_rows=7)
    gone = data.draw(st.sets(st.sampled_from(range(len(plan)))))
    wanted = np.ones(len(lengths), dtype=np.bool_)
    for number in gone:
        wanted[plan[number].rows] = False
    left = plan_shards(prepared, batch_tokens=60, shard_rows=7, wanted=wanted)
    assert [shard.name for shard in left] == [s.name for number, s in enumerate(plan) if number not in gone]


@given(order=st.permutations(range(12)))
def test_plan_does_not_depend_on_the_order_of_the_rows(order):
    lengths = [3, 3, 5, 1, 9, 9, 2, 2, 2, 7, 4, 4]
    names = [f"text {i}" for i in range(12)]
    plan = plan_shards(prepared_texts(lengths, names), batch_tokens=12, shard_rows=4)
    shuffled = prepared_texts([lengths[i] for i in order], [names[i] for i in order])
    assert [s.name for s in plan_shards(shuffled, batch_tokens=12, shard_rows=4)] == [s.name for s in plan]


def test_equal_texts_are_planned_once():
    (shard,) = plan_shards(prepared_texts([2, 2, 5, 2], ["x", "x", "y", "x"]), batch_tokens=100, shard_rows=10)
    assert sorted(shard.rows) == [0, 2]


def test_shard_name_knows_texts_and_borders():
    names = {
        plan_shards(prepared_texts([2, 2, 2, 2], texts), batch_tokens=tokens, shard_rows=9)[0].name
        for texts in (["a", "b", "c", "d"], ["a", "b", "c", "e"])
        for tokens in (4, 6, 8)
    }
    assert len(names) == 6


@pytest.mark.parametrize("limits", [{"batch_tokens": 0, "shard_rows": 1}, {"batch_tokens": 1, "shard_rows": 0}])
def test_limits_are_positive(limits):
    with pytest.raises(ConfigError, match="must be at least 1"):
        plan_shards(prepared_texts([1]), **limits)


def test_no_records():
    with pytest.raises(DataError, match="no records to encode"):
        plan_shards(prepared_texts([]), batch_tokens=1, shard_rows=1)


def test_find_keys():
    keys = prepared_texts([1] * 50).keys
    assert find_keys(keys[[7, 0, 7, 49]], among=keys).tolist() == [7, 0, 7, 49]
    assert find_keys(keys[[7, 0]], among=keys[:5]).tolist() == [-1, 0]
    assert find_keys(keys[:2], among=keys[:0]).tolist() == [-1, -1]
    assert find_keys(keys[[1]], among=keys[[3, 1, 2, 1]]).tolist() == [1]


def test_find_keys_is_exact_about_zero_bytes():
    keys = np.zeros((3, 32), np.uint8)
    keys[1, 31], keys[2, 0] = 1, 1
    assert find_keys(keys, among=keys[::-1]).tolist() == [2, 1, 0]


class NamedEncoder(Encoder):
    """Encodes a record as the length of its prompt and completion, with NaN where the prompt says so."""

    description, fingerprint, batch_tokens = {"encoder": "named"}, "named", 6

    def key(self, record):
        return hashlib.sha256(f"{record.prompt[0].content}|{record.completion}".encode()).hexdigest()

    def prepare(self, records):
        texts = [(record.prompt[0].content, record.completion) for record in records]
        return PreparedTexts(
            ids=tuple(record.id for record in records),
            keys=keys_from_hex([self.key(record) for record in records]),
            lengths=np.array([len(prompt) for prompt, _ in texts]),
            truncated=np.zeros(len(texts), dtype=np.bool_),
            inputs=texts,
        )

    def encode_batch(self, inputs):
        return torch.tensor([[float("nan") if p == "bad" else len(p), len(c)] for p, c in inputs], dtype=torch.float32)


def test_encode_keeps_order_and_duplicates():
    pairs = [("aaaa", "b"), ("a", "bb"), ("aaaa", "b"), ("aa", "bbb")]
    rows = [Record.from_text(str(i), *pair) for i, pair in enumerate(pairs)]
    seen = []
    values = NamedEncoder().encode(rows, progress=lambda done, total: seen.append((done, total)))
    assert values.tolist() == [[4, 1], [1, 2], [4, 1], [2, 3]]
    assert seen == [(1, 3), (2, 3), (3, 3)]  # rows of three lengths, and little room for padding


def test_rows_that_are_not_finite_are_named():
    rows = [Record.from_text(f"id-{i}", "bad", "x" * i) for i in range(1, 8)]
    encoder = NamedEncoder()
    encoder.batch_tokens = 100
    with pytest.raises(DataError, match="NaN or infinity for 7 rows") as caught:
        encoder.encode(rows)
    assert str(caught.value).count("'id-") == 5
    assert "use dtype float32" in str(caught.value)
