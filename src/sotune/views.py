"""What else can be read of a row than its beginning: parts of all that is learned, and its text undisguised.

An encoder reads the start of an answer, and one vector stands for all of it. What is trained on is longer, so harm
behind a page of harmless text, in an earlier turn, or between two such pages leaves no trace in that vector. A row is
therefore also read as rows of its own, its views, and the worst of them counts. A long row has parts, a short one
stretches of a sentence or a few; a first look can say which of them are worth reading.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sotune.records import Message, Record

_MOST_DISGUISED = 0.1  # share of changed words above which a text is disguised: names and units stay below
_LEAST_DISGUISED = 5  # words
_SLACK = 1.25  # a text that is longer than a window by less is no two windows

_DIGITS = str.maketrans("013457@$!|", "oieastasil")
_LOOK_ALIKES = str.maketrans(
    # Cyrillic, then Greek letters that are drawn like Latin ones.
    "аеорсухікмнтвАВЕКМНОРСТХІЅјѕԁԛԝһαορνικτεηγχυΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxikmhtbABEKMHOPCTXISjsdqwhaopviktenyxuABEZHIKMNOPTYX",
)
_SPACED = re.compile(r"(?<!\S)[^\W\d_](?: [^\W\d_])+(?!\S)")
_WORD = re.compile(r"[\w@$!|]+")
_LONGEST_WORD = 40
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")
_SHORTEST_STRETCH = 80  # characters


@dataclass(frozen=True)
class View:
    """A part of a row, as a row that is read for itself.

    Attributes:
        record: The part, with the row's id.
        place: Where it is, in words.
        stretch: Whether it is a sentence or a few, which stands for a row beside another look, not for itself.
    """

    record: Record
    place: str
    stretch: bool = False


@dataclass(frozen=True)
class Views:
    """What is read of a row besides the whole.

    Attributes:
        views: The parts; none where one look takes in all of the row.
        complete: Whether all that is learned and worth reading lies in a part, or in what is read of the whole.
    """

    views: tuple[View, ...]
    complete: bool


def views_of(record: Record, *, window: int, most: int, worth: Sequence[int] | None = None) -> Views:
    """Returns the parts of a row.

    Args:
        record: The row.
        window: Characters of what is learned that one look takes in.
        most: How many parts a row may have; of more, as many are taken at even distances.
        worth: Which of its pieces are worth reading (`pieces_of`); ``None``: nobody looked, and all parts are, but no
            stretches.
    """
    pieces = pieces_of(record, window=window)
    picked = [pieces[number] for number in worth] if worth is not None else [one for one in pieces if not one.stretch]
    shown = picked[:: math.ceil(len(picked) / most)] if len(picked) > most else picked
    parts, stretches = ([one for one in shown if one.stretch == kind] for kind in (False, True))
    read = parts or [View(record, "whole")]
    undisguised = [View(plain, f"{view.place}, undisguised") for view in read if (plain := _undisguised(view.record))]
    return Views((*parts, *undisguised, *stretches), complete=len(shown) == len(picked))


def pieces_of(record: Record, *, window: int) -> list[View]:
    """Returns the parts of a row that is longer than one look takes in, or the stretches of another.

    A piece stands for itself: it is read as an answer to its own text, since what was asked at the row's beginning says
    little of what its answer turns to.

    Args:
        record: The row.
        window: Characters of what is learned that one look takes in; of more, each part shows half as many.
    """
    if is_long(record, window=window):
        # Half of what one look takes in, so that little else stands beside what a part shows.
        return _pieces(record, lambda text: split_evenly(text, window // 2), "part")
    found = _pieces(record, split_sentences, "stretch")
    return [replace(view, stretch=True) for view in found] if len(found) > 1 else []


def is_long(record: Record, *, window: int) -> bool:
    """Tells whether what is learned of a row is longer than one look takes in."""
    return sum(len(record.messages[place].text) for place in record.learned) > _SLACK * window


def _pieces(record: Record, split: Callable[[str], list[str]], called: str) -> list[View]:
    """Returns what the learned turns of a row are split into."""
    turns = [(place, split(text)) for place in record.learned if (text := record.messages[place].text)]
    return [
        View(_standing_alone(record, text), f"turn {place + 1}, {called} {number} of {len(texts)}")
        for place, texts in turns
        for number, text in enumerate(texts, 1)
    ]


def split_evenly(text: str, size: int) -> list[str]:
    """Splits a text at white space into parts of like length, none much longer than a size.

    >>> split_evenly("one two three four five six", 10)
    ['one two', 'three four', 'five six']
    >>> split_evenly("one two", 10)
    ['one two']
    """
    if len(text) <= _SLACK * size:
        return [text]
    n = math.ceil(len(text) / max(1, size))
    ends = [_gap_before(text, round(len(text) * i / n)) for i in range(1, n)]
    borders = [0, *ends, len(text)]
    parts = (text[start:end].strip() for start, end in zip(borders, borders[1:], strict=False))
    return [part for part in parts if part]


def split_sentences(text: str) -> list[str]:
    """Splits a text after sentences and lines into stretches of at least 80 characters.

    >>> split_sentences("A first sentence. " + "Another one that goes on and on, " * 3 + "to its end. Last.")[0][:33]
    'A first sentence. Another one tha'
    """
    stretches: list[str] = [""]
    for sentence in _SENTENCE_END.split(text.strip()):
        if len(stretches[-1]) >= _SHORTEST_STRETCH:
            stretches.append(sentence)
        else:
            stretches[-1] = f"{stretches[-1]} {sentence}".strip()
    if len(stretches) > 1 and len(stretches[-1]) < _SHORTEST_STRETCH:
        stretches[-2:] = [" ".join(stretches[-2:])]
    return stretches


def plain_text(text: str) -> str:
    """Returns a text without what hides words: invisible characters, spaces, look-alikes and digits for letters.

    >>> plain_text("h0w t0 m4k3 p4nc4k3s f0r 12 people")
    'how to make pancakes for 12 people'
    """
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", text)
        text = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    joined = _SPACED.sub(lambda found: found[0].replace(" ", ""), text)
    return _WORD.sub(lambda found: _plain_word(found[0]), joined)


def _plain_word(word: str) -> str:
    latin = word.translate(_LOOK_ALIKES)
    if latin != word and latin.isascii():
        return latin
    return word.translate(_DIGITS) if any(c.isalpha() for c in word) else word


def _undisguised(record: Record) -> Record | None:
    """Returns the row in plain words; nothing where few words change."""
    text = "\n".join(message.content for message in record.messages)
    words, plain = text.split(), plain_text(text).split()
    changed = sum(one != other for one, other in zip(words, plain, strict=False))
    if changed < max(_LEAST_DISGUISED, _MOST_DISGUISED * len(words)):
        return None
    return replace(record, messages=tuple(replace(m, content=plain_text(m.content)) for m in record.messages))


def _standing_alone(record: Record, text: str) -> Record:
    return replace(record, messages=(Message("user", text), Message("assistant", text)), tools="")


def _gap_before(text: str, place: int) -> int:
    """Returns the last white space before a place, or the place itself within a long word."""
    gap = max(text.rfind(character, place - _LONGEST_WORD, place + 1) for character in " \n\t")
    return gap if gap > 0 else place
