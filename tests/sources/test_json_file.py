import gzip
import json

import pytest
from reading import good, load, load_with_bad, reasons, write_jsonl

from sotune.errors import DataError
from sotune.sources import json_file


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"version": 1, "data": rows, "about": {"n": 2}}])
def test_an_array_of_rows_alone_or_inside_an_object(tmp_path, wrap):
    rows = [good(1), good(2)]
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(wrap(rows), indent=2).encode()))
    loaded = load(path)
    assert [dict(record.meta) for record in loaded.records] == rows
    assert [record.origin for record in loaded.records] == [f"{path}:1", f"{path}:2"]


def test_bad_rows_cost_only_themselves(tmp_path):
    path = tmp_path / "a.json"
    texts = [
        json.dumps(good(1)).encode(),
        b'{"prompt": "a", "completion": NaN}',
        b'{"prompt": "a", "completion": "caf\xe9"}',
        b'{"prompt": "a", "prompt": "b", "completion": "c"}',
        b"7",
        json.dumps(good(6, x="x" * 300)).encode(),
        b'{"prompt": "a", "completion": "b", "x": ' + b"[" * 120 + b"]" * 120 + b"}",
        json.dumps(good(8)).encode(),
    ]
    path.write_bytes(b"[" + b",".join(texts) + b"]")
    loaded = load_with_bad(path, max_row_bytes=200)
    assert [record.completion for record in loaded.records] == ["answer 1", "answer 8"]
    assert {line: reason.partition(":")[0] for line, reason in reasons(loaded).items()} == {
        2: "broken JSON",
        3: "text that is not Unicode",
        4: "the same key twice in one object",
        5: "not a JSON object",
        6: "row too large",
        7: "nested deeper than 100 levels",
    }


def test_json_lines_under_the_name_of_json(tmp_path):
    path = write_jsonl(tmp_path / "a.json", good(1), "{broken", good(3))
    loaded = load_with_bad(path)
    assert len(loaded.records) == 2
    assert list(reasons(loaded)) == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"prompt": "a"}\n{"prompt": "b"}]', r"a\.json:2: broken JSON .*JSON Lines"),
        ("", r"a\.json:1: broken JSON"),
        ("[" * 100_000, "nested too deeply.*JSON Lines"),
        ("3", "a single value where rows are needed"),
        ('{"a": [], "b": []}', "an object with 2 lists .keys found: a, b.*write an array"),
        ('{"a": 1}', "an object with no list"),
        ("[]", "holds no rows"),
        ('{"a": 1, "a": 2}', "the same key twice"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load(path)


def test_a_file_too_large_for_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_file, "MAX_FILE_BYTES", 100)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * 200 + b"]"))
    with pytest.raises(DataError, match="over 100 bytes.*JSON Lines or Parquet"):
        load(path)
