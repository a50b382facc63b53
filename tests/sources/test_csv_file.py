import csv
import gzip

import pytest
from reading import load, load_with_bad, reasons

from sotune.errors import DataError


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_rows_are_texts_and_numbered_by_the_line_they_start_on(tmp_path):
    text = 'prompt,completion,n\r\n"two\r\nlines, ""quoted""",b,1\r\n\r\n  \r\nc,d,\r\n"e\n\nf",g,3'
    loaded = load(write(tmp_path / "a.csv", text))
    assert [dict(record.meta) for record in loaded.records] == [
        {"prompt": 'two\r\nlines, "quoted"', "completion": "b", "n": "1"},
        {"prompt": "c", "completion": "d", "n": ""},
        {"prompt": "e\n\nf", "completion": "g", "n": "3"},
    ]
    assert [record.origin.rpartition(":")[2] for record in loaded.records] == ["2", "6", "7"]


def test_tab_separated_and_compressed(tmp_path):
    loaded = load(write(tmp_path / "a.tsv.gz", "\ufeffprompt\tcompletion\na, b\tc\n"))
    assert loaded.records[0].prompt[0].content == "a, b"


def test_bad_rows(tmp_path):
    text = b"prompt,completion\na,b\nonly one\na,b,c\n,b\ncaf\xe9,b\n" + b"x" * 90 + b",b\nc,d\n"
    loaded = load_with_bad(write(tmp_path / "a.csv", text), max_row_bytes=80)
    assert [record.completion for record in loaded.records] == ["b", "d"]
    assert reasons(loaded) == {
        3: "wrong number of columns: 1 where the header has 2",
        4: "wrong number of columns: 3 where the header has 2",
        5: "empty text: prompt",
        6: "text that is not Unicode: a lone surrogate, or bytes that are not UTF-8",
        7: "row too large: over 80 bytes",
    }


def test_after_a_broken_quote_nothing_is_guessed(tmp_path):
    text = 'prompt,completion\na,b\n"x "quoted" y\nrest of x",wrong\nc,d\n"e\nf",g\n'
    loaded = load_with_bad(write(tmp_path / "a.csv", text))
    assert [record.prompt[0].content for record in loaded.records] == ["a", "c", "e\nf"]
    assert list(reasons(loaded)) == [3, 4]


def test_every_line_that_an_open_quote_swallows_is_counted(tmp_path):
    text = "prompt,completion\na,b\n" + '"open,b\n' + "good,row\n" * 7
    loaded = load_with_bad(write(tmp_path / "a.csv", text))
    assert len(loaded.records) == 1
    assert list(reasons(loaded)) == list(range(3, 11))
    with pytest.raises(DataError, match="8 of 9 rows cannot be used"):
        load(tmp_path / "a.csv", max_quarantine_fraction=0.5)


def test_a_row_without_an_end_is_refused_before_it_fills_the_memory(tmp_path):
    text = 'prompt,completion\n"' + "a line without end\n" * 1000
    with pytest.raises(DataError, match="over 1600 bytes.*close the quote"):
        load(write(tmp_path / "a.csv.gz", text), max_row_bytes=100)
    with pytest.raises(DataError, match="over 1600 bytes"):
        load(write(tmp_path / "b.csv.gz", "prompt,completion\n" + "x" * 5000), max_row_bytes=100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,completion,prompt\na,b,c\n", r"a\.csv:1: the header names column 'prompt' twice"),
        ('"pro"mpt,completion\na,b\n', r"a\.csv:1: the header cannot be read"),
        ("", "holds no rows"),
        ("prompt,completion\n", "holds no rows"),
        ("prompt;completion\na;b\n", r"a\.csv:1: the columns are divided by ';'; save the file with commas"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "a.csv", text))


def test_long_fields_are_read_and_the_limit_of_the_csv_module_is_left_alone(tmp_path):
    before = csv.field_size_limit()
    loaded = load(write(tmp_path / "a.csv", f"prompt,completion\n{'x' * 200_000},b\n"))
    assert len(loaded.records[0].prompt[0].content) == 200_000
    assert csv.field_size_limit() == before
