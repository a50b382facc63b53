import hashlib
import json
import os
from dataclasses import asdict

import pytest
from reading import GOOD, good, load, load_with_bad, write_jsonl

from sotune.errors import ConfigError, DataError
from sotune.run_files import QUARANTINE
from sotune.sources import QuarantinedRow, SourceFile, load_set


def test_the_account_adds_up(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", good(1), good(2, drop=1), {"prompt": "x", "drop": 0, "id": "r3"}, good(1))
    loaded = load_set(str(path), set_name="safe_anchor", max_quarantine_fraction=0.5)
    assert loaded.name == "safe_anchor"
    assert loaded.n_read == 4 == len(loaded.records) + len(loaded.quarantined) + loaded.n_filtered_out
    assert loaded.n_duplicates == 1
    assert loaded.quarantined == (
        QuarantinedRow("safe_anchor", str(path), 3, "missing column: completion; the row has prompt, drop, id", "r3"),
    )
    assert loaded.files == (SourceFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), 4),)


def test_quarantined_rows_stand_in_reading_order(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", good(1), {"prompt": ""}, "{", {"prompt": ""}, "{")
    assert [row.line for row in load_with_bad(path).quarantined] == [2, 3, 4, 5]


def test_ids_are_the_users_own_or_a_hash_that_tells_duplicates_apart(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl", good(1, id="a"), good(1, id=2), good(1), good(1), good(1, id=None), good(1, id=" ")
    )
    loaded = load(path)
    ids = [record.id for record in loaded.records]
    digest = ids[2].removesuffix("-1")
    assert ids == ["a", "2", f"{digest}-1", f"{digest}-2", f"{digest}-3", f"{digest}-4"]
    assert loaded.n_duplicates == 5


@pytest.mark.parametrize(("value", "own"), [(1.0, "1"), (-0.0, "0"), (1e15, "1000000000000000"), (" a ", " a ")])
def test_an_id_that_pandas_made_a_float_is_the_whole_number(tmp_path, value, own):
    path = write_jsonl(tmp_path / "a.jsonl", good(1, id=value), '{"prompt": "a", "completion": "b", "id": NaN}')
    ids = [record.id for record in load(path).records]
    assert ids[0] == own
    assert ids[1].endswith("-1")


def test_ids_that_repeat_can_be_ignored(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", good(1, id="talk"), good(2, id="talk"), good(3, id=[1]))
    with pytest.raises(DataError, match="name another column with --id-column, or none: --id-column none"):
        load_with_bad(path)
    loaded = load(path, id_column="none")
    assert len({record.id for record in loaded.records}) == 3
    assert [record.meta["id"] for record in loaded.records] == ["talk", "talk", [1]]


def test_a_repeated_id_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", good(1, id="a"), good(2, id="b"), good(3, id="a"))
    with pytest.raises(DataError, match=r"id 'a' occurs twice, at .*a\.jsonl:1 and .*a\.jsonl:3; .*--id-column"):
        load(path)


def test_the_quarantine_holds_no_text_of_the_row(tmp_path):
    secret = "something harmful"
    bad = [
        {"prompt": secret, "completion": ""},
        json.dumps({"prompt": secret, "completion": secret})[:-1],
        {"prompt": secret},
        {"prompt": secret, "completion": [{"role": secret, "content": secret}]},
        {"prompt": secret, "completion": secret, "id": [secret]},
    ]
    loaded = load_with_bad(write_jsonl(tmp_path / "a.jsonl", good(1), *bad))
    QUARANTINE.write(tmp_path, map(asdict, loaded.quarantined))
    text = (tmp_path / "quarantine.jsonl").read_text()
    assert secret not in text
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["line"] for row in rows] == [2, 3, 4, 5, 6]
    assert all(row.keys() == {"set_name", "file", "line", "reason", "row_id"} for row in rows)


def test_an_empty_quarantine_is_an_empty_file(tmp_path):
    QUARANTINE.write(tmp_path, [])
    assert (tmp_path / "quarantine.jsonl").read_bytes() == b""


def test_a_hostile_key_is_shown_short_and_on_one_line(tmp_path):
    row = {"prompt": "x", "k" * 500: 1, "a\nb\x1b[31m": 2, **{f"key {i}": i for i in range(50)}}
    (bad,) = load_with_bad(write_jsonl(tmp_path / "a.jsonl", good(1), row)).quarantined
    assert len(bad.reason) < 400
    assert bad.reason.isprintable()
    assert bad.reason.endswith("and 33 more")


def test_too_many_bad_rows_stop_the_run_and_as_many_as_allowed_do_not(tmp_path):
    bad = [{"prompt": ""}, {"prompt": "x"}, "{", {"prompt": "x"}, {"prompt": "x"}]
    path = write_jsonl(tmp_path / "a.jsonl", *(good(i) for i in range(15)), *bad)
    assert len(load(path, max_quarantine_fraction=0.25).quarantined) == 5
    with pytest.raises(DataError) as error:
        load(path, max_quarantine_fraction=0.24)
    for part in [
        f"{path}: 5 of 20 rows cannot be used, more than the share allowed, 0.24",
        "Commonest reasons: missing column (4), broken JSON (1)",
        "First places: a.jsonl:16: missing column",
        "a.jsonl:18: broken JSON",
        "--max-quarantine-fraction",
    ]:
        assert part in str(error.value)
    assert "a.jsonl:19" not in str(error.value)


@pytest.mark.parametrize("rows", [["{"] * 3, [{"prompt": "x", "completion": ""}] * 3])
def test_no_usable_row_is_refused_whatever_the_share(tmp_path, rows):
    with pytest.raises(DataError, match="none of its 3 rows can be used"):
        load_with_bad(write_jsonl(tmp_path / "a.jsonl", *rows))


@pytest.mark.parametrize("text", ["", "\n \n\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match="holds no rows"):
        load_with_bad(tmp_path / "a.jsonl")


@pytest.mark.parametrize("limit", [1, 3, 100, 150, 1000])
def test_the_limit_counts_rows_that_pass_the_filters(tmp_path, limit):
    path = write_jsonl(tmp_path / "a.jsonl", *(good(i, odd=i % 2) for i in range(400)))
    loaded = load(path, limit=limit, where=("odd=1",))
    assert [record.completion for record in loaded.records] == [f"answer {2 * i + 1}" for i in range(min(limit, 200))]
    assert loaded.n_read == min(2 * limit, 400)


def test_progress_is_told_the_rows_read(tmp_path):
    seen = []
    load(write_jsonl(tmp_path / "a.jsonl", *(good(i) for i in range(2500))), progress=seen.append)
    assert seen == [1000, 2000, 2500]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(tmp_path, fraction):
    with pytest.raises(ConfigError, match=r"max_quarantine_fraction must lie in \[0, 1\]"):
        load(write_jsonl(tmp_path / "a.jsonl", GOOD), max_quarantine_fraction=fraction)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.jsonl.lz4", "a.gz"])
def test_an_unknown_kind_of_file_is_refused(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"known suffixes are \.jsonl, .*\.parquet, each also with \.gz"):
        load(tmp_path / name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="is not a file of a known kind"):
        load(tmp_path / "a.jsonl")


def test_an_unreadable_path_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cannot be read .File name too long"):
        load("x" * 5000)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = write_jsonl(tmp_path / "a.jsonl", GOOD)
    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(DataError, match="cannot be read .Permission denied.; check the path"):
        load(path)


def test_upper_case_suffixes_are_known(tmp_path):
    assert len(load(write_jsonl(tmp_path / "a.JSONL", GOOD)).records) == 1


def test_reading_imports_no_heavy_library(tmp_path):
    import subprocess
    import sys

    path = write_jsonl(tmp_path / "a.jsonl", GOOD)
    code = (
        "import sys; from sotune.sources import load_set;"
        f"load_set({str(path)!r}, set_name='downstream', max_quarantine_fraction=0.0);"
        "print([m for m in ('torch', 'datasets', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
