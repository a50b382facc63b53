import dataclasses

from sotune.artifacts import RunFolder
from sotune.pipeline.record_sets import READ
from sotune.settings import make_config


def test_what_a_lower_version_of_a_stage_left_is_never_taken_up(data, tiny_model, tmp_path):
    sets = {"data": "train.jsonl", "safe_anchor": "anchor.jsonl", "harmful_reference": "harm.jsonl"}
    own = {"model": str(tiny_model("llama")), "out": str(tmp_path)}
    config = make_config({name: str(data / file) for name, file in sets.items()} | own)
    run = RunFolder(tmp_path / "run")
    with run.lock():
        run.commit(READ.name, READ.full_key(config, run), [])
    assert run.is_current(READ.name, READ.full_key(config, run))
    later = dataclasses.replace(READ, version=READ.version + 1)
    assert not run.is_current(READ.name, later.full_key(config, run))
