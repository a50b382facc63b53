"""Sets of several files, and what a run says about them, through the command line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_rows import rows, write_jsonl
from sotune.artifacts import read_json
from sotune.run_files import RECORDS


@pytest.fixture
def shards(data):
    """A folder as a download from the Hub has it, with the rows that the flags name as one file."""
    folder = data / "snapshot"
    (folder / "data").mkdir(parents=True)
    found = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for k in range(2):
        table = pa.Table.from_pylist(found[45 * k : 45 * k + 45])
        pq.write_table(table, folder / f"data/train-0000{k}-of-00002.parquet")
    (folder / "README.md").write_text("# Rows")
    return folder


def statuses(result):
    assert result.exit_code == 0, result.output
    return [stage["status"] for stage in json.loads(result.stdout)["stages"]]


@pytest.mark.parametrize("pattern", ["", "data/*.parquet"])
def test_a_folder_of_shards_is_one_set(cli, flags, shards, tmp_path, pattern):
    assert statuses(cli("extract", f"{shards}/{pattern}".rstrip("/"), *flags[1:], "--json")) == ["done", "done"]
    found = RECORDS.columns_of(tmp_path / "run", "id", "origin", where={"set": ["downstream"]})
    assert len(set(found["id"])) == 90
    assert found["origin"][0] == f"{shards}/data/train-00000-of-00002.parquet:1"
    assert found["origin"][-1] == f"{shards}/data/train-00001-of-00002.parquet:45"


def test_a_shard_that_changed_is_read_again(cli, flags, shards):
    call = ["extract", shards, *flags[1:], "--json"]
    cli(*call)
    assert statuses(cli(*call)) == ["skipped", "skipped"]
    (shards / "README.md").write_text("# Other words")
    assert statuses(cli(*call)) == ["skipped", "skipped"]
    pq.write_table(pa.Table.from_pylist(rows("benign", 45, 7)), shards / "data/train-00001-of-00002.parquet")
    assert statuses(cli(*call)) == ["done", "done"]
    (shards / "data/train-00001-of-00002.parquet").unlink()
    result = cli(*call)
    assert statuses(result) == ["done", "done"]


def test_what_is_null_or_unused_is_told_once_and_stays_in_the_account(cli, flags, data, tmp_path):
    found = [{**row, "score": float("nan"), "note": "Said to be a good row."} for row in rows("benign", 30, 1)]
    write_jsonl(data / "train.jsonl", found)
    result = cli("extract", *flags)
    assert result.exit_code == 0, result.output
    said = [
        f"{data}/train.jsonl: column note holds text and is not used",
        f"{data}/train.jsonl: values that JSON cannot hold are null, in columns score "
        "(NaN is not a JSON number: 30 rows)",
    ]
    assert read_json(tmp_path / "run" / "records.json")["warnings"] == said
    output = " ".join(result.output.split())
    assert output.count("column note holds text") == 1
    kept = RECORDS.columns_of(tmp_path / "run", "row", where={"set": ["downstream"]})["row"]
    assert json.loads(kept[0]) == {**found[0], "score": None}


def test_ids_can_be_ignored(cli, flags, data, tmp_path):
    write_jsonl(data / "train.jsonl", [{**row, "id": "talk"} for row in rows("benign", 30, 1)])
    result = cli("extract", *flags)
    assert result.exit_code == 2
    assert "--id-column none" in result.output
    assert cli("extract", *flags, "--id-column", "none").exit_code == 0
    assert len(set(RECORDS.columns_of(tmp_path / "run", "id", where={"set": ["downstream"]})["id"])) == 30
