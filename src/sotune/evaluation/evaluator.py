"""The one evaluation: models answer prompts, judges judge the answers, and the figures of all models come of it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sotune.errors import ConfigError
from sotune.evaluation.asking import Asking, ask_models
from sotune.evaluation.assessment import Assessment, assess
from sotune.evaluation.candidates import Candidate
from sotune.evaluation.diagnostics import (
    describe_diagnostics,
    make_yardstick,
    measure_drifts,
    measure_figures,
    with_surprise,
)
from sotune.evaluation.judges.registry import make_judges
from sotune.evaluation.judging import Judged, judge_responses
from sotune.evaluation.metrics import JudgeRole, compute_metrics
from sotune.evaluation.outcome import Evaluation, Measured
from sotune.evaluation.packs import PromptSource, load_sources, parse_sources
from sotune.evaluation.protocol import EvalPrompt, Judge
from sotune.evaluation.served import Server
from sotune.evaluation.unmeasured import count_unscored
from sotune.evaluation.usage import JudgingPlan, describe_usage, plan_questions
from sotune.monitoring import Monitor, Silent
from sotune.records import Message
from sotune.settings import EvaluationSettings, ModelEvaluation, RenderingSettings, RunConfig

Judges = Mapping[JudgeRole, Judge]


def evaluate(
    models: Sequence[Candidate],
    prompts: Sequence[EvalPrompt],
    judges: Judges | Callable[[], Judges],
    *,
    settings: EvaluationSettings | None = None,
    rendering: RenderingSettings | None = None,
    seed: int = 0,
    answers_dir: Path | None = None,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Asks models the same prompts, judges the answers, and compares all models with the first.

    With ``settings.diagnostics`` the base model's surprise at all answers is measured too, by which the rules of
    coherence also catch babble made of real words, and how far each tuned model has drifted. A metric of which no
    answer could be scored is absent; ``require_measured`` says so, once the rest is written.

    Args:
        models: The base model first, then what was tuned from it; names are unique.
        prompts: What is asked.
        judges: Role to judge, the same for all models; or what returns them, which is called when the models have done
            their work, so that a judge model need not share the memory with them.
        settings: How many tokens and prompts at once, whether to measure diagnostics, what judging costs.
        rendering: How prompts are rendered; None: by the chat template of the tokenizer, if it has one.
        seed: Seeds everything random.
        answers_dir: Where finished answers lie, by the content of model, adapter and prompts: what an earlier call left
            is not asked again, and runs that share the folder ask their common base model once. None keeps none.
        monitor: Receives progress, and warnings about answers that no judge could score.

    Raises:
        ConfigError: A model or an adapter could not be loaded, or a role has no judge.
        DataError: Prompts or verdicts do not fit together.
    """
    chosen, watch = settings or EvaluationSettings(), monitor or Silent()
    asking, (base, *tuned) = asking_of(chosen, rendering or RenderingSettings(), seed), models
    with contextlib.nullcontext(answers_dir) if answers_dir else tempfile.TemporaryDirectory() as folder:
        answers = ask_models(prompts, models, asking=asking, answers_dir=Path(folder), on_progress=watch.progress)
    diagnosed = _with_weights(models, watch) if chosen.diagnostics else []
    yardstick = make_yardstick(prompts, answers, base, asking, surprise=base in diagnosed)
    drifting = [one for one in tuned if base in diagnosed and one in diagnosed]
    drifts = {one.name: measure_drifts(prompts, answers[base.name], base, one, asking) for one in drifting}
    roles = judges() if callable(judges) else judges
    results, figures = {}, {}
    for name, responses in answers.items():
        results[name] = judge_responses(prompts, responses, with_surprise(roles, yardstick, name), seed=seed)
        measured = measure_figures(prompts, responses, results[name].verdicts, yardstick, name=name, seed=seed)
        figures[name] = measured | drifts.get(name, {})
    verdicts = {name: result.verdicts for name, result in results.items()}
    return Evaluation(
        prompts=prompts,
        models={name: Measured(answers[name], results[name], figures[name]) for name in answers},
        judges=results[base.name].judges,
        assessments=_assess(prompts, results),
        diagnostics=describe_diagnostics(prompts, verdicts, figures, yardstick),
        judging={"usage": describe_usage(roles, prompts, answers, chosen), "unscored": count_unscored(verdicts, watch)},
    )


def prompt_sources(settings: EvaluationSettings) -> Sequence[PromptSource]:
    """Returns where the evaluation prompts come from.

    Raises:
        ConfigError: None are named, or a name is neither a file nor a pack.
        DataError: A file does not exist.
    """
    if settings.eval_prompts is None:
        raise ConfigError("evaluation needs prompts; name a JSONL file or a task pack with eval_prompts")
    return parse_sources(settings.eval_prompts)


def load_eval_prompts(settings: RunConfig | ModelEvaluation) -> list[EvalPrompt]:
    """Reads the evaluation prompts of all sources, at most ``eval_limit`` of each, drawn by the seed alone.

    With ``eval_system`` each is asked under that system prompt, and nothing is trained with it (Lyu et al., *Keeping
    LLMs aligned after fine-tuning: the crucial role of prompt templates*, NeurIPS 2024,
    https://arxiv.org/abs/2402.18540).

    Raises:
        ConfigError: A source is neither a file nor a pack, or cannot be scored here.
        DataError: A source cannot be read.
    """
    found = load_sources(prompt_sources(settings), limit=settings.eval_limit, seed=settings.seed)
    return [served_under(settings.eval_system, prompt) for prompt in found] if settings.eval_system else found


def served_under(system: str, prompt: EvalPrompt) -> EvalPrompt:
    """Returns a prompt as it is asked under a system prompt; one that has its own stays as it is.

    >>> asked = served_under("Be kind.", EvalPrompt("a", "task", (Message("user", "Hello"),)))
    >>> [message.role for message in asked.messages]
    ['system', 'user']
    """
    if prompt.messages[0].role == "system":
        return prompt
    return replace(prompt, messages=(Message("system", system), *prompt.messages))


def plan_evaluation(
    models: Sequence[Candidate],
    prompts: Sequence[EvalPrompt],
    *,
    settings: EvaluationSettings,
    rendering: RenderingSettings,
    seed: int,
    answers_dir: Path,
    judge_answers: Path,
    monitor: Monitor,
) -> JudgingPlan:
    """Asks the models and counts what judging their answers would ask of the endpoint; asks it nothing.

    The answers stay in ``answers_dir``, so that the evaluation itself does not ask the models again.

    Raises:
        ConfigError: No chat judge is named, or a model could not be loaded.
    """
    judges = make_judges(settings, judge_answers, monitor, only_counted=True)
    asking = asking_of(settings, rendering, seed)
    answers = ask_models(prompts, models, asking=asking, answers_dir=answers_dir, on_progress=monitor.progress)
    return plan_questions(judges, prompts, answers, settings)


def asking_of(settings: EvaluationSettings, rendering: RenderingSettings, seed: int) -> Asking:
    """Returns how models are asked under the settings of an evaluation."""
    server = None if settings.server_base_url is None else Server(settings, rendering)
    return Asking(rendering, settings.max_new_tokens, settings.eval_batch_size, seed, server)


def _with_weights(models: Sequence[Candidate], monitor: Monitor) -> list[Candidate]:
    """Returns the models whose weights are here; says which are not."""
    remote = [candidate.name for candidate in models if candidate.remote]
    if remote:
        monitor.warn(
            f"surprise and drift need the weights; they are not measured for what only the server has: "
            f"{', '.join(remote)}"
        )
    return [candidate for candidate in models if not candidate.remote]


_ABSOLUTE = ("broken", "harmful")
"""Words that do not depend on what the base model was."""


def _assess(prompts: Sequence[EvalPrompt], results: Mapping[str, Judged]) -> dict[str, Assessment]:
    """Says in one word what each model is, where harm and coherence were measured.

    The base is held against an ideal, without the prompts of the task: it need not know yet what the others were tuned
    for. The others are held against the same ideal first, on the same prompts, so that one and the same behavior is
    called broken or harmful whoever shows it; then against the base.
    """
    base = next(iter(results))
    baseline = results[base]
    told = [name for name, result in results.items() if {"harmful_rate", "coherence"} <= result.metrics.keys()]
    if base not in told:
        return {}
    known = [prompt for prompt in prompts if prompt.kind != "task"]
    alone = {name: assess(compute_metrics(known, results[name].verdicts, seed=0)) for name in told}
    against = {name: assess(results[name].metrics, baseline.metrics) for name in told if name != base}
    return {name: alone[name] if alone[name].label in _ABSOLUTE else against.get(name, alone[name]) for name in told}
