"""What an evaluation found: one object in memory, one schema on disk, and the two functions between them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sotune.artifacts import read_json, write_json, write_text
from sotune.errors import ArtifactError
from sotune.evaluation.assessment import Assessment
from sotune.evaluation.base import EvalPrompt, Response
from sotune.evaluation.diagnostics import Figures
from sotune.evaluation.judging import Judged
from sotune.evaluation.metrics import JudgeRole, metrics_to_json
from sotune.evaluation.prompts import prompt_row
from sotune.evaluation.store import save_responses, save_verdicts

RESULTS, PROMPTS = "evaluation.json", "prompts.jsonl"
TUNED = "tuned"
"""The one model of a run that is compared with the base."""

_METRICS, _DIAGNOSTICS, _ASSESSMENT, _JUDGING = "metrics.json", "diagnostics.json", "assessment.json", "judging.json"


@dataclass(frozen=True)
class Measured:
    """One model's answers and what follows from them.

    Attributes:
        responses: Its answers, in the order of the prompts.
        result: Verdicts and metrics.
        figures: What no judge of content is needed for, by name.
    """

    responses: Sequence[Response]
    result: Judged
    figures: Figures


@dataclass(frozen=True)
class Evaluation:
    """What models answered, and what follows from it.

    Attributes:
        prompts: What was asked.
        models: Name to what was measured; the base model first.
        judges: Role to the name of its judge.
        assessments: Model to the one word on it; empty where harm was not measured.
        diagnostics: As JSON, what needs no judge: figures, how they were made, what changed against the base model.
        judging: As JSON, what chat judges took (``usage``), and how often each reason left an answer ``unscored``.
    """

    prompts: Sequence[EvalPrompt]
    models: Mapping[str, Measured]
    judges: Mapping[JudgeRole, str]
    assessments: Mapping[str, Assessment]
    diagnostics: Mapping[str, Any]
    judging: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Returns all figures as JSON; prompts are counted, answers and verdicts left out."""
        return {
            "metrics": {name: metrics_to_json(entry.result.metrics) for name, entry in self.models.items()},
            "assessments": {name: asdict(word) for name, word in self.assessments.items()},
            "diagnostics": dict(self.diagnostics),
            "judging": dict(self.judging),
            "judges": dict(self.judges),
            "n_prompts": dict(Counter(prompt.kind for prompt in self.prompts)),
        }


def save_evaluation(
    folder: Path,
    found: Evaluation,
    *,
    about: Mapping[str, Any] | None = None,
    kind: Literal["models", "run"] = "models",
) -> list[str]:
    """Writes figures, prompts, answers and verdicts; returns the names of the files.

    Args:
        folder: Where to.
        found: What to write.
        about: What else belongs beside the figures of ``models``, such as settings and versions.
        kind: ``models`` have one file of figures, and answers under each model's name. A ``run`` has its figures in
            parts, and the tuned model's answers under no name.
    """
    files = []
    for name, entry in found.models.items():
        prefix = f"{name}." if kind == "models" else "" if name == TUNED else f"{name}_"
        save_responses(folder / f"{prefix}responses.parquet", entry.responses)
        save_verdicts(folder / f"{prefix}verdicts.parquet", entry.result.verdicts)
        files += [f"{prefix}responses.parquet", f"{prefix}verdicts.parquet"]
    if kind == "models":
        write_text(folder / PROMPTS, "".join(f"{_prompt_line(prompt)}\n" for prompt in found.prompts))
        write_json(folder / RESULTS, {**found.as_json(), **(about or {})})
        return [PROMPTS, *files, RESULTS]
    parts = _as_parts(found.as_json())
    for part, value in parts.items():
        write_json(folder / part, value)
    return [*files, *parts]


def load_evaluation(folder: Path) -> dict[str, Any]:
    """Reads the figures that ``save_evaluation`` wrote, of either kind, as ``Evaluation.as_json`` returns them.

    Of a run, what is missing is left empty.

    Raises:
        ArtifactError: A file is unreadable, or holds something else.
    """
    if (folder / RESULTS).is_file():
        return _read_object(folder / RESULTS)
    metrics, assessment = _read_object(folder / _METRICS), dict(_read_object(folder / _ASSESSMENT))
    if any("value" in entry for entry in metrics.values() if isinstance(entry, dict)):
        metrics = {"model": metrics}  # of a single model
    judges = assessment.pop("judges", {})
    return {
        "metrics": {name: entry for name, entry in metrics.items() if isinstance(entry, dict)},
        "assessments": {TUNED: assessment} if "label" in assessment else {},
        "diagnostics": _read_object(folder / _DIAGNOSTICS),
        "judging": _read_object(folder / _JUDGING) or {"usage": {}, "unscored": {}},
        "judges": judges,
        "n_prompts": {},
    }


def _as_parts(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        _METRICS: figures["metrics"],
        _DIAGNOSTICS: figures["diagnostics"],
        _ASSESSMENT: {**figures["assessments"].get(TUNED, {}), "judges": figures["judges"]},
        _JUDGING: figures["judging"],
    }


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} must hold a JSON object. Got a {type(value).__name__}; run the stage again")
    return value


def _prompt_line(prompt: EvalPrompt) -> str:
    return json.dumps(prompt_row(prompt), ensure_ascii=False)
