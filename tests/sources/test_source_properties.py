import gzip
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from reading import load, load_with_bad

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FILLED = TEXT.filter(str.strip)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
PAIRS = st.fixed_dictionaries({"prompt": FILLED, "completion": FILLED})
# Columns that would make a row of another schema, or an id, are none of these tests' business.
OTHERS = TEXT.filter(lambda key: key not in ("id", "response", "messages", "conversations", "instruction"))
ROWS = st.builds(lambda extra, pair: {**extra, **pair}, st.dictionaries(OTHERS, VALUES, max_size=4), PAIRS)


def load_rows(data: bytes, name="a.jsonl", read=load):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        return read(path)


def as_lines(rows, ensure_ascii=True) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in rows).encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_any_row_comes_out_json_equal(rows, escaped, zipped):
    data = as_lines(rows, ensure_ascii=escaped)
    loaded = load_rows(gzip.compress(data) if zipped else data)
    assert [json.dumps(record.meta, sort_keys=True) for record in loaded.records] == [
        json.dumps(row, sort_keys=True) for row in rows
    ]
    assert load_rows(json.dumps(rows).encode(), "a.json").records == loaded.records


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_ids_are_stable_and_distinct_under_duplicates(letters):
    rows = [{"prompt": letter, "completion": letter} for letter in letters]
    ids = [record.id for record in load_rows(as_lines(rows)).records]
    assert len(set(ids)) == len(ids)
    assert [record.id for record in load_rows(as_lines([{**row, "more": 1} for row in rows])).records] == ids
    # A row more at the end changes no id before it.
    assert [record.id for record in load_rows(as_lines([*rows, rows[0]])).records][:-1] == ids


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=4), st.sampled_from(["a.jsonl", "a.csv", "a.tsv"]))
def test_no_bytes_break_the_reader_or_a_good_row(junk, name):
    good = b'{"prompt": "q", "completion": "a"}' if name == "a.jsonl" else b"q,a" if name == "a.csv" else b"q\ta"
    head = b"" if name == "a.jsonl" else good.replace(b"q", b"prompt").replace(b"a", b"completion", 1)
    if name != "a.jsonl":
        head = b"prompt" + (b"," if name == "a.csv" else b"\t") + b"completion"
        junk = [line.replace(b'"', b"") for line in junk]  # an open quote may swallow the row after it
    lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in junk]
    loaded = load_rows(b"\n".join([head, good, *lines, good]) + b"\n", name, load_with_bad)
    assert loaded.records[0].completion == loaded.records[-1].completion == "a"
    assert loaded.n_read == len(loaded.records) + len(loaded.quarantined)
