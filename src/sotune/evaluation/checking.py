"""A judge held against people: how often it is right, and what a rate would be without its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sotune.artifacts import library_versions, read_json, sha256_file, write_json
from sotune.errors import DataError, SotuneError
from sotune.evaluation.calibration import JudgeAccuracy, correct_rate, measure_judge
from sotune.evaluation.estimates import CONFIDENCE, Estimate
from sotune.evaluation.judges.registry import check_judges, make_judges
from sotune.evaluation.labeled import LabeledSet, load_labeled
from sotune.evaluation.metrics import metrics_from_json
from sotune.evaluation.outcome import load_evaluation
from sotune.evaluation.protocol import Verdict
from sotune.evaluation.store import save_verdicts
from sotune.evaluation.unmeasured import count_reasons, tell_reasons
from sotune.evaluation.usage import CACHE, JudgingPlan, describe_usage, plan_questions
from sotune.monitoring import Monitor, Silent
from sotune.run_files import VERDICTS
from sotune.settings import JudgeCheckSettings

_RATE_OF_ROLE = {"harm": "harmful_rate", "refusal": "refusal_rate", "coherence": "coherence"}


def check_judge(labeled: Path, settings: JudgeCheckSettings, monitor: Monitor | None = None) -> dict[str, Any]:
    """Measures a judge against human labels, by category too, corrects rates for its error, and writes all of it.

    Returns:
        The judge, its figures, those by category, corrected rates, and the files that hold this and the verdicts.

    Raises:
        DataError: The rows are faulty, one class is missing, or the judge is no better than chance and rates were to
            be corrected.
        ConfigError: The judge could not be loaded.
        SotuneError: It scored none of the answers of a class; its verdicts are written all the same.
    """
    check_judges(settings)
    rows = load_labeled(labeled, settings)
    judge = make_judges(settings, _cache(settings), monitor)[settings.role]
    verdicts = judge.judge(rows.prompts, rows.responses)
    out = Path(settings.out)
    beside = out.with_suffix(f".{VERDICTS.name}")
    save_verdicts(beside, {settings.role: verdicts})
    accuracy = _measure(verdicts, rows, beside, monitor or Silent())
    result = {
        "judge": judge.name,
        "role": settings.role,
        "n": len(verdicts),
        "n_unscored": sum(verdict.score is None for verdict in verdicts),
        "unscored": count_reasons(verdicts),
        "labels_sha256": sha256_file(labeled),
        "overall": describe_accuracy(accuracy),
        "by_category": _by_category(verdicts, rows),
        "corrected": _corrected(settings, accuracy),
        "usage": describe_usage({settings.role: judge}, rows.prompts, {"labeled": rows.responses}, settings),
        "versions": library_versions("sotune"),
    }
    write_json(out, result)
    return {**result, "files": [str(out), str(beside)]}


def _measure(verdicts: Sequence[Verdict], rows: LabeledSet, written: Path, monitor: Monitor) -> JudgeAccuracy:
    """Measures the judge; tells what it left unscored, and raises where that is all of a class."""
    if n_unscored := sum(verdict.score is None for verdict in verdicts):
        told = f"{n_unscored} of {len(verdicts)} answers are unscored ({tell_reasons(verdicts)})"
        if not _scored_on_both(verdicts, rows.truth) and len(set(rows.truth.values())) > 1:
            raise SotuneError(
                f"the judge's accuracy could not be measured: {told}, all of one class among them. "
                f"Its verdicts are in {written}"
            )
        monitor.warn(told)
    return measure_judge(verdicts, rows.truth, confidence=CONFIDENCE)


def plan_judge_check(labeled: Path, settings: JudgeCheckSettings) -> JudgingPlan:
    """Counts what judging the labeled rows would ask of the endpoint; asks it nothing.

    Raises:
        DataError: The rows are faulty.
        ConfigError: The judge could not be loaded, or asks no endpoint.
    """
    check_judges(settings)
    rows = load_labeled(labeled, settings)
    judges = make_judges(settings, _cache(settings), only_counted=True)
    return plan_questions(
        {r: judges[r] for r in judges if r == settings.role}, rows.prompts, {"labeled": rows.responses}, settings
    )


def _cache(settings: JudgeCheckSettings) -> Path:
    return Path(settings.out).parent / CACHE


def describe_accuracy(accuracy: JudgeAccuracy) -> dict[str, Any]:
    """Returns a judge's figures as JSON, under the names that people look for."""
    described = asdict(accuracy)
    return {"recall": described.pop("sensitivity"), **described}


def _by_category(verdicts: Sequence[Verdict], rows: LabeledSet) -> dict[str, Any]:
    """Returns the figures of each category that has labels of both kinds, and the counts of every one."""
    found: dict[str, Any] = {}
    for name in sorted(set(rows.category.values())):
        own = [verdict for verdict in verdicts if rows.category.get(verdict.id) == name]
        truth = {verdict.id: rows.truth[verdict.id] for verdict in own}
        n_positive = sum(truth.values())
        found[name] = {"n": len(own), "n_positive": n_positive, "figures": None}
        if 0 < n_positive < len(own) and _scored_on_both(own, truth):
            found[name]["figures"] = describe_accuracy(measure_judge(own, truth, confidence=CONFIDENCE))
    return found


def _scored_on_both(verdicts: Sequence[Verdict], truth: Mapping[str, bool]) -> bool:
    return {truth[verdict.id] for verdict in verdicts if verdict.score is not None} == {True, False}


def _corrected(settings: JudgeCheckSettings, accuracy: JudgeAccuracy) -> dict[str, Any]:
    """Returns each model's rate as the judge sees it and without the judge's error."""
    if settings.correct is None:
        return {}
    return {
        model: {
            "seen": asdict(rate),
            "corrected": asdict(correct_rate(rate, accuracy.sensitivity, accuracy.specificity, confidence=CONFIDENCE)),
        }
        for model, rate in _rates(Path(settings.correct), _RATE_OF_ROLE[settings.role]).items()
    }


def _rates(path: Path, name: str) -> dict[str, Estimate]:
    """Reads one metric of all models from metrics.json, evaluation.json, or the folder of either."""
    value = load_evaluation(path) if path.is_dir() else read_json(path)
    models = value.get("metrics", value) if isinstance(value, dict) else {}
    found = {model: metrics_from_json(own) for model, own in models.items() if isinstance(own, dict)}
    rates: dict[str, Estimate] = {model: own[name] for model, own in found.items() if name in own}
    if not rates:
        raise DataError(f"{path} holds no {name}; name the metrics of an evaluation that measured it")
    return rates
