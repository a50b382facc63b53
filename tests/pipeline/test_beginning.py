"""What a user who begins is told: init, schema, doctor."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

import sotune
from pipeline_rows import rows, write_jsonl
from sotune.api.beginning import Beginning, list_references, read_places
from sotune.pipeline.anchor_proposals import propose_anchor
from sotune.records import Record
from sotune.settings import InitSettings, RunConfig, run_schema


def plain(result):
    return " ".join(result.output.split())


def test_proposals_stand_for_different_rows_and_say_which_are_like_harm():
    topics = ["bake bread with flour", "fix the bike chain", "plant an oak tree"]
    records = [
        Record.from_text(f"{t}-{i}", f"{topics[t]} {i}", f"{topics[t]} now") for t in range(3) for i in range(20)
    ]
    harmful = [Record.from_text("h", "fix the bike chain badly", "fix the bike chain now")]
    found = propose_anchor(records, 3, harmful=harmful)
    assert sorted(one.record.id[0] for one in found) == ["0", "1", "2"]
    assert sum(one.stands_for for one in found) == 60
    like = {one.record.id[0]: one.like_harm for one in found}
    assert like["1"] > 0.5 > max(like["0"], like["2"])
    assert [one.record.id for one in propose_anchor(records, 3)] == [one.record.id for one in found]
    with pytest.raises(sotune.DataError, match="ask for fewer"):
        propose_anchor(records, 61)


def test_init_by_flags_writes_a_file_that_runs(cli, data, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [
        "init", data / "train.jsonl", "--propose", "14", "--references", data / "both.jsonl",
        "--model", tiny_model("llama"), "--run-folder", tmp_path / "first",
    ]  # fmt: skip
    both = [{**row, "is_safe": row["label"] == "benign"} for row in rows("harmful", 12, 8) + rows("benign", 12, 9)]
    write_jsonl(data / "both.jsonl", both)
    looked = cli(*asked, "--accept", "none")
    assert looked.exit_code == 2
    assert "[1] " in looked.output
    assert "Tell me how to" in looked.output
    assert "14 rows proposed above" in plain(looked)
    result = cli(*asked, "--accept", "1-3,5-14")
    assert result.exit_code == 0, result.output
    assert "next: sotune doctor run.yaml, then sotune run run.yaml" in plain(result)
    anchor = [json.loads(line) for line in (tmp_path / "anchor.jsonl").read_text().splitlines()]
    own = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    assert len(anchor) == 13
    assert all(row in own for row in anchor)
    text = (tmp_path / "run.yaml").read_text()
    settings = yaml.safe_load(text)
    assert settings["out"] == str(tmp_path / "first")
    assert text.startswith("# yaml-language-server: $schema=./sotune.schema.json\n")
    assert "90 rows read as prompt-completion, from prompt and response" in text
    assert "# drop_at: 0.05" in text
    assert cli("run", "run.yaml", "--dry-run").exit_code == 0
    again = cli(*asked, "--accept", "all")
    assert again.exit_code == 2
    assert "nothing of yours is overwritten" in plain(again)


def test_init_writes_down_all_that_was_said_of_the_data(data, tmp_path):
    """A subset, a revision or a limit that was left out would have the run read other rows than were looked at."""
    said = {"limit": 40, "system_column": "label", "learn_turns": "last", "split": "train", "max_row_bytes": 10_000}
    out = tmp_path / "own.yaml"
    settings = InitSettings(data=str(data / "train.jsonl"), out=str(out), run_folder=str(tmp_path / "run"), **said)
    Beginning(settings).write({"safe_anchor": "a", "harmful_reference": "h", "model": "m"})
    written = yaml.safe_load(out.read_text())
    assert {name: written.get(name, "train") for name in said} == said


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal")
def test_init_asks_at_a_terminal_and_asks_again_what_it_did_not_understand(data, tmp_path):
    command = ["init", data / "train.jsonl", "--propose", "12"]
    keys, terminal = os.openpty()
    os.write(keys, f"{data / 'harm.jsonl'}\nsome/model\nthe first three\n1-99\n1-3,5\n".encode())
    process = subprocess.run(
        [sys.executable, "-m", "sotune", *map(str, command)],
        cwd=tmp_path, stdin=terminal, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    os.close(keys)
    os.close(terminal)
    said = " ".join((process.stdout + process.stderr).split())
    assert process.returncode == 0, said
    assert "beavertails" in said
    assert "CC BY-NC 4.0" in said
    assert "harmful rows: a file of yours, or one of these names:" in said
    assert "model that will be fine-tuned: a folder or a Hub id:" in said
    assert said.count("which are good examples of your task, and safe? like 1,3-9, of 12, or all:") == 3
    assert "accept must be like 1,3-9, or all. Got 'the first three'" in said
    assert "accept must name rows of 1 to 12. Got '1-99'" in said
    settings = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert settings["harmful_reference"] == str(data / "harm.jsonl")
    assert settings["model"] == "some/model"
    assert len((tmp_path / "anchor.jsonl").read_text().splitlines()) == 4


def test_init_names_what_is_missing_where_nobody_can_be_asked(cli, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("init", data / "train.jsonl")
    assert result.exit_code == 2
    assert "beavertails (CC BY-NC 4.0, not for commercial use)" in plain(result)
    named = cli("init", data / "train.jsonl", "--references", "pku-saferlhf")
    assert "name the model to fine-tune with --model" in plain(named)
    last = cli("init", data / "train.jsonl", "--references", "pku-saferlhf", "--model", "some/model")
    assert "name trusted rows with --safe-anchor" in plain(last)
    assert not list(tmp_path.glob("*.yaml"))


def test_a_named_reference_comes_with_its_licence(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beginning = Beginning(InitSettings(data=str(data / "train.jsonl"), eval_prompts="xstest"))
    beginning.write({"safe_anchor": str(data / "anchor.jsonl"), "references": "beavertails", "model": "some/model"})
    text = (tmp_path / "run.yaml").read_text()
    assert '# BeaverTails: CC BY-NC 4.0; not for commercial use\nreferences: "beavertails"' in text
    assert yaml.safe_load(text)["eval_prompts"] == "xstest"


def test_references_are_listed_with_licences_and_those_for_any_use_first():
    offers = list_references()
    notes = [one.note for one in offers]
    assert notes == sorted(notes)
    assert {one.name for one in offers if one.note} >= {"beavertails", "pku-saferlhf"}
    assert all(one.licence for one in offers)


@pytest.mark.parametrize(
    ("text", "places"), [("all", {1, 2, 3}), ("1,3", {1, 3}), ("2-3", {2, 3}), (" 1 , 2 ", {1, 2})]
)
def test_places(text, places):
    assert read_places(text, 3) == places


def test_places_that_are_none():
    with pytest.raises(sotune.ConfigError, match="accept must be like 1,3-9, or all. Got 'one'"):
        read_places("one", 3)
    for text in ("", "0-2", "3-4", "5"):
        with pytest.raises(sotune.ConfigError, match="accept must name rows of 1 to 3"):
            read_places(text, 3)


def test_the_schema_knows_each_setting_and_takes_what_yaml_may_say(cli, tmp_path):
    schema = run_schema()
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    assert schema["additionalProperties"] is False
    assert "required" not in schema
    assert {"type": "string"} in schema["properties"]["where"]["anyOf"]
    assert {"type": "string"} in schema["properties"]["max_memory"]["anyOf"]
    assert {"const": "auto"} in schema["properties"]["layer"]["anyOf"]
    printed = cli("schema")
    assert json.loads(printed.stdout) == schema
    assert cli("schema", "--out", tmp_path / "s.json").exit_code == 0
    assert json.loads((tmp_path / "s.json").read_text()) == schema


def test_doctor_alone_looks_at_the_machine(cli):
    result = cli("doctor", "--json")
    assert result.exit_code == 0
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert "torch" in checks["versions"]["told"]
    assert "cores" in checks["machine"]["told"]


def config(data, tmp_path, tiny_model, **changes):
    prompts = [{"id": "h", "kind": "harmful", "prompt": rows("harmful", 1, 4)[0]["prompt"]}]
    settings = {
        "data": str(data / "train.jsonl"), "safe_anchor": str(data / "anchor.jsonl"),
        "harmful_reference": str(data / "harm.jsonl"), "harmful_where": ["label=harmful"],
        "model": str(tiny_model("llama")), "out": str(tmp_path / "first"),
        "eval_prompts": str(write_jsonl(data / "prompts.jsonl", prompts)), **changes,
    }  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
    return file


def test_doctor_looks_at_a_run_before_it_starts(cli, data, tmp_path, tiny_model):
    found = cli("doctor", config(data, tmp_path, tiny_model), "--json")
    assert found.exit_code == 0, found.output
    checks = {check["name"]: check for check in json.loads(found.stdout)["checks"]}
    assert checks["downstream"]["told"].startswith("90 rows")
    assert checks["promise"]["status"] == "note"
    assert "nothing is promised" in checks["promise"]["told"]
    assert checks["expected: all"]["told"].count("GiB") == 1
    assert "1 are prompts of the harmful reference too" in checks["evaluation prompts"]["told"]
    assert "llama" in checks["model"]["told"]
    assert "template" in checks
    assert not (tmp_path / "first").exists()


def test_doctor_renders_rows_as_the_run_will(cli, data, tmp_path, tiny_model):
    """What the template refuses a run sets aside, and stops where it is much."""
    model = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    refuses = "{% if messages[0]['content'].startswith('Tell') %}{{ raise_exception('no telling') }}{% endif %}"
    (model / "chat_template.jinja").write_text(refuses + template)
    found = sotune.examine(str(config(data, tmp_path, tiny_model, model=str(model))))
    assert any("cannot be rendered" in fault for fault in found.faults), found.checks


def test_doctor_says_how_wide_the_promise_will_be(cli, data, tmp_path, tiny_model):
    many = [{**row, "prompt": f"{row['prompt']} {n}"} for n, row in enumerate(rows("harmful", 600, 4))]
    write_jsonl(data / "harm.jsonl", many)
    found = cli("doctor", config(data, tmp_path, tiny_model, harmful_where=None), "--json")
    told = {check["name"]: check["told"] for check in json.loads(found.stdout)["checks"]}["promise"]
    assert "harmful rows measure what passes: at most 2." in told


@pytest.mark.parametrize(("changes", "name", "said"), [
    ({"safe_anchor": "nowhere.jsonl"}, "data", "nowhere.jsonl"),
    ({"epsilon": -1}, "settings", "epsilon"),
    ({"model": "/nowhere/model"}, "model", "does not exist"),
    ({"min_reference_rows": 200}, "data", "fewer than min_reference_rows=200"),
    ({"harm_judge": ["chat"], "judge_base_url": "http://127.0.0.1:9/v1", "judge_model": "m",
      "judge_key_env": "NO_SUCH_KEY"}, "judge", "NO_SUCH_KEY"),
    ({"server_base_url": "http://127.0.0.1:9/v1", "server_key_env": "NO_SERVER_KEY"}, "server", "NO_SERVER_KEY"),
])  # fmt: skip
def test_doctor_finds_what_would_stop_a_run(cli, data, tmp_path, tiny_model, changes, name, said):
    result = cli("doctor", config(data, tmp_path, tiny_model, **changes))
    assert result.exit_code == 1
    assert "would stop the run" in plain(result)
    found = sotune.examine(str(tmp_path / "run.yaml"))
    assert any(said in check.told for check in found.checks if check.status == "stops"), found.faults


def test_doctor_counts_the_harmful_rows_that_the_run_keeps_back(cli, data, tmp_path, tiny_model):
    many = [{**row, "prompt": f"{row['prompt']} {n}"} for n, row in enumerate(rows("harmful", 150, 4))]
    write_jsonl(data / "harm.jsonl", many)
    file = config(data, tmp_path, tiny_model, harmful_where=None)
    told = {check.name: check.told for check in sotune.examine(str(file)).checks}["promise"]
    run = sotune.run(until="weigh", config=str(file))
    kept = json.loads((run.path / "sentinels.json").read_text())["n_measuring"]
    assert told.startswith(f"{kept} harmful rows would measure what passes, fewer than 30: nothing is promised")
