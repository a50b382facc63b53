"""From values to the words of a report: numbers for people, and text from data made harmless to look at.

HTML escaping is not done here but at the last moment, by the template engine and by ``svg.element``. What is
done here is what escaping leaves alone: characters that reorder or hide text, and texts of any length.
"""

from __future__ import annotations

import re

MISSING = "—"
_THIN = "\u202f"  # narrow no-break space, between a number and its unit

# Control characters, bidirectional marks and overrides, soft hyphens, zero-width characters and tags, and surrogates,
# which UTF-8 cannot encode. Line breaks and tabs stay: they are layout, and `identifier` makes them visible.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def visible(text: str) -> str:
    r"""Returns the text with each invisible or reordering character spelled out, as in ``\u202e``."""
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def shorten(text: object, length: int = 300) -> str:
    """Returns at most ``length`` characters of the text, its end replaced by an ellipsis where it is longer."""
    if text is None:
        return MISSING
    string = str(text)
    return visible(string if len(string) <= length else string[: length - 1] + "…")


def identifier(text: object, length: int = 44) -> str:
    """Returns an id, a file name or a setting on one line, its middle left out where it is long.

    Both ends stay, since ids tend to differ at the end and paths to be told apart by it.
    """
    if text is None:
        return MISSING
    string = str(text)
    if len(string) > length:
        tail = (length - 1) // 2
        string = f"{string[: length - 1 - tail]}…{string[-tail:]}"
    return visible(string.replace("\n", "\\n").replace("\t", "\\t"))


def count(value: object) -> str:
    """Returns a whole number with thousands separators."""
    return f"{value:,}" if isinstance(value, int) else number(value)


def number(value: object, digits: int = 3) -> str:
    """Returns a number to so many significant digits; other values as text, ``None`` as a dash."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return identifier(value)
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}"


def aligned(value: float | None) -> str:
    """Returns a number to three significant digits, zeros included, so that a column of them lines up."""
    if value is None or (value != 0 and not 1e-3 <= abs(value) < 1e3):
        return number(value)
    return f"{value:#.3g}".removesuffix(".")


def percent(value: float | None) -> str:
    """Returns a share as a percentage: one decimal below 10 % and above 90 %, none between or where it is 0."""
    if value is None:
        return MISSING
    hundredths = round(100 * value, 1)
    whole = hundredths == round(hundredths) or 10 <= hundredths <= 90
    return f"{hundredths:.0f}{_THIN}%" if whole else f"{hundredths:.1f}{_THIN}%"


def aligned_percent(value: float | None) -> str:
    """Returns a share as a percentage with one decimal, so that a column of them lines up."""
    return MISSING if value is None else f"{100 * value:.1f}{_THIN}%"


def duration(seconds: float | None) -> str:
    """Returns a time span in the unit that suits its size."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.2g}{_THIN}s" if seconds < 10 else f"{seconds:.0f}{_THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_THIN}min {rest:02d}{_THIN}s"
    return f"{minutes // 60}{_THIN}h {minutes % 60:02d}{_THIN}min"


def size(n_bytes: float | None) -> str:
    """Returns an amount of memory in MB or GB, powers of ten."""
    if n_bytes is None:
        return MISSING
    if n_bytes < 1e9:
        return f"{n_bytes / 1e6:.0f}{_THIN}MB"
    return f"{n_bytes / 1e9:.1f}{_THIN}GB"


def power_of_ten(exponent: int) -> str:
    """Returns a tick label such as 10⁻³; 1 and 10 as they are."""
    return {0: "1", 1: "10"}.get(exponent, "10" + str(exponent).translate(_SUPERSCRIPT))
