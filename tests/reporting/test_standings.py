import pytest

from report_pages import described
from sotune.artifacts import write_json
from sotune.errors import ArtifactError
from sotune.reporting import write_comparison_tables
from sotune.reporting.standings import compute_standings

HARM = {"base": 0.0, "sft": 0.9, "random": 0.8, "probe": 0.1, "adaptive": 0.05, "oracle": 0.0}
UTILITY = {"base": 0.0, "sft": 0.95, "random": 0.9, "probe": 0.9, "adaptive": 0.92, "oracle": 0.99}


def make_runs(datasets=("a", "b"), seeds=(0, 1, 2), methods=tuple(HARM)):
    rows = []
    for place, data in enumerate(datasets):
        for seed in seeds:
            for method in methods:
                harm = min(1.0, HARM[method] + 0.01 * seed + 0.02 * place)
                utility = UTILITY[method] - 0.01 * seed
                rows.append(
                    {"method": method, **described(method), "dataset": data, "harmful_fraction": 0.1, "seed": seed,
                     "harmful_rate": harm,
                     "utility": utility, "avg": (utility + 1 - harm) / 2, "seconds": 2.0, "peak_bytes": 5e8}
                )  # fmt: skip
    return rows


def by_method(standings):
    return {method.method: method for method in standings.methods}


def test_overall_comes_first_and_each_condition_after_it():
    overall, first, second = compute_standings(make_runs())
    assert (overall.name, overall.n_seeds, len(overall.conditions)) == ("overall", 3, 2)
    assert [each.name for each in (first, second)] == [f"{name}, 10\u202f% harmful rows" for name in "ab"]
    assert len(compute_standings(make_runs(datasets=("a",)))) == 1


def test_who_competes_and_against_whom():
    standings = compute_standings(make_runs())[0]
    methods = by_method(standings)
    assert standings.best_rival == "probe"
    assert [methods[m].rank for m in ("adaptive", "probe", "random", "sft")] == [1.0, 2.0, 3.0, 4.0]
    assert methods["base"].rank is methods["oracle"].rank is methods["oracle"].difference is None
    assert methods["probe"].difference is None
    assert methods["adaptive"].difference.difference == pytest.approx(0.035)
    assert methods["adaptive"].p_value < 0.01
    assert methods["sft"].difference.high < 0
    assert {m for m, each in methods.items() if each.on_front} == {"adaptive", "sft"}


def test_intervals_are_students_over_seeds_of_means_over_conditions():
    found = by_method(compute_standings(make_runs())[0])["probe"].metrics["harmful_rate"]
    assert found.mean == pytest.approx(0.12)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
    assert by_method(compute_standings(make_runs())[0])["base"].metrics["utility"].low == 0.0  # clipped


def test_one_seed_tests_no_difference():
    standings = compute_standings(make_runs(seeds=(0,)))
    rows = [by_method(each)["adaptive"] for each in standings]
    assert all(row.difference.difference > 0 and row.p_value is None for row in rows)


def test_one_seed_falls_back_on_the_intervals_of_the_runs():
    runs = [{**run, "avg_low": run["avg"] - 0.1, "avg_high": run["avg"] + 0.2} for run in make_runs(seeds=(0,))]
    found = by_method(compute_standings(runs)[0])["sft"].metrics["avg"]
    assert (found.low, found.high) == (pytest.approx(found.mean - 0.1), pytest.approx(found.mean + 0.2))


def test_a_method_that_lacks_a_draw_is_not_tested_against_the_rival():
    runs = [run for run in make_runs(datasets=("a",)) if (run["method"], run["seed"]) != ("adaptive", 2)]
    assert by_method(compute_standings(runs)[0])["adaptive"].difference is None


def test_the_tables_hold_all_methods_and_escape_names(tmp_path):
    other = {"method": "my_50% | x", "title": ""}
    runs = [{**run, **other} if run["method"] == "random" else run for run in make_runs()]
    write_json(tmp_path / "compare.json", runs)
    markdown, latex = (path.read_text() for path in write_comparison_tables(tmp_path))
    assert markdown.count("| sotune *") == 3
    assert "my 50% \\| x" in markdown
    assert r"my 50\%{} | x" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 3
    assert all(line.count(" & ") == 13 for line in latex.splitlines() if line.startswith("sotune"))
    assert "harm + over-refusal ↓" in markdown
    assert "Student" in markdown
    assert "paired bootstrap over (task, seed)" in markdown


def test_no_runs_are_an_error(tmp_path):
    write_json(tmp_path / "compare.json", [])
    with pytest.raises(ArtifactError, match="must hold a list of runs"):
        write_comparison_tables(tmp_path)
