"""Third stage: representations to weights and saved potentials."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from sotune.artifacts import RunFolder, library_versions, read_json, write_json, write_parquet
from sotune.config import RunConfig, WeightSettings
from sotune.pipeline.encoding import load_representations
from sotune.pipeline.stage import Figures, Monitor, Stage

_WEIGHTS, _POTENTIALS, _SOLVER = "weights.parquet", "potentials.safetensors", "solver.json"


def _key(config: RunConfig) -> dict[str, Any]:
    return {
        "settings": {name: getattr(config, name) for name in WeightSettings.model_fields},
        "libraries": library_versions("torch"),
        "threads": config.threads,
    }


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    from sotune.weights import Scorer, SolverSettings, learn_weights

    sets = {
        name: load_representations(config, run, name) for name in ("downstream", "safe_anchor", "harmful_reference")
    }
    downstream, safe_anchor, harmful_reference = sets.values()
    settings = SolverSettings(
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
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learned = learn_weights(
            downstream.values,
            safe_anchor.values,
            harmful_reference.values,
            settings=settings,
            cost=config.cost,
            on_step=lambda step: monitor.progress("solving weights", step.step, None),
        )
    messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    for message in messages:
        monitor.warn(message)
    write_parquet(
        run.file(_WEIGHTS),
        {
            "id": downstream.ids,
            "weight": learned.weights.double().numpy(),
            "pull_cost": learned.pull_cost.double().numpy(),
            "push_cost": learned.push_cost.double().numpy(),
            "pull_potential": learned.pull.f.double().numpy(),
            "push_potential": learned.push.f.double().numpy(),
        },
        schema={"id": "string"},
    )
    outputs = [_WEIGHTS, _SOLVER]
    if learned.tau is None:
        run.file(_POTENTIALS).unlink(missing_ok=True)  # an earlier solver's potentials do not belong to these weights
    else:
        Scorer.from_learned(
            learned,
            settings=settings,
            cost=config.cost,
            safe_anchor=safe_anchor.values,
            harmful_reference=harmful_reference.values,
        ).save(run.file(_POTENTIALS))
        outputs.append(_POTENTIALS)
    write_json(
        run.file(_SOLVER),
        {
            "method": config.solver,
            "cost": config.cost,
            "epsilon": config.epsilon,
            "push_strength": config.push_strength,
            "tau": learned.tau,
            "effective_sample_size": learned.effective_sample_size,
            "objective": learned.objective,
            "stationarity": learned.stationarity,
            "stationarity_tolerance": config.stationarity_tolerance,
            "pull_marginal_error": learned.pull.marginal_error,
            "push_marginal_error": learned.push.marginal_error,
            "marginal_tolerance": config.marginal_tolerance,
            "n_steps": learned.n_steps,
            "n_sinkhorn_iters": learned.n_sinkhorn_iters,
            "converged": learned.converged,
            "history": [step.as_dict() for step in learned.history],
            "warnings": messages,
        },
    )
    return outputs


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
