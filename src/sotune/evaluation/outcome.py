"""What an evaluation found: one object in memory, one schema on disk, and the two functions between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sotune.artifacts import Json
from sotune.evaluation.assessment import Assessment
from sotune.evaluation.diagnostics import Figures
from sotune.evaluation.judging import Judged
from sotune.evaluation.metrics import JudgeRole, metrics_to_json
from sotune.evaluation.prompts import prompt_row
from sotune.evaluation.protocol import EvalPrompt, Response
from sotune.evaluation.store import save_responses, save_verdicts
from sotune.run_files import ASSESSMENT, DIAGNOSTICS, EVALUATION, JUDGING, METRICS, PROMPTS, RESPONSES, VERDICTS

TUNED = "tuned"
"""The one model of a run that is compared with the base."""

NOT_EVALUATED: Mapping[str, Any] = {
    "metrics": {},
    "assessments": {},
    "diagnostics": {},
    "judging": {"usage": {}, "unscored": {}},
    "judges": {},
    "n_prompts": {},
}
"""What stands for the figures where there are none."""

_RUN_PREFIX = {TUNED: ""}  # of a run's files of answers; the other models' own names


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
    files = [PROMPTS.write(folder, map(prompt_row, found.prompts))]
    for name, entry in found.models.items():
        prefix = f"{name}." if kind == "models" else _RUN_PREFIX.get(name, f"{name}_")
        answers, verdicts = f"{prefix}{RESPONSES.name}", f"{prefix}{VERDICTS.name}"
        save_responses(folder / answers, entry.responses)
        save_verdicts(folder / verdicts, entry.result.verdicts)
        files += [answers, verdicts]
    figures = found.as_json()
    if kind == "models":
        return [*files, EVALUATION.write(folder, {**figures, **(about or {})})]
    shared = {name: figures[name] for name in ("assessments", "judges", "n_prompts")}
    word = {**figures["assessments"].get(TUNED, {}), **shared}
    files += [METRICS.write(folder, figures["metrics"]), DIAGNOSTICS.write(folder, figures["diagnostics"])]
    return [*files, ASSESSMENT.write(folder, word), JUDGING.write(folder, figures["judging"])]


def load_evaluation(folder: Path) -> dict[str, Any]:
    """Reads the figures that ``save_evaluation`` wrote, of either kind, as ``Evaluation.as_json`` returns them.

    Of a run, what is missing is left empty.

    Raises:
        ArtifactError: A file is unreadable, or holds something else.
    """
    if found := EVALUATION.read_if_there(folder):
        return found
    metrics, assessment = _if_there(METRICS, folder), _if_there(ASSESSMENT, folder)
    if any("value" in entry for entry in metrics.values() if isinstance(entry, dict)):
        metrics = {"model": metrics}  # of a single model
    return {
        **NOT_EVALUATED,
        "metrics": {name: entry for name, entry in metrics.items() if isinstance(entry, dict)},
        "diagnostics": DIAGNOSTICS.read_if_there(folder),
        "judging": _if_there(JUDGING, folder) or NOT_EVALUATED["judging"],
        **{name: assessment[name] for name in ("assessments", "judges", "n_prompts") if name in assessment},
    }


def _if_there(artefact: Json, folder: Path) -> dict[str, Any]:
    return artefact.read(folder) if (folder / artefact.name).exists() else {}


def answers_file(folder: Path, name: str) -> Path:
    """Returns where the answers of a model lie in a folder of either kind."""
    own = folder / f"{name}.{RESPONSES.name}"
    return own if own.exists() else folder / f"{_RUN_PREFIX.get(name, f'{name}_')}{RESPONSES.name}"
