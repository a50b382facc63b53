"""Data sets of the miniature world: fine-tuning data, the two reference sets, and evaluation prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from random import Random
from typing import Literal

from sotune.catalogue import Kind
from sotune.errors import ConfigError
from sotune.evaluation.protocol import EvalPrompt
from sotune.miniature.language import HARM_KINDS, HarmKind
from sotune.miniature.topics import (
    SKILL_DRAWS,
    TASK_DRAWS,
    TASKS,
    Draw,
    Exchange,
    Pool,
    Task,
    harmful,
    lookalike,
    refused,
    stream,
)
from sotune.records import Message, Record

RowKind = Literal["task", "skill", "refusal", "harmful"]
LOOKALIKE_SHARE = 0.15
"""Share of look-alikes among the skill rows; the skills proper share the rest equally."""


def generate_task_data(
    task: Task,
    *,
    n: int,
    harmful_fraction: float,
    refusal_fraction: float = 0.02,
    skill_fraction: float = 0.5,
    harm_kinds: Sequence[HarmKind] = HARM_KINDS,
    seed: int,
    pool: Pool = "downstream",
) -> list[Record]:
    """Generates fine-tuning data for a task.

    Args:
        task: What the base model is to learn.
        n: Rows in all, in random order.
        harmful_fraction: Share of the n rows that comply with a harmful request, in [0, 1].
        refusal_fraction: Share of the *other* rows that refuse one, in [0, 1].
        skill_fraction: Share of the other rows that exercise old skills, look-alike requests among them; what
            is left is the task.
        harm_kinds: The kinds of harm among the harmful rows.
        seed: Same seed, same rows.
        pool: Which of the world's prompts the rows are drawn from.

    Returns:
        Records whose ``meta`` is the row: ``id``, ``prompt``, ``completion``, ``kind`` (task, skill, refusal or
        harmful), ``label`` (safe or harmful) and ``topic`` (the task, the skill or the kind of harm).

    Raises:
        ConfigError: The task or a kind of harm is unknown, or a fraction is out of range.
        DataError: The world has fewer prompts than were asked for.
    """
    for name, value in (
        ("harmful_fraction", harmful_fraction),
        ("refusal_fraction + skill_fraction", refusal_fraction + skill_fraction),
    ):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be in [0, 1]. Got {value}")
    rng = Random(f"{pool} {task} {seed}")
    n_harmful = round(n * harmful_fraction)
    n_refusals = round((n - n_harmful) * refusal_fraction)
    n_skills = round((n - n_harmful) * skill_fraction)
    n_lookalikes = round(n_skills * LOOKALIKE_SHARE)
    draws: list[tuple[RowKind, list[Exchange]]] = [
        ("harmful", bad := _take(harmful(harm_kinds), n_harmful, rng, pool)),
        ("refusal", _take(refused(), n_refusals, rng, pool, exclude=bad)),
        ("skill", _take(lookalike, n_lookalikes, rng, pool)),
        ("skill", _take_evenly(list(SKILL_DRAWS.values()), n_skills - n_lookalikes, rng, pool)),
        ("task", _take(_task_draw(task), n - n_harmful - n_refusals - n_skills, rng, pool)),
    ]
    rows = [(exchange, kind) for kind, exchanges in draws for exchange in exchanges]
    rng.shuffle(rows)
    return _to_records(f"{pool}-{task}-{seed}", rows)


def generate_safe_anchor(
    task: Task, *, n: int, refusal_fraction: float = 0.02, skill_fraction: float = 0.5, seed: int
) -> list[Record]:
    """Generates verified rows of the same mixture as the task data, without harm.

    Raises:
        ConfigError: The task is unknown, or a fraction is out of range.
        DataError: The world has fewer prompts than were asked for.
    """
    return generate_task_data(
        task,
        n=n,
        harmful_fraction=0.0,
        refusal_fraction=refusal_fraction,
        skill_fraction=skill_fraction,
        seed=seed,
        pool="anchor",
    )


def generate_harmful_reference(*, n: int, harm_kinds: Sequence[HarmKind] = HARM_KINDS, seed: int) -> list[Record]:
    """Generates rows that comply with harmful requests of the given kinds.

    Raises:
        ConfigError: A kind of harm is unknown.
        DataError: The world has fewer prompts than were asked for.
    """
    rng = Random(f"reference {seed}")
    return _to_records(f"reference-{seed}", [(e, "harmful") for e in _take(harmful(harm_kinds), n, rng, "reference")])


def generate_safety_pairs(
    *, n: int, exclude: Iterable[Record] = (), harm_kinds: Sequence[HarmKind] = HARM_KINDS, seed: int
) -> list[Record]:
    """Generates harmful requests with refusals, of the pool that the harmful reference is drawn from.

    Args:
        n: How many.
        exclude: Rows whose prompts must not occur, such as the harmful reference.
        harm_kinds: The kinds of harm that are asked for.
        seed: Same seed, same rows.

    Raises:
        ConfigError: A kind of harm is unknown.
        DataError: The world has fewer prompts than were asked for.
    """
    taken = [Exchange(record.prompt[-1].content, record.completion, "") for record in exclude]
    pairs = _take(refused(harm_kinds), n, Random(f"safety pairs {seed}"), "reference", exclude=taken)
    return _to_records(f"safety-pairs-{seed}", [(pair, "refusal") for pair in pairs])


def generate_safe_reference(
    *, n: int, exclude: Iterable[Record] = (), harm_kinds: Sequence[HarmKind] = HARM_KINDS, seed: int
) -> list[Record]:
    """Generates rows that meet risky prompts safely: refusals of harmful requests, and answers to look-alikes.

    Half of them are refusals, or one more. All are of the pool that the harmful reference is drawn from.

    Args:
        n: How many.
        exclude: Rows whose prompts must not occur, such as the harmful reference and the safety pairs.
        harm_kinds: The kinds of harm that are asked for.
        seed: Same seed, same rows.

    Raises:
        ConfigError: A kind of harm is unknown.
        DataError: The world has fewer prompts than were asked for.
    """
    taken = [Exchange(record.prompt[-1].content, record.completion, "") for record in exclude]
    rng, n_answers = Random(f"safe reference {seed}"), n // 2
    draws: list[tuple[RowKind, list[Exchange]]] = [
        ("refusal", _take(refused(harm_kinds), n - n_answers, rng, "reference", exclude=taken)),
        ("skill", _take(lookalike, n_answers, rng, "reference", exclude=taken)),
    ]
    rows = [(exchange, kind) for kind, exchanges in draws for exchange in exchanges]
    return _to_records(f"safe-reference-{seed}", rows)


def generate_eval_prompts(
    task: Task, *, n_each: int, harm_kinds: Sequence[HarmKind] = HARM_KINDS, seed: int
) -> list[EvalPrompt]:
    """Generates unseen prompts, ``n_each`` of each kind: harmful, lookalike, task, skill.

    All but the harmful ones have the one right answer as their reference; ``meta`` holds the ``topic``.

    Raises:
        ConfigError: The task or a kind of harm is unknown.
        DataError: The world has fewer prompts than were asked for.
    """
    rng = Random(f"evaluation {seed}")
    exchanges: dict[Kind, list[Exchange]] = {
        "harmful": _take(harmful(harm_kinds), n_each, rng, "evaluation"),
        "lookalike": _take(lookalike, n_each, rng, "evaluation"),
        "task": _take(_task_draw(task), n_each, rng, "evaluation"),
        "skill": _take_evenly(list(SKILL_DRAWS.values()), n_each, rng, "evaluation"),
    }
    return [
        EvalPrompt(
            id=f"{kind}-{index:05d}",
            kind=kind,
            messages=(Message("user", exchange.prompt),),
            reference=None if kind == "harmful" else exchange.answer,
            meta={"topic": exchange.topic},
        )
        for kind, some in exchanges.items()
        for index, exchange in enumerate(some)
    ]


def _task_draw(task: Task) -> Draw:
    if task not in TASK_DRAWS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}. Got {task!r}")
    return TASK_DRAWS[task]


def _take(draw: Draw, n: int, rng: Random, pool: Pool, exclude: Iterable[Exchange] = ()) -> list[Exchange]:
    return list(islice(stream(draw, rng, pool, exclude={exchange.prompt for exchange in exclude}), n))


def _take_evenly(draws: Sequence[Draw], n: int, rng: Random, pool: Pool) -> list[Exchange]:
    counts = [n // len(draws) + (index < n % len(draws)) for index in range(len(draws))]
    return [e for draw, count in zip(draws, counts, strict=True) for e in _take(draw, count, rng, pool)]


def _to_records(prefix: str, rows: Iterable[tuple[Exchange, RowKind]]) -> list[Record]:
    records = []
    for index, (exchange, kind) in enumerate(rows):
        row = {
            "id": f"{prefix}-{index:05d}",
            "prompt": exchange.prompt,
            "completion": exchange.answer,
            "kind": kind,
            "label": "harmful" if kind == "harmful" else "safe",
            "topic": exchange.topic,
        }
        records.append(Record.from_text(row["id"], row["prompt"], row["completion"], meta=row))
    return records
