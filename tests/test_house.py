"""The rules of the house: what CONTRIBUTING.md promises about the shape of the code."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "src" / "sotune").rglob("*.py"))
LONGEST_FUNCTION = 60
HEAVY = ("accelerate", "datasets", "numpy", "peft", "pyarrow", "pydantic", "scipy", "sklearn", "torch", "transformers")


def functions(module):
    nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def contract():
    """Returns import-linter's layers from the lowest to the highest, each the set of its packages."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = [one for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    return [{name.strip().removeprefix("sotune.") for name in layer.split("|")} for layer in reversed(layers["layers"])]


def layer_table():
    """Returns the layers that CONTRIBUTING.md shows: number, and the set of its packages."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    return [(int(number), set(re.findall(r"`(\w+)`", cell))) for number, cell in rows]


def test_no_two_modules_have_one_name():
    counts = Counter(module.stem for module in MODULES if module.stem not in ("__init__", "__main__"))
    assert {name for name, count in counts.items() if count > 1} == set()


def test_no_function_is_longer_than_a_screen():
    lengths = {
        f"{module.relative_to(ROOT)}:{node.name}": node.end_lineno - node.lineno + 1
        for module in MODULES
        for node in functions(module)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("statement", ["import sotune", "import sotune; dir(sotune); repr(sotune)"])
def test_the_import_loads_nothing_heavy(statement):
    code = f"{statement}; import sys; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


def test_settings_load_no_torch():
    code = "import sotune.settings, sys; print(*{'torch', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


def test_the_layers_that_are_shown_are_those_that_are_checked():
    shown, checked = layer_table(), contract()
    assert [number for number, _ in shown] == list(range(1, len(checked) + 1))
    assert [packages for _, packages in shown] == checked


def test_every_module_stands_in_a_layer():
    known = set.union(*contract())
    tops = {module.relative_to(ROOT / "src" / "sotune").parts[0].removesuffix(".py") for module in MODULES}
    assert tops - {"__init__", "__main__"} == known


def test_the_help_of_the_command_line_loads_nothing_heavy():
    code = "import sys, sotune.cli; print(*{'torch', 'transformers', 'numpy', 'pyarrow', 'scipy'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("modules", ["sotune.pipeline.verbs", "sotune.pipeline.handing_on", "sotune.methods"])
def test_weighing_and_reading_a_run_load_nothing_of_training(modules):
    training = {"transformers", "peft", "accelerate", "datasets", "sklearn"}
    code = f"import sys, {modules}; print(*sorted({training!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("module", ["sotune.pipeline.explaining", "sotune.pipeline.reports", "sotune.cli.verification"])
def test_explaining_and_reporting_load_no_torch(module):
    code = f"import sys, {module}; print(*sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == []


def test_the_lock_and_the_constraints_pin_the_same_versions():
    lines = {
        name: [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        for name in ("constraints.txt", "requirements.lock")
    }
    pinned = {re.sub(r"[-_.]+", "-", line).lower() for line in lines["constraints.txt"]}
    locked = [re.fullmatch(r"(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines["requirements.lock"]]
    assert all(locked)
    found = {re.sub(r"[-_.]+", "-", one[1]).lower() for one in locked}
    assert {pin for pin in pinned if not pin.startswith("torch==")} == found
