"""The examples in docstrings and in the README run, and say what comes out."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

PACKAGES = ["sotune.transport", "sotune.weights", "sotune.sentinels"]
"""Whose examples run, and whose exported functions all have one."""


def modules():
    for package in PACKAGES:
        yield package
        yield from (
            found.name for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
        )


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


@pytest.mark.parametrize("name", PACKAGES)
def test_each_exported_function_has_an_example(name):
    package = importlib.import_module(name)
    functions = [getattr(package, exported) for exported in package.__all__]
    without = [f.__name__ for f in functions if inspect.isfunction(f) and ">>>" not in (f.__doc__ or "")]
    assert without == []


def test_the_example_on_tensors_in_the_readme_runs():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "learn_weights(" in code]
    assert len([line for line in example.splitlines() if line.strip()]) <= 6
    names = {}
    exec(example, names)
    assert float(names["learned"].weights.sum()) == pytest.approx(1)
