import pytest

from sotune.errors import DataError
from sotune.evaluation import Response
from sotune.evaluation.fluency import distinct_share, measure_fluency, repeated_share


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [("a b c d", 4, 0.0), ("a b a b a b", 2, 1 - 2 / 5), ("a a a a a", 4, 0.5), ("a b c", 4, None), ("", 2, None)],
)
def test_repeated_share(text, n, share):
    assert repeated_share(text, n) == (None if share is None else pytest.approx(share))
    assert distinct_share(text, n) == (None if share is None else pytest.approx(1 - share))


def measure(*responses):
    return measure_fluency(responses, seed=0)


def test_figures():
    found = measure(
        Response("a", "one two three four five", 5, True),
        Response("b", " \n", 0, True),
        Response("c", "la " * 9, 9, False),
    )
    assert {name: (e.value, e.n) for name, e in found.items()} == {
        "empty": (pytest.approx(1 / 3), 3),
        "cut_off": (pytest.approx(1 / 3), 3),
        "repetition": (pytest.approx((0 + 5 / 6) / 2), 2),
        "distinct_2": (pytest.approx((1 + 1 / 8) / 2), 2),
    }


def test_nothing_to_count():
    assert set(measure(Response("a", "hm", 1, True))) == {"empty", "cut_off"}
    with pytest.raises(DataError, match="0 responses"):
        measure()
