"""Third stage: representations to weights and saved potentials."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, library_versions, read_json, write_json, write_parquet
from sotune.monitoring import Monitor
from sotune.pipeline.encoding import load_representations, map_representations
from sotune.pipeline.guarding import split_reference, tuning_grid, write_sentinels, written_settings
from sotune.pipeline.stage import Figures, Stage
from sotune.settings import RunConfig, SentinelSettings, WeightSettings

if TYPE_CHECKING:
    from torch import Tensor

    from sotune.transport import Rows
    from sotune.weights import LearnedWeights
    from sotune.weights.solution import Step

_N_NEAREST = 3
_WEIGHTS, _POTENTIALS, _SOLVER = "weights.parquet", "potentials.safetensors", "solver.json"


def _key(config: RunConfig) -> dict[str, Any]:
    return {
        "settings": config.model_dump(
            mode="json", include={*WeightSettings.model_fields, *SentinelSettings.model_fields}
        ),
        "seed": None if config.sentinels == "off" else config.seed,
        "libraries": library_versions("torch"),
        "threads": config.threads,
    }


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    from sotune.sentinels import weigh_with_sentinels
    from sotune.weights import Scorer, learn_weights

    ids, downstream = map_representations(config, run, "downstream")
    anchor_set, harmful_set = (load_representations(config, run, name) for name in ("safe_anchor", "harmful_reference"))
    anchor, harmful = anchor_set.values, harmful_set.values
    settings: WeightSettings = config
    split, guarded = split_reference(config, run), None

    def on_step(step: Step) -> None:
        monitor.progress("solving weights", step.step, None)

    def on_pass(number: int) -> Callable[[int, int], None]:
        return lambda done, total: monitor.progress(f"pass {number} over all rows", done, total)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if split.folds is None:
            learned = learn_weights(downstream, anchor, harmful, settings, on_step=on_step, on_pass=on_pass)
        else:
            guarded = weigh_with_sentinels(
                downstream, anchor, harmful, split.folds, settings,
                grid=tuning_grid(config), on_step=on_step, on_pass=on_pass,
            )  # fmt: skip
            learned, settings, harmful = guarded.learned, guarded.settings, guarded.harmful_reference
    references = [anchor, harmful]
    harmful_ids = [harmful_set.ids[i] for i in (split.folds.solved if split.folds else range(len(harmful)))]
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
            **_nearest("safe", downstream, learned, 0, anchor, anchor_set.ids, settings.epsilon),
            **_nearest("harmful", downstream, learned, 1, harmful, harmful_ids, settings.epsilon),
        },
        schema={"id": "string"},
    )
    outputs = [_WEIGHTS, _SOLVER, *write_sentinels(run, split, guarded)]
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
            **written_settings(settings),
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


def _nearest(
    name: str,
    downstream: Rows,
    learned: LearnedWeights,
    number: int,
    reference: Tensor,
    ids: Sequence[str],
    epsilon: float,
) -> dict[str, Any]:
    """Returns the columns that say which rows of a reference each row's mass goes to, and the least cost."""
    from sotune.weights.nearest import nearest_by_mass

    cost = learned.fitted_cost.between(downstream, reference)
    found = nearest_by_mass(cost, learned.references[number].g, epsilon, most=_N_NEAREST)
    return {
        f"nearest_{name}": [[ids[i] for i in columns] for columns in found.columns.tolist()],
        f"nearest_{name}_shares": found.shares.double().tolist(),
        f"least_{name}_cost": found.least_cost.double().numpy(),
    }


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
