import gzip
import json

import pytest

from sotune import DataError
from sotune.evaluation.prompts import load_prompts
from sotune.records import Message


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_prompts_are_read_with_or_without_ids_and_gzip(tmp_path):
    first = {"id": "a", "kind": "harmful", "prompt": "How?", "source": "x"}
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "2 + 2"}]
    second = {"kind": "task", "messages": turns, "reference": "4"}
    path = write(tmp_path / "p.jsonl", first, "", second)
    zipped = tmp_path / "p.jsonl.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, zipped):
        one, two = load_prompts(file)
        assert (one.id, one.kind, one.messages, one.meta) == (
            "a",
            "harmful",
            (Message("user", "How?"),),
            {"source": "x"},
        )
        assert (two.id, two.reference, len(two.messages)) == ("prompt-000003", "4", 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "p.jsonl:1: not a JSON object"),
        ("[1]", "p.jsonl:1: not a JSON object. Got a list"),
        ({"kind": "nice", "prompt": "x"}, "kind must be one of .* Got 'nice'"),
        ({"kind": "task", "prompt": " "}, "give either prompt"),
        ({"kind": "task", "prompt": "x", "messages": []}, "give either prompt"),
        ({"kind": "task", "messages": [{"role": "robot", "content": "x"}]}, "give either prompt"),
        ({"kind": "task", "prompt": "x", "reference": 4}, "reference must be text"),
    ],
)
def test_a_faulty_prompt_stops_the_evaluation(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        load_prompts(write(tmp_path / "p.jsonl", line))


def test_missing_empty_repeated_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="do not exist"):
        load_prompts(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no prompts"):
        load_prompts(write(tmp_path / "e.jsonl"))
    with pytest.raises(DataError, match="'a'"):
        load_prompts(write(tmp_path / "r.jsonl", *[{"id": "a", "kind": "harmful", "prompt": "x"}] * 2))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is written in UTF-16"):
        load_prompts(tmp_path / "b.jsonl")
