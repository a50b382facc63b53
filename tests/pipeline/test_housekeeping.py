"""What lies on disk is listed, and what is not needed can be deleted."""

import json
import shutil

import pytest

import sotune
from pipeline_rows import rows, write_jsonl
from sotune.cli.housekeeping import show_bytes


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("housekeeping")
    return sotune.run(
        write_jsonl(folder / "train.jsonl", rows("benign", 30, 1)),
        safe_anchor=write_jsonl(folder / "anchor.jsonl", rows("benign", 12, 3)),
        harmful_reference=write_jsonl(folder / "harm.jsonl", rows("harmful", 12, 4)),
        model=tiny_model("llama"), out=folder / "runs" / "first", dtype="float32", device="cpu", keep_fraction=0.8,
        hold="none", max_steps=2, per_device_train_batch_size=4, threads=1, until="train",
        cache=False,  # other tests have filled the shared one in other batches, to other last bits
    )  # fmt: skip


@pytest.fixture
def copy(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "runs" / "first")
    return sotune.open_run(tmp_path / "runs" / "first")


def test_runs_are_listed_with_what_is_stale_in_them(cli, copy, tmp_path):
    (tmp_path / "runs" / "other").mkdir()
    copy.select(k=10)
    (one,) = json.loads(cli("list", tmp_path, "--json").stdout)
    assert (one["kind"], one["method"], one["kept"]) == ("run", "adaptive", "10 of 30")
    assert one["done"][-1] == "report"
    assert one["stale"] == ["training"]
    assert one["n_bytes"] > 10_000
    shown = cli("list", tmp_path)
    assert "runs/first" in shown.output
    assert "there are no runs" in cli("list", tmp_path / "runs" / "other").output
    assert cli("list", tmp_path / "none").exit_code == 2


def test_a_fresh_run_has_nothing_to_clean(cli, copy):
    assert "nothing that could be deleted" in cli("clean", copy.path).output


def test_clean_deletes_what_is_stale_after_a_yes(cli, copy):
    copy.select(k=10)
    refused = cli("clean", copy.path)
    assert refused.exit_code == 2
    assert "nothing is deleted without a yes; add --yes" in " ".join(refused.output.split())
    planned = json.loads(cli("clean", copy.path, "--dry-run", "--json").stdout)
    (stale,) = planned["removable"]
    assert stale["name"] == "the stale training"
    assert "if the rows of before are selected again" in stale["costs"]
    assert (copy.path / "adapter").exists()
    done = cli("clean", copy.path, "--yes")
    assert done.exit_code == 0
    assert not (copy.path / "adapter").exists()
    assert not (copy.path / "training.manifest.json").exists()
    assert not (copy.path / "stale.json").exists()
    copy.report()
    assert copy.kept.num_rows == 10
    copy.train()
    assert (copy.path / "adapter").exists()


def test_of_the_exports_only_the_stale_go(cli, copy):
    for target in ("trl", "csv"):
        copy.export(to=target)
    copy.select(k=10)
    copy.export(to="csv")
    assert cli("clean", copy.path, "--yes").exit_code == 0
    left = {str(path.relative_to(copy.path)) for path in (copy.path / "exports").rglob("*") if path.is_file()}
    assert left == {"exports/csv/train.csv", "exports/csv/README.md"}
    assert not copy.path.joinpath("export-trl.manifest.json").exists()


def test_representations_are_deleted_only_when_asked_for_and_made_again(cli, copy):
    weights = copy.weights
    assert cli("clean", copy.path, "--representations", "--yes").exit_code == 0
    assert not (copy.path / "representations").exists()
    copy.select(k=12)
    assert copy.weights.equals(weights)


def test_checkpoints_of_an_unfinished_training_stay_unless_asked_for(cli, copy):
    copy.select(k=10)
    (copy.path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    names = [one.name for one in sotune.api.find_removable(copy.path)]
    assert "checkpoints" not in names
    found = {one.name: one.costs for one in sotune.api.find_removable(copy.path, checkpoints=True)}
    assert found["checkpoints"] == "an unfinished training starts over"
    copy.train()
    (copy.path / "checkpoints").mkdir()
    assert "checkpoints" in [one.name for one in sotune.api.find_removable(copy.path)]


def test_the_shared_cache_is_its_own_question(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path))
    assert "nothing that could be deleted" in cli("clean", "--cache").output
    (tmp_path / "representations" / "abc").mkdir(parents=True)
    (tmp_path / "representations" / "abc" / "shard-1.safetensors").write_bytes(b"x" * 2000)
    assert "2.0 kB" in cli("clean", "--cache", "--dry-run").output
    assert cli("clean", "--cache", "--yes").exit_code == 0
    assert not (tmp_path / "representations" / "abc").exists()
    assert cli("clean").exit_code == 2


@pytest.mark.parametrize(
    ("n", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")]
)
def test_sizes(n, shown):
    assert show_bytes(n) == shown


def test_lines_of_progress_where_there_is_no_terminal_and_a_log_file(cli, copy, tmp_path):
    log = tmp_path / "logs" / "run.log"
    result = cli("select", copy.path, "--k", "9", "--log-file", log, "--log-every", "0")
    assert result.exit_code == 0
    assert "select …" in result.stderr
    lines = log.read_text().splitlines()
    assert any(line.endswith("select …") for line in lines)
    assert any("warning: the training of" in line for line in lines)
    assert all(line[:2] == "20" for line in lines)
    quiet = cli("select", copy.path, "--k", "100", "--log-file", log, "--quiet")
    assert quiet.exit_code == 2
    assert "error: k=100 exceeds 30 records" in log.read_text()
    assert "cannot be written" in cli("report", copy.path, "--log-file", tmp_path).output


def test_a_line_tells_the_pace(monkeypatch):
    from sotune.api.watching import LineMonitor

    lines, now = [], [0.0]
    monkeypatch.setattr("sotune.api.watching.time.monotonic", lambda: now[0])
    monitor = LineMonitor(lines.append, every=30)
    for second, done in ((0, 0), (10, 100), (40, 400), (50, 500), (100, 1000)):
        now[0] = second
        monitor.progress("encoding", done, 3600)
    assert [line.partition(": ")[2] for line in lines] == [
        "400 of 3,600 (11%), about 5 min left",
        "1,000 of 3,600 (28%), about 4 min left",
    ]
