import datetime
import decimal
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import load, load_with_bad, reasons

from sotune.errors import DataError
from sotune.sources import arrow, streams


def write(path, columns, **types):
    arrays = {name: pa.array(values, type=types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path)
    return path


def test_every_type_becomes_a_json_value(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        {
            "prompt": ["a"],
            "completion": ["b"],
            "day": [datetime.date(2020, 2, 29)],
            "time": [datetime.time(1, 2, 3)],
            "stamp": [datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)],
            "nanoseconds": [1_577_934_245_000_000_001],
            "duration": [datetime.timedelta(seconds=90)],
            "price": [decimal.Decimal("1.50")],
            "nan": [float("nan")],
            "inf": [float("-inf")],
            "nothing": [None],
            "nested": [{"list": [1.5, float("nan")], "flag": True}],
            "map": [[("k", 1)]],
            "category": pa.array(["x"]).dictionary_encode(),
        },
        nanoseconds=pa.timestamp("ns"),
        map=pa.map_(pa.string(), pa.int64()),
    )
    row = load(path).records[0].meta
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row == {
        "prompt": "a",
        "completion": "b",
        "day": "2020-02-29",
        "time": "01:02:03",
        "stamp": "2020-01-02T03:04:05+00:00",
        "nanoseconds": "2020-01-02T03:04:05.000000001",
        "duration": "0:01:30",
        "price": "1.50",
        "nan": None,
        "inf": None,
        "nothing": None,
        "nested": {"list": [1.5, None], "flag": True},
        "map": [["k", 1]],
        "category": "x",
    }


def test_rows_are_numbered_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "BATCH_ROWS", 3)
    texts = [f"t{i}" for i in range(10)]
    path = write(tmp_path / "a.parquet", {"prompt": texts, "completion": texts})
    assert [record.origin.rpartition(":")[2] for record in load(path).records] == [str(i) for i in range(1, 11)]


def test_bad_rows(tmp_path):
    binary = [None, b"\x89PNG", None, None, None]
    path = write(
        tmp_path / "a.parquet",
        {"prompt": ["a", "b", None, "d", "e" * 300], "completion": ["x"] * 5, "image": binary},
    )
    loaded = load_with_bad(path, max_row_bytes=200)
    assert [record.prompt[0].content for record in loaded.records] == ["a", "b", "d"]
    assert loaded.records[1].meta == {"prompt": "b", "completion": "x", "image": None}
    assert reasons(loaded) == {
        3: "not text: prompt is null",
        5: "row too large: over 200 bytes",
    }


def test_text_that_is_not_utf8_costs_only_its_row(tmp_path):
    broken = pa.array([b"good", b"caf\xe9", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"prompt": broken, "completion": pa.array(["x", "y", "z"])}), tmp_path / "a.parquet")
    loaded = load_with_bad(tmp_path / "a.parquet")
    assert [record.completion for record in loaded.records] == ["x", "z"]
    assert reasons(loaded) == {2: "a value that cannot be read: damaged, or text that is not UTF-8"}


def test_gzip(tmp_path, monkeypatch):
    plain = write(tmp_path / "a.parquet", {"prompt": ["a"], "completion": ["b"]})
    zipped = tmp_path / "b.parquet.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert load(zipped).records == load(plain).records
    monkeypatch.setattr(streams, "MAX_UNPACKED_BYTES", 10)
    with pytest.raises(DataError, match="unpacks to over 10 bytes"):
        load(zipped)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 this is not Parquet PAR1")
    with pytest.raises(DataError, match="not readable Parquet"):
        load(path)
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), path)
    with pytest.raises(DataError, match="names column 'prompt' twice"):
        load(path)
    write(path, {"prompt": pa.array([], pa.string()), "completion": pa.array([], pa.string())})
    with pytest.raises(DataError, match="holds no rows"):
        load(path)
