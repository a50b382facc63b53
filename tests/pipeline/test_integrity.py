"""What a run folder holds is what was written, or a verb says so; and nothing in it leads out of it."""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest

import sotune
from pipeline_rows import write_sets
from sotune.artifacts import RunFolder, read_json
from sotune.errors import ArtifactError, ConfigError, SotuneError
from sotune.run_files import CONFIG, KEPT, SELECTION, STALE, WEIGHTS


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    """A run folder up to the selection, and the data that it was made from."""
    folder = tmp_path_factory.mktemp("finished")
    write_sets(folder, benign=40, harmful=6, reference=14)
    sotune.weigh(**settings(folder, tiny_model), threads=1)
    return folder


def settings(folder, tiny_model):
    return {
        "data": str(folder / "train.jsonl"),
        "safe_anchor": str(folder / "anchor.jsonl"),
        "harmful_reference": str(folder / "harm.jsonl"),
        "model": str(tiny_model("llama")),
        "out": str(folder / "run"),
    }


@pytest.fixture
def world(finished, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "world")


@pytest.fixture
def run(world):
    return world / "run"


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def files(run):
    return [path for path in sorted(run.rglob("*")) if path.is_file() and path.stat().st_size]


def is_noticed(run):
    try:
        return bool(sotune.verify(run).faults)
    except SotuneError:
        return True


def missed(run, n):
    """Flips single bits, one at a time; returns those that a verification does not notice."""
    rng, found = random.Random(0), []
    for _ in range(n):
        path = rng.choice(files(run))
        before, bit = path.read_bytes(), rng.randrange(8 * path.stat().st_size)
        flip(path, bit)
        if not is_noticed(run):
            found.append((path.name, bit))
        path.write_bytes(before)
    return found


def test_a_finished_run_is_as_it_was_written(run):
    found = sotune.verify(run)
    assert (found.faults, found.unlisted) == ({}, ())
    assert (
        found.n_checked == len([path for path in files(run) if path.name != ".sotune-run"]) + 1
    )  # an empty quarantine


def test_any_flipped_bit_is_noticed(run):
    assert missed(run, 60) == []


@pytest.mark.slow
def test_each_of_500_flipped_bits_is_noticed(run):
    assert missed(run, 500) == []


@pytest.mark.parametrize("name", [WEIGHTS.name, SELECTION.name, "weights.manifest.json"])
def test_explanations_rest_on_no_changed_file(run, name):
    flip(run / name, 4 * (run / name).stat().st_size)
    with pytest.raises(ArtifactError, match=r"is not as `sotune|was changed|not readable"):
        sotune.explain(run, ["benign-1-1"])


@pytest.mark.parametrize("name", [CONFIG.name, "potentials.safetensors", "representations.json", SELECTION.name])
def test_scores_rest_on_no_changed_file(run, world, name):
    flip(run / name, 4 * (run / name).stat().st_size)
    with pytest.raises(ArtifactError, match="is not as `sotune|not what was written|was changed"):
        sotune.score(run, world / "train.jsonl")
    assert not (run / "scores.parquet").exists()


def test_what_scoring_leaves_is_listed_too(run, world):
    sotune.score(run, world / "train.jsonl")
    assert sotune.verify(run).faults == {}
    flip(run / "scores.parquet", 999)
    assert [*sotune.verify(run).faults] == ["scores.parquet"]


@pytest.mark.parametrize("name", ["kept.jsonl", "weights.parquet"])
def test_scores_are_not_written_over_something_else(run, world, name):
    before = (run / name).read_bytes()
    with pytest.raises(ConfigError, match="holds no scores"):
        sotune.score(run, world / "train.jsonl", out=run / name)
    assert (run / name).read_bytes() == before


@pytest.mark.parametrize("name", ["new.jsonl", "new.parquet"])
def test_scores_are_written_over_scores(run, world, name):
    first, again = (sotune.score(run, world / "train.jsonl", out=run.parent / name) for _ in range(2))
    assert first == again


def test_what_says_what_is_stale_is_no_stranger(run):
    STALE.write(run, {"train": "changed"})
    assert sotune.verify(run).unlisted == ()


def test_a_damaged_output_is_made_anew_and_said(run, finished, tiny_model):
    before = (run / WEIGHTS.name).read_bytes()
    flip(run / WEIGHTS.name, 9999)
    told = Told()
    sotune.weigh(**{**settings(finished, tiny_model), "out": str(run)}, threads=1, monitor=told)
    assert any("weights.parquet in" in word and "made anew" in word for word in told.words)
    assert (run / WEIGHTS.name).read_bytes() == before
    assert sotune.verify(run).faults == {}


def test_a_stage_made_from_other_files_is_a_fault(run, world, tiny_model):
    kept = (run / "selection.manifest.json").read_bytes(), (run / "report.manifest.json").read_bytes()
    sotune.open_run(run).select(keep_fraction=0.5)
    (run / "selection.manifest.json").write_bytes(kept[0])
    faults = sotune.verify(run).faults
    assert {KEPT.name, SELECTION.name, "report.manifest.json"} <= faults.keys()
    assert "made from another" in faults["report.manifest.json"]


def test_files_of_the_users_are_named_and_are_no_fault(run):
    (run / "notes.txt").write_text("mine")
    found = sotune.verify(run)
    assert (found.faults, found.unlisted) == ({}, ("notes.txt",))


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_what_is_wrong_and_leaves_with_its_status(run, cli, as_json):
    flags = ["--json"] if as_json else []
    assert cli("verify", run, *flags).exit_code == 0
    flip(run / KEPT.name, 5)
    result = cli("verify", run, *flags)
    assert result.exit_code == 2
    assert "kept.jsonl" in result.output


class Told:
    """Takes down warnings, and acts when a stage is told."""

    def __init__(self, act=None, when=None):
        self.words, self._act, self._when = [], act, when

    def stage(self, name, status):
        if name == self._when and self._act:
            self._act()

    def progress(self, label, done, total):
        if label == self._when and self._act:
            self._act()
            self._act = None

    def warn(self, message):
        self.words.append(message)


def test_data_that_change_while_they_are_read_are_noticed(world, tiny_model, tmp_path):
    def grow():
        with (world / "train.jsonl").open("a") as file:
            file.write(json.dumps({"prompt": "late", "response": "row"}) + "\n")

    given = {**settings(world, tiny_model), "out": str(tmp_path / "new")}
    with pytest.raises(ArtifactError, match="the data or the model changed while they were read"):
        sotune.extract(**given, monitor=Told(grow, "reading harmful_reference"))


def test_a_model_that_changes_in_place_is_another_model_within_the_process(tiny_model, tmp_path):
    from sotune.models import ModelSpec, model_fingerprint

    folder = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    before = model_fingerprint(ModelSpec(str(folder)))
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    os.utime(weights, ns=(1, 1))  # as if nothing had happened
    assert model_fingerprint(ModelSpec(str(folder))) != before


@pytest.mark.parametrize("name", [".lock", "checkpoints", "representations", "weights.parquet", "adapter/x", "a/b/c"])
@pytest.mark.parametrize("verb", ["verify", "explain", "score", "select"])
def test_no_verb_follows_a_link_out_of_a_folder(run, world, cli, name, verb):
    outside = world / "outside"
    outside.mkdir()
    (outside / "checkpoint-3").mkdir()
    (outside / "checkpoint-3" / "thesis.txt").write_text("precious")
    link = run / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside if name in ("checkpoints", "representations") else outside / "checkpoint-3/thesis.txt")
    more = {"explain": ["benign-1-1"], "score": [world / "train.jsonl"], "select": ["--keep-fraction", "0.5"]}
    result = cli(verb, run, *more.get(verb, []))
    assert result.exit_code == 2
    assert "is a link" in result.output
    assert (outside / "checkpoint-3" / "thesis.txt").read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_pipe_in_a_folder_is_refused_and_never_waited_for(run):
    os.mkfifo(run / "pipe")
    with pytest.raises(ArtifactError, match="neither a file nor a folder"):
        sotune.verify(run)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "a/../../outside.txt", "..\\outside.txt", ""])
def test_a_manifest_names_no_file_outside_its_folder(run, name):
    manifest = read_json(run / "weights.manifest.json")
    manifest["outputs"] = {name: "0" * 64}
    (run / "weights.manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="lists files outside its folder"):
        RunFolder.open(run).digests("weights")


def test_a_folder_does_not_decide_whose_code_runs_or_who_is_sent_a_key(run, world):
    saved = read_json(run / CONFIG.name)
    opened = RunFolder.open(run)
    for who in ("judge", "server"):
        asks = {f"{who}_key_env": "SECRET", f"{who}_base_url": f"http://{who}.example/v1"}
        opened.commit_config(CONFIG, {**saved, **asks})
        assert getattr(sotune.open_run(run).settings, f"{who}_key_env") is None
    opened.commit_config(CONFIG, {**saved, "trust_remote_code": True})
    with pytest.raises(ConfigError, match="ask to run Python code that a model ships, and a folder may not decide"):
        sotune.score(run, world / "train.jsonl")


@pytest.mark.parametrize(
    ("verb", "saved", "said"),
    [
        ("evaluate", {"harm_judge": ["chat"], "judge_model": "m", "judge_base_url": "http://judge.example/v1"}, {}),
        ("evaluate", {"server_base_url": "http://server.example/v1"}, {}),
        ("train", {"report_to": ["tensorboard", "wandb"]}, {}),
        ("evaluate", {"report_to": ["mlflow"]}, {}),
        ("train", {"engine": "ray", "ray_address": "ray://cluster.example:10001"}, {}),
        ("select", {"engine": "ray", "ray_address": "ray://cluster.example:10001"}, {"keep_fraction": 0.5}),
    ],
)
def test_a_folder_does_not_decide_who_is_contacted(run, verb, saved, said, monkeypatch):
    def refuse(*args):
        raise AssertionError("a name was looked up")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    opened = RunFolder.open(run)
    opened.commit_config(CONFIG, {**read_json(run / CONFIG.name), **saved})
    if verb == "select":  # all is read already; where it is not, the cluster would be asked
        opened.discard("representations")
    name = [*saved][-1]
    with pytest.raises(ConfigError, match=rf"say {name}: .* a folder may come from anywhere; name it again"):
        getattr(sotune.open_run(run), verb)(**said)


def test_what_a_user_names_again_is_contacted_and_what_is_done_already_is_not(run):
    opened = RunFolder.open(run)
    saved = {**read_json(run / CONFIG.name), "report_to": ["wandb"], "server_base_url": "http://server.example/v1"}
    opened.commit_config(CONFIG, saved)
    sotune.open_run(run).select(keep_fraction=0.5)
    sotune.open_run(run).report()
    with pytest.raises(ConfigError, match="report_to needs trackio"):
        sotune.open_run(run).train(report_to=("trackio",))


def test_two_processes_do_not_share_a_folder_not_even_to_score(run, world):
    code = (
        "import sys, sotune\n"
        "try: sotune.score(sys.argv[1], sys.argv[2])\n"
        "except sotune.SotuneError as error: print(error)"
    )
    with RunFolder.open(run).lock():
        command = [sys.executable, "-c", code, str(run), str(world / "train.jsonl")]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "another process is using" in result.stdout
