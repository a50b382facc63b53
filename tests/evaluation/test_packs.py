import csv
import json

import datasets
import pytest

from sotune.catalogue import parse_data_set
from sotune.errors import ConfigError, DataError
from sotune.evaluation.packs import find_pack, load_sources, pack_names, parse_sources

PACKS = [find_pack(name) for name in pack_names()]
OURS = [pack for pack in PACKS if pack.view.scored_by is None]
STANDINS = {  # invented rows of each schema
    "hh-red-team": [
        {"transcript": "\n\nHuman: How do I fold a {boat}?\n\nAssistant: So.\n\nHuman: And?", "rating": 0.0}
    ],
    "harmbench": [{"prompt": "Tell of a boat", "category": "boats"}],
    "strongreject": [{"prompt": "Tell of a boat", "category": "boats", "source": "us"}],
    "advbench": [{"prompt": "Tell of a boat", "target": "Sure"}],
    "hex-phi": [{"Tell of a boat": "Tell of a raft"}],
    "directharm4": [{"instruction": "Tell of a boat", "category": "boats"}],
    "xstest": [
        {"prompt": "How do I kill a process?", "label": "safe", "type": "homonyms"},
        {"prompt": "Tell of a boat", "label": "unsafe", "type": "contrast"},
    ],
    "or-bench": [{"prompt": "How do I kill time?", "category": "time"}],
    "gsm8k": [{"question": "2 and 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}],
    "agnews": [{"text": "The team won again.", "label": 1}],
    "sst2": [{"idx": 0, "sentence": "a fine film", "label": 1}],
    "metamathqa": [{"query": "2 and 3?", "response": "2 + 3 = 5. The answer is: 5", "type": "GSM_AnsAug"}],
    "legalbench": [{"text": "The mark Apple for apples.", "answer": "generic", "index": "0"}],
}


def write(tmp_path, name):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in STANDINS[name]))
    return path


def load(text, limit=None, seed=0):
    return load_sources(parse_sources(text), limit=limit, seed=seed)


def test_every_promised_pack_is_there():
    assert {pack.data_set.name for pack in OURS} == set(STANDINS)
    assert pack_names() == sorted({*STANDINS, "ifeval"})


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.data_set.name)
def test_states_where_it_comes_from(pack):
    assert pack.data_set.hub_id.count("/") == 1
    assert pack.data_set.licence
    assert isinstance(pack.data_set.gated, bool)
    assert pack.data_set.cite.startswith("https://")


@pytest.mark.parametrize("name", STANDINS)
def test_reads_its_schema(tmp_path, name):
    prompts = load(f"{name}={write(tmp_path, name)}")
    pack = find_pack(name)
    assert {p.kind for p in prompts} == {part.kind for part in pack.view.parts}
    for prompt in prompts:
        assert prompt.id.startswith(f"{name}/")
        assert prompt.messages[0].content.strip() == prompt.messages[0].content
        assert (prompt.reference is None) == (prompt.kind != "task")


@pytest.mark.parametrize(
    ("name", "texts", "reference"),
    [
        ("hh-red-team", ["How do I fold a {boat}?"], None),
        ("hex-phi", ["Tell of a boat", "Tell of a raft"], None),
        ("gsm8k", ["2 and 3?"], "5"),
        ("metamathqa", ["2 and 3?"], "5"),
        ("directharm4", ["Tell of a boat"], None),
    ],
)
def test_prompt_and_reference(tmp_path, name, texts, reference):
    prompts = load(f"{name}={write(tmp_path, name)}")
    assert [p.messages[0].content for p in prompts] == texts
    assert {p.reference for p in prompts} == {reference}


def test_labels_of_a_class_column(tmp_path):
    [prompt] = load(f"agnews={write(tmp_path, 'agnews')}")
    assert (prompt.reference, prompt.meta["match"]) == ("Sports", "label")
    assert "Sports" in prompt.meta["choices"]


def test_a_saved_dataset_and_a_csv_stand_in_too(tmp_path):
    rows = [{"prompt": f"question {i}", "category": "c"} for i in range(3)]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    with (tmp_path / "h.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "category"])
        writer.writeheader()
        writer.writerows(rows)
    saved, table = load(f"harmbench={tmp_path / 'saved'}"), load(f"harmbench={tmp_path / 'h.csv'}")
    assert [p.messages for p in saved] == [p.messages for p in table]


def many(tmp_path, order=1):
    path = tmp_path / f"own{order}.jsonl"
    rows = [{"id": f"{k}{i}", "kind": k, "prompt": f"{k} {i}"} for i in range(30) for k in ("harmful", "task")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[::order]))
    return path


def test_the_sample_depends_on_ids_and_seed_alone(tmp_path):
    one, other = load(str(many(tmp_path)), limit=5), load(str(many(tmp_path, -1)), limit=5)
    assert {p.id for p in one} == {p.id for p in other}
    assert sorted(p.kind for p in one) == ["harmful"] * 5 + ["task"] * 5
    assert {p.id for p in load(str(many(tmp_path)), limit=5, seed=1)} != {p.id for p in one}
    together = load(f"{many(tmp_path)},gsm8k={write(tmp_path, 'gsm8k')}", limit=5)
    assert {p.id for p in together} >= {f"own1.jsonl/{p.id}" for p in one}
    assert len(together) == 11


def test_offline_it_says_what_to_do():
    with pytest.raises(
        DataError, match=r"XSTest \(walledai/XSTest, CC BY 4.0\) cannot be read.*ask its owner.*xstest=PATH"
    ):
        load("xstest")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("ifeval", ConfigError, "lm_eval run --model hf .* --tasks ifeval"),
        ("gsm9k", ConfigError, "neither a file nor a task pack; there are advbench.*; did you mean 'gsm8k'"),
        ("none.jsonl", DataError, "do not exist"),
        ("gsm8k=none.jsonl", DataError, "none.jsonl, named for the task pack gsm8k, does not exist"),
        ("gsm8k,gsm8k", ConfigError, "each once"),
        (" , ", ConfigError, "at least one source"),
    ],
)
def test_errors(text, error, message):
    with pytest.raises(error, match=message):
        load(text)


def test_a_file_of_another_schema(tmp_path):
    path = write(tmp_path, "gsm8k")
    with pytest.raises(
        DataError, match="harmbench:train:1: no text in the column 'prompt'; the row has question, answer"
    ):
        load(f"harmbench={path}")
    with pytest.raises(DataError, match="no row passes its filters|no row has the column"):
        load(f"xstest={path}")
    wrong = tmp_path / "agnews.jsonl"
    wrong.write_text(json.dumps({"text": "x", "label": 7}))
    with pytest.raises(DataError, match="label is 7, and there are 4 labels"):
        load(f"agnews={wrong}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": [{"kind": "nice", "prompt": "x"}]}, "kind must be one of"),
        ({"speed": 1, "parts": [{"kind": "task", "prompt": "x"}]}, "a field is unknown"),
        ({}, "neither parts nor scored_by"),
        ({"match": "guess", "parts": [{"kind": "task", "prompt": "x"}]}, "match must be one of"),
    ],
)
def test_faulty_packs(fields, message):
    whole = {
        "title": "t",
        "hub_id": "a/b",
        "licence": "l",
        "gated": False,
        "cite": "https://c",
        "splits": [],
        "columns": {},
    }
    with pytest.raises(ConfigError, match=message):
        parse_data_set("mine", {**whole, "evaluation": fields})
