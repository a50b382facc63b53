"""The scripts of experiments/smol and experiments/gpu, which need a GPU or hours in full, fit the package of today."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sotune.comparison.compare_settings import make_compare_settings

FOLDER = Path(__file__).parents[2] / "experiments"
SCRIPTS = sorted([*FOLDER.glob("smol/*.py"), *FOLDER.glob("gpu/*.py")])


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
def test_the_grid_writes_sound_configurations(script, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path))
    grid = script("grid")
    (tmp_path / "smol" / "rows").mkdir(parents=True)
    (tmp_path / "smol" / "rows" / "eval.jsonl").write_text('{"prompt": "Hello?", "kind": "lookalike"}\n')
    configs = grid.write_configs(tmp_path / "grid", judge=tmp_path / "judge", tasks=grid.TASKS, tiny=tiny)
    assert len(configs) == (1 if tiny else len(grid.TASKS) * len(grid.TABLE["harmful_fractions"]))
    settings = make_compare_settings(yaml.safe_load(configs[0].read_text()), origin=configs[0].name)
    variants = {variant.name: variant for variant in settings.variants()}
    assert tuple(variants) == grid.NAMES[: 6 if tiny else None]
    assert variants["low_rate"].changes["learning_rate"] == pytest.approx(settings.learning_rate / 5)
    assert settings.harm_judge == (f"classifier:{tmp_path / 'judge'}",)


@pytest.mark.parametrize("name", ["hold", "hold_each"])
def test_the_tables_of_holds_are_sound(script, tmp_path, name, monkeypatch):
    monkeypatch.setenv("SOTUNE_CACHE", str(tmp_path))
    table = yaml.safe_load((FOLDER / "smol" / f"{name}.yaml").read_text())
    configs = script("grid").write_configs(tmp_path, table=table, judge=None, tasks=["agnews"], tiny=False)
    assert len(configs) == len(table["harmful_fractions"])
    settings = make_compare_settings(yaml.safe_load(configs[0].read_text()), origin=name)
    assert len(settings.variants()) == len(table["methods"])
    assert len(settings.seeds) == table["seeds"]


def test_harm_by_kind_is_read_off_the_ids(script):
    kind_of = script("score").kind_of
    assert kind_of("harmful-strongreject_313-00208-Non_violent_crimes") == "Non violent crimes"
    assert kind_of("harmful-harmbench_400-00002-standard") == "HarmBench"
    assert kind_of("lookalike-xstest_prompts_450-00112") is kind_of("harmful/1") is None


def test_shell_scripts_parse():
    for path in [*FOLDER.glob("smol/*.sh"), *FOLDER.glob("gpu/*.sh")]:
        subprocess.run(["bash", "-n", str(path)], check=True)
