"""Weights solved by two processes at once, each with the kernels of half the rows."""

import json

import numpy as np
import pytest

from launching import launch
from sotune.artifacts import RunFolder, read_json
from sotune.run_files import SOLVER, WEIGHTS

# The command line, which shares kernels of any size; tells how often this process heard of the other's rows.
COMMAND = """
import json, sys
from sotune import processes
from sotune.pipeline import weighing
from sotune.transport import ProcessShards

weighing._SHARED_ENTRIES, heard = 0, []
gather = ProcessShards._gather

def count(self, mine):
    heard.append(len(mine))
    return gather(self, mine)

ProcessShards._gather = count
from sotune.cli import main
seen_in = sys.argv.pop(1)
try:
    main()
finally:
    with open(f"{seen_in}.{processes.rank()}.json", "w") as file:
        json.dump(len(heard), file)
"""


@pytest.mark.parametrize("sentinels", ["measure", "off"])
def test_two_processes_share_the_kernels(data, cli, tiny_model, tmp_path, monkeypatch, sentinels):
    content = {
        "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"), "sentinels": sentinels,
        "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
        "model": str(tiny_model("llama")), "dtype": "float32", "device": "cpu", "threads": 1,
    }  # fmt: skip
    (tmp_path / "settings.yaml").write_text(json.dumps(content))
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / "cache-1"))
    result = cli("weigh", "--config", tmp_path / "settings.yaml", "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / "cache-2"))

    statuses, _, errors = launch(
        COMMAND, tmp_path / "seen", "weigh", "--config", tmp_path / "settings.yaml", "--out", tmp_path / "two"
    )

    assert statuses == [0, 0], errors
    heard = [read_json(tmp_path / f"seen.{rank}.json") for rank in (0, 1)]
    assert heard[0] == heard[1] > 0
    one, two = (RunFolder.open(tmp_path / name) for name in ("one", "two"))
    names = ("weight", "push_potential", "push_cost")
    for name in names:
        found, expected = (np.array(WEIGHTS.columns_of(run, name)[name]) for run in (two, one))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert SOLVER.read(two)["converged"]
