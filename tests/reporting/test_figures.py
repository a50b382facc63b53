import re
from xml.etree import ElementTree

import numpy as np
import pytest

from sotune.reporting.figures import (
    Estimate,
    Group,
    Interval,
    Mark,
    Series,
    bar_chart,
    cloud_chart,
    estimate_chart,
    finite,
    histogram,
    line_chart,
)

SVG = "{http://www.w3.org/2000/svg}"
SAMPLES = {
    "spread": np.linspace(0.2, 3.0, 500),
    "one": np.array([1.0]),
    "constant": np.full(40, 1.0),
    "zeros": np.zeros(3),
    "nearly constant": 1.0 + 1e-12 * np.arange(30),
    "one outlier": np.concatenate([np.linspace(0.9, 1.1, 5000), [1e6]]),
    "huge": np.array([1e300, -1e300]),
}


def parse(figure):
    """Parses a figure, and checks what holds for each: it is described, finite, and inside its box."""
    assert "nan" not in figure
    assert "inf" not in figure
    root = ElementTree.fromstring(figure)
    assert root.attrib["role"] == "img"
    assert root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    for rect in root.iter(f"{SVG}rect"):
        assert float(rect.attrib["x"]) >= -1
        assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width + 1
        assert float(rect.attrib["y"]) >= -1
        assert float(rect.attrib["y"]) + float(rect.attrib["height"]) <= height + 1
    return root


def bars(root):
    return [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]


@pytest.mark.parametrize("layout", ["stacked", "shares"])
@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
def test_histograms_of_any_sample(sample, layout):
    half = len(sample) // 2
    groups = [Group("a", sample[:half], 0), Group("b", sample[half:], 1)]
    mark = Mark(float(np.median(sample)), "median")
    parse(histogram(groups, title="t", x_label="x", y_label="y", layout=layout, mark=mark))


def test_stacked_bars_count_every_value_and_split_at_the_mark():
    values = np.random.default_rng(0).lognormal(size=1000)
    cut = float(np.quantile(values, 0.2))
    groups = [Group("dropped", values[values < cut], 1), Group("kept", values[values >= cut], 0)]
    root = parse(histogram(groups, title="t", x_label="x", y_label="y", layout="stacked", mark=Mark(cut, "cut")))
    counts = {"dropped": 0, "kept": 0}
    lefts = {"dropped": set(), "kept": set()}
    for bar in bars(root):
        number, group = re.search(r": ([\d,]+) rows? (\w+)$", bar.find(f"{SVG}title").text).groups()
        counts[group] += int(number.replace(",", ""))
        lefts[group].add(bar.attrib["x"])
    assert counts == {"dropped": 200, "kept": 800}
    assert not lefts["dropped"] & lefts["kept"]


def test_line_charts_put_zero_on_the_floor_and_name_tolerances():
    curve = Series("error", np.arange(4.0), np.array([1.0, 1e-3, 1e-6, 0.0]), 0)
    root = parse(line_chart([curve], title="t", x_label="step", y_label="y", marks=[Mark(1e-4, "tolerance")]))
    assert "tolerance" in [text.text for text in root.iter(f"{SVG}text")]
    assert len(re.findall(r"[ML]", root.find(f"{SVG}path").attrib["d"])) == 4


@pytest.mark.parametrize("values", [[], [0.5], [0.0], [1e-3, 1e-3]])
def test_line_charts_of_degenerate_curves(values):
    array = np.array(values)
    parse(line_chart([Series("c", np.arange(len(array)) * 1.0, array, 0)], title="t", x_label="x", y_label="y"))


@pytest.mark.parametrize("n", [0, 1, 2000])
def test_clouds_draw_each_point(n):
    generator = np.random.default_rng(0)
    cloud = Series("kept", generator.random(n), generator.random(n), 0)
    figure = cloud_chart([cloud, Series("dropped", np.ones(1), np.ones(1), 1)], title="t", x_label="x", y_label="y")
    parse(figure)
    assert figure.count("h0") == n + 1
    assert "square" in figure


def test_estimate_labels_do_not_collide():
    points = [Estimate(f"method {index}", Interval(0.97, 0.9, 1.0), Interval(1.0, 0.9, 1.0), 0) for index in range(6)]
    root = parse(estimate_chart(points, title="t", x_label="x", y_label="y"))
    places = [(t.attrib["x"], t.attrib["y"]) for t in point_names(root)]
    assert len(set(places)) == 6


def test_of_many_points_at_one_place_only_some_are_named_but_all_of_the_front():
    same = Interval(0.5, 0.5, 0.5)
    points = [Estimate(f"method {n}", same, same, 0) for n in range(40)]
    root = parse(estimate_chart(points, title="t", x_label="x", y_label="y", front=["method 39"]))
    named = [text.text for text in point_names(root)]
    assert 3 < len(named) < 40
    assert "method 39" in named
    assert len([tip for tip in root.iter() if (tip.text or "").startswith("method 7: x")]) == 1


def point_names(root):
    return [text for text in root.iter(f"{SVG}text") if "name" in text.attrib["class"]]


def test_estimates_of_one_point_without_spread():
    parse(estimate_chart([Estimate("m", Interval(0, 0, 0), Interval(1, 1, 1), 0)], title="t", x_label="x", y_label="y"))


def test_bars_show_missing_values_as_a_dash():
    groups = [("kept", [0.5, None]), ("lost", [1.0, 0.0])]
    root = parse(bar_chart(["a" * 500, "b"], groups, title="t", x_label="x"))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "—" in texts
    assert "50\u202f%" in texts
    assert max(map(len, texts)) < 40


def test_hostile_labels_stay_text(hostile):
    for text in hostile:
        point = Estimate(text, Interval(0.5, 0.4, 0.6), Interval(0.5, 0.4, 0.6), 0)
        for figure in (
            estimate_chart([point], title=text, x_label="x", y_label="y"),
            bar_chart([text], [("group", [0.5])], title="t", x_label="x"),
        ):
            tags = {node.tag.removeprefix(SVG) for node in parse(figure).iter()}
            assert tags <= {"svg", "title", "desc", "text", "line", "rect", "path", "circle"}


def test_finite_leaves_out_what_cannot_be_drawn():
    assert finite([1.0, None, float("nan"), float("inf"), 2]).tolist() == [1.0, 2.0]
