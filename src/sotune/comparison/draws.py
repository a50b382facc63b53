"""The draws of a comparison: from its data sets, harmful shares and seeds to rows, references and prompts."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from sotune.comparison.compare_settings import CompareSettings, FileData, MiniatureData
from sotune.comparison.draw import Draw, DrawName
from sotune.comparison.variant import References, Variant
from sotune.errors import ConfigError, DataError
from sotune.evaluation import EvalPrompt
from sotune.evaluation.prompts import load_prompts
from sotune.miniature import (
    HarmKind,
    generate_eval_prompts,
    generate_harmful_reference,
    generate_safe_anchor,
    generate_safe_reference,
    generate_safety_pairs,
    generate_task_data,
)
from sotune.mixing import LABELS, MixSizes, SourceName, deal, prompt_key
from sotune.records import Record
from sotune.settings import Format
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
        self._read = functools.cache(load_set)
        variants = settings.variants()
        self._n_anchor = max([settings.n_anchor, *(v.references.n_anchor or 0 for v in variants)])
        self._n_reference = max([settings.n_reference, *(v.references.n_reference or 0 for v in variants)])

    def names(self) -> dict[str, DrawName]:
        """Returns what each draw is, by the name of its folder."""
        units = itertools.product(self._data, self._settings.harmful_fractions, self._settings.seeds)
        return {unit.name: unit for unit in (DrawName(*each) for each in units)}

    def make(self, name: str) -> Draw:
        """Makes one draw.

        Raises:
            ConfigError: The shares of harmful rows and refusals exceed the whole.
            DataError: A source cannot be read or has too few prompts.
        """
        unit = self.names()[name]
        data = self._data[unit.dataset]
        return self._miniature(data, unit) if isinstance(data, MiniatureData) else self._files(data, unit)

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
        if wanted == References():
            return draw
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
        return replace(draw, safe_reference=_miniature_safe(draw, self._n_safe(wanted)))

    def _n_safe(self, wanted: References) -> int:
        return self._settings.n_safe_reference if wanted.n_safe_reference is None else wanted.n_safe_reference

    def _miniature(self, data: MiniatureData, unit: DrawName) -> Draw:
        task, settings, seed = data.miniature, self._settings, unit.seed
        reference = _miniature_reference(data.reference_kinds, n=settings.n_reference, seed=seed)
        downstream = generate_task_data(
            task, n=settings.n, harmful_fraction=unit.harmful_fraction, harm_kinds=data.contamination_kinds, seed=seed
        )
        draw = Draw(
            unit.dataset,
            unit.harmful_fraction,
            unit.seed,
            downstream=downstream,
            safe_anchor=_miniature_anchor(data, None, n=settings.n_anchor, seed=seed),
            harmful_reference=reference,
            safety_pairs=_miniature_pairs(reference, seed=seed),
            prompts=generate_eval_prompts(task, n_each=settings.n_eval, harm_kinds=data.evaluation_kinds, seed=seed),
            kind={record.id: str(record.meta["kind"]) for record in downstream},
        )
        return replace(draw, safe_reference=_miniature_safe(draw, self._settings.n_safe_reference))

    def _files(self, data: FileData, unit: DrawName) -> Draw:
        settings = self._settings
        rows = self._dealt(data, unit)
        train = [
            (replace(record, id=f"{source}/{record.id}"), LABELS[source])
            for source, roles in rows.items()
            for record in roles.get("train", ())
        ]
        random.Random(f"{unit.seed}/train").shuffle(train)
        own = load_prompts(Path(data.eval_prompts)) if data.eval_prompts else []
        draw = Draw(
            unit.dataset,
            unit.harmful_fraction,
            unit.seed,
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
        return self._with_safe_rows(draw, data, self._settings.n_safe_reference)

    def _with_safe_rows(self, draw: Draw, data: FileData, n_safe: int) -> Draw:
        """Returns the draw with safety pairs, at most as many as the reference has rows, and a safe reference."""
        if data.safety_pairs is not None:
            pairs = self._load(data, data.safety_pairs)
            draw = replace(draw, safety_pairs=self._safe_rows(draw, pairs, self._settings.n_reference, "pairs"))
        if data.safe_reference is None or n_safe == 0:
            return draw
        safe = self._load(data, data.safe_reference, data.safe_reference_format, data.safe_reference_where)
        return replace(draw, safe_reference=self._safe_rows(draw, safe, n_safe, "safe"))

    def _safe_rows(self, draw: Draw, loaded: LoadedSet, most: int, purpose: str) -> list[Record]:
        """Returns at most so many rows, with prompts of their own."""
        sets = (draw.downstream, draw.safe_anchor, draw.harmful_reference, draw.safety_pairs)
        free = _untaken(loaded, [*draw.prompts, *itertools.chain(*sets)])
        return random.Random(f"{draw.seed}/{purpose}").sample(free, min(len(free), most))

    def _dealt(self, data: FileData, unit: DrawName) -> Rows:
        # References are dealt at the largest size that any variant asks for, and cut: all others' rows stay the same.
        sizes = MixSizes.from_fractions(
            self._settings.n,
            harmful_fraction=unit.harmful_fraction,
            refusal_fraction=data.refusal_fraction if data.refusals else 0.0,
            n_anchor=self._n_anchor,
            n_reference=self._n_reference,
            n_eval=self._settings.n_eval,
        )
        return deal(self._sources(data), sizes, seed=unit.seed).rows

    def _sources(self, data: FileData) -> dict[SourceName, LoadedSet]:
        asked: dict[SourceName, tuple[str | None, Format, tuple[str, ...]]] = {
            "task": (data.task, data.task_format, data.task_where),
            "harmful": (data.harmful, data.harmful_format, data.harmful_where),
            "refusal": (data.refusals, data.refusals_format, data.refusals_where),
            "reference": (data.reference, data.reference_format, data.reference_where),
        }
        return {
            name: self._load(data, source, row_format, where)
            for name, (source, row_format, where) in asked.items()
            if source is not None
        }

    def _load(self, data: FileData, source: str, row_format: Format = "auto", where: tuple[str, ...] = ()) -> LoadedSet:
        return self._read(
            source,
            set_name="downstream",
            options=SourceOptions(format=row_format, where=where, id_column=data.id_column),
            max_quarantine_fraction=data.max_quarantine_fraction,
        )

    def _other_sources(self, draw: Draw, data: FileData, wanted: References) -> Draw:
        rows = self._dealt(data, draw)
        anchor, reference = draw.safe_anchor, draw.harmful_reference
        n_anchor = wanted.n_anchor or self._settings.n_anchor
        n_reference = wanted.n_reference or self._settings.n_reference
        if not isinstance(wanted.reference, str | None):
            raise ConfigError(f"{data.name}: kinds of harm are the miniature's; name a source as the reference")
        asked: list[Record | EvalPrompt] = [*draw.prompts, *draw.downstream]
        if wanted.reference is not None:
            reference = _sample(self._load(data, wanted.reference), n_reference, [*asked, *anchor], seed=draw.seed)
        elif wanted.n_reference is not None:
            reference = rows[_held(rows)]["harmful_reference"][:n_reference]
        if wanted.anchor is not None:
            anchor = _sample(self._load(data, wanted.anchor), n_anchor, [*asked, *reference], seed=draw.seed)
        elif wanted.n_anchor is not None:
            anchor = rows["task"]["safe_anchor"][:n_anchor]
        draw = replace(draw, safe_anchor=anchor, harmful_reference=reference, safety_pairs=(), safe_reference=())
        return self._with_safe_rows(draw, data, self._n_safe(wanted))


def _miniature_pairs(reference: Sequence[Record], *, seed: int) -> list[Record]:
    """Returns as many harmful requests with refusals as the reference has rows, with prompts of their own."""
    return generate_safety_pairs(n=len(reference), exclude=reference, seed=seed)


def _miniature_safe(draw: Draw, n: int) -> list[Record]:
    """Returns refusals and answers to look-alikes, with prompts of their own."""
    taken = [*draw.downstream, *draw.safe_anchor, *draw.harmful_reference, *draw.safety_pairs]
    return generate_safe_reference(n=n, exclude=taken, seed=draw.seed) if n else []


def _miniature_anchor(data: MiniatureData, anchor: str | None, *, n: int, seed: int) -> list[Record]:
    if anchor not in (None, GENERAL):
        raise ConfigError(f"{data.name}: the miniature's anchor is of the task, or {GENERAL!r}. Got {anchor!r}")
    if anchor is None:
        return generate_safe_anchor(data.miniature, n=n, seed=seed)
    # Old skills, look-alikes and refusals, and no row of the task.
    return generate_safe_anchor(data.miniature, n=n, refusal_fraction=0.02, skill_fraction=0.98, seed=seed)


def _miniature_reference(kinds: str | Sequence[str], *, n: int, seed: int) -> list[Record]:
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
