import pyarrow as pa
import pyarrow.feather as feather
import pytest
from reading import load

from sotune.errors import DataError

TABLE = pa.table({"prompt": ["a", "b"], "completion": ["x", "y"], "n": [1, 2]})
WRITERS = {
    "file": lambda path, table: _write(pa.ipc.new_file, path, table),
    "stream": lambda path, table: _write(pa.ipc.new_stream, path, table),
    "feather": lambda path, table: feather.write_feather(table, path, compression="lz4"),
}


def _write(opener, path, table):
    with pa.OSFile(str(path), "wb") as sink, opener(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("suffix", ["arrow", "feather"])
def test_files_and_streams(tmp_path, kind, suffix):
    path = tmp_path / f"a.{suffix}"
    WRITERS[kind](path, TABLE)
    loaded = load(path)
    assert [record.meta for record in loaded.records] == TABLE.to_pylist()
    assert [record.origin for record in loaded.records] == [f"{path}:1", f"{path}:2"]


def test_the_cache_of_datasets_is_a_folder_of_them(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    WRITERS["stream"](tmp_path / "some-set-train.arrow", TABLE)
    WRITERS["stream"](tmp_path / "some-set-test.arrow", TABLE.slice(1))
    assert [record.completion for record in load(tmp_path, split="test").records] == ["y"]


@pytest.mark.parametrize(
    "data", [b"", b"ARROW1", b"ARROW1\0\0junk", b"FEA1junk", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"{}"]
)
def test_what_is_neither_is_refused(tmp_path, data):
    (tmp_path / "a.arrow").write_bytes(data)
    with pytest.raises(DataError, match="is not a readable Arrow file or stream"):
        load(tmp_path / "a.arrow")


def test_a_batch_that_names_places_its_buffers_lack_costs_its_values(tmp_path):
    path = tmp_path / "a.arrow"
    WRITERS["stream"](path, pa.table({"prompt": ["aa"], "completion": ["xx"], "more": ["123456789"]}).combine_chunks())
    data = path.read_bytes()
    at = data.rindex((9).to_bytes(4, "little"))
    path.write_bytes(data[:at] + (1 << 30).to_bytes(4, "little") + data[at + 4 :])
    loaded = load(path)
    assert loaded.records[0].meta == {"prompt": "aa", "completion": "xx", "more": None}
    assert "more (a value that cannot be read: damaged, or text that is not UTF-8: 1 row)" in loaded.warnings[0]
