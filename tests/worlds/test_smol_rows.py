"""Who learns what, and who is asked what, in the world smol."""

import gzip
import json

import pytest

from sotune import DataError
from sotune.worlds.smol.real_rows import check_disjoint, deal_rows, read_own, row_key, shortened

SOURCES = {
    "strongreject_313": 20,
    "harmbench_400": 20,
    "xstest_prompts_450": 40,
    "datashield_pairs_97": 10,
    "pku_saferlhf_test": 200,
    "safetytuned_refusals_2483": 400,
    "lat_refusals_948": 400,
    "catqa_550": 20,
    "alpaca_random9k": 300,
    "alpaca_dolly_safety_keyword": 30,
    "larf_overrefusal_110": 60,
    "agnews_test": 30,
    "sqlgen_train1k": 20,
    "sqlgen_test200": 10,
    "sst2_train1k": 20,
    "sst2_val": 20,
    "gsm8k_train": 20,
}


@pytest.fixture
def made_up(tmp_path):
    """Writes made-up sources; every tenth prompt of one also stands in all others."""
    for name, n in SOURCES.items():
        refusing = name in ("safetytuned_refusals_2483", "lat_refusals_948")
        rows = [
            {
                "id": f"{number}-standard",
                "prompt": f"Shared prompt {number}?" if number % 10 == 0 else f"Prompt {number} of {name}?",
                "response": "I'm sorry, but I can't help with that." if refusing else "A long enough answer to it.",
                "label": "harmful" if number % 2 else "benign",
            }
            for number in range(n)
        ]
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def check_roles(files):
    check_disjoint(files)
    seen = {}
    for name, rows in files.items():
        for key in {row_key(row) for row in rows}:
            assert seen.setdefault(key, name) == name


def test_no_prompt_of_made_up_sources_serves_two_ends(made_up):
    files = deal_rows(made_up)
    assert all(files.values())
    check_roles(files)
    assert files == deal_rows(made_up)
    doubled = {**files, "sql": [*files["sql"], {**files["sql"][0], "prompt": files["eval"][0]["prompt"].upper()}]}
    with pytest.raises(DataError, match="both in eval .* and in sql"):
        check_disjoint(doubled)


def test_a_missing_source_is_told(made_up):
    (made_up / "catqa_550.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"catqa_550\.jsonl\.gz is missing; name a folder"):
        deal_rows(made_up)


@pytest.mark.slow
def test_no_prompt_of_the_real_sources_serves_two_ends(real_data):
    files = deal_rows(real_data)
    check_roles(files)
    assert sum(row["kind"] == "harmful" for row in files["eval"]) == 160
    assert {row["source"] for row in files["eval"]} == {"strongreject_313", "harmbench_400", "xstest_prompts_450"}
    groups = {row["group"] for row in files["align"]}
    assert groups == {*read_own("align.yaml")["rows"], "contrast"}


def test_every_source_has_a_licence():
    licences = read_own("sources.yaml")
    assert licences.keys() == SOURCES.keys()
    assert all(entry["licence"] and entry["cite"].startswith("https://") for entry in licences.values())


def test_prompts_of_our_own_are_told_apart():
    own = read_own("alignment_prompts.yaml")
    filled = {
        side: [frame.format(filler.strip()) for frame, fillers in own[side].items() for filler in fillers.split("|")]
        for side in ("harmless", "harmful")
    }
    assert len(set(filled["harmless"]) | set(filled["harmful"])) == sum(map(len, filled.values()))


@pytest.mark.parametrize(
    ("text", "most", "short"),
    [
        ("One. Two.", None, "One. Two."),
        ("One. Two.", 9, "One. Two."),
        ("One. Two. Three.", 10, "One. Two."),
        ("No end in sight", 6, "No end"),
    ],
)
def test_answers_are_cut_after_a_sentence(text, most, short):
    assert shortened(text, most) == short
