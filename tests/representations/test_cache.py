import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from sotune.errors import ArtifactError, DataError
from sotune.models import ModelSpec
from sotune.records import Record
from sotune.representations import CausalLMEncoder, FrozenCausalLM, RepresentationCache, encode_with_cache
from sotune.settings import RenderingSettings

SHARD_ROWS = 5


@pytest.fixture
def encoder(tiny_model):
    spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
    model = FrozenCausalLM(spec, RenderingSettings(template="paper", max_length=256), batch_tokens=250)
    return CausalLMEncoder(model, layer=-1, pooling="last")


@pytest.fixture
def cache(tmp_path):
    return RepresentationCache(tmp_path / "cache")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test may catch it."""


def encode(encoder, records, cache, **options):
    return encode_with_cache(encoder, records, cache, shard_rows=SHARD_ROWS, **options)


def file_bytes(cache):
    return {path.name: path.read_bytes() for path in sorted(cache.folder.rglob("*")) if path.is_file()}


def count_batches(encoder, monkeypatch):
    """Counts the batches that the encoder computes from now on."""
    calls, original = [], encoder.encode_batch
    monkeypatch.setattr(encoder, "encode_batch", lambda inputs: calls.append(len(inputs)) or original(inputs))
    return calls


def test_values_are_the_encoder_s_in_the_records_order(encoder, records, cache):
    encoded = encode(encoder, records, cache)
    assert encoded.ids == tuple(record.id for record in records)
    assert encoded.keys == tuple(encoder.key(record) for record in records)
    assert len(cache.shards(encoder.fingerprint)) == len(encoded.shards) > 2
    assert encoded.values.dtype == torch.float32
    assert torch.equal(encoded.values, encoder.encode(records))


def test_second_run_computes_nothing(encoder, records, cache, monkeypatch):
    first = encode(encoder, records, cache)
    calls = count_batches(encoder, monkeypatch)
    second = encode(encoder, records[::-1], cache)
    assert calls == []
    assert torch.equal(second.values, first.values.flip(0))


@pytest.mark.parametrize("n_batches", range(6))
def test_a_killed_run_ends_with_the_same_bytes(encoder, records, cache, tmp_path, monkeypatch, n_batches):
    whole = RepresentationCache(tmp_path / "whole")
    expected = encode(encoder, records, whole)

    def die(done, total):
        if len(calls) > n_batches:
            raise Killed

    calls = count_batches(encoder, monkeypatch)
    with pytest.raises(Killed):
        encode(encoder, records, cache, progress=die)
    n_kept = len(cache.shards(encoder.fingerprint))
    calls.clear()
    resumed = encode(encoder, records, cache)
    n_recomputed = sum(calls)
    assert torch.equal(resumed.values, expected.values)
    assert file_bytes(cache) == file_bytes(whole)
    assert n_recomputed <= len(records) - n_kept * SHARD_ROWS


@pytest.mark.slow
def test_sigkill_at_random_moments(tiny_model, tmp_path):
    script = tmp_path / "extract.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from sotune.models import ModelSpec\n"
        "from sotune.records import Record\n"
        "from sotune.representations import CausalLMEncoder, FrozenCausalLM, RepresentationCache, encode_with_cache\n"
        "spec = ModelSpec(sys.argv[1], dtype='float32', device='cpu')\n"
        "from sotune.settings import RenderingSettings\n"
        "rendering = RenderingSettings(template='paper', max_length=256)\n"
        "model = FrozenCausalLM(spec, rendering, batch_tokens=200)\n"
        "encoder = CausalLMEncoder(model, layer=-1, pooling='last')\n"
        "rows = [Record.from_text(str(i), 'sea ' * (1 + i % 50), f'wide {i}') for i in range(600)]\n"
        "print('ready', flush=True)\n"
        "encode_with_cache(encoder, rows, RepresentationCache(Path(sys.argv[2])), shard_rows=20,\n"
        "                  progress=lambda done, total: time.sleep(.005))\n"
    )

    def start(folder):
        command = [sys.executable, str(script), str(tiny_model("llama")), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        return process

    assert start(tmp_path / "whole").wait() == 0
    moments, n_killed = random.Random(0), 0
    for _ in range(5):
        process = start(tmp_path / "killed")
        try:
            process.wait(timeout=moments.uniform(0.2, 2))
        except subprocess.TimeoutExpired:
            process.kill()
            n_killed += process.wait() != 0
    assert n_killed > 0
    assert start(tmp_path / "killed").wait() == 0
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        other = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
        assert other.read_bytes() == path.read_bytes()


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path):
    path.write_bytes(b"")


def flip_a_bit(path: Path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def write_nonsense(path: Path):
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def write_other_tensors(path: Path):
    from safetensors.torch import save_file

    save_file({"keys": torch.zeros(3, 32), "representations": torch.zeros(2, 4), "truncated": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, write_nonsense, write_other_tensors])
def test_a_damaged_shard_is_computed_again(encoder, records, cache, monkeypatch, damage):
    expected, before = encode(encoder, records, cache), file_bytes(cache)
    damaged = cache.shards(encoder.fingerprint)[1]
    damage(damaged)
    calls = count_batches(encoder, monkeypatch)
    with pytest.warns(UserWarning, match=f"{damaged.name} is damaged"):
        mended = encode(encoder, records, cache)
    assert 0 < sum(calls) < len(records)
    assert torch.equal(mended.values, expected.values)
    assert file_bytes(cache) == before


def test_a_damaged_shard_is_left_out_of_the_index(encoder, records, cache):
    encoded = encode(encoder, records, cache)
    truncate(cache.shards(encoder.fingerprint)[0])
    with pytest.warns(UserWarning, match="is damaged"):
        index = cache.index(encoder.fingerprint)
    with pytest.raises(ArtifactError, match=r"rows have no cached representation .*run `sotune extract` again"):
        index.load(encoded.keys, encoded.ids)


def test_equal_texts_are_encoded_once_and_kept_apart(encoder, cache, monkeypatch):
    rows = [Record.from_text(f"id-{i}", "What is it?", "tree" if i % 3 else "lake") for i in range(30)]
    calls = count_batches(encoder, monkeypatch)
    encoded = encode(encoder, rows, cache)
    assert sum(calls) == 2
    assert encoded.values.shape[0] == 30
    assert torch.equal(encoded.values[0], encoded.values[3])
    assert not torch.equal(encoded.values[0], encoded.values[1])


def test_load_in_any_order(encoder, records, cache):
    encoded = encode(encoder, records, cache)
    order = [3, 3, 0, 17, 5]
    keys = [encoded.keys[i] for i in order]
    assert torch.equal(cache.index(encoder.fingerprint).load(keys, keys).values, encoded.values[order])


def test_unknown_texts_are_named(encoder, records, cache):
    encoded = encode(encoder, records, cache)
    with pytest.raises(ArtifactError, match=r"1 rows have no cached representation \(ids \['new'\]\)"):
        cache.index(encoder.fingerprint).load([*encoded.keys, "0" * 64], [*encoded.ids, "new"])
    with pytest.raises(ArtifactError, match="no cached representation"):
        cache.index("another fingerprint").load(encoded.keys, encoded.ids)
    with pytest.raises(ArtifactError, match="at least one row"):
        cache.index(encoder.fingerprint).load([], [])


def test_no_records(encoder, cache):
    with pytest.raises(DataError, match="no records to encode"):
        encode(encoder, [], cache)


def test_texts_of_other_plans_are_not_computed_again(encoder, records, cache, monkeypatch):
    whole = encode(encoder, records, cache)
    calls = count_batches(encoder, monkeypatch)
    part = encode(encoder, records[3:11], cache)
    assert calls == []
    assert torch.equal(part.values, whole.values[3:11])


@pytest.mark.parametrize("n_batches", range(4))
def test_a_killed_run_over_a_used_cache_ends_with_the_same_bytes(encoder, records, tmp_path, monkeypatch, n_batches):
    def die(done, total):
        if len(calls) > n_batches:
            raise Killed

    caches = [RepresentationCache(tmp_path / name) for name in ("whole", "killed")]
    for cache in caches:
        encode(encoder, records[:12], cache)
    whole = encode(encoder, records, caches[0])
    calls = count_batches(encoder, monkeypatch)
    with pytest.raises(Killed):
        encode(encoder, records, caches[1], progress=die)
    resumed = encode(encoder, records, caches[1])
    assert torch.equal(resumed.values, whole.values)
    assert file_bytes(caches[1]) == file_bytes(caches[0])


def test_the_named_shards_give_the_same_values_whatever_is_added(encoder, records, cache):
    encoded = encode(encoder, records, cache)
    encode(encoder, [*records[4:], Record.from_text("more", "x " * 40, "y")], cache)
    assert len(cache.shards(encoder.fingerprint)) > len(encoded.shards)
    again = cache.index(encoder.fingerprint, encoded.shards).load(encoded.keys, encoded.ids)
    assert torch.equal(again.values, encoded.values)


def test_truncated_rows_are_counted_from_the_cache_too(tiny_model, records, cache):
    spec = ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu")
    model = FrozenCausalLM(spec, RenderingSettings(template="paper", max_length=20), batch_tokens=100)
    encoder = CausalLMEncoder(model, layer=-1, pooling="last")
    expected = int(encoder.prepare(records).truncated.sum())
    assert expected > 0
    assert [encode(encoder, records, cache).n_truncated for _ in range(2)] == [expected, expected]


def test_progress_counts_cached_texts_too(encoder, records, cache):
    for _ in range(2):
        seen = []
        encode(encoder, records, cache, progress=lambda done, total: seen.append((done, total)))  # noqa: B023
        assert seen[-1] == (len(records), len(records))
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_nothing_but_whole_shards_is_left(encoder, records, cache):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(encoder, records, cache)
        encode(encoder, records, cache)
    assert all(path.name.startswith("shard-") for path in cache.folder.rglob("*") if path.is_file())
