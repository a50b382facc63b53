"""Every file of the catalogue, and every place outside it that names its data sets."""

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

from sotune.catalogue import data_set_names, list_known, load_data_set, parse_data_set
from sotune.errors import ConfigError
from sotune.evaluation.judges.match import MATCH_RULES
from sotune.evaluation.packs import pack_names
from sotune.sources.hub import source_names

ROOT = Path(__file__).parents[1]
DATA_SETS = [load_data_set(name) for name in data_set_names()]
MATCHED_BY = {"number": "number", None: ""}
WHOLE = {
    "title": "T",
    "hub_id": "a/b",
    "licence": "MIT",
    "cite": "https://c",
    "splits": ["train"],
    "columns": {"q": "text", "a": "text"},
}


def each(names):
    return pytest.mark.parametrize("data_set", names, ids=lambda data_set: data_set.name)


def views(data_set):
    return [*data_set.sources, *(data_set.evaluation.parts if data_set.evaluation else ())]


@each(DATA_SETS)
def test_a_file_is_used_and_its_views_read_columns_that_it_has(data_set):
    assert data_set.sources or data_set.evaluation
    for view in views(data_set):
        assert view.columns
        assert view.columns <= data_set.columns.keys()
        assert view.prompt or view.keep
        assert not view.choices or view.answer
    for source in data_set.sources:
        assert bool(source.prompt) == bool(source.answer)
        assert source.name == data_set.name or source.name.startswith(f"{data_set.name}-")


@each([data_set for data_set in DATA_SETS if data_set.evaluation])
def test_tasks_have_an_answer_and_a_way_to_match_it(data_set):
    for part in data_set.evaluation.parts:
        assert (part.kind == "task") == bool(part.answer)
        assert (part.kind == "task") == (data_set.evaluation.match in MATCH_RULES)


def test_no_name_is_given_twice():
    assert Counter(source_names()).most_common(1)[0][1] == 1
    hub_ids = Counter((data_set.hub_id, data_set.subset) for data_set in DATA_SETS)
    assert hub_ids.most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({"speed": 1, "licence": ""}, ["licence: ", "speed: a field is unknown"]),
        ({"hub_id": "b", "cite": "c"}, ["hub_id: ", "cite: "]),
        ({"columns": {"q": "words"}}, ["columns.q must be one of 'text'"]),
        (
            {"training": {"name": "mine", "rows": "r", "split": "test", "prompt": "{q} {x|a}", "where": ["y=1"]}},
            ["there is no column 'x'", "there is no column 'y'", "there is no split 'test'"],
        ),
        (
            {"evaluation": {"splits": ["train"], "parts": [{"kind": "task", "prompt": "{q}", "keep": {"z": "z"}}]}},
            ["there is no column 'z'"],
        ),
    ],
)
def test_all_faults_of_a_file_are_named(fields, faults):
    with pytest.raises(ConfigError, match="data set mine: ") as caught:
        parse_data_set("mine", {**WHOLE, **fields})
    for fault in faults:
        assert fault in str(caught.value)


def test_an_unknown_data_set_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="no data set 'gsm9k'; there are advbench, .*; did you mean 'gsm8k'"):
        load_data_set("gsm9k")
    assert list_known("q", ["gsm8k"]) == "there are gsm8k"


def table(page, heading):
    """Returns the lines of the table of a page whose first line begins with ``heading``, without their head."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(heading)) + 2
    return list(itertools.takewhile(lambda line: line.startswith("|"), lines[first:]))


def on_the_hub(data_set, subset=None):
    subset = subset or data_set.subset
    return data_set.hub_id + (f", `{subset}`" if subset else "")


def line(*cells):
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def test_the_table_of_named_sources_is_the_catalogue():
    assert table("comparing.md", "| name |") == [
        line(f"`{source.name}`", on_the_hub(data_set), source.split, source.rows, data_set.licence)
        for data_set in DATA_SETS
        for source in data_set.sources
    ]


def test_the_table_of_task_packs_is_the_catalogue():
    packs = [(data_set, data_set.evaluation) for data_set in DATA_SETS if data_set.evaluation]
    assert table("measuring.md", "| pack |") == [
        line(
            f"`{data_set.name}`",
            on_the_hub(data_set, pack.subset),
            data_set.licence,
            "yes" if data_set.gated else "no",
            ", ".join(part.kind for part in pack.parts) or "scored by lm-evaluation-harness",
            MATCHED_BY.get(pack.match, pack.match),
        )
        for data_set, pack in packs
    ]


def test_help_pages_and_examples_name_what_there_is():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    asked = re.findall(r"(?:--eval-prompts|task packs by name:) ([\w.,=-]+)", text)
    packs = {
        name.partition("=")[0] for names in asked for name in names.split(",") if "." not in name.partition("=")[0]
    }
    assert {name for name in packs if name.islower()} <= set(pack_names())
    assert "gsm8k" in packs
    references = re.findall(r"--(?:harmful-reference|safe-anchor) ([\w-]+)(?![\w.-])", text)
    assert "beavertails" in references
    assert {name for name in references if name.islower()} <= set(source_names())
