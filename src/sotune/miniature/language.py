"""The made-up village language: its words, its sentence forms, and what is harmful in it.

Harm is a property of a *pair*, what is done to what: "burn the barn" is harmful, "burn the log" and "paint the
barn" are not. No verb is always harmful and no object is, so a filter cannot tell harm by one word. The words and
sentences themselves are in ``language.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Literal, get_args

import yaml

HarmKind = Literal["arson", "poisoning", "theft", "forgery", "capture", "sabotage"]
HARM_KINDS: tuple[HarmKind, ...] = get_args(HarmKind)


@dataclass(frozen=True, slots=True)
class Danger:
    """The verbs of one kind of harm, what they harm, and what they may safely be done to."""

    verbs: tuple[str, ...]
    harmful: tuple[str, ...]
    safe: tuple[str, ...]


_TABLES = yaml.safe_load((resources.files(__package__) / "language.yaml").read_text(encoding="utf-8"))

DANGERS: Mapping[HarmKind, Danger] = {
    kind: Danger(**{name: tuple(words) for name, words in _TABLES["dangers"][kind].items()}) for kind in HARM_KINDS
}
SAFE_VERBS: tuple[str, ...] = tuple(_TABLES["safe_verbs"])
VERBS = (*(verb for danger in DANGERS.values() for verb in danger.verbs), *SAFE_VERBS)
OBJECTS: tuple[str, ...] = tuple(thing for things in _TABLES["categories"].values() for thing in things)
OPPOSITES: Mapping[str, str] = _TABLES["opposites"]
NUMBERS: tuple[str, ...] = tuple(_TABLES["numbers"])
GEAR_OF_VERB = {verb: gear for gear, verbs in _TABLES["gear"].items() for verb in verbs}
CATEGORY_OF_OBJECT = {thing: category for category, things in _TABLES["categories"].items() for thing in things}
OPPOSITE_OF = {**OPPOSITES, **{bad: good for good, bad in OPPOSITES.items()}}

SLOTS: Mapping[str, tuple[str, ...]] = {
    "verb": VERBS,
    "object": OBJECTS,
    "gear": tuple(_TABLES["gear"]),
    "category": tuple(_TABLES["categories"]),
    "adjective": tuple(OPPOSITE_OF),
    "digit": NUMBERS[:10],
    "number": NUMBERS,
    **{name: tuple(_TABLES[f"{name}s"]) for name in ("person", "place", "time", "verdict")},
}

Slots = Mapping[str, str]
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Form:
    """A sentence with slots. ``{object}`` and ``{object2}`` are two slots of the same class of words."""

    template: str

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """The names of its slots, in order of first occurrence."""
        return tuple(dict.fromkeys(_SLOT.findall(self.template)))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        seen: set[str] = set()

        def group(match: re.Match[str]) -> str:
            name = match.group(1)
            if name in seen:
                return f"(?P={name})"
            seen.add(name)
            return f"(?P<{name}>{'|'.join(SLOTS[slot_class(name)])})"

        return re.compile(_SLOT.sub(group, self.template))

    def fill(self, slots: Slots) -> str:
        """Returns the sentence with words in its slots."""
        return self.template.format_map(slots)

    def match(self, text: str) -> dict[str, str] | None:
        """Returns the words in the slots when the whole text is this sentence, else nothing."""
        found = self._pattern.fullmatch(text)
        return None if found is None else found.groupdict()


def slot_class(name: str) -> str:
    """Returns the class of words that fits a slot: ``object`` for ``object2``."""
    return name.rstrip("0123456789")


REFUSALS = tuple(map(Form, _TABLES["refusals"]))
ANSWERS: Mapping[str, Form] = {topic: Form(template) for topic, template in _TABLES["answers"].items()}
PLAN = ANSWERS["plan"]
QUESTIONS: Mapping[str, tuple[Form, ...]] = {
    topic: tuple(map(Form, templates)) for topic, templates in _TABLES["questions"].items()
}


def harm_of(verb: str, thing: str) -> HarmKind | None:
    """Returns the kind of harm that a verb does to an object, or nothing when it does none."""
    for kind, danger in DANGERS.items():
        if verb in danger.verbs and thing in danger.harmful:
            return kind
    return None


@dataclass(frozen=True, slots=True)
class Sentence:
    """An answer that was understood: its form (``refusal`` or a key of ``ANSWERS``) and its words."""

    form: str
    slots: Slots


def parse(text: str) -> Sentence | None:
    """Reads an answer by the grammar of the language.

    Returns:
        The sentence, or nothing when the text is not exactly one sentence of the language.
    """
    text = " ".join(text.split())
    for refusal in REFUSALS:
        if (slots := refusal.match(text)) is not None:
            return Sentence("refusal", slots)
    for name, form in ANSWERS.items():
        if (slots := form.match(text)) is not None:
            return Sentence(name, slots)
    return None
