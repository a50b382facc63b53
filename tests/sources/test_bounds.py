"""A small file takes neither the memory nor the time: each ends in words that name the bound."""

import contextlib
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sotune.errors import ConfigError, DataError
from sotune.evaluation.prompts import load_prompts
from sotune.evaluation.rubrics import load_rubric
from sotune.settings import read_config
from sotune.sources import SourceOptions, arrow_file, load_set, streams
from sotune.sources.rows import MAX_VALUES


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Bounds that a test can reach."""
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)


def load(path, **options):
    return load_set(path, set_name="downstream", options=SourceOptions(**options), max_quarantine_fraction=1.0)


def repeated(text, n):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array([text]))


def test_a_table_of_more_rows_than_allowed_is_not_unpacked(tmp_path):
    table = pa.table({"prompt": repeated("x", 1_000_000), "completion": repeated("y", 1_000_000)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", row_group_size=1_000_000)
    with pytest.raises(DataError, match="holds 1000000 rows, over max_rows=999; raise --max-rows"):
        load(tmp_path / "a.parquet", max_rows=999)
    assert len(load(tmp_path / "a.parquet", max_rows=999, limit=5).records) == 5


def test_lines_of_more_rows_than_allowed_are_not_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 11)
    assert len(load(tmp_path / "a.jsonl", max_rows=11).records) == 11
    with pytest.raises(DataError, match="over max_rows=10 rows"):
        load(tmp_path / "a.jsonl", max_rows=10)


def test_a_text_that_a_table_holds_once_and_names_often(tmp_path):
    table = pa.table({"prompt": repeated("x" * 300_000, 1024), "completion": ["y"] * 1024})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(DataError, match="holds far more than its size.*raise --max-expansion"):
        load(tmp_path / "a.parquet")
    assert len(load(tmp_path / "a.parquet", max_expansion=10**6).records) == 1024


def test_a_row_of_endless_values(tmp_path):
    n = MAX_VALUES + 10
    values = pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), pa.array(np.zeros(n, np.int8)))
    # Several such rows, so that the batch as a whole is over the bound too.
    table = pa.table({"prompt": ["a"], "completion": ["b"], "l": values})
    pq.write_table(pa.concat_tables([table] * 12), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b", "l": [0] * n}) + "\n")
    for name in ("a.parquet", "a.jsonl"):
        with pytest.raises(DataError, match="over 100000 values in one row"):
            load(tmp_path / name)


@pytest.mark.parametrize("line", [b"\0" * 65_536, b"\n" * 65_536, b'{"prompt": "' + b"[" * 60_000, b"{}\n" * 20_000])
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_compressed_file_that_unpacks_without_end(tmp_path, line, name):
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        for _ in range(500):
            file.write(line)
    with pytest.raises(DataError):
        load(tmp_path / name, max_expansion=1)


def test_prompts_that_unpack_without_end(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b" " * 200_000_000)
    with pytest.raises(DataError, match="holds far more than its size"):
        load_prompts(tmp_path / "a.jsonl.gz")


def test_a_table_of_endless_columns(tmp_path):
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(20_000)) + "\n")
    with pytest.raises(DataError, match="has 20000 columns, over 10000"):
        load(tmp_path / "a.csv")


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"k{i}: &{b} [{', '.join(['*' + a] * 9)}]\n" for i, (a, b) in enumerate(zip("abcdefgh", "bcdefghi", strict=True)))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, "over 100000 values, counted with its aliases"),
        ("a: &a [*a]", "over 100000 values|not readable YAML"),
        ("a: " + "[" * 1000, "nested deeper than 50 levels"),
        ("a: " + "1:" * 5000 + "1", "a number of 10001 characters"),
        ("data: 2024-13-45", "not readable YAML: month must be"),
        ("!!float max_steps: 12", "not readable YAML"),
        ("x: !!timestamp y", "not readable YAML"),
        ("x: !!python/object:os.system y", "not readable YAML"),
        ("x: " + "y" * 600_000, "over 524288 bytes"),
        ("x: \u0000", "not readable YAML"),
        ("- 1", "must be a mapping of settings"),
    ],
)
def test_settings_end_in_words(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "a.yaml")
    head = f"---\n{text}\n---\nbody {{{{exchange}}}} {{{{form}}}}"
    (tmp_path / "a.md").write_text(head)
    with pytest.raises(ConfigError):
        load_rubric(str(tmp_path / "a.md"))


@pytest.mark.parametrize("load_it", [read_config, lambda path: load_rubric(str(path))])
def test_a_device_without_end_is_no_file_of_settings(load_it):
    from pathlib import Path

    with pytest.raises(ConfigError, match="over 524288 bytes"):
        load_it(Path("/dev/zero"))


def test_a_number_of_seeds_has_a_bound():
    from sotune.comparison.compare_settings import make_compare_settings

    for seeds in (20_000_000_000, 10**30):
        with pytest.raises(ConfigError, match="seeds: must be at most 10000 draws"):
            make_compare_settings({"methods": ["sft"], "datasets": ["miniature-verdict"], "seeds": seeds})


def arrow(path, table, *, opener=pa.ipc.new_file, compression="zstd"):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with opener(str(path), table.schema, options=options) as writer:
        writer.write_table(table)
    return path


ENDLESS = pa.table({"prompt": ["x" * 30_000_000], "completion": ["y"]})


@pytest.mark.parametrize("opener", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("table", [ENDLESS, pa.table({"prompt": repeated("x" * 30_000_000, 2)})])
def test_arrow_buffers_that_unpack_to_too_much_are_not_unpacked(tmp_path, monkeypatch, opener, codec, table):
    path = arrow(tmp_path / "a.arrow", table, opener=opener, compression=codec)
    assert path.stat().st_size < 300_000
    monkeypatch.setattr(arrow_file, "_batches", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(DataError, match="holds far more than its size.*raise --max-expansion"):
        load(path)


def test_arrow_buffers_within_the_bound_are_read(tmp_path):
    path = arrow(tmp_path / "a.arrow", pa.table({"prompt": ["x" * 300_000] * 2, "completion": ["y"] * 2}))
    assert len(load(path).records) == 2


def test_a_saved_data_set_is_bounded_as_its_files_are(tmp_path):
    arrow(tmp_path / "data-00000-of-00001.arrow", ENDLESS, opener=pa.ipc.new_stream)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="data-00000-of-00001.arrow holds far more than its size"):
        load(tmp_path)


@pytest.mark.parametrize("opener", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_rows_that_take_no_room_are_counted_before_they_are_read(tmp_path, opener):
    nulls = pa.Array.from_buffers(pa.null(), 1 << 30, [None])
    path = arrow(tmp_path / "a.arrow", pa.table({"prompt": nulls}), opener=opener)
    with pytest.raises(DataError, match=f"holds {1 << 30} rows, over max_rows=3000000"):
        load(path)
    with pytest.raises(DataError, match="fit no known format"):
        load(path, limit=5)


@pytest.mark.parametrize("opener", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_buffers_that_lie_about_their_size(tmp_path, opener):
    path = arrow(tmp_path / "a.arrow", pa.table({"prompt": ["x" * 4000], "completion": ["y"]}), opener=opener)
    content, true = path.read_bytes(), (4000).to_bytes(8, "little")
    for claimed, told in ((1 << 40, "holds far more than its size"), (3000, "is not a readable"), (9000, "is not a")):
        path.write_bytes(content.replace(true, claimed.to_bytes(8, "little")))
        with pytest.raises(DataError, match=told):
            load(path)


def test_an_arrow_file_whose_footer_lists_what_is_not_there(tmp_path):
    path = arrow(tmp_path / "a.arrow", pa.table({"prompt": ["x"], "completion": ["y"]}))
    content = path.read_bytes()
    footer = len(content) - 10 - int.from_bytes(content[-10:-6], "little")
    for place in range(footer, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with contextlib.suppress(DataError):
            assert len(load(path).records) == 1
