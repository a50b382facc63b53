"""A package that is not ours brings a method, a judge and a data set, and the command line uses them.

It is `tests/plugin`; what an installer would write of it is written here, so that nothing is installed.
"""

import json
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline_rows import rows, write_jsonl
from sotune import catalogue
from sotune.artifacts import read_json
from sotune.cli import app
from sotune.errors import ConfigError
from sotune.sources.hub import LicenceNotice, named_source, source_names

PLUGIN = Path(__file__).parent / "plugin"
SONGS = [{"bird": bird, "song": f"{bird} song"} for bird in ("wren", "finch", "owl", "crow", "tit")]


def install(folder, entry_points):
    """Writes what a package's installation says of it."""
    info = folder / "sotune_birds-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sotune-birds\nVersion: 1.0\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
        for group, entries in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture
def forgetful(monkeypatch):
    """Forgets after the test what was loaded of the package."""
    yield
    catalogue.load_data_set.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "sotune_birds"]:
        del sys.modules[name]


@pytest.fixture
def plugin(tmp_path, monkeypatch, forgetful):
    folder = tmp_path / "installed"
    folder.mkdir()
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    install(folder, project["entry-points"])
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.Dataset.from_list(SONGS))
    return {group: set(entries) for group, entries in project["entry-points"].items()}


def sotune(*args):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result


def test_its_entry_points_are_found(plugin):
    for group, names in plugin.items():
        assert names <= {entry.name for entry in metadata.entry_points(group=group)}


def test_its_data_set_works_wherever_a_file_does(plugin, tmp_path):
    harm = write_jsonl(tmp_path / "harm.jsonl", rows("harmful", 4, 1))
    with pytest.warns(LicenceNotice, match="birds-songs is somebody/birds .*licence: CC0"):
        mixed = sotune(
            "mix", "birds-songs", "--harmful", harm, "--out", tmp_path / "mix", "--dry-run", "--json",
            "--n", 2, "--n-anchor", 1, "--n-eval", 1, "--n-reference", 1, "--harmful-fraction", 0.5,
        )  # fmt: skip
    assert json.loads(mixed.stdout)["sources"]["task"]["n_valid"] == len(SONGS)


def test_its_data_set_is_a_task_pack_too(plugin):
    from sotune.evaluation.packs import pack_names

    assert "birds" in pack_names()
    assert "birds-songs" in source_names()
    assert named_source("birds-songs").data_set.licence == "CC0"


def test_its_method_weighs_in_a_run(plugin, tmp_path, tiny_model):
    downstream = rows("benign", 30, 1)
    sotune(
        "weigh", write_jsonl(tmp_path / "train.jsonl", downstream), "--method", "shortest",
        "--safe-anchor", write_jsonl(tmp_path / "anchor.jsonl", rows("benign", 12, 2)),
        "--harmful-reference", write_jsonl(tmp_path / "harm.jsonl", rows("harmful", 12, 3)),
        "--model", tiny_model("llama"), "--out", tmp_path / "run", "--keep-fraction", 0.5,
    )  # fmt: skip
    lengths = {row["id"]: len(row["response"]) for row in downstream}
    selection = pq.read_table(tmp_path / "run" / "selection.parquet").to_pylist()
    kept = [lengths[row["id"]] for row in selection if row["kept"]]
    dropped = [lengths[row["id"]] for row in selection if not row["kept"]]
    assert len(kept) == len(dropped) == 15
    assert max(kept) <= min(dropped)
    assert "shortest first" in (tmp_path / "run" / "report.html").read_text()


def test_its_judge_judges(plugin, tmp_path):
    answers = [("a crow", "harmful"), ("a wren", "harmless"), ("an owl", "harmful")] * 4
    labeled = write_jsonl(
        tmp_path / "labeled.jsonl",
        [{"prompt": f"q{i}", "response": text, "label": label} for i, (text, label) in enumerate(answers)],
    )
    sotune("judge-check", labeled, "--harm-judge", "word:crow", "--out", tmp_path / "check.json")
    found = read_json(tmp_path / "check.json")["overall"]
    assert found["recall"]["value"] == 0.5
    assert found["specificity"]["value"] == 1.0


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch, forgetful):
    install(tmp_path, {"sotune.sources": {"fish": "sotune_fish:FISH"}})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"data set 'fish' of sotune_fish:FISH could not be loaded .*fix or remove"):
        named_source("fish-deep")
    assert named_source("beavertails") is not None


@pytest.mark.parametrize(("place", "got"), [("json:dumps", "a function"), ("sotune_birds.birds:BIRDS", "'birds'")])
def test_what_is_no_data_set_of_that_name_is_refused(tmp_path, monkeypatch, forgetful, place, got):
    install(tmp_path, {"sotune.sources": {"fish": place}})
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"must be a sotune.catalogue.DataSet called 'fish'. Got .*{got}"):
        named_source("fish")


def test_another_package_cannot_replace_a_data_set_of_ours(tmp_path, monkeypatch, forgetful):
    install(tmp_path, {"sotune.sources": {"gsm8k": "sotune_fish:FISH"}})
    monkeypatch.syspath_prepend(tmp_path)
    assert named_source("gsm8k").data_set.hub_id == "openai/gsm8k"
