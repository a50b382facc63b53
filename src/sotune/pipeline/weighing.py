"""Third stage: representations to weights and saved potentials."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, library_versions, read_json, write_json, write_parquet
from sotune.config import RunConfig, WeightSettings, parse_bytes
from sotune.pipeline.encoding import load_representations, map_representations
from sotune.pipeline.stage import Figures, Monitor, Stage

if TYPE_CHECKING:
    from sotune.weights import SolverSettings

_WEIGHTS, _POTENTIALS, _SOLVER = "weights.parquet", "potentials.safetensors", "solver.json"


def _key(config: RunConfig) -> dict[str, Any]:
    return {
        "settings": {name: getattr(config, name) for name in WeightSettings.model_fields},
        "libraries": library_versions("torch"),
        "threads": config.threads,
    }


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    from sotune.weights import Scorer, learn_weights

    ids, downstream = map_representations(config, run, "downstream")
    references = [load_representations(config, run, name).values for name in ("safe_anchor", "harmful_reference")]
    settings = solver_settings(config)

    def on_pass(number: int) -> Callable[[int, int], None]:
        return lambda done, total: monitor.progress(f"pass {number} over all rows", done, total)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learned = learn_weights(
            downstream,
            *references,
            settings=settings,
            cost=config.cost,
            on_step=lambda step: monitor.progress("solving weights", step.step, None),
            on_pass=on_pass,
        )
    messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    for message in messages:
        monitor.warn(message)
    write_parquet(
        run.file(_WEIGHTS),
        {
            "id": ids,
            "weight": learned.weights.double().numpy(),
            "pull_cost": learned.pull_cost.double().numpy(),
            "push_cost": learned.push_cost.double().numpy(),
            "pull_potential": learned.pull_potential.double().numpy(),
            "push_potential": learned.push_potential.double().numpy(),
        },
        schema={"id": "string"},
    )
    outputs = [_WEIGHTS, _SOLVER]
    if learned.tau is None:
        run.file(_POTENTIALS).unlink(missing_ok=True)  # an earlier solver's potentials do not belong to these weights
    else:
        scorer = Scorer.from_learned(learned, settings=settings, references=references)
        scorer.save(run.file(_POTENTIALS))
        outputs.append(_POTENTIALS)
    write_json(
        run.file(_SOLVER),
        {
            "method": config.solver,
            "cost": config.cost,
            "epsilon": config.epsilon,
            "push_strength": config.push_strength,
            "reference_relaxation": None
            if math.isinf(settings.reference_relaxation)
            else settings.reference_relaxation,
            "tau": learned.tau,
            "effective_sample_size": learned.effective_sample_size,
            "objective": learned.objective,
            "stationarity": learned.stationarity,
            "stationarity_tolerance": config.stationarity_tolerance,
            "pull_marginal_error": learned.marginal_error("pull"),
            "push_marginal_error": learned.marginal_error("push"),
            "marginal_tolerance": (
                max(config.marginal_tolerance, config.streamed_tolerance)
                if learned.n_passes
                else config.marginal_tolerance
            ),
            "n_steps": learned.n_steps,
            "n_passes": learned.n_passes,
            "n_sinkhorn_iters": learned.n_sinkhorn_iters,
            "converged": learned.converged,
            "history": [step.as_dict() for step in learned.history],
            "warnings": messages,
        },
    )
    return outputs


def solver_settings(config: RunConfig) -> SolverSettings:
    """Returns how a run solves its weights."""
    from sotune.weights import SolverSettings

    return SolverSettings(
        solver=config.solver,
        epsilon=config.epsilon,
        push_strength=config.push_strength,
        effective_sample_size=config.effective_sample_size,
        tau=config.tau,
        stationarity_tolerance=config.stationarity_tolerance,
        marginal_tolerance=config.marginal_tolerance,
        max_steps=config.max_outer_steps,
        max_iters=config.max_iters,
        learning_rate=config.logit_learning_rate,
        reference_relaxation=_relaxation(config),
        max_memory=None if config.max_memory is None else parse_bytes(config.max_memory),
        streamed_tolerance=config.streamed_tolerance,
    )


def _relaxation(config: RunConfig) -> float:
    if config.reference_relaxation is not None:
        return config.reference_relaxation
    return 0.0 if config.cost == "adaptive" else math.inf


def _summarize(run: RunFolder) -> Figures:
    solver = read_json(run.file(_SOLVER))
    figures = {
        "converged": "yes" if solver["converged"] else "NO",
        "effective sample size": f"{solver['effective_sample_size']:.3f}",
    }
    if solver["tau"] is not None:
        figures |= {"tau": f"{solver['tau']:.4g}", "stationarity": f"{solver['stationarity']:.1e}"}
    return figures


WEIGHTS = Stage("weights", "weigh", "representations", _key, _work, _summarize)
