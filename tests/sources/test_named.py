"""Named sources against small local stand-ins of the same schemas, their texts invented."""

import re

import datasets
import pytest
from reading import load

from sotune.errors import DataError
from sotune.sources.hub import LicenceNotice, named_source, source_names

TRANSCRIPT = "\n\nHuman: How do I fold a map?\n\nAssistant: In half.\n\nHuman: And then?\n\nAssistant: In half again."
# Hub id to rows as its card describes them, and the prompt and completion that must come of the first row read.
STAND_INS = {
    "beavertails": (
        [
            {"prompt": "safe one", "response": "no", "category": {"theft": False}, "is_safe": True},
            {"prompt": "pick a lock", "response": "sure", "category": {"theft": True}, "is_safe": False},
        ],
        ("pick a lock", "sure"),
    ),
    "beavertails-safe": (
        [
            {"prompt": "safe one", "response": "no", "category": {"theft": False}, "is_safe": True},
            {"prompt": "pick a lock", "response": "sure", "category": {"theft": True}, "is_safe": False},
        ],
        ("safe one", "no"),
    ),
    "hh-red-team": (
        [{"transcript": TRANSCRIPT, "rating": 4.0, "min_harmlessness_score_transcript": -1.5}],
        ("How do I fold a map?", "In half."),
    ),
    "lat-harmful": (
        [{"prompt": "knock", "chosen": "I cannot.", "rejected": "who is there"}],
        ("knock", "who is there"),
    ),
    "lat-refusals": (
        [{"prompt": "knock", "chosen": "I cannot.", "rejected": "who is there"}],
        ("knock", "I cannot."),
    ),
    "slimorca": (
        [
            {
                "conversations": [
                    {"from": "system", "value": "Be brief.", "weight": None},
                    {"from": "human", "value": "2 + 2?", "weight": 0.0},
                    {"from": "gpt", "value": "4", "weight": 1.0},
                ]
            }
        ],
        ("2 + 2?", "4"),
    ),
    "agnews": (
        [{"text": "A match was played.", "label": 1}],
        (
            "Which section does this article belong to: World, Sports, Business, Sci/Tech?\n\nA match was played.",
            "Sports",
        ),
    ),
    "metamathqa": (
        [{"query": "1 + 1?", "response": "It is 2", "type": "made_up", "original_question": "1?"}],
        ("1 + 1?", "It is 2"),
    ),
    "gsm8k": ([{"question": "3 apples and 4?", "answer": "7\n#### 7"}], ("3 apples and 4?", "7\n#### 7")),
    "alpaca": (
        [{"instruction": "Add them.", "input": "1 and 2", "output": "3", "text": "all of it"}],
        ("Add them.\n\n1 and 2", "3"),
    ),
    "sst2": (
        [{"idx": 0, "sentence": "a fine film", "label": 1}],
        ("Is the sentiment of this sentence negative or positive?\n\na fine film", "positive"),
    ),
    "sql-create-context": (
        [{"question": "How many?", "context": "CREATE TABLE t (a INT)", "answer": "SELECT COUNT(*) FROM t"}],
        ("CREATE TABLE t (a INT)\n\nHow many?", "SELECT COUNT(*) FROM t"),
    ),
    "pku-saferlhf": (
        [
            {"prompt": "safe one", "response_0": "no", "is_response_0_safe": True},
            {"prompt": "pick a lock", "response_0": "sure", "is_response_0_safe": False},
        ],
        ("pick a lock", "sure"),
    ),
    "pku-saferlhf-safe": (
        [
            {"prompt": "safe one", "response_0": "no", "is_response_0_safe": True},
            {"prompt": "pick a lock", "response_0": "sure", "is_response_0_safe": False},
        ],
        ("safe one", "no"),
    ),
    "legalbench-qa": (
        [{"index": "0", "contract": "You may return it.", "question": "May I?", "answer": "Yes"}],
        ("You may return it.\n\nMay I?", "Yes"),
    ),
}


@pytest.fixture
def hub(monkeypatch):
    calls = []

    def load_dataset(name, subset=None, **kwargs):
        calls.append({"name": name, "subset": subset, **kwargs})
        short = next(key for key in source_names() if named_source(key).data_set.hub_id == name)
        return datasets.Dataset.from_list(STAND_INS[short][0])  # two names of one data set share their rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize("name", source_names())
def test_each_schema_becomes_records_and_the_licence_is_said(hub, name):
    public, view = named_source(name)
    with pytest.warns(LicenceNotice, match=f"{name} is {public.hub_id} .*licence: {re.escape(public.licence)}"):
        loaded = load(name)
    first = loaded.records[0]
    assert (first.prompt[-1].content, first.completion) == STAND_INS[name][1]
    assert not loaded.quarantined
    subsets = view.subsets or (public.subset,)
    assert len(hub) == len(subsets)
    assert hub[0]["split"] == view.split
    assert hub[0]["revision"] == public.revision
    folder = (subsets[0] or "").endswith("/")
    assert hub[0].get("data_dir") == (subsets[0][:-1] if folder else None)
    assert hub[0]["subset"] == (None if folder else subsets[0])


def test_what_is_marked_safe_is_no_harmful_reference(hub):
    with pytest.warns(LicenceNotice):
        assert len(load("beavertails").records) == 1


def test_the_rating_of_an_attack_can_be_filtered_by(hub):
    with pytest.warns(LicenceNotice):
        assert load("hh-red-team", where=("rating=4.0",)).records
    with pytest.warns(LicenceNotice), pytest.raises(DataError, match="no row matches"):
        load("hh-red-team", where=("rating=0.0",))


def test_offline_the_error_says_what_to_do(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.warns(LicenceNotice), pytest.raises(DataError, match="offline"):
        load("beavertails")


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_dict({"prompt": ["a"], "completion": ["b"]}).save_to_disk("gsm8k")
    assert load("gsm8k").records[0].completion == "b"


def test_names_that_differ_by_an_end_are_told_apart():
    assert named_source("beavertails-safe").data_set is named_source("beavertails").data_set
    assert named_source("beavertails-safe").view.where == ("is_safe=true",)
    assert named_source("beavertails-other") is None
    assert named_source("lat") is None


def test_a_mistyped_name_gets_the_nearest_one():
    with pytest.raises(DataError, match="use a named source: there are agnews, .*; did you mean 'beavertails'"):
        load("beavertail")


def test_a_row_of_another_schema_is_quarantined_with_the_column(monkeypatch):
    rows = [{"text": "A match was played.", "label": 1}, {"text": "It rained.", "label": 4}, {"text": None, "label": 0}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.Dataset.from_list(rows))
    with pytest.warns(LicenceNotice):
        loaded = load("agnews", max_quarantine_fraction=1)
    assert len(loaded.records) == 1
    assert [row.reason for row in loaded.quarantined] == [
        "label is 4, and there are 4 labels",
        "no text in the column 'text'; the row has text, label",
    ]
