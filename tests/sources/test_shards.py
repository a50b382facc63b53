import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import good, load, load_with_bad, write_jsonl

from sotune.artifacts import sha256_file
from sotune.errors import DataError
from sotune.sources import SourceFile
from sotune.sources.shards import split_of


def write(path, *rows):
    """Writes rows as the suffix of a file says, into a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".parquet" in path.name:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    return write_jsonl(path, *rows)


def completions(loaded) -> list[str]:
    return [record.completion.removeprefix("answer ") for record in loaded.records]


@pytest.fixture
def snapshot(tmp_path):
    """The layout of a data set that was downloaded from the Hub."""
    root = tmp_path / "snapshot"
    for k in range(2):
        write(root / f"data/train-0000{k}-of-00002.parquet", *(good(i) for i in range(3 * k, 3 * k + 3)))
    write(root / "data/test-00000-of-00001.parquet", good(9))
    (root / "README.md").write_text("# Rows\n")
    (root / ".gitattributes").write_text("*.parquet filter=lfs\n")
    (root / "dataset_infos.json").write_text(json.dumps({"default": {"splits": []}}))
    write(root / ".cache/huggingface/download/data/train.jsonl", good(7))
    return root


def test_a_snapshot_of_the_hub_is_one_set(snapshot):
    loaded = load(snapshot)
    shards = [snapshot / f"data/train-0000{k}-of-00002.parquet" for k in range(2)]
    assert completions(loaded) == ["0", "1", "2", "3", "4", "5"]
    assert [record.origin for record in loaded.records] == [f"{file}:{line}" for file in shards for line in (1, 2, 3)]
    assert loaded.files == tuple(SourceFile(str(file), sha256_file(file), 3) for file in shards)
    assert (loaded.n_read, loaded.warnings) == (6, ())


@pytest.mark.parametrize(
    "pattern", ["data/*.parquet", "data/train-*", "**/*.parquet", "*/train-0000?-of-00002.parquet"]
)
def test_a_pattern_is_one_set(snapshot, pattern):
    assert load(f"{snapshot}/{pattern}").records == load(snapshot).records


def test_the_split_is_picked_by_the_names_of_files(snapshot):
    assert completions(load(snapshot, split="test")) == ["9"]
    assert completions(load(f"{snapshot}/data/test-*.parquet")) == ["9"]
    with pytest.raises(DataError, match="has no split 'validation'; it has test, train: name it with --split"):
        load(snapshot, split="validation")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "validation"),
        ("my_dev.v2.csv", "validation"),
        ("TEST.json.gz", "test"),
        ("eval/part-1.jsonl.zst", "test"),
        ("test/train.jsonl", "train"),
        ("data/train_sft-00000-of-00003.parquet", "train_sft"),
        ("train_clean.jsonl", "train"),
        ("part-00000-of-00002.jsonl", None),
        ("latest.jsonl", None),
        ("pretraining.jsonl", None),
        ("contest/values.jsonl", None),
    ],
)
def test_the_split_that_a_name_says(tmp_path, name, split):
    assert split_of((tmp_path / name).relative_to(tmp_path)) == split


@pytest.mark.parametrize(
    ("split", "rows"), [("train_sft", ["1"]), ("test_sft", ["2"]), ("helpful", ["3"]), ("extra", ["4"])]
)
def test_a_split_of_another_name_is_that_of_a_file_or_folder(tmp_path, split, rows):
    for i, name in enumerate(
        ["train_sft-00000-of-00001.jsonl", "test_sft-00000-of-00001.jsonl", "helpful/a.jsonl", "extra.jsonl"], start=1
    ):
        write(tmp_path / name, good(i))
    assert completions(load(tmp_path, split=split)) == rows
    with pytest.raises(DataError, match="no split 'train'; it has test_sft, train_sft"):
        load(tmp_path)


def test_files_of_no_split_are_all_read_in_natural_order(tmp_path):
    for i in (1, 2, 10):
        write(tmp_path / f"b/part-{i}.jsonl", good(i))
    write(tmp_path / "a/x.ndjson.gz", good(0))
    assert completions(load(tmp_path)) == ["0", "1", "2", "10"]
    with pytest.raises(DataError, match="no split 'test'; the names of its files tell of none"):
        load(tmp_path, split="test")


def test_files_left_out_and_shards_that_are_missing_are_told(tmp_path):
    write(tmp_path / "train-00001-of-00003.jsonl", good(1))
    write(tmp_path / "more.jsonl", good(2))
    loaded = load(tmp_path)
    assert completions(loaded) == ["1"]
    assert loaded.warnings == (
        f"{tmp_path}: more.jsonl not read, since the names say no split and those of other files do",
        f"{tmp_path}: only 1 of the 3 files train-*-of-00003 are here",
    )


def test_files_of_several_kinds_are_refused(tmp_path):
    write(tmp_path / "a.jsonl", good(1))
    write(tmp_path / "b.parquet", good(2))
    for source in (tmp_path, f"{tmp_path}/*"):
        with pytest.raises(DataError, match=r"files of several kinds \(JSON Lines, Parquet\); .* by a pattern"):
            load(source)
    assert completions(load(f"{tmp_path}/*.parquet")) == ["2"]


@pytest.mark.parametrize("pattern", ["*.jsonl", "none/*", "[", "a[", "*.txt", "**", "\0*"])
def test_a_pattern_that_matches_nothing_is_refused(tmp_path, pattern):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no file of a known kind; known suffixes are \.jsonl|does not exist"):
        load(f"{tmp_path}/{pattern}")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    assert completions(load(write(tmp_path / "a[1]*.jsonl", good(1)))) == ["1"]


def test_hidden_files_and_links_in_a_circle_do_not_count(tmp_path):
    write(tmp_path / "data/a.jsonl", good(1))
    for name in ("data/._a.jsonl", "__MACOSX/a.jsonl", ".ipynb_checkpoints/a.jsonl"):
        write(tmp_path / name, good(2))
    os.symlink(tmp_path, tmp_path / "data/again")
    assert completions(load(tmp_path)) == ["1"]


def test_linked_files_count_as_in_the_cache_of_the_hub(tmp_path):
    blob = write(tmp_path / "blobs/0123.parquet", good(1)).rename(tmp_path / "blobs/0123")
    (tmp_path / "snapshots/abc/data").mkdir(parents=True)
    os.symlink(blob, tmp_path / "snapshots/abc/data/train-00000-of-00001.parquet")
    assert completions(load(tmp_path / "snapshots/abc")) == ["1"]


def test_what_spark_writes_beside_the_data_does_not_count(tmp_path):
    write(tmp_path / "part-00000-c000.snappy.parquet", good(1))
    write(tmp_path / "_temporary/0/part-00001.parquet", good(2))
    write(tmp_path / "_delta_log/00000.json", {})
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part-00000-c000.snappy.parquet.crc").touch()
    assert completions(load(tmp_path)) == ["1"]


def test_a_file_that_is_there_twice_is_not_read_twice(tmp_path):
    write(tmp_path / "train.jsonl", good(1))
    write(tmp_path / "train.jsonl.gz", good(1))
    with pytest.raises(DataError, match=r"holds .*train\.jsonl twice, in two compressions; leave one"):
        load(tmp_path)


def test_a_subset_is_a_folder_in_the_folder(tmp_path):
    for i, name in enumerate(["harmless", "helpful"]):
        write(tmp_path / name / "train.jsonl.gz", good(i))
    assert completions(load(tmp_path)) == ["0", "1"]
    assert completions(load(tmp_path, subset="helpful/")) == completions(load(tmp_path, subset="helpful")) == ["1"]
    with pytest.raises(DataError, match="has no folder 'none', which --subset names"):
        load(tmp_path, subset="none")


def test_each_bad_row_is_told_with_its_own_file(tmp_path):
    for name in ("train-1.jsonl", "train-2.jsonl"):
        write(tmp_path / name, {"prompt": ""}, good(1), "{", good(2))
    loaded = load_with_bad(tmp_path)
    assert [(os.path.basename(row.file), row.line) for row in loaded.quarantined] == [
        ("train-1.jsonl", 1),
        ("train-1.jsonl", 3),
        ("train-2.jsonl", 1),
        ("train-2.jsonl", 3),
    ]
    with pytest.raises(DataError, match=r"train-1\.jsonl:1: .*train-1\.jsonl:3: .*train-2\.jsonl:1: "):
        load(tmp_path)


def test_ids_are_unique_over_the_whole_set(tmp_path):
    write(tmp_path / "train-1.jsonl", good(1), good(2, id="a"))
    write(tmp_path / "train-2.jsonl", good(1), good(3))
    ids = [record.id for record in load(tmp_path).records]
    digest = ids[0].removesuffix("-1")
    assert ids[:3] == [f"{digest}-1", "a", f"{digest}-2"]
    write(tmp_path / "train-3.jsonl", good(4, id="a"))
    with pytest.raises(DataError, match=r"id 'a' occurs twice, at .*train-1\.jsonl:2 and .*train-3\.jsonl:1; .*none"):
        load(tmp_path)
    assert len({record.id for record in load(tmp_path, id_column="none").records}) == 5


def test_files_with_other_columns_cost_their_own_rows_only(tmp_path):
    write(tmp_path / "train-1.parquet", good(1))
    write(tmp_path / "train-2.parquet", good(2, score=1.5))
    write(tmp_path / "train-3.parquet", {"question": "q"})
    loaded = load_with_bad(tmp_path)
    assert completions(loaded) == ["1", "2"]
    assert [row.kind for row in loaded.quarantined] == ["missing column"]


def test_the_limit_ends_within_a_file(tmp_path):
    for i in range(3):
        write(tmp_path / f"train-{i}.jsonl", good(2 * i), good(2 * i + 1))
    loaded = load(tmp_path, limit=3)
    assert completions(loaded) == ["0", "1", "2"]
    assert [file.n_rows for file in loaded.files] == [2, 1, 0]


def test_an_empty_file_among_others_is_no_fault(tmp_path):
    write(tmp_path / "train-1.jsonl")
    write(tmp_path / "train-2.jsonl", good(1))
    assert completions(load(tmp_path)) == ["1"]
    shutil.rmtree(tmp_path)
    write(tmp_path / "train-1.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        load(tmp_path)


def test_a_damaged_file_among_others_is_named(tmp_path):
    write(tmp_path / "train-1.parquet", good(1))
    (tmp_path / "train-2.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train-2\.parquet is not readable Parquet"):
        load(tmp_path)
