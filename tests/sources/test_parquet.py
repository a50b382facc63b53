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


def test_bytes_that_are_utf8_are_text_and_others_are_null(tmp_path):
    columns = {
        "prompt": [b"question", b"Frage?", b"\xff"],
        "completion": ["answer", "Übung", "x"],
        "digest": [b"\xde\xad\xbe\xef", b"plain", None],
        "image": [{"bytes": b"\x89PNG", "path": "a.png"}, None, None],
        "id": [b"a", b"b", b"c"],
    }
    path = write(tmp_path / "a.parquet", columns, prompt=pa.binary(), id=pa.large_binary())
    loaded = load_with_bad(path)
    assert [record.id for record in loaded.records] == ["a", "b"]
    assert loaded.records[0].prompt[0].content == "question"
    assert loaded.records[0].meta["image"] == {"bytes": None, "path": "a.png"}
    assert [record.meta["digest"] for record in loaded.records] == [None, "plain"]
    assert reasons(loaded) == {3: "a value that JSON cannot hold: bytes that are not UTF-8"}
    unused, warning = loaded.warnings
    assert "column image holds text and is not used" in unused
    assert "digest (a value that JSON cannot hold: bytes that are not UTF-8: 1 row), image (" in warning


def test_a_value_beyond_the_range_of_python_spoils_itself_alone(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        {"prompt": ["a", "b"], "completion": ["x", "y"], "day": [1000, 1 << 62]},
        day=pa.timestamp("ms"),
    )
    loaded = load(path)
    assert [record.meta["day"] for record in loaded.records] == ["1970-01-01T00:00:01", None]
    assert "day (a value that cannot be read: " in loaded.warnings[0]


@pytest.mark.parametrize("limit", [800_000, 2_000_000])
def test_a_small_file_whose_rows_fill_the_memory_costs_its_rows(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(arrow, "MAX_UNFOLDED_BYTES", limit)
    table = pa.table({"prompt": pa.array(["x" * 900_000] * 40).dictionary_encode(), "completion": ["y"] * 40})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(DataError, match=r"none of its 40 rows can be used.*row too large \(40\)"):
        load_with_bad(tmp_path / "a.parquet", max_row_bytes=100_000)


def test_a_column_whose_name_is_not_utf8_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", {"prompt": ["a"], "completion": ["b"], "zzzzzzzz": ["c"]})
    path.write_bytes(path.read_bytes().replace(b"zzzzzzzz", b"zzzz\x8czzz"))
    with pytest.raises(DataError, match="is not readable Parquet"):
        load(path)


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
