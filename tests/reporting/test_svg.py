import math
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from sotune.reporting.svg import WIDTH, Axis, Frame, element, round_values


@pytest.mark.parametrize("text", ["</text><script>", '"><x y="', "a & b", "\u202e", "{{7*7}}"])
def test_elements_escape_text_and_attributes(text):
    drawn = ElementTree.fromstring(element("text", text, data_id=text))
    assert list(drawn) == []
    assert set(drawn.attrib) == {"data-id"}


def test_elements_take_markup_numbers_and_missing_attributes():
    inner = element("title", "t")
    assert element("g", inner, x=1.25, y=3.0, rx=None, class_="c0") == Markup(
        '<g x="1.2" y="3" class="c0"><title>t</title></g>'
    )


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0, 1, 0.2), (0, 4.3, 1), (0.13, 0.19, 0.01), (-5, 5, 2), (0, 470, 100), (1e-9, 3e-9, 5e-10)],
)
def test_ticks_are_round_and_inside(low, high, step):
    values, found = round_values(low, high)
    assert math.isclose(found, step)
    assert 3 <= len(values) <= 8
    assert all(low - 1e-9 * abs(high) <= value <= high + 1e-9 * abs(high) for value in values)


@pytest.mark.parametrize("values", [[], [0.0], [1.0, 1.0], [1e-12], [-3.0, -3.0], [1e9, 1e9]])
def test_axes_around_constants_have_length(values):
    axis = Axis.around("x", values)
    assert axis.low < axis.high
    assert axis.ticks()
    assert all(axis.low <= value <= axis.high for value in values)
    assert 0 <= axis.fraction(values[0] if values else 0.0) <= 1


def test_log_axes_span_whole_decades():
    axis = Axis.decades("x", [3e-7, 0.2])
    assert (axis.low, axis.high) == (pytest.approx(1e-7), 1.0)
    assert [label for _, label in axis.ticks()] == ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "1"]
    assert axis.fraction(math.sqrt(1e-7)) == pytest.approx(0.5)
    assert axis.fraction(0.0) == 0.0
    assert Axis.decades("x", [1.0]).high == 10.0


def test_percent_ticks():
    assert [label for _, label in Axis("x", 0.0, 1.0, percent=True).ticks()][:2] == ["0\u202f%", "20\u202f%"]


def test_frames_map_corners_to_corners():
    frame = Frame(Axis("x", 0.0, 2.0), Axis("y", 0.0, 1.0))
    assert (frame.at_x(0.0), frame.at_x(2.0)) == (frame.left, frame.right)
    assert (frame.at_y(0.0), frame.at_y(1.0)) == (frame.bottom, frame.top)
    assert frame.at_x(99.0) == frame.right


def test_long_legends_wrap():
    axis = Axis("x", 0.0, 1.0)
    short = Frame(axis, axis, legend=[("a", "c0"), ("b", "c1")])
    long = Frame(axis, axis, legend=[("a" * 40, "c0"), ("b" * 40, "c1")])
    assert long.top > short.top
    assert short.right < WIDTH
