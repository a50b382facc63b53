import json

import pytest

from sotune.errors import DataError
from sotune.evaluation.labeled import load_labeled
from sotune.settings import JudgeCheckSettings


def read(tmp_path, *rows, **options):
    path = tmp_path / "labeled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_labeled(path, JudgeCheckSettings(**options))


def row(label, **more):
    return {"prompt": "a?", "response": "b.", "label": label, **more}


@pytest.mark.parametrize(
    ("label", "truth"),
    [("harmful", True), ("Unsafe", True), (1, True), (True, True), ("benign", False), (0, False), (False, False)],
)
def test_usual_labels(tmp_path, label, truth):
    assert read(tmp_path, row(label)).truth == {"row-000001": truth}


def test_own_labels_ids_and_categories(tmp_path):
    rows = [
        row("S3", id="a", category="x"),
        row("ok", id="b"),
        {**row("S4"), "messages": [{"role": "user", "content": "q"}]},
    ]
    rows[2].pop("prompt")
    found = read(tmp_path, *rows, positive=("s3", "S4"))
    assert found.truth == {"a": True, "b": False, "row-000003": True}
    assert found.category == {"a": "x"}
    assert [r.text for r in found.responses] == ["b."] * 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            row("maybe"),
            "labeled.jsonl:1: the label 'maybe' is not known; name the labels that mean yes with --positive",
        ),
        ({"prompt": "a", "response": "b"}, "no label in the column 'label'"),
        ({"prompt": "a", "label": 1}, "needs its response as text"),
        ({"response": "a", "label": 1}, "give either prompt"),
        ([1], "not a JSON object"),
    ],
)
def test_faulty_rows(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, bad)


def test_no_rows(tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        read(tmp_path)
    with pytest.raises(DataError, match="'a'"):
        read(tmp_path, row(1, id="a"), row(0, id="a"))
