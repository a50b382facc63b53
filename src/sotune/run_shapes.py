"""What the JSON files of a run must hold: the values that a verb computes with, whoever wrote them.

Seals tell only that a folder is as its last author left it, and that may be somebody who sealed it anew. So each file
is held to its shape where it is read. What a page alone shows is not spelled out, and more may stand beside what is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # that of typing is not read by pydantic before Python 3.12

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]


class _SetCounts(TypedDict):
    source: str
    n_valid: Count
    n_quarantined: Count


class _Rendering(TypedDict):
    template: str


class Reading(TypedDict):
    """records.json."""

    sets: dict[str, _SetCounts]
    quarantine_reasons: dict[str, Count]
    rendering: _Rendering | None
    warnings: list[str]


class _Choice(TypedDict):
    candidates: list[dict[str, Any]]


class Encoding(TypedDict):
    """representations.json."""

    fingerprint: Hash
    shards: list[Hash]
    description: dict[str, Any]
    answer_from: Share
    dimension: Count
    n_rows: Count
    n_unread: Count
    n_by_part: Count
    choice: _Choice | None


class FirstLook(TypedDict):
    """first_look.json."""

    direction: list[Number]
    offset: Number
    of_parts: Number
    of_stretches: Number


class _PromptsAlone(TypedDict):
    spearman: Number | None


class Solving(TypedDict):
    """solver.json."""

    method: str
    title: str
    k: Positive | None
    effective_sample_size: Number
    warnings: list[str]
    reach: NotRequired[dict[Literal["safe", "safe_reference", "harmful"], Number]]
    converged: NotRequired[bool]
    tau: NotRequired[Number | None]
    stationarity: NotRequired[Number | None]
    prompts_alone: NotRequired[_PromptsAlone | None]


class _NoSentinels(TypedDict):
    used: Literal[False]
    note: str


class _Sentinels(TypedDict):
    used: Literal[True]
    n_measuring: Count


Sentinels = _NoSentinels | _Sentinels
"""sentinels.json."""


class _Rate(TypedDict):
    count: Count
    n: Count
    low: Share
    high: Share


class _HarmfulShare(TypedDict):
    estimate: Share
    low: Share
    high: Share


class _Kind(TypedDict):
    n: Count
    kept: Count


class Promising(TypedDict):
    """promise.json."""

    k: Positive
    n: Positive
    cut: Share
    note: str
    n_unknown: Count
    promised: NotRequired[Literal["harmful_pass", "harmful_share"]]
    limit: NotRequired[Share]
    bound: NotRequired[Share]
    no_harm_found: NotRequired[bool]
    harmful_pass: NotRequired[_Rate]
    safe_answers_lost: NotRequired[_Rate | None]
    harmful_share: NotRequired[_HarmfulShare]
    kinds: NotRequired[dict[str, _Kind]]
    not_told_apart: NotRequired[str]


class Training(TypedDict):
    """training.json."""

    method: str
    title: str
    n_rows: Count
    n_steps: Count
    final_loss: Number
    figures: dict[str, Number]


class _Estimate(TypedDict):
    value: Number
    low: Number
    high: Number
    n: Count
    n_unscored: Count
    n_unreadable: NotRequired[Count]


Metrics = dict[str, _Estimate | dict[str, _Estimate]]
"""metrics.json: of each model; or of a single one."""


class _Word(TypedDict):
    label: str
    reason: str


class Assessment(TypedDict):
    """assessment.json."""

    assessments: NotRequired[dict[str, _Word]]
    judges: NotRequired[dict[str, str]]
    n_prompts: NotRequired[dict[str, Count]]


class _Usage(TypedDict):
    n_answered: Count
    input_tokens: Count
    output_tokens: Count
    cost: Number | None


class Judging(TypedDict):
    """judging.json."""

    unscored: dict[str, dict[str, dict[str, Count]]]
    usage: dict[str, _Usage]


class MergedFiles(TypedDict):
    """merged.json."""

    files: list[str]
