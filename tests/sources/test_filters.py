import pytest
from reading import good, load, load_with_bad, reasons, write_jsonl

from sotune.errors import ConfigError, DataError


@pytest.fixture
def path(tmp_path):
    values = ["safe", "harmful", True, None, 3, 1.0, ["a", 1], {"k": "v"}, "x=y", ""]
    rows = [good(i, label=value, parity=i % 2) for i, value in enumerate(values)]
    return write_jsonl(tmp_path / "a.jsonl", *rows, good(10, parity=0))


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (["label=safe"], [0]),
        (["label=safe", "label=harmful"], [0, 1]),
        (["label=true"], [2]),
        (["label=null"], [3]),
        (["label=3"], [4]),
        (["label=1.0"], [5]),
        (['label=["a",1]'], [6]),
        (['label={"k":"v"}'], [7]),
        (["label=x=y"], [8]),
        (["label="], [9]),
        (["parity=0"], [0, 2, 4, 6, 8, 10]),
        (["parity=0", "label=safe", "label=harmful"], [0]),
    ],
)
def test_values_are_compared_as_text(path, where, kept):
    loaded = load(path, where=tuple(where))
    assert [record.completion for record in loaded.records] == [f"answer {i}" for i in kept]
    assert loaded.n_filtered_out == 11 - len(kept)
    assert loaded.n_read == 11


@pytest.mark.parametrize("condition", ["label", "", "=safe"])
def test_a_malformed_filter_is_refused(path, condition):
    with pytest.raises(ConfigError, match="must be COLUMN=VALUE. Got"):
        load(path, where=(condition,))


def test_an_unknown_column_is_refused_with_the_nearest(path):
    with pytest.raises(DataError, match="no row has the column 'lable' .*did you mean 'label'"):
        load(path, where=("lable=safe", "parity=0"))


def test_a_filter_that_leaves_nothing_lists_the_values_seen(path):
    with pytest.raises(DataError) as error:
        load(path, where=("label=Safe",))
    assert "no row matches label=Safe; the values seen are label: safe, harmful, true, null, 3, 1.0" in str(error.value)
    assert "…" in str(error.value)
    assert "x=y" not in str(error.value)


def test_long_values_are_not_shown(tmp_path):
    text = "a long text that may be harmful, " * 3
    path = write_jsonl(tmp_path / "a.jsonl", {"prompt": text, "completion": "x"})
    with pytest.raises(DataError, match=r"prompt: \(text of 99 characters\)"):
        load(path, where=("prompt=y",))


def test_rows_that_are_filtered_out_are_not_quarantined(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", good(1, label="a"), {"prompt": None, "label": "b"}, "{broken")
    loaded = load_with_bad(path, where=("label=a",))
    assert list(reasons(loaded)) == [3]
    assert (loaded.n_read, loaded.n_filtered_out, len(loaded.records)) == (3, 1, 1)
