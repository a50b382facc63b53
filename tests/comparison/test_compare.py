import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from sotune.api.watching import LineMonitor
from sotune.artifacts import read_json
from sotune.cli import app
from sotune.run_files import WEIGHTS
from sotune.stopping import stops_handled

RATES = ("harmful_rate", "refusal_rate", "utility", "over_refusal", "coherence", "avg")
SMALL = {"n": 60, "n_anchor": 10, "n_reference": 20, "n_eval": 4, "num_train_epochs": 1}
METHODS = ["base", "sft", {"name": "pull", "method": "sot", "push_strength": 0}]


# Two cells in training at once, and two that no worker has begun.
LONG = {"methods": ["sft", "random"], "seeds": 2, "max_steps": 60, "save_steps": 7}


def write_config(path, **changes):
    path.write_text(yaml.safe_dump({"methods": METHODS, "datasets": ["miniature-verdict"], **SMALL, **changes}))
    return str(path)


def invoke(*args):
    return CliRunner().invoke(app, ["compare", *map(str, args)])


def digests(folder: Path):
    """Adapters' bytes and results but for what is measured in seconds and bytes."""
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("cells/*/*/adapter/adapter_model.safetensors")
    }
    rows = [
        {k: v for k, v in row.items() if k not in ("seconds", "peak_bytes")}
        for row in read_json(folder / "compare.json")
    ]
    return found, rows  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the long comparison comes to where nothing stops it."""
    folder = tmp_path_factory.mktemp("whole")
    assert invoke(write_config(folder / "c.yaml", **LONG), "--out", folder / "out").exit_code == 0
    return digests(folder / "out")


def test_a_comparison_from_its_file_to_its_page(tmp_path):
    config, out = write_config(tmp_path / "c.yaml"), tmp_path / "out"
    planned = json.loads(invoke(config, "--out", out, "--dry-run", "--json").stdout)
    assert [cell["status"] for cell in planned["cells"]] == ["to do"] * 3
    assert not out.exists()
    result = invoke(config, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    table = read_json(out / "compare.json")
    assert [row["method"] for row in table] == ["base", "sft", "pull"]
    for row in table:
        assert {"dataset", "harmful_fraction", "seed", "seconds", "peak_bytes"} <= row.keys()
        assert all(0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1 for name in RATES)
    assert {Path(file).name for file in summary["files"]} == {
        "compare.json", "compare.parquet", "table.md", "table.tex", "compare.html",
    }  # fmt: skip
    assert all(Path(file).is_file() for file in summary["files"])
    columns = pq.read_table(out / "compare.parquet").to_pydict()
    assert columns["kept_harmful"] == [None, 1.0, columns["kept_harmful"][2]]
    planned = json.loads(invoke(config, "--out", out, "--dry-run", "--json").stdout)
    assert (planned["n_done"], len(planned["cells"])) == (3, 3)
    # Another budget is another cell; the base model's stands too, since its answers would be longer.
    changed = write_config(tmp_path / "d.yaml", learning_rate=1e-3)
    assert json.loads(invoke(changed, "--out", out, "--dry-run", "--json").stdout)["n_done"] == 0


def test_a_cell_that_somebody_selected_again_is_not_reported_as_it_was(tmp_path):
    config, out = write_config(tmp_path / "c.yaml", methods=["sft", "random"]), tmp_path / "out"
    assert invoke(config, "--out", out).exit_code == 0
    cell = out / "cells" / "miniature-verdict-p0.1-s0" / "random"
    before = digests(out)
    assert CliRunner().invoke(app, ["select", str(cell), "--k", "20"]).exit_code == 0
    planned = json.loads(invoke(config, "--out", out, "--dry-run", "--json").stdout)
    assert {c["variant"]: c["status"] for c in planned["cells"]} == {"sft": "done", "random": "to do"}
    assert invoke(config, "--out", out).exit_code == 0
    assert digests(out) == before


def test_a_stopped_comparison_says_what_is_kept_and_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    config, out = write_config(tmp_path / "c.yaml", methods=["base", "sft"]), tmp_path / "out"

    class Signalling(LineMonitor):
        def progress(self, label, done, total):
            if label == "training" and done == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, stops_handled():
        patched.setattr("sotune.cli.console.LineMonitor", Signalling)
        stopped = invoke(config, "--out", out)
    assert stopped.exit_code == 143
    said = " ".join(stopped.output.split())
    assert "train: the checkpoint of step 2 of " in said
    assert "compare: all cells that are done are kept" in said
    assert json.loads(invoke(config, "--out", out, "--dry-run", "--json").stdout)["n_done"] == 1
    assert invoke(config, "--out", out).exit_code == 0
    assert invoke(config, "--out", tmp_path / "whole").exit_code == 0
    assert digests(out) == digests(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_workers_that_are_stopped_leave_checkpoints_and_go_on_to_the_same_bytes(tmp_path, whole, signum):
    config, out = write_config(tmp_path / "c.yaml", **LONG), tmp_path / "out"
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from sotune.cli import main; main()"
    )
    arguments = ["compare", config, "--out", out, "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        saved = "cells/*/*/checkpoints/checkpoint-*"
        waited = time.monotonic() + 120
        while len({path.parent for path in out.glob(saved)}) < 2 and time.monotonic() < waited:
            time.sleep(0.02)
        os.killpg(process.pid, signum)  # as a terminal and a scheduler do it
        said = " ".join(process.communicate(timeout=120)[0].split())
    finally:
        process.kill()
    assert process.returncode == 128 + signum, said
    assert "compare: all cells that are done are kept" in said
    assert f"To go on, give the same command again: sotune compare {config} --out {out} --workers 2" in said
    assert "Traceback" not in said
    steps = [int(path.name.split("-")[1]) for path in out.glob(saved)]
    assert len(steps) == 2
    assert any(step % LONG["save_steps"] for step in steps), "of the step at which they were stopped"
    assert json.loads(invoke(config, "--out", out, "--dry-run", "--json").stdout)["n_done"] == 0
    assert invoke(config, "--out", out, "--workers", "2").exit_code == 0
    assert digests(out) == whole


def test_a_cell_is_a_run_folder(tmp_path):
    """Report, explain and evaluate open it; a variant may change what a run may."""
    methods = [{"method": "adaptive", "stretch": 4}, "probe"]
    config, out = write_config(tmp_path / "c.yaml", methods=methods), tmp_path / "out"
    result = invoke(config, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    cells = out / "cells" / "miniature-verdict-p0.1-s0"
    assert read_json(cells / "adaptive-stretch=4" / "solver.json")["stretch"] == 4
    for name, title in (("adaptive-stretch=4", "sotune"), ("probe", "logistic probe")):
        (cells / name / "report.html").unlink()
        assert CliRunner().invoke(app, ["report", str(cells / name)]).exit_code == 0
        assert title in (cells / name / "report.html").read_text()
        first = WEIGHTS.columns_of(cells / name)["id"][0]
        explained = json.loads(CliRunner().invoke(app, ["explain", str(cells / name), first, "--json"]).stdout)
        assert explained[0]["id"] == first
        again = json.loads(CliRunner().invoke(app, ["evaluate", str(cells / name), "--json"]).stdout)
        assert {outcome["stage"]: outcome["status"] for outcome in again["stages"]}["evaluation"] == "skipped"


def test_a_cell_that_fails_is_told_and_the_others_are_measured(tmp_path, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("no such luck")

    monkeypatch.setattr("sotune.methods.tfidf_probe.tfidf", failing)
    config, out = write_config(tmp_path / "c.yaml", methods=["tfidf_probe", "sft"]), tmp_path / "out"
    result = invoke(config, "--out", out, "--json")
    assert result.exit_code == 1
    assert "tfidf_probe: RuntimeError: no such luck" in json.loads(result.stdout)["message"]
    assert [row["method"] for row in read_json(out / "compare.json")] == ["sft"]
    assert "1 cell could not be measured" in (out / "compare.html").read_text()
    planned = json.loads(invoke(config, "--out", out, "--dry-run", "--json").stdout)
    assert [cell["status"] for cell in planned["cells"]] == ["to do", "done"]


def test_a_comparison_does_not_write_into_a_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".sotune-run").write_text("1\n")
    (run / "config.json").write_text("{}")
    result = invoke(write_config(tmp_path / "c.yaml"), "--out", run)
    assert result.exit_code == 2
    assert "holds a run, and a comparison would write among its files" in " ".join(result.output.split())
    assert sorted(path.name for path in run.iterdir()) == [".sotune-run", "config.json"]


def test_a_faulty_configuration_is_told_apart_from_failed_work(tmp_path):
    result = invoke(write_config(tmp_path / "c.yaml", sedes=2), "--out", tmp_path / "out", "--json")
    assert result.exit_code == 2
    assert "did you mean 'seeds'" in json.loads(result.stdout)["message"]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(tmp_path):
    config = write_config(tmp_path / "c.yaml", seeds=2)
    for workers in (1, 3):
        assert invoke(config, "--out", tmp_path / str(workers), "--workers", workers).exit_code == 0
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_bytes_and_leaves_no_worker_behind(tmp_path):
    config = write_config(tmp_path / "c.yaml", seeds=3)
    command = [
        sys.executable,
        "-c",
        "from sotune.cli import main; main()",
        "compare",
        config,
        "--workers",
        "2",
        "--quiet",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, "--out", str(whole)], check=True)
    for n_done in (1, 4):
        process = subprocess.Popen([*command, "--out", str(broken)], start_new_session=True)
        while process.poll() is None and len(list(broken.glob("cells/*/*/result.json"))) < n_done:
            time.sleep(0.1)
        assert process.poll() is None, "it finished before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert wait_for_end_of_session(process.pid)
    subprocess.run([*command, "--out", str(broken)], check=True)
    assert digests(broken) == digests(whole)


def wait_for_end_of_session(session: int, seconds: float = 20.0) -> bool:
    """Tells whether all processes of a session end within some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_worker_warns_of_no_kernels():
    """Where bitsandbytes is installed, it would in each of them, whatever is computed."""
    code = "import logging, sotune.comparison.grid as g; g._start_worker(1); print(logging.getLogger(NAME).level)"
    code = code.replace("NAME", "'bitsandbytes'")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == logging.ERROR
