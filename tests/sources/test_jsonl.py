import gzip
import json

import pytest
from reading import GOOD, good, load, load_with_bad, reasons, write_jsonl

from sotune.errors import DataError


def test_rows_keep_their_order_their_line_numbers_and_their_own_content(tmp_path):
    rows = [good(1, extra={"n": 1.0, "deep": [None, True]}), good(2, ключ="😀")]
    loaded = load(write_jsonl(tmp_path / "a.jsonl", rows[0], "", "   ", rows[1]))
    assert [dict(record.meta) for record in loaded.records] == rows
    assert [record.origin for record in loaded.records] == [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/a.jsonl:4"]
    assert (loaded.n_read, loaded.quarantined, loaded.format) == (2, (), "prompt-completion")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", "completion"', "broken JSON: Expecting ':' delimiter at column 29"),
        ('{"prompt": "a", "completion": "b"} {}', "broken JSON: Extra data"),
        ('{"prompt": "a", "completion": NaN}', "broken JSON: NaN is not a JSON number"),
        ('{"prompt": "a", "completion": [-Infinity]}', "broken JSON: -Infinity is not a JSON number"),
        ('{"prompt": 1e999, "completion": "b"}', "a number beyond the range"),
        ('{"prompt": ' + "9" * 5000 + ', "completion": "b"}', "a number of over 1000 digits"),
        ('{"prompt": "a", "completion": "b", "completion": "c"}', "the same key twice in one object"),
        ('{"prompt": "a", "completion": "b", "x": {"y": 1, "y": 2}}', "the same key twice in one object"),
        ('["prompt", "completion"]', "not a JSON object: found a list"),
        ("3", "not a JSON object: found a number"),
        ("true", "not a JSON object: found a boolean"),
        ("null", "not a JSON object: found null"),
        ('"text"', "not a JSON object: found text"),
        ('{"prompt": "a"}', "missing column: completion; the row has prompt"),
        ('{"prompt": null, "completion": "b"}', "not text: prompt is null"),
        ('{"prompt": 7, "completion": "b"}', "not text: prompt is a number"),
        ('{"prompt": "a", "completion": {}}', "not text: completion is an object"),
        ('{"prompt": "", "completion": "b"}', "empty text: prompt"),
        ('{"prompt": "a", "completion": " \\n\\u2003"}', "empty text: completion"),
        ('{"prompt": "a", "completion": "\\ud800"}', "text that is not Unicode"),
        ('{"prompt": "a", "completion": "b", "\\udfff": 1}', "text that is not Unicode"),
        (b'{"prompt": "a", "completion": "caf\xe9"}', "not UTF-8: byte 35 of the line"),
        ('{"prompt": "a", "completion": "b", "x": ' + "[" * 50_000 + "]" * 50_000 + "}", "nested deeper than 100"),
        ('{"prompt": "a", "completion": "b", "x": ' + "[" * 150 + "]" * 150 + "}", "nested deeper than 100 levels"),
        ('{"prompt": "a", "completion": "b", "id": 1.5}', "an id that is neither text nor a whole number: a number"),
        ('{"prompt": "a", "completion": "b", "id": true}', "an id that is neither text nor a whole number"),
        ('{"prompt": "a", "completion": "b", "id": "' + "i" * 201 + '"}', "an id of over 200 characters"),
        ('{"prompt": "a", "completion": "b", "id": ' + "7" * 900 + "}", "an id of over 200 characters"),
    ],
)
def test_a_bad_row_is_quarantined_and_the_others_are_kept(tmp_path, line, reason):
    loaded = load_with_bad(write_jsonl(tmp_path / "a.jsonl", good(1), line, good(3)))
    assert [record.completion for record in loaded.records] == ["answer 1", "answer 3"]
    assert reasons(loaded)[2].startswith(reason)
    assert loaded.n_read == 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("NaN", "NaN is not a JSON number"),
        ("-Infinity", "-Infinity is not a JSON number"),
        ("1e999", "a number beyond the range of JSON readers"),
        ("9" * 5000, "a number of over 1000 digits"),
    ],
)
def test_what_json_cannot_hold_is_null_outside_of_the_columns_used(tmp_path, value, reason):
    line = f'{{"prompt": "a", "completion": "b", "score": {value}, "more": [{{"x": {value}}}, 1]}}'
    loaded = load(write_jsonl(tmp_path / "a.jsonl", good(1, score=0.5), line, line))
    assert loaded.records[1].meta == {"prompt": "a", "completion": "b", "score": None, "more": [{"x": None}, 1]}
    assert loaded.warnings == (
        f"{tmp_path}/a.jsonl: values that JSON cannot hold are null, in columns score ({reason}: 2 rows), "
        f"more ({reason}: 2 rows)",
    )


def test_an_optional_column_that_is_nan_is_as_good_as_absent(tmp_path):
    lines = [f'{{"instruction": "a", "input": {value}, "output": "b"}}' for value in ("NaN", '["x", NaN]')]
    loaded = load_with_bad(write_jsonl(tmp_path / "a.jsonl", *lines))
    assert [record.prompt[0].content for record in loaded.records] == ["a"]
    assert reasons(loaded) == {2: "broken JSON: NaN is not a JSON number"}


def test_a_row_over_the_cap_is_read_past(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl.gz", good(1), good(2, x="x" * 5_000_000), good(3))
    loaded = load_with_bad(path, max_row_bytes=1000)
    assert reasons(loaded) == {2: "row too large: over 1000 bytes"}
    assert [record.origin.rsplit(":")[-1] for record in loaded.records] == ["1", "3"]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_row_of_exactly_the_cap_is_read(tmp_path, ending):
    line = json.dumps(GOOD).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + ending)
    assert len(load(path, max_row_bytes=len(line + ending)).records) == 1


def test_line_separators_inside_a_text_do_not_end_a_line(tmp_path):
    row = {"prompt": "a\u2028b", "completion": "c\u0085d\rf"}
    path = write_jsonl(tmp_path / "a.ndjson", json.dumps(row, ensure_ascii=False).replace("\\r", "\\r"))
    assert load(path).records[0].meta == row


def test_a_utf8_mark_is_dropped(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert load(path).records[0].completion == "4"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_another_encoding_is_refused_with_the_command_that_converts_it(tmp_path, encoding, name):
    mark = "\ufeff" if encoding.endswith("be") else ""
    path = tmp_path / name
    path.write_bytes((mark + json.dumps(GOOD)).encode(encoding))
    with pytest.raises(DataError, match=f"iconv -f {encoding[:6].upper()} -t UTF-8"):
        load(path)


def test_gzip_is_known_by_its_content(tmp_path):
    zipped = tmp_path / "a.jsonl"
    zipped.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    plain = tmp_path / "b.jsonl.gz"
    plain.write_bytes(json.dumps(GOOD).encode())
    assert load(zipped).records == load(plain).records


@pytest.mark.parametrize("damage", ["short", "checksum", "middle"])
def test_damaged_gzip_is_refused(tmp_path, damage):
    path = write_jsonl(tmp_path / "a.jsonl.gz", *(good(i, noise=i * 7919 % 1009) for i in range(500)))
    data = bytearray(path.read_bytes())
    if damage == "short":
        data = data[: len(data) // 2]
    else:
        at = -6 if damage == "checksum" else len(data) // 2
        data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: the gzip data is cut short or damaged .* again"):
        load_with_bad(path)


@pytest.mark.parametrize(
    "text", ['[{"prompt": "a", "completion": "b"}]', '{"prompt": "a",\n"completion": "b"}', "<html>"]
)
def test_a_file_without_one_object_is_not_blamed_on_the_format(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"write one JSON object a line, or an array of them into a \.json file"):
        load_with_bad(tmp_path / "a.jsonl")
