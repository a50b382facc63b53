"""General rows that meet risky prompts safely, from the command line to what methods see."""

import json

import pytest

from pipeline_rows import rows, write_jsonl
from sotune.artifacts import RunFolder
from sotune.pipeline.record_sets import read_records
from sotune.run_files import READING


def safe_rows(n, seed):
    """Rows with the prompts of harm and an answer that refuses."""
    return [{**row, "response": "I will not help with that.", "label": "safe"} for row in rows("harmful", n, seed)]


@pytest.fixture
def safe(data):
    path = data / "safe.jsonl"
    write_jsonl(path, safe_rows(12, 6) + rows("benign", 5, 7))
    return path


def test_a_safe_reference_is_read_under_settings_of_its_own(cli, flags, safe, tmp_path):
    own = ["--safe-reference", safe, "--safe-reference-where", "label=safe"]
    assert cli("extract", *flags, *own).exit_code == 0
    run = RunFolder.open(tmp_path / "run")
    assert len(read_records(run)["safe_reference"]) == 12
    assert READING.read(run)["sets"]["safe_reference"]["n_filtered_out"] == 5
    again = json.loads(cli("extract", *flags, *own, "--json").stdout)
    assert {stage["status"] for stage in again["stages"]} == {"skipped"}
    without = json.loads(cli("extract", *flags, "--json").stdout)
    assert {stage["status"] for stage in without["stages"]} == {"done"}
    assert read_records(run)["safe_reference"] == []


def test_a_row_cannot_be_safe_and_harmful(cli, flags, data):
    both = ["--safe-reference", data / "harm.jsonl", "--safe-reference-where", "label=harmful"]
    result = cli("extract", *flags, *both)
    assert result.exit_code == 2
    assert "20 rows are both in the safe reference and in the harmful reference" in result.output
