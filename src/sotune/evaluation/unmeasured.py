"""What judges left unscored, and why: counted, told, and an error once all else is safe on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sotune.errors import SotuneError
from sotune.evaluation.metrics import METRICS, JudgeRole, MetricName
from sotune.evaluation.outcome import Evaluation
from sotune.evaluation.protocol import Verdict
from sotune.monitoring import Monitor
from sotune.wording import counted

_SHOWN_REASONS = 3


def count_unscored(
    verdicts: Mapping[str, Mapping[JudgeRole, Sequence[Verdict]]], monitor: Monitor
) -> dict[str, dict[str, dict[str, int]]]:
    """Counts, for each model and role with unscored verdicts, how often each reason was given, and warns of them."""
    unscored = dict[str, dict[str, dict[str, int]]]()
    for name, roles in verdicts.items():
        own = unscored[name] = {}
        for role, held in roles.items():
            if reasons := count_reasons(held):
                own[role] = reasons
                n_unscored = sum(reasons.values())
                monitor.warn(
                    f"judge of {role}, {name} model: {counted(n_unscored, 'answer')} unscored ({tell_reasons(held)})"
                )
    return unscored


def count_reasons(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Counts how often each reason left an answer unscored."""
    counts = Counter(_reason(verdict) for verdict in verdicts if verdict.score is None)
    return dict(sorted(counts.items()))


def tell_reasons(verdicts: Sequence[Verdict]) -> str:
    """Says why answers were left unscored: the commonest reasons, and of the first of these an answer and its reply."""
    most = sorted(count_reasons(verdicts).items(), key=lambda entry: (-entry[1], entry[0]))[:_SHOWN_REASONS]
    told = "; ".join(f"{counted(count, 'time')}: {reason}" for reason, count in most)
    example = next(v for v in verdicts if v.score is None and _reason(v) == most[0][0])
    _, _, reply = example.explanation.partition("; reply: ")
    return f"{told}; for example {example.id!r}" + (f", whose reply begins {reply}" if reply else "")


def require_measured(found: Evaluation, place: str) -> None:
    """Raises where a metric could not be measured at all; called when the rest is written.

    Args:
        found: The evaluation.
        place: Where it was written to.

    Raises:
        SotuneError: No answer of a metric could be scored, for some model; or what the judge itself raised.
    """
    written = f"Verdicts and all other figures are in {place}"
    for entry in found.models.values():
        for error in entry.result.failures.values():
            raise type(error)(f"{error}. {written}") from error
    lost = [f"{metric} could not be measured: {why}" for metric in METRICS if (why := _why_unmeasured(metric, found))]
    if lost:
        raise SotuneError(f"{'; '.join(lost)}. {written}")


def _why_unmeasured(metric: MetricName, found: Evaluation) -> str:
    """Says why a metric has no scored answer for some models; nothing where it has."""
    ids = {prompt.id for prompt in found.prompts if prompt.kind in METRICS[metric].kinds}
    held = {name: entry.result.verdicts.get(METRICS[metric].role, ()) for name, entry in found.models.items()}
    own = {name: [verdict for verdict in some if verdict.id in ids] for name, some in held.items()}
    lost = {name: some for name, some in own.items() if some and all(verdict.score is None for verdict in some)}
    verdicts = [verdict for some in lost.values() for verdict in some]
    if not lost:
        return ""
    return f"none of {len(verdicts)} answers of {', '.join(lost)} could be scored ({tell_reasons(verdicts)})"


def _reason(verdict: Verdict) -> str:
    return verdict.explanation.partition("; rubric")[0]
