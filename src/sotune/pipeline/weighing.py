"""Third stage: representations to weights, by the method of the run; saved potentials where it has some."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sotune import processes
from sotune.artifacts import TABLE_ROWS, RunFolder, library_versions
from sotune.errors import DataError
from sotune.methods import Method, Solution, Weighing, WeighInputs, method_of
from sotune.monitoring import Monitor
from sotune.pipeline.encoding import load_representations, map_representations
from sotune.pipeline.method_tools import input_records, make_tools, read_truth, tools_key, weight_settings
from sotune.pipeline.prompt_control import describe_prompts_alone, measure_prompts_alone
from sotune.pipeline.record_sets import PREFIXES, read_records
from sotune.pipeline.sentinel_files import write_sentinels, written_settings
from sotune.pipeline.stage import Figures, Stage, forwarded_warnings
from sotune.records import SET_NAMES, Record, SetName
from sotune.run_files import ENCODING, POTENTIALS, SOLVER, WEIGHTS
from sotune.settings import RunConfig, SentinelSettings, WeightSettings
from sotune.transport import ALL_ROWS, ProcessShards, Rows
from sotune.weights.nearest import nearest_by_mass, reach

_N_NEAREST = 3
_REACH_ROWS = 1000
"""Of so many of its rows at most a reference's reach is found."""
Column = Callable[[slice], Any]
"""Returns the values of a column for some rows."""
_SHARED_ENTRIES = 1 << 28  # kernels of 1 GiB: below, a sweep is too short to be worth telling the others of it
_SHARED_METHODS = {"adaptive", "sot"}


def _key(config: RunConfig) -> dict[str, Any]:
    method = method_of(config)
    settings = {**config.part(WeightSettings).model_dump(mode="json")}
    return {
        "method": {"names": method.at("weigh"), "constants": method.constants(config.method_settings, "weigh")},
        "keeps_all": method.keeps_all,
        "settings": {**settings, **config.part(SentinelSettings).model_dump(mode="json")},
        "seed": config.seed,
        "tools": tools_key(config, method, "weigh"),
        "libraries": library_versions("torch"),
        "threads": config.threads,
    }


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    method, sets = method_of(config), _sets(run)
    encoded = map_representations(config, run, "downstream")
    downstream = encoded.values
    references = {name: load_representations(config, run, name) for name in SET_NAMES[1:] if len(sets[name])}
    n_entries = len(encoded.ids) * sum(len(one.ids) for one in references.values())
    with forwarded_warnings(monitor) as messages:
        if n_entries >= _SHARED_ENTRIES and set(method.at("weigh")) <= _SHARED_METHODS:
            weighing = processes.together("weights", lambda: _weigh(config, run, monitor, sets))
        else:
            weighing = _weigh(config, run, monitor, sets)
    weights = _on_simplex(weighing, method.name)
    columns: dict[str, Column] = {"id": lambda rows: [*encoded.ids[rows]], "weight": weights.numpy().__getitem__}
    run.file(POTENTIALS).unlink(missing_ok=True)  # an earlier solution's do not belong to these weights
    ids_of = {name: reference.ids for name, reference in references.items()}
    outputs = write_sentinels(run, weighing, ids_of)
    solved: dict[str, Any] = {}
    if weighing.solution is not None:
        columns |= _solved_columns(weighing.solution, downstream, ids_of)
        reaches = _reaches(weighing.solution)
        solved = {**_describe_solution(weighing.solution), "reach": {PREFIXES[name]: r for name, r in reaches.items()}}
        if (scorer := weighing.solution.scorer) is not None:
            n_rows = {one.set_name: len(one.rows) for one in weighing.solution.references}
            replace(scorer, reaches=tuple((n_rows[name], r) for name, r in reaches.items())).save(run.file(POTENTIALS))
            outputs.append(POTENTIALS)
    described = {**_describe_weights(method, weighing, weights), **solved, "warnings": messages}
    if config.prompt_control and (weighing.solution is not None or weighing.sentinels is not None):
        shown = {name: sets[name] for name in SET_NAMES}
        described["prompts_alone"] = measure_prompts_alone(config, run, monitor, method, sets=shown, weights=weights)
    return [*outputs, WEIGHTS.write_parts(run, _parts(columns, len(weights))), SOLVER.write(run, described)]


def _helped(config: RunConfig, run: RunFolder, monitor: Monitor) -> Weighing:
    """Does the part of the kernels of a process that helps."""
    return _weigh(config, run, monitor, _sets(run))


def _sets(run: RunFolder) -> Mapping[SetName, Sequence[Record]]:
    return read_records(run, *SET_NAMES, "safety_pairs")


def _weigh(config: RunConfig, run: RunFolder, monitor: Monitor, sets: Mapping[SetName, Sequence[Record]]) -> Weighing:
    """Weighs by the method: in one process, or in all of them at once, each with its part of the kernels."""
    method = method_of(config)
    downstream = map_representations(config, run, "downstream").values
    references = {name: load_representations(config, run, name) for name in SET_NAMES[1:] if len(sets[name])}
    safe = references.get("safe_reference")
    several = processes.size() > 1
    with tempfile.TemporaryDirectory() as folder:
        return method.weigh(
            WeighInputs(
                downstream,
                references["safe_anchor"].values,
                references["harmful_reference"].values,
                config.seed,
                safe_reference=None if safe is None else safe.values,
                records=input_records(sets),
                tools=make_tools(
                    config, run, monitor, method, safety_pairs=sets["safety_pairs"], work_dir=Path(folder)
                ),
                truth=read_truth(config, run) if "truth" in method.needs else None,
                settings=_settings(config, run, safe is not None),
                sentinels=config.part(SentinelSettings),
                method_settings=config.method_settings,
                monitor=monitor,
                shards=ProcessShards(processes.rank(), processes.size()) if several else ALL_ROWS,
            )
        )


def _settings(config: RunConfig, run: RunFolder, has_safe_reference: bool) -> WeightSettings:
    """Returns how the rows are weighed; what is left open and depends on the encoder is as the encoder says."""
    settings = weight_settings(config)
    return settings.over({"answer_from": ENCODING.read(run)["answer_from"]}) if has_safe_reference else settings


def _on_simplex(weighing: Weighing, method: str) -> Tensor:
    """Returns the weights, float64, with sum 1.

    Raises:
        DataError: They cannot be scaled to that.
    """
    weights = weighing.weights.double().cpu()
    if weighing.solution is not None:
        return weights
    total = weights.sum()
    if not (torch.isfinite(total) and total > 0 and (weights >= 0).all()):
        raise DataError(f"method {method!r} must give finite weights ≥ 0, not all of them 0. Their sum is {total}")
    return weights / total


def _describe_weights(method: Method, weighing: Weighing, weights: Tensor) -> dict[str, Any]:
    return {
        **method.described("weigh"),
        "k": weighing.k,
        "effective_sample_size": float(1 / (len(weights) * (weights**2).sum())),
    }


def _parts(columns: Mapping[str, Column], n: int) -> Iterator[dict[str, Any]]:
    """Yields a table of n rows part by part."""
    for start in range(0, n, TABLE_ROWS):
        yield {name: of(slice(start, start + TABLE_ROWS)) for name, of in columns.items()}


def _solved_columns(solution: Solution, downstream: Rows, ids_of: Mapping[SetName, Sequence[str]]) -> dict[str, Column]:
    learned = solution.learned
    columns = {
        "pull_cost": learned.pull_cost,
        "push_cost": learned.push_cost,
        "pull_potential": learned.pull_potential,
        "push_potential": learned.push_potential,
    }
    found: dict[str, Column] = {name: column.double().numpy().__getitem__ for name, column in columns.items()}
    potentials = torch.cat([reference.g for reference in learned.references])
    of_sets = torch.split(potentials, [len(reference.rows) for reference in solution.references])
    for reference, potential in zip(solution.references, of_sets, strict=True):
        ids = [ids_of[reference.set_name][i] for i in reference.positions]
        found |= _nearest(PREFIXES[reference.set_name], downstream, solution, reference.rows, potential, ids)
    return found


def _nearest(
    name: str, downstream: Rows, solution: Solution, reference: Tensor, potential: Tensor, ids: Sequence[str]
) -> dict[str, Column]:
    """Returns the columns that say which rows of a reference each row's mass goes to, and the least cost."""
    cost = solution.learned.fitted_cost.between(downstream, reference)
    found = nearest_by_mass(cost, potential, solution.settings.epsilon, most=_N_NEAREST)
    return {
        f"nearest_{name}": lambda rows: [[ids[i] for i in columns] for columns in found.columns[rows].tolist()],
        f"nearest_{name}_shares": lambda rows: found.shares[rows].double().tolist(),
        f"least_{name}_cost": lambda rows: found.least_cost[rows].double().numpy(),
    }


def _describe_solution(solution: Solution) -> dict[str, Any]:
    learned, settings = solution.learned, solution.settings
    tolerance = settings.marginal_tolerance
    return {
        "solver": settings.solver,
        "cost": settings.cost,
        **written_settings(settings),
        "tau": learned.tau,
        "effective_sample_size": learned.effective_sample_size,
        "objective": learned.objective,
        "stationarity": learned.stationarity,
        "stationarity_tolerance": settings.stationarity_tolerance,
        "pull_marginal_error": learned.marginal_error("pull"),
        "push_marginal_error": learned.marginal_error("push"),
        "marginal_tolerance": max(tolerance, settings.streamed_tolerance) if learned.n_passes else tolerance,
        "n_steps": learned.n_steps,
        "n_passes": learned.n_passes,
        "n_sinkhorn_iters": learned.n_sinkhorn_iters,
        "converged": learned.converged,
        "history": [step.as_dict() for step in learned.history],
    }


def _reaches(solution: Solution) -> dict[SetName, float]:
    """Returns how far each reference reaches; nothing where one is too small to tell."""
    cost, found = solution.learned.fitted_cost, {}
    for one in solution.references:
        some = torch.arange(0, len(one.rows), math.ceil(len(one.rows) / _REACH_ROWS))
        found[one.set_name] = reach(cost.between(one.rows[some], one.rows), some)
    return found if all(map(math.isfinite, found.values())) else {}


def _summarize(run: RunFolder) -> Figures:
    solver = SOLVER.read(run)
    figures = {"method": solver["title"], "effective sample size": f"{solver['effective_sample_size']:.3f}"}
    if alone := solver.get("prompts_alone"):
        figures["prompts alone"] = describe_prompts_alone(alone)
    if "converged" in solver:
        figures["converged"] = "yes" if solver["converged"] else "NO"
    if solver.get("tau") is not None:
        figures |= {"tau": f"{solver['tau']:.4g}", "stationarity": f"{solver['stationarity']:.2g}"}
    return figures


_SURVIVES = "the representations are kept; the weights are solved from the start"
WEIGH = Stage(
    "weights", "weigh", "representations", _key, _work, _summarize, version=7, survives=_SURVIVES, shared=_helped
)
