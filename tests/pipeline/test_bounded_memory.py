"""Memory must not grow with the rows by more than what names and places them."""

import tracemalloc

import pytest

from pipeline_rows import write_jsonl
from sotune import artifacts, record_store
from sotune.monitoring import Silent
from sotune.pipeline import encoding, shown_rows, unseen_rows, weighing
from sotune.pipeline.stage import run_stages
from sotune.pipeline.verbs import STAGES
from sotune.representations import filling
from sotune.settings import make_config

PART = 32
FEW, MANY = 100, 500
BYTES_A_ROW = 800
"""Of Python and NumPy, about twice what the hungriest stage takes; rows that are held take 2,000 and more."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in (artifacts, record_store, weighing):
        monkeypatch.setattr(module, "TABLE_ROWS", PART)
    monkeypatch.setattr(encoding, "BLOCK_ROWS", PART)
    monkeypatch.setattr(shown_rows, "_BLOCK_ROWS", PART)
    monkeypatch.setattr(unseen_rows, "_ROWS_AT_ONCE", PART)
    monkeypatch.setattr(filling, "BLOCK_ROWS", PART)


def made_up(kind, n):
    return [{"prompt": f"Tell me {kind} number {i}", "response": f"{kind} {i}: " + "a word and " * 7} for i in range(n)]


def peaks(folder, model, n):
    """Returns the peak of each stage beyond what was there before it, in bytes."""
    folder.mkdir()
    sets = {"data": made_up("a tale", n), "safe_anchor": made_up("a song", 20), "harmful_reference": made_up("x", 40)}
    files = {name: str(write_jsonl(folder / f"{name}.jsonl", rows)) for name, rows in sets.items()}
    config = make_config({
        **files, "model": str(model), "out": str(folder / "run"), "device": "cpu", "threads": 1, "cache": False,
        "layer": -1, "pooling": "last", "prompt_control": False, "cost": "cosine", "sentinels": "off",
    })  # fmt: skip
    found = {}
    for stage in [stage for stage in STAGES if stage.name not in ("training", "evaluation")]:
        found[stage.name] = peak_of(lambda stage=stage: run_stages([stage], config, Silent()))
    found["score"] = peak_of(lambda: unseen_rows.score(folder / "run", files["data"], out=folder / "scores.parquet"))
    return found


def peak_of(work):
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_no_stage_holds_the_rows(tmp_path, tiny_model):
    model = tiny_model("llama")
    peaks(tmp_path / "warm", model, PART)  # what is loaded and remembered once
    few, many = peaks(tmp_path / "few", model, FEW), peaks(tmp_path / "many", model, MANY)
    grown = {name: (many[name] - few[name]) / (MANY - FEW) for name in few}
    assert max(grown.values()) < BYTES_A_ROW, grown
