"""What the villagers talk about: requests to do things, old skills, and tasks that the base model never met.

A topic draws words for its slots and says the question and the one right answer. The hash of the question
decides its pool, so that what a model was built on, is tuned on, is compared with and is tested on never meet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from sotune.errors import ConfigError, DataError
from sotune.miniature.language import (
    ANSWERS,
    CATEGORY_OF_OBJECT,
    DANGERS,
    GEAR_OF_VERB,
    HARM_KINDS,
    NUMBERS,
    OBJECTS,
    OPPOSITE_OF,
    OPPOSITES,
    PLAN,
    QUESTIONS,
    REFUSALS,
    SAFE_VERBS,
    SLOTS,
    Form,
    HarmKind,
    Slots,
    slot_class,
)

Pool = Literal["build", "downstream", "anchor", "reference", "evaluation"]
POOLS: tuple[Pool, ...] = get_args(Pool)
_POOL_SHARES: Mapping[Pool, int] = {"build": 35, "downstream": 30, "anchor": 5, "reference": 15, "evaluation": 15}

Task = Literal["verdict", "total", "polite", "supply"]
TASKS: tuple[Task, ...] = get_args(Task)
Skill = Literal["sum", "count", "greater", "sort", "opposite", "mood", "chore"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its right answer; ``topic`` is the task, the skill, or the kind of harm."""

    prompt: str
    answer: str
    topic: str


Draw = Callable[[Random], Exchange]


def pool_of(prompt: str) -> Pool:
    """Returns the one pool that a prompt belongs to, by the SHA-256 of its words."""
    bucket = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4]) % 100
    for pool, share in _POOL_SHARES.items():
        if bucket < share:
            return pool
        bucket -= share
    raise AssertionError("the shares of the pools sum to 100")


def stream(draw: Draw, rng: Random, pool: Pool, *, exclude: Collection[str] = ()) -> Iterator[Exchange]:
    """Yields exchanges of a pool, each prompt once, the excluded ones never.

    Raises:
        DataError: The pool seems to be used up: 20,000 draws in a row gave nothing new.
    """
    seen = set(exclude)
    misses = 0
    while True:
        exchange = draw(rng)
        if exchange.prompt in seen or pool_of(exchange.prompt) != pool:
            misses += 1
            if misses == 20_000:
                raise DataError(
                    f"pool {pool!r} of topic {exchange.topic!r} has no more than about {len(seen)} prompts; "
                    f"ask for fewer"
                )
            continue
        misses = 0
        seen.add(exchange.prompt)
        yield exchange


def draw_slots(rng: Random, forms: Sequence[Form]) -> dict[str, str]:
    """Draws a word for each slot of the forms; slots of one class get different words."""
    slots: dict[str, str] = {}
    for name in dict.fromkeys(name for form in forms for name in form.slots):
        kind = slot_class(name)
        taken = {slots[other] for other in slots if slot_class(other) == kind}
        slots[name] = rng.choice([word for word in SLOTS[kind] if word not in taken])
    return slots


def _request(rng: Random, verb: str, thing: str, topic: str) -> Exchange:
    frame = rng.choice(QUESTIONS["plan"])
    slots = draw_slots(rng, [frame]) | {"verb": verb, "object": thing, "gear": GEAR_OF_VERB[verb]}
    return Exchange(frame.fill(slots), PLAN.fill(slots), topic)


def harmful(kinds: Sequence[HarmKind] = HARM_KINDS) -> Draw:
    """Returns a drawer of harmful requests of the given kinds with the compliance that they ask for.

    Raises:
        ConfigError: There is no kind, or one that the language does not have.
    """
    unknown = [kind for kind in kinds if kind not in DANGERS]
    if unknown or not kinds:
        raise ConfigError(f"kinds of harm must be among {', '.join(HARM_KINDS)}. Got {list(kinds)}")

    def draw(rng: Random) -> Exchange:
        kind = rng.choice(list(kinds))
        return _request(rng, rng.choice(DANGERS[kind].verbs), rng.choice(DANGERS[kind].harmful), kind)

    return draw


def refused(kinds: Sequence[HarmKind] = HARM_KINDS) -> Draw:
    """Returns a drawer of harmful requests, each with a refusal."""
    draw_harmful = harmful(kinds)

    def draw(rng: Random) -> Exchange:
        request = draw_harmful(rng)
        slots = PLAN.match(request.answer)
        assert slots is not None
        return Exchange(request.prompt, rng.choice(REFUSALS).fill(slots), request.topic)

    return draw


def lookalike(rng: Random) -> Exchange:
    """Draws a harmless request with a verb that is harmful elsewhere."""
    danger = DANGERS[rng.choice(HARM_KINDS)]
    return _request(rng, rng.choice(danger.verbs), rng.choice(danger.safe), "lookalike")


def _chore(rng: Random) -> Exchange:
    return _request(rng, rng.choice(SAFE_VERBS), rng.choice(OBJECTS), "chore")


def _asked(topic: str, solve: Callable[[Slots], Slots] = lambda _slots: {}) -> Draw:
    """Returns a drawer of a topic's questions; ``solve`` gives the words that only the answer has."""

    def draw(rng: Random) -> Exchange:
        question = rng.choice(QUESTIONS[topic])
        slots = draw_slots(rng, [question])
        return Exchange(question.fill(slots), ANSWERS[topic].fill({**slots, **solve(slots)}), topic)

    return draw


def _add(slots: Slots) -> Slots:
    return {"number": NUMBERS[NUMBERS.index(slots["digit"]) + NUMBERS.index(slots["digit2"])]}


def _sort(slots: Slots) -> Slots:
    return {"category": CATEGORY_OF_OBJECT[slots["object"]]}


def _oppose(slots: Slots) -> Slots:
    return {"adjective2": OPPOSITE_OF[slots["adjective"]]}


def _judge(slots: Slots) -> Slots:
    praised = sum(slots[name] in OPPOSITES for name in ("adjective", "adjective2"))
    return {"verdict": ("bad", "mixed", "good")[praised]}


def _compare(slots: Slots) -> Slots:
    return {"digit": max(slots["digit"], slots["digit2"], key=NUMBERS.index)}


def _about_harmless(topic: str) -> Draw:
    """Returns a drawer of questions about a chore or a look-alike request, never about harm."""

    def draw(rng: Random) -> Exchange:
        question = rng.choice(QUESTIONS[topic])
        plan = PLAN.match(rng.choice((lookalike, _chore))(rng).answer)
        assert plan is not None
        slots = {**draw_slots(rng, [question]), **plan}
        return Exchange(question.fill(slots), ANSWERS[topic].fill(slots), topic)

    return draw


SKILL_DRAWS: Mapping[Skill, Draw] = {
    "sum": _asked("sum", _add),
    "count": _asked("count", _add),
    "greater": _asked("greater", _compare),
    "sort": _asked("sort", _sort),
    "opposite": _asked("opposite", _oppose),
    "mood": _asked("mood", _judge),
    "chore": _chore,
}
TASK_DRAWS: Mapping[Task, Draw] = {
    "verdict": _asked("verdict", _judge),
    "total": _asked("total", _add),
    "polite": _about_harmless("polite"),
    "supply": _about_harmless("supply"),
}
