"""The configuration of a comparison: what is compared, on what, and under which budget.

Keys that `sotune run` has too mean the same here. ``model: miniature`` stands for the embedded world's model and brings
settings that suit it; what the file says counts more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from sotune.comparison.variants import References, Variant, find_method, preset_changes
from sotune.errors import ConfigError
from sotune.miniature.language import HARM_KINDS, HarmKind
from sotune.miniature.topics import TASKS, Task
from sotune.settings import (
    EvaluationSettings,
    Format,
    RepresentationSettings,
    SelectionSettings,
    TrainingSettings,
    nearest_setting,
)

MINIATURE = "miniature"
_FOLDER_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

MINIATURE_SETTINGS: Mapping[str, Any] = {
    # The paper's reading. Others tell the miniature's harm perfectly, so that no method could be told from another.
    "layer": -1,
    "pooling": "last",
    "max_length": 64,
    "learning_rate": 3e-3,  # a tiny model wants a larger one than Table 4 has
    "per_device_train_batch_size": 16,
    "save_steps": 1000,  # a cell takes seconds
    "dtype": "float32",
    "device": "cpu",
    "judges": "miniature",
    "max_new_tokens": 24,
    "eval_batch_size": 64,
    "n": 2000,
    "n_reference": 200,
    "n_eval": 200,
}
"""What ``model: miniature`` stands for besides the model; docs/miniature.md explains it."""


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
    task: str
    harmful: str
    reference: str | None = None
    refusals: str | None = None
    refusal_fraction: float = Field(0.02, ge=0, le=1)
    safety_pairs: str | None = None
    eval_prompts: str | None = None
    task_match: Literal["label", "number", "choice", "contains"] | None = None
    task_where: tuple[str, ...] = ()
    harmful_where: tuple[str, ...] = ()
    reference_where: tuple[str, ...] = ()
    refusals_where: tuple[str, ...] = ()
    task_format: Format = "auto"
    harmful_format: Format = "auto"
    reference_format: Format = "auto"
    refusals_format: Format = "auto"
    id_column: str = "id"
    max_quarantine_fraction: float = Field(0.05, ge=0, le=1)


class MethodSettings(BaseModel):
    """A method with what is changed about it; further keys are settings of its weights, such as push_strength."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    method: str
    name: str = ""
    preset: str = "default"
    keep_fraction: float | None = Field(None, gt=0, le=1)
    layer: int | None = None
    anchor: str | None = None
    n_anchor: int | None = Field(None, ge=1)
    reference: str | tuple[HarmKind, ...] | None = None
    n_reference: int | None = Field(None, ge=1)

    def variant(self) -> Variant:
        """Returns what the comparison runs.

        Raises:
            ConfigError: The method or the preset is unknown.
        """
        given = self.model_dump(exclude_unset=True, exclude={"method", "name"})
        preset = preset_changes(find_method(self.method), self.preset)
        shown = ", ".join(f"{key}={_short(value)}" for key, value in given.items())
        return Variant(
            name=self.name or (f"{self.method} {shown}" if shown else self.method),
            method=self.method,
            changes={**preset, **(self.model_extra or {})},
            keep_fraction=self.keep_fraction,
            layer=self.layer,
            references=References(self.anchor, self.n_anchor, self.reference, self.n_reference),
        )


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"


def _as_data(value: Any) -> Any:
    """Reads ``miniature-TASK`` as the task of that name, and fills in the name of a data set."""
    if isinstance(value, str):
        prefix, _, task = value.partition("-")
        if prefix != MINIATURE or task not in TASKS:
            known = ", ".join(f"{MINIATURE}-{known}" for known in TASKS)
            raise ValueError(f"must be one of {known}, or a mapping with miniature, or with task and harmful")
        value = {MINIATURE: task}
    if isinstance(value, dict) and MINIATURE in value:
        return {"name": f"{MINIATURE}-{value[MINIATURE]}", **value}
    return value


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
    return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


class CompareSettings(RepresentationSettings, TrainingSettings, EvaluationSettings):
    """All settings of a comparison."""

    model_config = _STRICT

    model: str = Field(MINIATURE, description="Causal LM that is fine-tuned: miniature, a folder, or a Hub id.")
    methods: tuple[Annotated[MethodSettings, BeforeValidator(_as_method)], ...] = Field(
        min_length=1, description="Names of methods, combinations, or mappings with method and what is changed."
    )
    datasets: tuple[Data, ...] = Field(
        min_length=1, description="Tasks of the miniature, or mappings with name, task, harmful and so on."
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
    n_eval: int = Field(1000, ge=1, description="Evaluation prompts of each kind (paper, A.4).")
    keep_fraction: float = Field(
        SelectionSettings.model_fields["keep_fraction"].default, gt=0, le=1, description="K (paper, §5.1)."
    )
    workers: int = Field(1, ge=1, description="Cells measured at once, each in a process of its own.")
    threads: int = Field(1, ge=1, description="CPU threads of each.")

    @model_validator(mode="after")
    def _consistent(self) -> CompareSettings:
        names = [data.name for data in self.datasets]
        for what, values in (("datasets", names), ("harmful_fractions", self.harmful_fractions), ("seeds", self.seeds)):
            repeated = sorted({str(value) for value in values if list(values).count(value) > 1})
            if repeated:
                raise ValueError(f"{what} repeats {', '.join(repeated)}; name each once")
        for unused in ("encoder", "eval_prompts", "cache_dir"):
            if getattr(self, unused) is not None:
                raise ValueError(f"{unused} is no setting of a comparison: eval_prompts belong to a data set, and all "
                                 f"methods weigh with the model that is fine-tuned")  # fmt: skip
        miniature = [data.name for data in self.datasets if isinstance(data, MiniatureData)]
        if self.judges == "miniature" and len(miniature) < len(names):
            raise ValueError("judges: miniature reads the miniature's language alone; use other judges for other data")
        return self

    def variants(self) -> list[Variant]:
        """Returns the columns of the comparison.

        Raises:
            ConfigError: A method or preset is unknown.
        """
        return [method.variant() for method in self.methods]


def make_compare_settings(given: Mapping[str, Any], *, origin: str = "settings") -> CompareSettings:
    """Builds the settings of a comparison from those given, over those of the miniature where it is the model.

    Raises:
        ConfigError: Any setting is unknown, missing, of the wrong type or out of range; all faults are named at once.
    """
    layered = {**MINIATURE_SETTINGS, **given} if given.get("model", MINIATURE) == MINIATURE else dict(given)
    if isinstance(layered.get("model"), str) and os.path.exists(layered["model"]):
        layered["model"] = os.path.abspath(layered["model"])
    try:
        settings = CompareSettings(**layered)
    except ValidationError as error:
        raise ConfigError(_describe(error, origin)) from None
    try:
        settings.variants()
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return settings


def _describe(error: ValidationError, origin: str) -> str:
    known: dict[str, Any] = dict(CompareSettings.model_fields)
    for group in (MiniatureData, FileData, MethodSettings):
        known |= group.model_fields
    faults = []
    for fault in error.errors(include_url=False):
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = nearest_setting(str(fault["loc"][-1]), known)
            faults.append(
                f"unknown setting {name!r}; " + (f"did you mean {near!r}?" if near else "see docs/comparing.md")
            )
        elif fault["type"] == "missing":
            faults.append(f"setting {name!r} is required")
        else:
            faults.append(f"{name}: {fault['msg'].removeprefix('Value error, ')}. Got {str(fault['input'])[:200]!r}")
    return f"{origin}: " + "; ".join(faults)
