import pytest

from pipeline_rows import rows, write_jsonl


@pytest.fixture
def data(tmp_path, tiny_model):
    """Files of a small contaminated set, and the flags that name them."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", rows("benign", 80, 1) + rows("harmful", 10, 2))
    write_jsonl(folder / "anchor.jsonl", rows("benign", 12, 3))
    write_jsonl(folder / "harm.jsonl", rows("harmful", 20, 4) + rows("benign", 5, 5))
    return folder


@pytest.fixture
def flags(data, tmp_path, tiny_model):
    return [
        str(data / "train.jsonl"),
        "--safe-anchor", str(data / "anchor.jsonl"),
        "--harmful-reference", str(data / "harm.jsonl"),
        "--harmful-where", "label=harmful",
        "--model", str(tiny_model("llama")),
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
