"""Several readings through the cache, off one pass over the texts."""

import dataclasses
import itertools
import re
import threading

import pytest
import torch

from sotune.models import ModelSpec
from sotune.representations import (
    POOLINGS,
    CausalLMEncoder,
    CausalLMReadings,
    FrozenCausalLM,
    RepresentationCache,
    encode_with_cache,
    fill_cache,
    filling,
)
from sotune.settings import RenderingSettings

SHARD_ROWS = 5


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test may catch it."""


@pytest.fixture
def model(tiny_model):
    spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
    return FrozenCausalLM(spec, RenderingSettings(template="paper", max_length=256), batch_tokens=250)


@pytest.fixture
def group(model):
    return CausalLMReadings(model, layers=(2, 1), poolings=POOLINGS)


@pytest.fixture
def cache(tmp_path):
    return RepresentationCache(tmp_path / "cache")


def fill(group, records, cache, **options):
    return fill_cache(group, records, cache, shard_rows=SHARD_ROWS, **options)


def file_bytes(cache):
    return {str(p.relative_to(cache.folder)): p.read_bytes() for p in cache.folder.rglob("*") if p.is_file()}


def count_passes(model, monkeypatch):
    """Counts the rows of each forward pass from now on."""
    calls, original = [], model.encode_batch
    monkeypatch.setattr(
        model, "encode_batch", lambda inputs, readings: calls.append(len(inputs)) or original(inputs, readings)
    )
    return calls


def test_one_pass_fills_every_member_under_its_own_fingerprint(group, model, records, cache, monkeypatch):
    calls = count_passes(model, monkeypatch)
    filled = fill(group, records, cache)
    assert sum(calls) == len(records)
    assert len({encoder.fingerprint for encoder in group.members}) == len(group.members) == 2 * len(POOLINGS)
    for encoder, stored in zip(group.members, filled, strict=True):
        assert stored.ids == tuple(record.id for record in records)
        assert torch.equal(stored.values, encoder.encode(records))


def test_what_was_filled_for_all_is_read_by_one(group, model, records, cache, monkeypatch):
    fill(group, records, cache)
    calls = count_passes(model, monkeypatch)
    alone = CausalLMEncoder(model, layer=1, pooling="completion_mean")
    encode_with_cache(alone, records, cache, shard_rows=SHARD_ROWS)
    fill(group, records, cache)
    assert calls == []


@pytest.mark.parametrize("n_writes", [0, 1, 4, 6, 11])
def test_a_fill_killed_between_any_two_writes_ends_with_the_same_bytes(
    group, model, records, cache, tmp_path, monkeypatch, n_writes
):
    whole = RepresentationCache(tmp_path / "whole")
    fill(group, records, whole)
    write = cache.write

    def die(*arguments):
        if len(file_bytes(cache)) == n_writes:
            raise Killed
        write(*arguments)

    monkeypatch.setattr(cache, "write", die)
    with pytest.raises(Killed):
        fill(group, records, cache)
    monkeypatch.setattr(cache, "write", write)
    calls = count_passes(model, monkeypatch)
    fill(group, records, cache)
    assert file_bytes(cache) == file_bytes(whole)
    assert sum(calls) <= len(records) - n_writes // len(group.members) * SHARD_ROWS


def test_only_the_members_that_lack_a_shard_are_computed(group, model, records, cache, monkeypatch):
    one = group.members[4]
    encode_with_cache(one, records, cache, shard_rows=SHARD_ROWS)
    seen, original = [], model.encode_batch
    monkeypatch.setattr(
        model, "encode_batch", lambda inputs, readings: seen.append(set(readings)) or original(inputs, readings)
    )
    fill(group, records, cache)
    others = {encoder.reading for encoder in group.members} - {one.reading}
    assert seen
    assert all(readings == others for readings in seen)


def test_equal_rows_in_several_batches_and_fills_have_one_vector(group, records, cache):
    """A batch's other rows change the last bits of a vector; a text that is known is never encoded again."""
    again = [dataclasses.replace(record, id=f"{record.id}-again") for record in reversed(records)]
    fill(group, records, cache)
    for encoded in fill(group, [*records, *again], cache):
        torch.testing.assert_close(
            encoded.values[: len(records)], encoded.values[len(records) :].flip(0), rtol=0, atol=0
        )


def test_blocks_are_tokenized_ahead_and_give_the_same_rows(model, records, cache, tmp_path, monkeypatch):
    encoder = CausalLMEncoder(model, layer=2, pooling="last")
    prepare, threads = model.prepare, []
    monkeypatch.setattr(
        model, "prepare", lambda some: threads.append((threading.current_thread().name, len(some))) or prepare(some)
    )
    (whole,) = fill_cache(encoder, records, RepresentationCache(tmp_path / "whole"))
    threads.clear()
    calls = count_passes(model, monkeypatch)
    (encoded,) = fill(encoder, [*records, *records], cache, block_rows=8)
    assert [size for _, size in threads] == [8, 8, 8, 8, 8, 4]
    assert all(name.startswith("tokenize") for name, _ in threads)
    assert sum(calls) == len(records)
    for half in encoded.values.split(len(records)):
        torch.testing.assert_close(half, whole.values, rtol=0, atol=1e-5)


def test_long_work_is_announced_once_after_the_first_batches(model, records, cache, monkeypatch):
    encoder, said = CausalLMEncoder(model, layer=2, pooling="last"), []
    fill(encoder, records[:3], cache, announce=said.append)
    assert said == []  # it takes no minutes
    seconds = itertools.count(step=600)
    monkeypatch.setattr(filling.time, "monotonic", lambda: 1.0 + next(seconds))
    fill(encoder, records, cache, announce=said.append, block_rows=16)
    (line,) = said
    assert re.fullmatch(r"about 1\d rows to encode, [\d,]+ tokens: \d+ min at \d+ tokens a second", line)
