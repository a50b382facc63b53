import pytest
from reading import good, load, write_jsonl

from sotune.sources.unused import unused_text

PROSE = "Several words that say something."


def told(tmp_path, *rows, **options) -> list[str]:
    path = write_jsonl(tmp_path / "a.jsonl", *rows)
    return [message.removeprefix(f"{path}: ") for message in load(path, **options).warnings]


def test_columns_that_hold_text_and_are_not_used_are_told_once(tmp_path):
    rows = [good(i, note=PROSE, remark={"by": "me", "says": PROSE}) for i in range(300)]
    assert told(tmp_path, *rows) == ["columns note, remark hold text and are not used"]
    assert told(tmp_path, *(good(i, note=PROSE) for i in range(3))) == ["column note holds text and is not used"]


@pytest.mark.parametrize(
    "value",
    [
        "math",
        "open qa",
        "2024-05-01 10:00:00",
        "https://example.org/some-long-address/without-spaces",
        7,
        None,
        "",
        ["a", "b"],
        {"name": "x"},
    ],
)
def test_labels_sources_and_numbers_are_not(tmp_path, value):
    assert told(tmp_path, *(good(i, more=value) for i in range(3))) == []


def test_what_the_user_asked_for_is_not(tmp_path):
    rows = [good(i, id=f"row number {i} of ten", why=PROSE) for i in range(3)]
    assert told(tmp_path, *rows, where=[f"why={PROSE}"]) == []
    assert told(tmp_path, *rows, where=(f"why={PROSE}",), id_column="id") == []


@pytest.mark.parametrize("name", ["system", "History", "context", "input", "Question", "Images"])
def test_a_column_of_a_known_name_is_told_however_short(name):
    assert unused_text([{name: [["Hello", "Salve"]]}, {name: []}], {"prompt"}) == [name]
    assert unused_text([{name: ""}, {name: []}, {name: None}], {"prompt"}) == []


def test_the_most_of_the_filled_values_count():
    rows = [{"note": PROSE}, {"note": None}, {}, {"note": "short"}, {"note": ""}]
    assert unused_text(rows, set()) == ["note"]
    assert unused_text([*rows, {"note": "short"}], set()) == []
