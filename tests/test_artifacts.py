import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sotune import artifacts, run_files
from sotune.artifacts import (
    Json,
    Lines,
    RunFolder,
    Table,
    atomic_path,
    read_json,
    write_json,
    write_text,
)
from sotune.errors import ArtifactError


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_digests_are_those_of_the_standard():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert artifacts.sha256_text("") == empty
    assert artifacts.sha256_json({"b": [1, None], "a": "é"}) == artifacts.sha256_text('{"a":"\\u00e9","b":[1,null]}')


def test_the_digest_of_a_file_is_that_of_its_text(tmp_path):
    write_text(tmp_path / "a.txt", "grün\n")
    assert artifacts.sha256_file(tmp_path / "a.txt") == artifacts.sha256_text("grün\n")


def test_versions_are_read_without_an_import():
    code = "import sys, sotune.artifacts as a; print(a.library_versions('torch')['torch'], 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split()[1] == "False"


def test_an_atomic_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.parquet"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".parquet"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.parquet", "deep"]


def test_json_is_canonical_and_read_back(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": "ü", "a": [1, 2.5, None]})
    assert path.read_text(encoding="utf-8").startswith('{\n  "a": [')
    assert path.read_text(encoding="utf-8").endswith('"b": "ü"\n}\n')
    assert read_json(path) == {"b": "ü", "a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_json_that_cannot_be_read_is_an_artifact_error(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not readable JSON .* delete it and run again"):
        read_json(path)


def test_a_missing_artifact_names_the_remedy(tmp_path):
    with pytest.raises(ArtifactError, match="is missing; run the stage that writes it first"):
        read_json(tmp_path / "a")
    for artefact in (Table("a", {}, verb="weigh"), Json("a", verb="weigh"), Lines("a", verb="weigh")):
        with pytest.raises(ArtifactError, match="is missing; run `sotune weigh` first"):
            artefact.read(tmp_path)
    with pytest.raises(ArtifactError, match="not readable JSON"):
        read_json(tmp_path)


def test_parquet_is_read_back_and_the_same_bytes_each_time(tmp_path):
    columns = {"id": ["a", "b"], "weight": [0.25, 0.75], "reason": [None, None]}
    table = Table("a.parquet", {"id": "string", "weight": "float32", "reason": "string?"}, verb="weigh")
    for name in ("a", "b"):
        table.named(f"{name}.parquet").write(tmp_path, columns)
    assert table.columns_of(tmp_path) == columns
    assert [*table.rows_of(tmp_path, "id")] == [{"id": "a"}, {"id": "b"}]
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    empty = Table("empty.parquet", {"id": "string"}, verb="weigh")
    empty.write(tmp_path, {"id": []})
    assert empty.columns_of(tmp_path) == {"id": []}
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="not readable Parquet .* delete it and run `sotune weigh` again"):
        table.read(tmp_path)


def test_a_run_folder_is_made_and_opened_again(tmp_path):
    run = RunFolder(tmp_path / "a" / "run")
    assert run.file("x.json") == tmp_path / "a" / "run" / "x.json"
    write_json(run.file("x.json"), 1)
    assert RunFolder(run.path).path == RunFolder.open(run.path).path == run.path


def test_a_folder_of_the_users_is_never_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="not empty and is not a run folder.* name a new folder for --out"):
        RunFolder(tmp_path)
    with pytest.raises(ArtifactError, match="is not a run folder of sotune; name the --out"):
        RunFolder.open(tmp_path)
    with pytest.raises(ArtifactError, match="is a file; name a folder for --out"):
        RunFolder(tmp_path / "thesis.txt")
    with pytest.raises(ArtifactError, match="could not be created .Not a directory.; name another folder for --out"):
        RunFolder(tmp_path / "thesis.txt" / "run")
    assert names(tmp_path) == ["thesis.txt"]


def test_an_empty_folder_becomes_a_run_folder(tmp_path):
    RunFolder(tmp_path)
    assert names(tmp_path) == [".sotune-run"]


class TestStages:
    KEY = {"inputs": ["abc", "def"], "seed": 0, "shape": (2, 3)}

    @pytest.fixture
    def run(self, tmp_path):
        run = RunFolder(tmp_path / "run")
        write_text(run.file("a.txt"), "a")
        write_text(run.file("sub/b.txt"), "b")
        run.commit("weigh", self.KEY, ["a.txt", "sub/b.txt"])
        return run

    def test_a_finished_stage_is_current(self, run):
        assert run.is_current("weigh", self.KEY)
        assert run.digests("weigh") == {"a.txt": artifacts.sha256_text("a"), "sub/b.txt": artifacts.sha256_text("b")}

    @pytest.mark.parametrize("change", [{"seed": 1}, {"inputs": []}, {"new": None}])
    def test_another_key_is_not(self, run, change):
        assert not run.is_current("weigh", {**self.KEY, **change})

    @pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_text("b!"), lambda p: p.write_text("")])
    def test_a_missing_or_changed_output_is_not(self, run, damage):
        damage(run.file("sub/b.txt"))
        assert not run.is_current("weigh", self.KEY)

    def test_an_unfinished_stage_is_not(self, run):
        assert not run.is_current("select", self.KEY)
        with pytest.raises(ArtifactError, match="select.manifest.json is missing; run the stage"):
            run.digests("select")

    def test_a_discarded_stage_is_not_and_may_be_discarded_twice(self, run):
        run.discard("weigh")
        run.discard("weigh")
        assert not run.is_current("weigh", self.KEY)

    def test_a_manifest_of_another_format_is_not(self, run):
        manifest = read_json(run.manifest_path("weigh"))
        write_json(run.manifest_path("weigh"), {**manifest, "format": artifacts.FORMAT + 1})
        assert not run.is_current("weigh", self.KEY)

    @pytest.mark.parametrize("content", ["[]", "3", '{"format": 1}', "{"])
    def test_a_manifest_that_sotune_did_not_write_is_an_artifact_error(self, run, content):
        run.manifest_path("weigh").write_text(content)
        with pytest.raises(ArtifactError, match=r"weigh\.manifest\.json .*delete it and run again"):
            run.is_current("weigh", self.KEY)
        with pytest.raises(ArtifactError, match=r"weigh\.manifest\.json .*delete it and run again"):
            run.digests("weigh")


def test_one_process_at_a_time(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.lock(), pytest.raises(ArtifactError, match="another process is using"), RunFolder.open(run.path).lock():
        pass
    with run.lock():
        pass


def kill_while_writing(code, folder):
    """Runs code in a process that is killed inside its first atomic write."""
    kill = "import os, signal, sys; from pathlib import Path; from sotune import artifacts;" + (
        "artifacts.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"
    )
    result = subprocess.run([sys.executable, "-c", kill + code, str(folder)], check=False)
    assert result.returncode == -signal.SIGKILL


def test_a_kill_while_the_folder_is_made_does_not_lock_the_user_out(tmp_path):
    kill_while_writing("artifacts.RunFolder(Path(sys.argv[1]))", tmp_path / "run")
    assert len(names(tmp_path / "run")) == 1  # the temporary file, and no marker
    with RunFolder(tmp_path / "run").lock():
        assert names(tmp_path / "run") == [".lock", ".sotune-run"]


def test_a_kill_while_a_file_is_written_leaves_the_old_one_and_its_rest_is_removed(tmp_path):
    run = RunFolder(tmp_path / "run")
    write_json(run.file("sub/a.json"), "old")
    kill_while_writing("artifacts.write_json(Path(sys.argv[1]) / 'sub/a.json', 'new')", run.path)
    assert read_json(run.file("sub/a.json")) == "old"
    (run.path / ".notes.tmp").write_text("the user's own")
    assert len(names(run.path / "sub")) == 2
    with run.lock():
        assert names(run.path) == [".lock", ".notes.tmp", ".sotune-run", "a.json", "sub"]


def test_the_lock_goes_with_the_process(tmp_path):
    run = RunFolder(tmp_path / "run")
    code = (
        "import sys, os; from pathlib import Path; from sotune.artifacts import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run.path)], check=False).returncode == 9
    with run.lock():
        assert os.path.exists(run.path / ".lock")
    assert json.loads((run.path / ".sotune-run").read_text()) == {"format": artifacts.FORMAT}


ROWS = Table("rows.parquet", {"set": "string", "id": "string", "weight": "float64?", "near": "string[]?"}, verb="weigh")


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def test_a_table_is_read_by_column_and_by_row(run):
    written = {"near": [["x"], [], None], "set": ["a", "b", "a"], "id": ["1", "2", "3"], "weight": [1, 2, None]}
    assert ROWS.write(run, written) == "rows.parquet"
    assert list(ROWS.columns_of(run)) == ["set", "id", "weight", "near"]
    assert ROWS.columns_of(run, "id", "weight") == {"id": ["1", "2", "3"], "weight": [1.0, 2.0, None]}
    assert ROWS.columns_of(run, "near", where={"set": ["a"]}) == {"near": [["x"], None]}
    assert ROWS.read(run, "id", where={"set": ["c"]}).num_rows == ROWS.read(run, "id", where={"set": []}).num_rows == 0
    assert ROWS.columns_of(run, "id", where={"set": ["a"], "id": ["3", "2"]}) == {"id": ["3"]}


def test_a_column_that_may_hold_nulls_may_be_left_out(run):
    ROWS.write(run, {"set": ["a"], "id": ["1"]})
    assert [*ROWS.rows_of(run)] == [{"set": "a", "id": "1", "weight": None, "near": None}]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"near": [], "weight": []}, r"these are amiss: \['id', 'set'\]"),
        ({"set": ["a", None], "id": [None, "1"]}, r"\['id', 'set'\] hold nulls"),
        ({"set": [], "id": [], "weight": [], "near": [], "more": []}, r"these are amiss: \['more'\]"),
        ({"set": ["a"], "id": [1], "weight": [1.0], "near": [[]]}, "does not fit its columns"),
        ({"set": ["a"], "id": [], "weight": [], "near": []}, "does not fit its columns"),
    ],
)
def test_a_table_takes_its_own_columns_alone(run, columns, message):
    with pytest.raises(ArtifactError, match=message):
        ROWS.write(run, columns)
    assert not run.file("rows.parquet").exists()


def test_a_table_that_is_missing_broken_or_of_another_kind_is_an_artifact_error(run):
    with pytest.raises(ArtifactError, match=r"rows\.parquet is missing; run `sotune weigh` first"):
        ROWS.read(run)
    Table("rows.parquet", {"set": "string", "id": "int64"}, verb="weigh").write(run, {"set": ["a"], "id": [1]})
    with pytest.raises(ArtifactError, match=r"lacks the columns \['id', 'near', 'weight'\] or their types"):
        ROWS.read(run)
    assert ROWS.columns_of(run, "set") == {"set": ["a"]}
    run.file("rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="is not readable Parquet"):
        ROWS.read(run)


def test_a_json_artefact_is_one_object(run):
    figures = Json("figures.json", verb="weigh")
    assert figures.read_if_there(run) == {}
    with pytest.raises(ArtifactError, match=r"figures\.json is missing"):
        figures.read(run)
    assert figures.write(run, {"a": 1}) == "figures.json"
    assert figures.read(run) == figures.read_if_there(run) == {"a": 1}
    write_json(run.file("figures.json"), [1])
    with pytest.raises(ArtifactError, match="must hold a JSON object. Got a list"):
        figures.read(run)


def test_lines_are_read_back_or_the_first_of_them(run):
    lines = Lines("rows.jsonl", verb="select")
    with pytest.raises(ArtifactError, match=r"rows\.jsonl is missing"):
        lines.read(run)
    rows = [{"id": "a", "text": "grün\u2028"}, {"id": "b"}]
    assert lines.write(run, rows) == "rows.jsonl"
    assert lines.read(run) == rows
    assert lines.read(run, most=1) == rows[:1]
    run.file("rows.jsonl").write_text("{}\n{")
    with pytest.raises(ArtifactError, match="not readable JSON lines"):
        lines.read(run)


def test_the_files_of_a_run_are_named_in_one_place():
    named = {one.name for one in vars(run_files).values() if isinstance(one, Table | Json | Lines)}
    package = Path(run_files.__file__).parent
    # Models and data sets of Hugging Face have a config.json too.
    theirs = ("models.py", "candidates.py", "shards.py", "smol_world.py")
    elsewhere = [path for path in package.rglob("*.py") if path.name not in ("run_files.py", *theirs)]
    spelt = {path: f'"{name}"' for path in elsewhere for name in named if f'"{name}"' in path.read_text()}
    assert spelt == {}


def test_a_lock_that_is_a_link_is_refused_and_what_it_names_is_not_touched(tmp_path):
    run = RunFolder(tmp_path / "run")
    (tmp_path / "thesis.txt").write_text("precious")
    run.file(".lock").symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(ArtifactError, match=r"\.lock cannot be locked .* no link"), run.lock():
        pass
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_lock_needs_no_fcntl(tmp_path):
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from pathlib import Path; from sotune.artifacts import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): print('held')"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "run")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"
