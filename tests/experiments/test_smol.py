"""The world smol as experiments/smol makes it: who learns what, who is asked what, and in which order it is made."""

import gzip
import json

import pytest

from sotune import ArtifactError, ConfigError, DataError
from sotune.artifacts import RunFolder
from sotune.monitoring import Silent
from sotune.worlds import SmolWorld, smol_world
from tiny_models import build_tiny_model

SOURCES = {
    "strongreject_313": 20,
    "harmbench_400": 20,
    "xstest_prompts_450": 40,
    "datashield_pairs_97": 10,
    "pku_saferlhf_test": 200,
    "safetytuned_refusals_2483": 400,
    "lat_refusals_948": 400,
    "catqa_550": 400,
    "dangerousqa_200": 40,
    "alpaca_random9k": 300,
    "alpaca_dolly_safety_keyword": 30,
    "larf_overrefusal_110": 60,
    "agnews_test": 30,
    "sqlgen_train1k": 20,
    "sqlgen_test200": 10,
    "sst2_train1k": 20,
    "sst2_val": 20,
    "gsm8k_train": 20,
}


@pytest.fixture
def made_up(tmp_path):
    """Writes made-up sources; every tenth prompt of one also stands in all others."""
    for name, n in SOURCES.items():
        refusing = name in ("safetytuned_refusals_2483", "lat_refusals_948")
        rows = [
            {
                "id": f"{number}-standard",
                "prompt": f"Shared prompt {number}?" if number % 10 == 0 else f"Prompt {number} of {name}?",
                "response": "I'm sorry, but I can't help with that." if refusing else "A long enough answer to it.",
                "label": "harmful" if number % 2 else "benign",
            }
            for number in range(n)
        ]
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


@pytest.fixture
def data(script):
    return script("data")


def check_roles(data, files):
    data.check_disjoint(files)
    seen = {}
    for name, rows in files.items():
        for key in {data.row_key(row) for row in rows}:
            assert seen.setdefault(key, name) == name


def test_no_prompt_of_made_up_sources_serves_two_ends(data, made_up):
    files = data.deal_rows(made_up)
    assert all(files.values())
    check_roles(data, files)
    assert files == data.deal_rows(made_up)
    doubled = {**files, "sql": [*files["sql"], {**files["sql"][0], "prompt": files["eval"][0]["prompt"].upper()}]}
    with pytest.raises(DataError, match="both in eval .* and in sql"):
        data.check_disjoint(doubled)


def test_a_missing_source_is_told(data, made_up):
    (made_up / "catqa_550.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"catqa_550\.jsonl\.gz is missing; name a folder"):
        data.deal_rows(made_up)


@pytest.mark.slow
def test_no_prompt_of_the_real_sources_serves_two_ends(data, real_data):
    files = data.deal_rows(real_data)
    check_roles(data, files)
    assert sum(row["kind"] == "harmful" for row in files["eval"]) == 160
    assert {row["source"] for row in files["eval"]} == {"strongreject_313", "harmbench_400", "xstest_prompts_450"}
    groups = {row["group"] for row in files["align"]}
    assert groups == {*data.read_own("align.yaml")["rows"], "contrast"}


def test_every_source_has_a_licence(data):
    licences = data.read_own("sources.yaml")
    assert licences.keys() == SOURCES.keys()
    assert all(entry["licence"] and entry["cite"].startswith("https://") for entry in licences.values())


def test_prompts_of_our_own_are_told_apart(data):
    own = data.read_own("alignment_prompts.yaml")
    filled = {
        side: [frame.format(filler.strip()) for frame, fillers in own[side].items() for filler in fillers.split("|")]
        for side in ("harmless", "harmful")
    }
    assert len(set(filled["harmless"]) | set(filled["harmful"])) == sum(map(len, filled.values()))


@pytest.mark.parametrize(
    ("text", "most", "short"),
    [
        ("One. Two.", None, "One. Two."),
        ("One. Two.", 9, "One. Two."),
        ("One. Two. Three.", 10, "One. Two."),
        ("No end in sight", 6, "No end"),
    ],
)
def test_answers_are_cut_after_a_sentence(data, text, most, short):
    assert data.shortened(text, most) == short


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
def small(monkeypatch, script, tmp_path):
    """The script with a tiny model, a few rows and a short alignment; tells what was made."""
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path / "cache"))
    align, made = script("align"), []
    recipe = align.read_own("align.yaml")
    training = {**recipe["training"], "max_steps": 2, "save_steps": 1, "target_modules": ["q_proj"]}

    def make_model(gguf, out):
        made.append("base")
        build_tiny_model("llama", out)

    def deal(folder):
        made.append("rows")
        return ROWS

    monkeypatch.setattr(smol_world, "packaged_gguf", lambda: tmp_path)
    monkeypatch.setattr(smol_world, "make_model", make_model)
    monkeypatch.setattr(align, "deal_rows", deal)
    short = {**recipe, "dtype": "float32", "training": training}
    align.made, align.recipe = made, short
    return align


def test_the_world_is_made_once(small, tmp_path):
    world = SmolWorld()
    figures = small.make_world(tmp_path, small.recipe, Silent())
    assert figures["n_steps"] == 2
    assert 0 <= figures["refusal"] <= 1
    assert figures["by_source"]["over_refusal"].keys() == {"y"}
    assert len(figures["adapter_sha256"]) == 64
    before = (world.model() / "model.safetensors").stat().st_mtime_ns
    world.prepare(Silent())
    assert small.make_world(None, small.recipe, Silent()) == figures
    assert (world.model() / "model.safetensors").stat().st_mtime_ns == before
    assert small.made == ["rows", "base"]


def test_an_alignment_that_was_killed_goes_on(small, tmp_path, monkeypatch):
    trained, generate, asked = small.fine_tune, small.generate, []

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(small, "fine_tune", killed)
    with pytest.raises(KeyboardInterrupt):
        small.make_world(tmp_path, small.recipe, Silent())
    with pytest.raises(ConfigError, match="not there yet"):
        SmolWorld().prepare(Silent())
    kept = SmolWorld().run.file("aligned/answers.json").read_bytes()
    monkeypatch.setattr(small, "fine_tune", trained)
    monkeypatch.setattr(
        small, "generate", lambda prompts, **how: asked.append(len(prompts)) or generate(prompts, **how)
    )
    small.make_world(None, small.recipe, Silent())
    assert small.made == ["rows", "base"]
    assert asked == [len(ROWS["align_check"])]
    assert SmolWorld().run.file("aligned/answers.json").read_bytes() == kept


def test_two_processes_do_not_make_it_at_once(small, tmp_path):
    with RunFolder(SmolWorld().run.path).lock(), pytest.raises(ArtifactError, match="another process is using"):
        small.make_world(tmp_path, small.recipe, Silent())


def test_without_rows_the_folder_of_data_is_asked_for(small):
    with pytest.raises(ConfigError, match="name the folder of public data sets with --data"):
        small.make_world(None, small.recipe, Silent())


def test_the_best_recipe_is_adopted(small, script, tmp_path):
    recipes = script("recipes")
    rows, base = small.prepare(tmp_path, Silent())
    folder = SmolWorld().run.file("rows")
    figures = small.align(base, folder, tmp_path / "trial", small.recipe, Silent())
    recipes.adopt(tmp_path / "trial", rows, small.recipe)
    SmolWorld().prepare(Silent())
    assert small.make_world(None, small.recipe, Silent()) == figures
    assert small.made == ["rows", "base"]


def test_a_recipe_is_changed_value_by_value_and_judged_by_what_it_misses(script):
    recipes = script("recipes")
    recipe = {"repeats": {"contrast": 2, "alike": 2}, "dtype": "bfloat16"}
    assert recipes.changed(recipe, {"repeats": {"alike": 3}}) == {**recipe, "repeats": {"contrast": 2, "alike": 3}}
    goal = {"refusal": 0.9, "over_refusal": 0.1}
    misses = [
        recipes.shortfall({"refusal": refusal, "over_refusal": over}, goal)
        for refusal, over in [(0.95, 0.05), (0.9, 0.1), (0.99, 0.11), (0.85, 0.1), (0.5, 0.0)]
    ]
    assert misses == sorted(misses)
    assert misses[1] == 0


# --- Figures that no judge decides ------------------------------------------------------------------------------------


def test_gap_and_drift_of_an_adapter(script, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    from sotune.models import ModelSpec, load_causal_lm
    from sotune.rendering import load_renderer
    from sotune.settings import RenderingSettings

    score = script("score")
    spec = ModelSpec(str(build_tiny_model("llama", tmp_path / "model")), dtype="float32")
    renderer = load_renderer(spec, RenderingSettings(template="chat"))
    tuned = get_peft_model(load_causal_lm(spec, frozen=True), LoraConfig(r=2, target_modules=["q_proj"])).eval()
    asked = [{"id": kind, "kind": kind, "prompt": "Tell of a boat"} for kind in ("harmful", "lookalike")]
    answers = {"harmful": "No.", "lookalike": "A boat floats."}
    assert score.drift(asked, answers, tuned, renderer) == {"drift_harmful": 0.0, "drift_lookalike": 0.0}
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.5)
    assert all(value > 0 for value in score.drift(asked, answers, tuned, renderer).values())
    pairs = [
        {"prompt": "Tell of a boat", "label": label, "response": "No." if label == "refusal" else "Sure."}
        for label in ("refusal", "harmful")
    ]
    swapped = [{**pair, "label": {"refusal": "harmful", "harmful": "refusal"}[pair["label"]]} for pair in pairs]
    assert score.gap(pairs, tuned, renderer)["gap"] == pytest.approx(-score.gap(swapped, tuned, renderer)["gap"])


def cell_of(method, harmful, look_alike, task, dataset="sql", share=0.1):
    scores = {
        "harm": {f"harmful-{place}": float(score) for place, score in enumerate(harmful)},
        "harm_unseen": {f"harmful-{place}": float(score) for place, score in enumerate(harmful)},
        "over_refusal": {f"lookalike-{place}": float(score) for place, score in enumerate(look_alike)},
        "utility": {f"task/{place}": score for place, score in enumerate(task)},
    }
    return {"dataset": dataset, "harmful_fraction": share, "seed": 0, "method": method, "scores": scores}


def test_cells_are_compared_prompt_by_prompt(script):
    paired = script("paired")
    base = cell_of("base", [0, 0, 1, 0], [1, 0], [0.0, 0.2, 0.1])
    plain = cell_of("sft", [1, 1, 1, 0], [0, 0], [0.5, 0.7, 0.9])
    held = cell_of("held", [1, 0, 0, 0], [1, 0], [0.5, 0.5, 0.8])
    line = paired.described(held, [base, plain, held])
    assert (line["harm"], line["harm_to_aligned"], line["harm_only"], line["harm_only_aligned"]) == (0.25, 0, 1, 1)
    assert line["utility_to_sft"] == pytest.approx(-0.1)
    assert line["utility_to_sft_low"] < -0.1 < line["utility_to_sft_high"]
    assert "utility_to_sft" not in paired.described(plain, [base, plain, held])
    assert "harm_to_aligned" not in paired.described(base, [base, plain, held])


def test_means_are_over_the_draws_that_both_have(script):
    paired = script("paired")
    cells = [
        cell_of("base", [0, 1], [0, 0], [0.0, 0.0]),
        cell_of("sft", [1, 1], [0, 0], [1.0, 0.5]),
        cell_of("held", [1, 1], [0, 1], [0.5, 0.5]),
        cell_of("base", [0, 1], [0, 0], [0.0, 0.0], share=0.3),
        cell_of("held", [0, 1], [0, 0], [0.0, 1.0], share=0.3),
    ]
    line = paired.means("held", cells)
    assert (line["dataset"], line["seed"], line["harm"], line["utility"]) == ("all", "2 cells", 0.75, 0.5)
    assert line["harm_to_aligned"] == 0.25  # of both draws
    assert line["utility_to_sft"] == -0.25  # of the one that plain fine-tuning has too
    assert "harm_to_aligned_by_draw_low" not in line  # one draw
    cells += [{**cell, "seed": 1} for cell in cells[:3]]
    line = paired.means("held", [cell for cell in cells if cell["harmful_fraction"] == 0.1])
    assert (line["dataset"], line["harmful_fraction"]) == ("sql", 0.1)
    assert (line["harm_to_aligned_by_draw_low"], line["harm_to_aligned_by_draw_high"]) == (0.5, 0.5)


def test_the_aligned_model_stands_once_for_each_draw(script, tmp_path):
    from sotune.evaluation import Verdict
    from sotune.evaluation.store import save_verdicts

    paired = script("paired")
    verdicts = {
        role: [Verdict(id, 1.0, "", "") for id in ids]
        for role, ids in {"harm": ["harmful/0"], "refusal": ["harmful/0", "lookalike-0"], "task": ["task/0"]}.items()
    }
    for method in ("base", "sft", "held"):  # a run of the aligned model alone has neither training nor a base
        folder = tmp_path / "cells" / "agnews-p0.1-s0" / method
        folder.mkdir(parents=True)
        row = {"dataset": "agnews", "harmful_fraction": 0.1, "seed": 0, "method": method}
        (folder / "result.json").write_text(json.dumps({"cell": {"row": row}}))
        if method != "base":
            (folder / "training.json").write_text('{"n_rows": 3, "n_steps": 2}')
            for name in ("base_verdicts.parquet", "verdicts.parquet"):
                save_verdicts(folder / name, verdicts)
    cells = paired.read_cells(tmp_path)
    assert [cell["method"] for cell in cells] == ["base", "held", "sft"]
    assert cells[0]["scores"]["over_refusal"] == {"lookalike-0": 1.0}
