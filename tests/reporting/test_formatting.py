import pytest

from sotune.reporting import formatting


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "—"),
        (True, "yes"),
        (5000, "5,000"),
        (0.1, "0.1"),
        (0.0, "0"),
        (0.12345, "0.123"),
        (1.0e-5, "1e-5"),
        (1.234e-5, "1.23e-5"),
        (-2.5e7, "-2.5e7"),
        (float("nan"), "nan"),
        ("text", "text"),
    ],
)
def test_number(value, expected):
    assert formatting.number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "—"), (0.0, "0"), (0.02, "2"), (0.004, "0.4"), (0.934, "93.4"), (0.5, "50"), (0.512, "51"), (1.0, "100")],
)
def test_percent(value, expected):
    assert formatting.percent(value).removesuffix("\u202f%") == expected


@pytest.mark.parametrize(("value", "expected"), [(0.84, "0.840"), (4.1, "4.10"), (123.4, "123"), (None, "—")])
def test_aligned_numbers_keep_their_zeros(value, expected):
    assert formatting.aligned(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "—"), (0.42, "0.42 s"), (12.4, "12 s"), (68.2, "1 min 08 s"), (3725, "1 h 02 min")],
)
def test_duration(seconds, expected):
    assert formatting.duration(seconds).replace("\u202f", " ") == expected


def test_size():
    assert [formatting.size(n).replace("\u202f", " ") for n in (None, 5e6, 2.25e9)] == ["—", "5 MB", "2.2 GB"]


def test_identifiers_keep_both_ends_and_one_line():
    shown = formatting.identifier("a" * 9_000 + "\n" + "b" * 1_000)
    assert len(shown) == 44
    assert shown.startswith("aaa")
    assert shown.endswith("bbb")
    assert formatting.identifier("two\nlines") == "two\\nlines"


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\ud800", "\ufeff"])
def test_characters_that_hide_or_reorder_are_spelled_out(character):
    assert formatting.visible(f"a{character}b") == f"a\\u{ord(character):04x}b"
    assert character not in formatting.shorten(f"a{character}b")


def test_shorten_marks_what_it_cut():
    assert formatting.shorten("x" * 50, 10) == "x" * 9 + "…"
    assert formatting.shorten(None) == "—"
