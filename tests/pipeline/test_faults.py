"""Disks that fill, processes that die, files that are damaged: each ends in words, and the next call goes on."""

import errno
import os
import shutil
import time

import pytest

import sotune
from pipeline_rows import write_sets
from sotune import artifacts
from sotune.artifacts import RunFolder, atomic_path, disk_faults_told, write_text
from sotune.errors import ArtifactError
from sotune.run_files import CONFIG, KEPT, RECORDS, SELECTION, SOLVER, WEIGHTS

ARTEFACTS = [RECORDS.name, "representations.parquet", WEIGHTS.name, SOLVER.name, SELECTION.name, KEPT.name, CONFIG.name,
             "potentials.safetensors", "weights.manifest.json", "report.html"]  # fmt: skip
DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another's": lambda path: shutil.copy(path.parent / ("promise.json"), path),
}


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("faults")
    write_sets(folder, benign=24, harmful=4, reference=14)
    return {
        "data": str(folder / "train.jsonl"),
        "safe_anchor": str(folder / "anchor.jsonl"),
        "harmful_reference": str(folder / "harm.jsonl"),
        "model": str(tiny_model("llama")),
        "layer": -1,
        "pooling": "last",
        "threads": 1,
        "prompt_control": False,
    }


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """A run in a cache of its own: what another module's runs left there may have other last bits."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOTUNE_CACHE", str(folder / "cache"))
        sotune.weigh(**settings, out=str(folder / "run"))
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def content(run):
    """Returns the bytes of what a run finds; the rest names its own folder."""
    return {name: (run / name).read_bytes() for name in (RECORDS.name, WEIGHTS.name, SELECTION.name, KEPT.name)}


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_found(run, name, damage):
    DAMAGES[damage](run / name)
    assert is_found(run)


def is_found(run):
    try:
        return bool(sotune.verify(run).faults)
    except ArtifactError:
        return True


@pytest.mark.parametrize("name", [RECORDS.name, WEIGHTS.name, KEPT.name])
def test_a_lost_file_is_made_again(run, finished, settings, name):
    (run / name).unlink()
    assert is_found(run)
    sotune.weigh(**settings, out=str(run))
    assert content(run) == content(finished)
    assert not is_found(run)


def fail_at(number, fault, monkeypatch):
    """Makes the write of that number, counted from now, fail; returns the count of the writes that went well."""
    done, replace = [0], os.replace

    def failing(source, target):
        if done[0] == number:
            raise fault
        done[0] += 1
        replace(source, target)

    monkeypatch.setattr(artifacts.os, "replace", failing)
    return done


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fault", [FULL, Killed()], ids=["full", "killed"])
def test_a_run_goes_on_from_any_write_that_failed(fault, finished, settings, tmp_path, monkeypatch):
    """Each call gets as far as one write more than the last one; the result is the same to the byte."""
    out, told = tmp_path / "run", []
    for number in (0, 1, 2, 1, 2, 3, 1, 2, 0, 1, 2, 3, 4, 99):
        with monkeypatch.context() as patched:
            fail_at(number, fault, patched)
            try:
                sotune.weigh(**settings, out=str(out))
                break
            except (ArtifactError, Killed) as error:
                told.append(error)
    assert len(told) >= 6
    assert all(isinstance(e, Killed) if fault is not FULL else "no space left" in str(e).lower() for e in told)
    assert content(out) == content(finished)
    assert not is_found(out)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ENOSPC])
def test_a_disk_that_takes_nothing_is_told_and_leaves_no_rest(number, tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")

    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(artifacts.os, "fsync", refuse)
    with pytest.raises(ArtifactError, match="could not be written .*free or mend the disk"), disk_faults_told(tmp_path):
        write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize(
    "words",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "I/O error: Disk quota exceeded (os error 122)",
        "[enforce fail at inline_container.cc:672] . unexpected pos 18432 vs 18324",
        "PytorchStreamWriter failed writing file data/0: file write failed",
        "[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device",
        "Read-only file system (os error 30)",
        "File too large (os error 27)",
    ],
)
def test_whatever_a_library_makes_of_a_full_disk_is_told(words, tmp_path):
    wrapped = ValueError("could not save")
    wrapped.__cause__ = RuntimeError(words)
    with pytest.raises(ArtifactError, match="it goes on where it stopped"), disk_faults_told(tmp_path):
        raise wrapped
    with pytest.raises(ValueError, match="of another kind"), disk_faults_told(tmp_path):
        raise ValueError("of another kind")


@pytest.mark.parametrize("days", [-4000, 4000])
def test_a_clock_that_is_wrong_changes_nothing(run, finished, settings, days, monkeypatch):
    then = time.time() + 86_400 * days
    for path in run.rglob("*"):
        os.utime(path, (then, then))
    monkeypatch.setattr(time, "time_ns", lambda: int(then * 1e9))
    sotune.weigh(**settings, out=str(run))
    assert content(run) == content(finished)
    assert not is_found(run)


def test_a_lock_that_is_held_is_told(run, settings):
    with RunFolder(run).lock(), pytest.raises(ArtifactError, match="another process is using"):
        sotune.weigh(**settings, out=str(run))


def test_figures_that_are_no_numbers_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        SOLVER.write(tmp_path, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ['{"format": 99}\n', "", "{", '{"format": 2, "more": 1}\n'])
def test_a_folder_of_another_version_is_told(run, text):
    (run / ".sotune-run").write_text(text)
    with pytest.raises(ArtifactError, match="is damaged or a newer version's"):
        sotune.open_run(run)


def test_a_run_without_its_settings_is_told(run):
    (run / CONFIG.name).unlink()
    with pytest.raises(ArtifactError, match=r"config\.json is missing"):
        sotune.open_run(run).select(keep_fraction=0.5)


@pytest.mark.parametrize("stage", ["records", "weights", "selection", "config"])
def test_a_lost_manifest_means_that_the_stage_is_done_again(run, finished, settings, stage):
    RunFolder(run).discard(stage)
    sotune.weigh(**settings, out=str(run))
    assert content(run) == content(finished)


def test_a_killed_write_leaves_a_rest_that_the_next_call_removes(run):
    with pytest.raises(Killed), atomic_path(run / "a.json"):
        raise Killed
    (run / ".a-0123abcd.tmp.json").write_text("half")
    assert sotune.verify(run).unlisted == ()
    with RunFolder(run).lock():
        assert not (run / ".a-0123abcd.tmp.json").exists()
