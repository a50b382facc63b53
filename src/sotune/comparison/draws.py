"""The draws of a comparison: from its data sets, harmful shares and seeds to rows, references and prompts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from sotune.comparison.compare_settings import CompareSettings, FileData, MiniatureData
from sotune.comparison.draw import Draw
from sotune.comparison.variant import References, Variant
from sotune.errors import ConfigError, DataError
from sotune.evaluation import EvalPrompt
from sotune.evaluation.prompts import load_prompts
from sotune.mixing import LABELS, MixSizes, SourceName, deal, prompt_key
from sotune.records import Record
from sotune.sources import LoadedSet, SourceOptions, load_set

GENERAL = "general"
Rows = Mapping[SourceName, Mapping[str, Sequence[Record]]]


class Draws:
    """Makes the draws of a comparison; sources are read once.

    Args:
        settings: The comparison.
    """

    def __init__(self, settings: CompareSettings) -> None:
        self._settings = settings
        self._data = {data.name: data for data in settings.datasets}
        self._loaded: dict[tuple[Any, ...], LoadedSet] = {}
        variants = settings.variants()
        self._n_anchor = max([settings.n_anchor, *(v.references.n_anchor or 0 for v in variants)])
        self._n_reference = max([settings.n_reference, *(v.references.n_reference or 0 for v in variants)])

    def names(self) -> dict[str, tuple[str, float, int]]:
        """Returns the name of each draw, with its data set, harmful share and seed."""
        units = itertools.product(self._data, self._settings.harmful_fractions, self._settings.seeds)
        return {Draw.name_of(*unit): unit for unit in units}

    def make(self, name: str) -> Draw:
        """Makes one draw.

        Raises:
            ConfigError: The shares of harmful rows and refusals exceed the whole.
            DataError: A source cannot be read or has too few prompts.
        """
        dataset, harmful_fraction, seed = self.names()[name]
        data = self._data[dataset]
        if isinstance(data, MiniatureData):
            return self._miniature(data, harmful_fraction, seed)
        return self._files(data, harmful_fraction, seed)

    def all(self) -> Iterator[Draw]:
        """Makes all draws, one after the other."""
        return (self.make(name) for name in self.names())

    def redraw(self, draw: Draw, variant: Variant) -> Draw:
        """Returns a draw with the references of a variant; downstream rows and prompts stay.

        Raises:
            ConfigError: The data set has no such references.
            DataError: Their source cannot be read or has too few prompts.
        """
        data, wanted = self._data[draw.dataset], variant.references
        if isinstance(data, FileData):
            return self._other_sources(draw, data, wanted)
        n_anchor = wanted.n_anchor or self._settings.n_anchor
        n_reference = wanted.n_reference or self._settings.n_reference
        if wanted.anchor is not None or wanted.n_anchor is not None:
            draw = replace(draw, safe_anchor=_miniature_anchor(data, wanted.anchor, n=n_anchor, seed=draw.seed))
        if wanted.reference is not None or wanted.n_reference is not None:
            kinds = data.reference_kinds if wanted.reference is None else wanted.reference
            reference = _miniature_reference(kinds, n=n_reference, seed=draw.seed)
            pairs = _miniature_pairs(reference, seed=draw.seed)
            draw = replace(draw, harmful_reference=reference, safety_pairs=pairs)
        return draw

    def _miniature(self, data: MiniatureData, harmful_fraction: float, seed: int) -> Draw:
        from sotune.miniature import generate_eval_prompts, generate_task_data

        task, settings = data.miniature, self._settings
        reference = _miniature_reference(data.reference_kinds, n=settings.n_reference, seed=seed)
        downstream = generate_task_data(
            task, n=settings.n, harmful_fraction=harmful_fraction, harm_kinds=data.contamination_kinds, seed=seed
        )
        return Draw(
            dataset=data.name,
            harmful_fraction=harmful_fraction,
            seed=seed,
            downstream=downstream,
            safe_anchor=_miniature_anchor(data, None, n=settings.n_anchor, seed=seed),
            harmful_reference=reference,
            safety_pairs=_miniature_pairs(reference, seed=seed),
            prompts=generate_eval_prompts(task, n_each=settings.n_eval, harm_kinds=data.evaluation_kinds, seed=seed),
            kind={record.id: str(record.meta["kind"]) for record in downstream},
        )

    def _files(self, data: FileData, harmful_fraction: float, seed: int) -> Draw:
        settings = self._settings
        rows = self._dealt(data, harmful_fraction, seed)
        train = [
            (replace(record, id=f"{source}/{record.id}"), LABELS[source])
            for source, roles in rows.items()
            for record in roles.get("train", ())
        ]
        random.Random(f"{seed}/train").shuffle(train)
        own = load_prompts(Path(data.eval_prompts)) if data.eval_prompts else []
        draw = Draw(
            dataset=data.name,
            harmful_fraction=harmful_fraction,
            seed=seed,
            downstream=[record for record, _ in train],
            safe_anchor=rows["task"]["safe_anchor"][: settings.n_anchor],
            harmful_reference=rows[_held(rows)]["harmful_reference"][: settings.n_reference],
            prompts=[
                *(_prompt(record, "harmful") for record in rows["harmful"]["evaluation"]),
                *(_prompt(record, "task") for record in rows["task"]["evaluation"]),
                *own,
            ],
            kind={record.id: label for record, label in train},
        )
        return replace(draw, safety_pairs=self._safety_pairs(data, draw))

    def _safety_pairs(self, data: FileData, draw: Draw) -> list[Record]:
        """Returns at most as many pairs as the reference has rows, with prompts of their own."""
        if data.safety_pairs is None:
            return []
        taken: list[Record | EvalPrompt] = [*draw.prompts, *draw.downstream, *draw.safe_anchor, *draw.harmful_reference]
        free = _untaken(self._load(data.safety_pairs, data), taken)
        return random.Random(f"{draw.seed}/pairs").sample(free, min(len(free), self._settings.n_reference))

    def _dealt(self, data: FileData, harmful_fraction: float, seed: int) -> Rows:
        # References are dealt at the largest size that any variant asks for, and cut: all others' rows stay the same.
        sizes = MixSizes.from_fractions(
            self._settings.n,
            harmful_fraction=harmful_fraction,
            refusal_fraction=data.refusal_fraction if data.refusals else 0.0,
            n_anchor=self._n_anchor,
            n_reference=self._n_reference,
            n_eval=self._settings.n_eval,
        )
        return deal(self._sources(data), sizes, seed=seed).rows

    def _sources(self, data: FileData) -> dict[SourceName, LoadedSet]:
        asked: dict[SourceName, str | None] = {
            "task": data.task,
            "harmful": data.harmful,
            "refusal": data.refusals,
            "reference": data.reference,
        }
        setting = {"refusal": "refusals"}
        return {
            name: self._load(
                source,
                data,
                row_format=getattr(data, f"{setting.get(name, name)}_format"),
                where=getattr(data, f"{setting.get(name, name)}_where"),
            )
            for name, source in asked.items()
            if source is not None
        }

    def _load(self, source: str, data: FileData, *, row_format: Any = "auto", where: tuple[str, ...] = ()) -> LoadedSet:
        key = (source, row_format, where, data.id_column)
        if key not in self._loaded:
            self._loaded[key] = load_set(
                source,
                set_name="downstream",
                options=SourceOptions(format=row_format, where=where, id_column=data.id_column),
                max_quarantine_fraction=data.max_quarantine_fraction,
            )
        return self._loaded[key]

    def _other_sources(self, draw: Draw, data: FileData, wanted: References) -> Draw:
        if wanted == References():
            return draw
        rows = self._dealt(data, draw.harmful_fraction, draw.seed)
        anchor, reference = draw.safe_anchor, draw.harmful_reference
        n_anchor = wanted.n_anchor or self._settings.n_anchor
        n_reference = wanted.n_reference or self._settings.n_reference
        if not isinstance(wanted.reference, str | None):
            raise ConfigError(f"{data.name}: kinds of harm are the miniature's; name a source as the reference")
        asked: list[Record | EvalPrompt] = [*draw.prompts, *draw.downstream]
        if wanted.reference is not None:
            reference = _sample(self._load(wanted.reference, data), n_reference, [*asked, *anchor], seed=draw.seed)
        elif wanted.n_reference is not None:
            reference = rows[_held(rows)]["harmful_reference"][:n_reference]
        if wanted.anchor is not None:
            anchor = _sample(self._load(wanted.anchor, data), n_anchor, [*asked, *reference], seed=draw.seed)
        elif wanted.n_anchor is not None:
            anchor = rows["task"]["safe_anchor"][:n_anchor]
        draw = replace(draw, safe_anchor=anchor, harmful_reference=reference)
        return replace(draw, safety_pairs=self._safety_pairs(data, draw))


def _miniature_pairs(reference: Sequence[Record], *, seed: int) -> list[Record]:
    """Returns as many harmful requests with refusals as the reference has rows, with prompts of their own."""
    from sotune.miniature import generate_safety_pairs

    return generate_safety_pairs(n=len(reference), exclude=reference, seed=seed)


def _miniature_anchor(data: MiniatureData, anchor: str | None, *, n: int, seed: int) -> list[Record]:
    from sotune.miniature import generate_safe_anchor

    if anchor not in (None, GENERAL):
        raise ConfigError(f"{data.name}: the miniature's anchor is of the task, or {GENERAL!r}. Got {anchor!r}")
    if anchor is None:
        return generate_safe_anchor(data.miniature, n=n, seed=seed)
    # Old skills, look-alikes and refusals, and no row of the task.
    return generate_safe_anchor(data.miniature, n=n, refusal_fraction=0.02, skill_fraction=0.98, seed=seed)


def _miniature_reference(kinds: str | Sequence[str], *, n: int, seed: int) -> list[Record]:
    from sotune.miniature import HarmKind, generate_harmful_reference

    if isinstance(kinds, str):
        raise ConfigError(f"the miniature's reference is a list of kinds of harm. Got {kinds!r}")
    return generate_harmful_reference(n=n, harm_kinds=cast("Sequence[HarmKind]", kinds), seed=seed)


def _held(rows: Rows) -> SourceName:
    return "reference" if "reference" in rows else "harmful"


def _untaken(loaded: LoadedSet, taken: Iterable[Record | EvalPrompt]) -> list[Record]:
    """Returns the rows whose prompts nothing else has, by id."""
    keys = {prompt_key(row.prompt if isinstance(row, Record) else row.messages) for row in taken}
    return sorted((r for r in loaded.records if prompt_key(r.prompt) not in keys), key=lambda record: record.id)


def _sample(loaded: LoadedSet, n: int, taken: Iterable[Record | EvalPrompt], *, seed: int) -> list[Record]:
    """Draws rows whose prompts nothing else has."""
    free = _untaken(loaded, taken)
    if len(free) < n:
        raise DataError(
            f"{loaded.files[0].name} has {len(free)} rows whose prompts occur nowhere else, but {n} were asked for; "
            f"name a larger source or ask for fewer"
        )
    return random.Random(f"{seed}/other").sample(free, n)


def _prompt(record: Record, kind: Literal["harmful", "task"]) -> EvalPrompt:
    return EvalPrompt(f"{kind}/{record.id}", kind, record.prompt, record.completion if kind == "task" else None)
