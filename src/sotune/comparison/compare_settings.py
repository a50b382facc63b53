"""The configuration of a comparison: what is compared, on what, and under which budget.

Keys that `sotune run` has too mean the same here. ``model: miniature`` and ``model: smol`` stand for the model of a
world (`sotune.worlds`) and bring settings that suit it; what the file says counts more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from sotune.catalogue import MatchRule
from sotune.comparison.variant import References, Variant
from sotune.errors import ConfigError
from sotune.miniature.language import HARM_KINDS, HarmKind
from sotune.miniature.topics import Task
from sotune.settings import (
    PRESETS,
    DataSettings,
    EngineSettings,
    EvaluationSettings,
    Format,
    RepresentationSettings,
    RunConfig,
    SelectionSettings,
    SentinelSettings,
    TrainingSettings,
    WeightSettings,
    nearest_setting,
    override,
)
from sotune.worlds import WORLDS, World

MINIATURE = "miniature"
_FOLDER_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
MAX_SEEDS = 10_000
"""Of a comparison: each is a draw of the data and a run of every method."""
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MiniatureData(BaseModel):
    """A task of the miniature, with the kinds of harm that contaminate it, are known, and are asked for."""

    model_config = _STRICT

    miniature: Task
    name: str = Field(pattern=_FOLDER_NAME)
    contamination_kinds: tuple[HarmKind, ...] = Field(HARM_KINDS, min_length=1)
    reference_kinds: tuple[HarmKind, ...] = Field(HARM_KINDS, min_length=1)
    evaluation_kinds: tuple[HarmKind, ...] = Field(HARM_KINDS, min_length=1)


class FileData(BaseModel):
    """A task from files, saved data sets, Hub ids or named sources, dealt to roles as `sotune mix` does."""

    model_config = _STRICT

    name: str = Field(pattern=_FOLDER_NAME)
    world: str | None = None
    task: str
    harmful: str
    reference: str | None = None
    refusals: str | None = None
    refusal_fraction: float = Field(0.02, ge=0, le=1)
    safety_pairs: str | None = None
    safe_reference: str | None = None
    eval_prompts: str | None = None
    task_match: MatchRule | None = None
    task_where: tuple[str, ...] = ()
    harmful_where: tuple[str, ...] = ()
    reference_where: tuple[str, ...] = ()
    safe_reference_where: tuple[str, ...] = ()
    refusals_where: tuple[str, ...] = ()
    task_format: Format = "auto"
    harmful_format: Format = "auto"
    reference_format: Format = "auto"
    safe_reference_format: Format = "auto"
    refusals_format: Format = "auto"
    id_column: str = "id"
    max_quarantine_fraction: float = Field(0.05, ge=0, le=1)


class VariantSettings(BaseModel):
    """A method with what is changed about its run; any setting of `sotune run` may be, under its own name."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    method: str
    name: str = ""
    anchor: str | None = None
    n_anchor: int | None = Field(None, ge=1)
    reference: str | tuple[HarmKind, ...] | None = None
    n_reference: int | None = Field(None, ge=1)
    n_safe_reference: int | None = Field(None, ge=0)

    def variant(self) -> Variant:
        """Returns what the comparison runs.

        Raises:
            ConfigError: The method, the preset or a setting is unknown, or a value is wrong.
        """
        given = self.model_dump(exclude_unset=True, exclude={"method", "name"})
        flat = {**given, **given.get("method_settings", {})}
        shown = ", ".join(f"{key}={_short(value)}" for key, value in flat.items() if key != "method_settings")
        changes = dict(self.model_extra or {})
        _check_changes(changes, self.method)
        brought = {n: value for n, value in PRESETS[changes.pop("preset", "default")].items() if n != "method"}
        variant = Variant(
            name=self.name or (f"{self.method} {shown}" if shown else self.method),
            method=self.method,
            changes=override(brought, changes),
            references=References(self.anchor, self.n_anchor, self.reference, self.n_reference, self.n_safe_reference),
        )
        method = variant.found_method()
        if method is not None:
            method.check_settings(changes.get("method_settings", {}))
        return variant


_FIXED = frozenset(DataSettings.model_fields) | frozenset(
    ("method", "out", "seed", "threads", "eval_prompts", "answers_dir", "cache_dir", "diagnostics")
)
"""Settings of a run that a comparison sets itself."""


def _check_changes(changes: Mapping[str, Any], method: str) -> None:
    """Checks that what a variant changes are settings of a run, and of their type."""
    known = [name for name in RunConfig.model_fields if name not in _FIXED]
    for name in changes:
        if name not in known:
            near = nearest_setting(name, [*known, *VariantSettings.model_fields])
            hint = f"did you mean {near!r}?" if near else "a variant may change any setting of `sotune run`"
            raise ConfigError(f"{method}: unknown setting {name!r}; {hint}")
    RunConfig.of({**dict.fromkeys(("data", "safe_anchor", "harmful_reference"), ""), **changes}, origin=method)


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"


def _as_data(value: Any) -> Any:
    """Reads ``WORLD-TASK``, or a mapping with ``WORLD: TASK`` and what is changed, as the task of that world."""
    if isinstance(value, str):
        known = {f"{world.name}-{task}": {world.name: task} for world in WORLDS.values() for task in world.tasks}
        if value not in known:
            raise ValueError(
                f"must be one of {', '.join(known)}, or a mapping with miniature, or with task and harmful"
            )
        value = known[value]
    world = next((world for world in WORLDS.values() if isinstance(value, dict) and world.name in value), None)
    if world is None:
        return value
    task = value[world.name]
    if task not in world.tasks:
        raise ValueError(f"{world.name} must be one of {', '.join(world.tasks)}. Got {task!r}")
    changes = {name: change for name, change in value.items() if name != world.name}
    return {"name": f"{world.name}-{task}", **world.data(task), **changes}


def _kind_of_data(value: Any) -> str:
    return (
        MINIATURE if isinstance(value, MiniatureData) or (isinstance(value, dict) and MINIATURE in value) else "files"
    )


Data = Annotated[
    Annotated[MiniatureData, Tag(MINIATURE)] | Annotated[FileData, Tag("files")],
    Discriminator(_kind_of_data),
    BeforeValidator(_as_data),
]


def _as_method(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


def _as_seeds(value: Any) -> Any:
    """Reads a number as so many seeds from 0 on."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value > MAX_SEEDS:
        raise ValueError(f"must be at most {MAX_SEEDS} draws, or a list of seeds")
    return tuple(range(value))


class CompareSettings(
    RepresentationSettings,
    WeightSettings,
    SentinelSettings,
    SelectionSettings,
    TrainingSettings,
    EvaluationSettings,
    EngineSettings,
):
    """All settings of a comparison: its own, and those of `sotune run` that all its cells share."""

    where_listed: ClassVar[str] = "docs/comparing.md"

    model: str = Field(MINIATURE, description="Causal LM that is fine-tuned: miniature, smol, a folder, or a Hub id.")
    methods: tuple[Annotated[VariantSettings, BeforeValidator(_as_method)], ...] = Field(
        min_length=1, description="Names of methods, combinations, or mappings with method and what is changed."
    )
    datasets: tuple[Data, ...] = Field(
        min_length=1, description="Tasks of a world, or mappings with name, task, harmful and so on."
    )
    harmful_fractions: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.1,), min_length=1, description="Harmful shares of the downstream rows (paper, §5.1: 0.1)."
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_as_seeds)] = Field(
        (0,), min_length=1, description="How many draws, or a list of seeds."
    )
    n: int = Field(5000, ge=1, description="Downstream rows (paper, §5.1).")
    n_anchor: int = Field(50, ge=1, description="Rows of the safe anchor: 50 are enough (paper, Fig. 2).")
    n_reference: int = Field(5000, ge=1, description="Rows of the harmful reference (paper, §5.1).")
    n_safe_reference: int = Field(0, ge=0, description="Rows of the safe reference, of data sets that have one.")
    n_eval: int = Field(1000, ge=1, description="Evaluation prompts of each kind (paper, A.4).")
    workers: int = Field(1, ge=1, description="Cells measured at once, each in a process of its own.")
    threads: int = Field(1, ge=1, description="CPU threads of each.")

    @classmethod
    def known(cls) -> Iterable[str]:
        """Returns the names of all settings, those of methods and data sets too."""
        return [name for group in (cls, MiniatureData, FileData, VariantSettings) for name in group.model_fields]

    @model_validator(mode="after")
    def _consistent(self) -> CompareSettings:
        names = [data.name for data in self.datasets]
        for what, values in (("datasets", names), ("harmful_fractions", self.harmful_fractions), ("seeds", self.seeds)):
            repeated = sorted({str(value) for value in values if list(values).count(value) > 1})
            if repeated:
                raise ValueError(f"{what} repeats {', '.join(repeated)}; name each once")
        for unused in ("encoder", "eval_prompts", "cache_dir", "answers_dir", "seed", "diagnostics"):
            if unused in self.model_fields_set:
                raise ValueError(
                    f"{unused} is not a setting of a comparison: eval_prompts belong to a data set, seeds are several, "
                    f"and all methods weigh with the model that is fine-tuned"
                )
        miniature = [data.name for data in self.datasets if isinstance(data, MiniatureData)]
        if self.judges == "miniature" and len(miniature) < len(names):
            raise ValueError("judges: miniature only reads the miniature's language; use other judges for other data")
        return self

    def shared(self, data: MiniatureData | FileData) -> dict[str, Any]:
        """Returns the settings of `sotune run` that all cells of a data set share."""
        names = self.model_fields_set & RunConfig.model_fields.keys() - {"threads", *EngineSettings.model_fields}
        given = {name: getattr(self, name) for name in names}
        if isinstance(data, FileData) and data.task_match is not None:
            given["task_match"] = data.task_match
        return {**given, "model": str(WORLDS[self.model].model()) if self.model in WORLDS else self.model}

    def worlds(self) -> list[World]:
        """Returns the worlds whose model or tasks are used."""
        named = {self.model, *(data.world for data in self.datasets if isinstance(data, FileData))}
        return [world for world in WORLDS.values() if world.name in named]

    def variants(self) -> list[Variant]:
        """Returns the columns of the comparison.

        Raises:
            ConfigError: A method or preset is unknown.
        """
        return [method.variant() for method in self.methods]


def make_compare_settings(given: Mapping[str, Any], *, origin: str = "settings") -> CompareSettings:
    """Builds the settings of a comparison from those given, over those of the world whose model it is, if it is one.

    Raises:
        ConfigError: Any setting is unknown, missing, of the wrong type or out of range; all faults are named at once.
    """
    layered = {"model": MINIATURE, **given}
    if layered["model"] in list(WORLDS):
        layered = {**WORLDS[layered["model"]].settings, **layered}
    elif isinstance(layered["model"], str) and os.path.exists(layered["model"]):
        layered["model"] = os.path.abspath(layered["model"])
    settings = CompareSettings.of(layered, origin=origin)
    try:
        settings.variants()
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return settings
