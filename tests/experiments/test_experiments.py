import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sotune.comparison.compare_settings import make_compare_settings
from sotune.sources.hub import source_names

FOLDER = Path(__file__).parents[2] / "experiments"


def load_render():
    spec = importlib.util.spec_from_file_location("render", FOLDER / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def render(tmp_path):
    module = load_render()
    module.TABLES = tmp_path / "results"
    return module


COMPARISONS = [path for path in sorted(FOLDER.rglob("*.yaml")) if "methods" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_each_configuration_is_sound(path):
    content = yaml.safe_load(path.read_text())
    settings = make_compare_settings(content, origin=path.name)
    assert len({variant.name for variant in settings.variants()}) == len(content["methods"])
    for data in settings.datasets:
        if path.parent.name == "real":
            used = {data.task, data.harmful, data.reference, data.safety_pairs} - {None}
            assert used <= set(source_names())


def test_the_page_is_filled_from_the_tables(render, tmp_path):
    rows = {
        "dataset": ["d"] * 6,
        "harmful_fraction": [0.1] * 6,
        "method": ["sot keep_fraction=0.5", "sot keep_fraction=0.9", "base"] * 2,
        "seed": [0, 0, 0, 1, 1, 1],
        "avg": [0.9, 0.8, 0.4, 0.7, 0.8, 0.4],
        "weight_auroc": [0.97, 0.97, None, 0.99, 0.97, None],
    }
    pq.write_table(pa.table(rows), tmp_path / "compare.parquet")
    render.write_summary(tmp_path / "compare.parquet", render.TABLES / "x.csv")
    first = (render.TABLES / "x.csv").read_text().splitlines()[1]
    assert first == "d,0.1,sot keep_fraction=0.5,2,0.8,0,1,0.98"
    assert "| keep_fraction = 0.5 | .980 |" in render.fill("{{curve x weight_auroc}}")
    assert "| keep_fraction = 0.5 | .800 |  |" in render.fill("{{curve x avg}}")
    assert "| base | .400 | .400 |" in render.fill("{{methods x avg}}")
    assert render.fill("{{order x base gone}}") == "No figures for gone."
    assert render.fill("{{curve missing avg}}") == render.NOT_RUN


def test_what_avg_does_not_see_stands_beside_it(render):
    rates = {"harmful_rate": "0.1", "over_refusal": "0.25", "avg": "0.95"}
    rows = [render.with_both({**rates, "dataset": "d", "method": "a", "harmful_fraction": "0.1"})]
    head = "| method | d | mean Avg | mean over-refusal | mean harm + over-refusal |"
    assert render.methods_by_data(rows, ["avg"]).splitlines()[::2] == [head, "| a | .950 | .950 | .250 | .350 |"]
    assert "| harm + over-refusal | a |" in render.curve(rows, [render.BOTH])
    assert render.with_both({"harmful_rate": "0.1"}) == {"harmful_rate": "0.1"}


def test_whether_the_order_is_the_papers(render):
    rows = [
        {"method": method, "avg": avg, "dataset": "d"} for method, avg in (("a", "0.9"), ("b", "0.5"), ("c", "0.7"))
    ]
    said = render.order(rows, ["a", "b", "c"])
    assert said == "a .900 against b .500: as in the paper; b .500 against c .700: **not as in the paper**."
    assert render.order([*rows, {"method": "d", "avg": "0.7004", "dataset": "d"}], ["c", "d"]).endswith(": level.")
    assert render.best(rows, ["c"]) == "- d: c .700, behind a (.900)"


def test_the_committed_page_is_what_the_tables_say():
    module = load_render()
    assert module.PAGE.read_text(encoding="utf-8") == module.fill(module.TEMPLATE.read_text(encoding="utf-8"))
