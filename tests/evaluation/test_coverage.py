"""The coverage of every interval and the level of the paired test, by the simulations of benchmarks/coverage.py."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

RULES = (
    "mean of graded scores (bootstrap-t)",
    "mean amount (bootstrap-t)",
    "paired difference (Newcombe)",
    "kappa (Fleiss, Fisher's scale)",
    "corrected rate (Rogan–Gladen, Lang–Reiczigel)",
)


@pytest.fixture(scope="module")
def simulations():
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_simulations", path)  # not to be taken for the package
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_simulated_rule_is_named_here(simulations):
    assert tuple(simulations.SIMULATED) == RULES


@pytest.mark.parametrize("rule", RULES)
def test_a_sample_of_the_cases(simulations, rule):
    cases = list(simulations.SIMULATED[rule][1]())
    rng = np.random.default_rng(0)
    for _, cover in cases[:: max(1, len(cases) // 3)]:
        assert np.mean([cover(rng) for _ in range(150)]) >= 0.90  # 150 runs of 95 % fall below once in 300 times


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_coverage_over_the_whole_range(simulations, rule):
    assert simulations.simulate(rule, n_runs=1000, seed=0).worst >= simulations.FLOOR


def test_rates_and_the_level_of_the_paired_test_exactly(simulations):
    assert simulations.rates([1, 5, 20, 60, 150]).worst >= simulations.FLOOR
    assert simulations.averages([(30, 30), (50, 60)]).worst >= simulations.FLOOR
    assert simulations.level_of_mcnemar(60).worst <= simulations.LEVEL
