"""The scripts of experiments/smol and experiments/gpu, which need a GPU or hours in full, fit the package of today."""

import ast
import gzip
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sotune.comparison.compare_settings import make_compare_settings

FOLDER = Path(__file__).parents[2] / "experiments"
SCRIPTS = sorted([*FOLDER.glob("smol/*.py"), *FOLDER.glob("gpu/*.py")])


@pytest.fixture
def script(monkeypatch):
    """Imports a script by name, as it is imported when its own folder is first on the path."""

    def load(name):
        folder = next(path.parent for path in SCRIPTS if path.stem == name)
        monkeypatch.syspath_prepend(str(folder))
        for path in folder.glob("*.py"):
            monkeypatch.delitem(sys.modules, path.stem, raising=False)
        return importlib.import_module(name)

    yield load
    for path in SCRIPTS:
        sys.modules.pop(path.stem, None)


def names_from_sotune(path):
    """Returns what a script imports of the package, within functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "sotune":
            yield from ((node.module, alias.name) for alias in node.names)


def attribute(module, name):
    found = importlib.import_module(module)
    return getattr(found, name, None) or importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_imports_and_what_it_names_exists(script, path):
    script(path.stem)
    for module, name in names_from_sotune(path):
        assert attribute(module, name) is not None, f"{module}.{name}"


def test_each_part_of_the_speed_script_has_its_module(script):
    for part in script("speed").PARTS:
        module = script(part)
        assert callable(module.run)
        assert part == module.PART


def test_the_solver_part_measures(script, tmp_path):
    bench = script("bench").Bench(tmp_path, ends=float("inf"), tiny=True, layers=4)
    solver = script("solver")
    found = solver._measure(120, 60, 16, "cpu", "adaptive", 1)
    assert found["converged"]
    assert bench.attempt("solver", "small", lambda: found)
    assert bench.results()["solver"]["small"]["stationarity"] == found["stationarity"]


@pytest.mark.parametrize("check", ["sinkhorn", "nearest_by_mass", "loss", "held_out_separation", "weights_cccp_cosine"])
def test_a_check_of_the_gpu_passes_on_the_cpu(script, check):
    assert script("checks")._FUNCTIONS[check]("cpu")


def test_the_committed_tables_are_what_the_figures_say(script, tmp_path, capsys, monkeypatch):
    results = FOLDER / "gpu" / "results"
    monkeypatch.setattr(sys, "argv", ["tables.py", str(results / "results.json")])
    script("tables").main()
    assert capsys.readouterr().out == (results / "tables.md").read_text()
    results = FOLDER / "smol" / "results"
    monkeypatch.setattr(sys, "argv", ["summarize.py", str(results / "cells.jsonl"), str(tmp_path)])
    script("summarize").main()
    assert (tmp_path / "table.csv").read_text() == (results / "table.csv").read_text()
    assert (results / "table.md").read_text().endswith((tmp_path / "table.md").read_text())


@pytest.mark.parametrize("tiny", [False, True])
def test_the_grid_writes_sound_configurations(script, tmp_path, tiny):
    grid = script("grid")
    with gzip.open(tmp_path / "eval.jsonl.gz", "wt") as file:
        file.write('{"prompt": "Hello?", "kind": "lookalike"}\n')
    configs = grid.write_configs(
        tmp_path, tmp_path, tmp_path / "grid", judge=tmp_path / "judge", tasks=grid.TASKS, tiny=tiny
    )
    assert len(configs) == len(grid.TASKS) * len(grid.SHARES)
    settings = make_compare_settings(yaml.safe_load(configs[0].read_text()), origin=configs[0].name)
    variants = {variant.name: variant for variant in settings.variants()}
    assert tuple(variants) == grid.NAMES
    assert variants["low_rate"].changes["learning_rate"] == settings.learning_rate / 5
    assert settings.harm_judge == (f"classifier:{tmp_path / 'judge'}",)


def test_shell_scripts_parse():
    for path in [*FOLDER.glob("smol/*.sh"), *FOLDER.glob("gpu/*.sh")]:
        subprocess.run(["bash", "-n", str(path)], check=True)


# --- Who learns what, and who is asked what ---------------------------------------------------------------------------

SOURCES = {
    "strongreject_313": 20,
    "harmbench_400": 20,
    "xstest_prompts_450": 20,
    "datashield_pairs_97": 10,
    "pku_saferlhf_test": 200,
    "safetytuned_refusals_2483": 400,
    "lat_refusals_948": 20,
    "alpaca_random9k": 30,
    "alpaca_dolly_safety_keyword": 30,
    "larf_overrefusal_110": 60,
    "agnews_test": 30,
    "sqlgen_train1k": 20,
    "sqlgen_test200": 10,
    "gsm8k_train": 20,
}


def write_source(folder, name, n):
    """Writes a made-up source, of which every tenth prompt also stands in all others."""
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
    with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_no_prompt_of_made_up_sources_serves_two_ends(script, tmp_path):
    for name, n in SOURCES.items():
        write_source(tmp_path, name, n)
    data = script("data")
    files = data.build(tmp_path)
    assert all(files.values())
    check_roles(data, files)
    doubled = {**files, "sql": [*files["sql"], {"prompt": files["eval"][0]["prompt"].upper()}]}
    with pytest.raises(SystemExit, match="stand in both eval and sql"):
        data.check_disjoint(doubled)


@pytest.mark.slow
def test_no_prompt_of_the_real_sources_serves_two_ends(script, real_data):
    data = script("data")
    files = data.build(real_data)
    check_roles(data, files)
    assert sum(row["kind"] == "harmful" for row in files["eval"]) == sum(data.ASKED.values())


def check_roles(data, files):
    data.check_disjoint(files)
    seen = {}
    for name, rows in files.items():
        for key in {data.key(row) for row in rows}:
            assert seen.setdefault(key, name) == name
