"""What else can be read of a row than its beginning: parts of all that is learned, and its text undisguised.

An encoder reads the start of an answer, and one vector stands for all of it. What is trained on is longer, so harm
behind a page of harmless text, in an earlier turn, or between two such pages leaves no trace in that vector. A row is
therefore also read as rows of its own, its views, and the worst of them counts: all its parts, or those around its
*spot*, the stretch of a sentence or a few that looked the most suspicious before anything was read.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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
_WORD = re.compile(r"[\w@$!|]+")
_LONGEST_WORD = 40
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")
_SHORTEST_STRETCH = 80  # characters


class Stretch(NamedTuple):
    """A sentence or a few of a learned turn."""

    turn: int
    text: str


class Spot(NamedTuple):
    """Where a row is read closely: a stretch, by its number among the row's, and the first and last of those around."""

    first: int
    worst: int
    last: int


NOWHERE = Spot(-1, -1, -1)
"""Of a row of which no stretch is worth reading."""


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
        complete: Whether all that is learned lies in a part, or in what is read of the whole.
    """

    views: tuple[View, ...]
    complete: bool


def views_of(record: Record, *, window: int, most: int, spot: Spot | None = None) -> Views:
    """Returns the parts of a row.

    A part stands for itself: it is read as an answer to its own text, since what was asked at the row's beginning says
    little of what its answer turns to.

    Args:
        record: The row.
        window: Characters of what is learned that one look takes in; of more, each part shows half as many.
        most: How many windows a row may have; of more, as many are taken at even distances.
        spot: Where the row is read closely, after a look at all that is learned; ``None``: there was no such look, and
            a long row is read in all its parts.
    """
    long = is_long(record, window=window)
    # Half of what one look takes in, so that little else stands beside what a part shows.
    pieces = _parts(record, window // 2) if long and spot is None else []
    shown = pieces[:: math.ceil(len(pieces) / most)] if len(pieces) > most else pieces
    around, stretch = _closely(record, window, spot) if spot not in (None, NOWHERE) else ([], [])
    parts = [*shown, *around] if long else []
    read = parts or [View(record, "whole")]
    undisguised = [View(plain, f"{view.place}, undisguised") for view in read if (plain := _undisguised(view.record))]
    return Views((*parts, *undisguised, *stretch), complete=len(shown) == len(pieces))


def is_long(record: Record, *, window: int) -> bool:
    """Tells whether what is learned of a row is longer than one look takes in."""
    return sum(len(record.messages[place].text) for place in record.learned) > _SLACK * window


def _parts(record: Record, size: int) -> list[View]:
    """Returns the parts of each learned turn."""
    turns = [(place, split_evenly(text, size)) for place in record.learned if (text := record.messages[place].text)]
    return [
        View(_standing_alone(record, text), f"turn {place + 1}, part {number} of {len(texts)}")
        for place, texts in turns
        for number, text in enumerate(texts, 1)
    ]


def _closely(record: Record, window: int, spot: Spot) -> tuple[list[View], list[View]]:
    """Returns what is around a spot, and its stretch."""
    stretches = stretches_of(record, window=window)
    worst = stretches[spot.worst]
    number = sum(stretch.turn == worst.turn for stretch in stretches[: spot.worst]) + 1
    place = f"turn {worst.turn + 1}, {{}} stretch {number}"
    around = " ".join(stretch.text for stretch in stretches[spot.first : spot.last + 1])
    return (
        [View(_standing_alone(record, around), place.format("around"))],
        [View(_standing_alone(record, worst.text), place.format("in"), stretch=True)],
    )


def stretches_of(record: Record, *, window: int) -> list[Stretch]:
    """Returns the stretches of a sentence or a few that the learned turns of a row consist of.

    Args:
        record: The row.
        window: Characters that one look takes in; none is much longer than half as many.

    >>> row = Record.from_text("r", "How?", "Mix it. " * 20)
    >>> [(stretch.turn, len(stretch.text)) for stretch in stretches_of(row, window=640)]
    [(1, 87), (1, 71)]
    """
    return [
        Stretch(place, text)
        for place in record.learned
        for sentences in split_sentences(record.messages[place].text)
        for text in split_evenly(sentences, window // 2)
        if text
    ]


def spot_around(stretches: Sequence[Stretch], suspicion: Sequence[float], *, size: int) -> Spot:
    """Returns the most suspicious stretch, with the more suspicious of its neighbors as far as a size goes.

    Args:
        stretches: Those of a row, at least one.
        suspicion: Of each, how suspicious it looks.
        size: Characters.

    >>> spot_around([Stretch(1, "a" * 100)] * 4, [0.1, 0.3, 0.9, 0.2], size=200)
    Spot(first=1, worst=2, last=2)
    """
    worst = first = last = max(range(len(stretches)), key=suspicion.__getitem__)
    room = size - len(stretches[worst].text)
    while True:
        beside = [
            place
            for place in (first - 1, last + 1)
            if 0 <= place < len(stretches)
            and stretches[place].turn == stretches[worst].turn
            and len(stretches[place].text) <= room
        ]
        if not beside:
            return Spot(first, worst, last)
        taken = max(beside, key=suspicion.__getitem__)
        room -= len(stretches[taken].text)
        first, last = min(first, taken), max(last, taken)


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
    """Returns a text without what hides words: invisible characters, look-alikes of letters, digits for letters.

    >>> plain_text("h0w t0 m4k3 p4nc4k3s f0r 12 people")
    'how to make pancakes for 12 people'
    """
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", text)
        text = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    return _WORD.sub(lambda found: _plain_word(found[0]), text)


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
