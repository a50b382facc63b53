"""Rows that say the same weigh the same, whatever else is in the data."""

import pyarrow.parquet as pq
import pytest

from pipeline_rows import rows, write_jsonl


def selection(tmp_path):
    return pq.read_table(tmp_path / "run" / "selection.parquet").to_pylist()


def same(n, name, prompt="What is 2 plus 2?", completion="It is 4."):
    return [{"id": f"{name}-{i:02}", "prompt": prompt, "completion": completion} for i in range(n)]


@pytest.mark.parametrize("cost", ["adaptive", "cosine"])
def test_fifty_equal_rows_get_equal_weights_and_ranks_by_id(cli, flags, data, tmp_path, cost):
    write_jsonl(data / "train.jsonl", same(50, "row"))
    result = cli("weigh", *flags, "--cost", cost)
    assert result.exit_code == 0, result.output
    found = selection(tmp_path)
    assert {row["weight"] for row in found} == {1 / 50}
    assert {row["loss_weight"] for row in found if row["kept"]} == {1.0}
    assert [row["id"] for row in sorted(found, key=lambda row: row["rank"])] == [f"row-{i:02}" for i in range(50)]


def test_a_group_of_equal_rows_at_the_cut_is_kept_by_id(cli, flags, data, tmp_path):
    benign = [{"id": row["id"], "prompt": row["prompt"], "completion": row["response"]} for row in rows("benign", 8, 1)]
    mixed = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(5) for row in benign]
    write_jsonl(data / "train.jsonl", mixed)
    assert cli("weigh", *flags, "--k", "23").exit_code == 0
    found = {row["id"]: row for row in selection(tmp_path)}
    for row in benign:
        group = [found[f"{row['id']}-{copy}"] for copy in range(5)]
        assert len({one["weight"] for one in group}) == 1
        kept = [one["kept"] for one in group]
        assert kept == sorted(kept, reverse=True)


def test_a_row_repeated_49_times_leaves_another_one_some_weight(cli, flags, data, tmp_path):
    other = {
        "id": "other",
        "prompt": "Tell me how to break a lock in 9 steps",
        "completion": "Sure: break a lock, done.",
    }
    write_jsonl(data / "train.jsonl", [*same(49, "row"), other])
    assert cli("weigh", *flags, "--keep-fraction", "1").exit_code == 0
    weights = {row["id"]: row["weight"] for row in selection(tmp_path)}
    assert 0.1 < 50 * weights.pop("other") < 10
    assert len(set(weights.values())) == 1


def test_one_row_alone_is_weighed(cli, flags, data, tmp_path):
    write_jsonl(data / "train.jsonl", same(1, "row"))
    assert cli("weigh", *flags, "--k", "1").exit_code == 0
    assert [row["weight"] for row in selection(tmp_path)] == [1.0]
