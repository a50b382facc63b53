"""SIGINT and SIGTERM in each long stage: what is said, the exit status, and the same bytes in the end."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import sotune
from pipeline_rows import rows, write_jsonl
from sotune.api.watching import LineMonitor
from sotune.stopping import Stopped, asked, patiently, stop_if_asked, stops_handled

NAMES = ("weights.parquet", "selection.parquet", "adapter/adapter_model.safetensors", "metrics.json")
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _ctrl_c_counts():
    """A shell that starts the tests in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def command(cli, monkeypatch):
    """Runs the command line in this process, which sends itself a signal at the second piece of some stage's work."""

    def run(where, signum, *arguments):
        seen = []

        class Signalling(LineMonitor):
            current = ""

            def stage(self, name, status):
                self.current = name
                if (where, status) == (f"{name}!", "running"):
                    os.kill(os.getpid(), signum)

            def progress(self, label, done, total):
                if self.current == where and done:
                    seen.append(done)
                    if len(seen) == 2:
                        os.kill(os.getpid(), signum)

        monkeypatch.setattr("sotune.cli.console.LineMonitor", Signalling)
        monkeypatch.setattr(sys, "argv", ["sotune", *map(str, arguments)])
        with stops_handled():
            return cli(*arguments)

    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("stopping")
    prompts = [
        {"id": f"h{i}", "kind": "harmful", "prompt": row["prompt"]} for i, row in enumerate(rows("harmful", 6, 6))
    ]
    settings = {
        "data": str(write_jsonl(folder / "train.jsonl", rows("benign", 30, 1) + rows("harmful", 4, 2))),
        "safe_anchor": str(write_jsonl(folder / "anchor.jsonl", rows("benign", 12, 3))),
        "harmful_reference": str(write_jsonl(folder / "harm.jsonl", rows("harmful", 12, 4))),
        "eval_prompts": str(write_jsonl(folder / "prompts.jsonl", prompts)),
        "model": str(tiny_model("llama")), "dtype": "float32", "device": "cpu", "threads": 1, "keep_fraction": 0.8,
        "hold": "none", "max_steps": 6, "save_steps": 100, "per_device_train_batch_size": 4, "learning_rate": 0.01,
        "max_new_tokens": 2, "eval_batch_size": 2, "batch_tokens": 64,
        "cache": False,  # other tests have filled the shared one in other batches, to other last bits
    }  # fmt: skip
    file = folder / "run.yaml"
    file.write_text(json.dumps(settings))
    return file


def digests(out):
    return [hashlib.sha256((out / name).read_bytes()).hexdigest() for name in NAMES]


@pytest.fixture(scope="module")
def whole(config):
    settings = json.loads(config.read_text())
    return digests(sotune.run(**settings, out=config.parent / "whole").path)


@pytest.mark.parametrize(("stage", "signum"), [
    ("encode", signal.SIGTERM), ("weigh!", signal.SIGINT), ("train", signal.SIGINT), ("train", signal.SIGTERM),
    ("evaluate", signal.SIGTERM),
])  # fmt: skip
def test_a_stopped_stage_says_what_is_safe_and_goes_on_to_the_same_bytes(
    command, config, whole, tmp_path, stage, signum
):
    out = tmp_path / "run"
    stopped = command(stage, signum, "run", config, "--out", out)
    said = " ".join(stopped.stderr.split())
    assert stopped.exit_code == 128 + signum, stopped.stderr
    name = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
    assert f"stopped by {name}; {stage.removesuffix('!')}: " in said
    assert f"To go on, give the same command again: sotune run {config} --out {out}" in said
    assert "Traceback" not in stopped.stderr
    if stage == "train":
        assert [path.name for path in (out / "checkpoints").iterdir()] == ["checkpoint-3"]
        assert "train: the checkpoint of step 3 of 6 is kept" in said
    again = command("never", signum, "run", config, "--out", out)
    assert again.exit_code == 0, again.output
    assert digests(out) == whole


def test_a_real_process_that_is_told_to_stop_leaves_with_the_signal(tmp_path):
    code = "import os, signal; from sotune.cli import main; import sotune.api; "
    code += "sotune.api.open_run = lambda _: os.kill(os.getpid(), signal.SIGTERM); main()"
    done = subprocess.run([sys.executable, "-c", code, "report", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 143
    assert "stopped by SIGTERM; what had finished before is safe" in " ".join(done.stderr.split())


def test_a_stop_is_no_exception_that_somebody_swallows():
    assert not issubclass(Stopped, Exception)


@pytest.mark.parametrize("signum", SIGNALS)
def test_patient_work_ends_where_it_asks_and_a_second_signal_ends_it_at_once(signum):
    with stops_handled():
        with patiently():
            os.kill(os.getpid(), signum)
            assert asked() == signum
        with pytest.raises(Stopped) as stopped:
            stop_if_asked()
        assert stopped.value.exit_status == 128 + signum
        stop_if_asked()
        with patiently():
            os.kill(os.getpid(), signum)
            with pytest.raises(Stopped):
                os.kill(os.getpid(), signum)
    assert signal.getsignal(signum) is not None


def test_handlers_are_given_back_and_other_threads_set_none():
    before = [signal.getsignal(one) for one in SIGNALS]
    with stops_handled():
        assert [signal.getsignal(one) for one in SIGNALS] != before
    assert [signal.getsignal(one) for one in SIGNALS] == before
    found = []

    def enter():
        with stops_handled():
            found.append([signal.getsignal(one) for one in SIGNALS])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


def test_an_ignored_signal_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stops_handled():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
