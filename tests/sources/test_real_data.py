import gzip
import json

import pytest
from reading import load


@pytest.mark.slow
def test_every_public_set_with_responses_loads(real_data):
    n_files = 0
    for path in sorted(real_data.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        if any(row["response"] is None for row in rows):
            continue
        n_files += 1
        loaded = load(path)
        assert [record.id for record in loaded.records] == [row["id"] for row in rows]
        assert [record.meta for record in loaded.records] == rows
    assert n_files > 0


def test_the_harmful_half_of_a_set_is_picked_by_a_filter(real_data):
    loaded = load(real_data / "pku_saferlhf_test.jsonl.gz", where=("label=harmful",))
    assert (len(loaded.records), loaded.n_filtered_out, loaded.n_read) == (2130, 2151, 4281)
