"""Named sources against small local stand-ins of the same schemas, their texts invented."""

import datasets
import pytest
from reading import load

from sotune.errors import DataError
from sotune.sources.named import NAMED_SOURCES, LicenceNotice

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
        short = next(key for key, source in NAMED_SOURCES.items() if source.hub_id == name)
        return datasets.Dataset.from_list(STAND_INS[short][0])  # two names of one data set share their rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize("name", NAMED_SOURCES)
def test_each_schema_becomes_records_and_the_licence_is_said(hub, name):
    with pytest.warns(LicenceNotice, match=NAMED_SOURCES[name].hub_id):
        loaded = load(name)
    first = loaded.records[0]
    assert (first.prompt[-1].content, first.completion) == STAND_INS[name][1]
    assert not loaded.quarantined
    source = NAMED_SOURCES[name]
    assert len(hub) == len(source.subsets)
    assert hub[0]["split"] == source.split
    assert hub[0].get("data_dir") == (source.subsets[0] if source.data_dir else None)


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
