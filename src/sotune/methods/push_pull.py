"""Push-pull optimal transport as the package solves it, with harmful rows kept back: all of sotune's own methods."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sotune.methods.inputs import Solution, SolvedReference, Weighing, WeighInputs
from sotune.methods.unseen import split_reference
from sotune.records import SetName
from sotune.sentinels import Folds, Grid, weigh_with_sentinels
from sotune.settings import TUNED, WeightSettings
from sotune.weights import LearnedWeights, Scorer, learn_weights, pull_sets
from sotune.weights.solution import Step

PAPER = "Safety Optimal Transport"


def weigh(inputs: WeighInputs) -> Weighing:
    """Solves for the weights; with sentinels where the harmful reference has enough prompts.

    Raises:
        ConfigError: The kernels do not fit into memory and the solver cannot stream.
        DataError: Representations are not finite, of different width, or empty.
    """
    settings = inputs.settings
    folds, note = split_reference(inputs)
    if folds is not None and settings.solver == "sharp":
        folds, note = None, "no sentinels: the solver sharp gives no function that could weigh unseen rows"
    on_step, on_pass = _told_of_steps(inputs), _told_of_passes(inputs)
    sets = (inputs.downstream, inputs.safe_anchor, inputs.harmful_reference)
    if folds is None:
        pull = pull_sets(inputs.safe_anchor, inputs.safe_reference, settings)
        learned = learn_weights(
            inputs.downstream,
            pull,
            inputs.harmful_reference,
            settings,
            shards=inputs.shards,
            on_step=on_step,
            on_pass=on_pass,
        )
        return Weighing(learned.weights, solution=_solution(learned, settings, inputs, None), note=note)
    found = weigh_with_sentinels(
        *sets,
        folds,
        settings,
        safe_reference=inputs.safe_reference,
        grid=_grid(inputs),
        shards=inputs.shards,
        on_step=on_step,
        on_pass=on_pass,
    )
    solution = _solution(found.learned, found.settings, inputs, folds)
    return Weighing(found.learned.weights, solution=solution, sentinels=found.sentinels, note="")


def _grid(inputs: WeighInputs) -> Grid:
    """Returns what the tuning fold tries: of the settings that stand at their defaults, if any may be chosen."""
    if inputs.sentinels.sentinels != "tune":
        return {}
    fields = WeightSettings.model_fields
    return {name: tried for name, tried in TUNED.items() if getattr(inputs.settings, name) == fields[name].default}


def _solution(learned: LearnedWeights, settings: WeightSettings, inputs: WeighInputs, folds: Folds | None) -> Solution:
    sides: list[tuple[SetName, Tensor, Folds | None]] = [("safe_anchor", inputs.safe_anchor, None)]
    if inputs.safe_reference is not None and settings.safe_strength > 0:
        sides.append(("safe_reference", inputs.safe_reference, folds and folds.safe))
    sides.append(("harmful_reference", inputs.harmful_reference, folds))
    references = [_solved(*side) for side in sides]
    scorer = None
    if learned.tau is not None:
        scorer = Scorer.from_learned(learned, settings=settings, references=[one.rows for one in references])
    return Solution(learned, settings, references, scorer)


def _solved(name: SetName, rows: Tensor, folds: Folds | None) -> SolvedReference:
    positions = range(len(rows)) if folds is None else folds.solved
    return SolvedReference(name, rows[list(positions)], positions)


def _told_of_steps(inputs: WeighInputs) -> Callable[[Step], None]:
    return lambda step: inputs.monitor.progress("solving weights", step.step, None)


def _told_of_passes(inputs: WeighInputs) -> Callable[[int], Callable[[int, int], None]]:
    def on_pass(number: int) -> Callable[[int, int], None]:
        return lambda done, total: inputs.monitor.progress(f"pass {number} over all rows", done, total)

    return on_pass
