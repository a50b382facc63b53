"""KL-constrained: the task is learned as well as it can be within a limit on the drift from the aligned model.

Ours: minimize the loss subject to ``drift ≤ δ`` on risky prompts, and on those of the safe reference where there is one
(the anchor's are of the task, which is to change). Drift is that of `sotune.methods.held_answers`, δ in nats a token,
so that what is asked for is a promise and not a coefficient. By augmented Lagrangian (Nocedal and Wright, *Numerical
optimization*, ch. 17), in units of the limit: each step counts the drift D of its few answers with ``μ = [λ + ρ·(D/δ −
1)]`` and then moves ``λ ← [λ + η·(D/δ − 1)]``, both clipped to 0 … 100. While the drift is below its limit the
multiplier falls towards 0, and the term costs the task nothing. A pass over a few short answers costs nearly as much as
one over many, so only every fourth step looks, at more answers; term and η count four times then.

Beside it, at a small fixed strength and from the same pass, the shift of the last layer's states as a share of their
size, as in SBR (https://arxiv.org/abs/2605.05995): where selection dropped the rows that drift would come from, the
limit does not bind, and prompts that only sound harmful would go on changing.

Every so many steps the drift is measured on prompts of the harmful reference that no step looks at, and the multiplier
follows the larger of the two: what is promised is not what was trained. The measurement has the last word too: at the
end, where the drift on any of the sets exceeds δ, the adapter is scaled down to the largest scale that keeps it
(as between two models in WiSE-FT, https://arxiv.org/abs/2109.01903), which is logged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.held_answers import HeldSets
from sotune.methods.inputs import TrainInputs
from sotune.methods.kl import KlSettings, StayClose, ask_first
from sotune.methods.method import Method, train_weighted
from sotune.methods.own_refusals import drawn_rows, find_own_refusals
from sotune.methods.pairs import base_model_of
from sotune.training import TrainResult
from sotune.training.progress import count_steps, rows_per_step
from sotune.training.training_rows import build_equal_rows

Measured = TypeVar("Measured")

_MOST = 100.0
_HALVINGS = 6
_MEASUREMENTS = 10
_LEAST_HELD = 32
_SAMPLED = 64  # rows that tell how long a row is
_MAGNITUDE = "lora_magnitude_vector"


class KlConstrainedSettings(KlSettings):
    """KL-constrained: its own constants."""

    risky_prompts: int = Field(96, ge=1, description="How many prompts of the harmful reference are held.")
    decay: float = Field(1.0, ge=0, description="How fast a token's share falls with its place in the answer.")
    multiplier: float = Field(1.0, ge=0, description="Multiplier of the first step.")
    damping: float = Field(1.0, ge=0, description="What a step's own excess over the limit adds to it, rho.")
    dual_rate: float = Field(0.1, ge=0, description="How fast the multiplier follows the excess, eta, a step.")
    prompts_per_step: int = Field(8, ge=1, description="How many of each kind a look takes in, at most.")
    look_every: int = Field(
        4, ge=1, description="Steps from one look at the answers to the next, which counts as many times."
    )
    anchor: float = Field(1.0, ge=0, description="Strength at which states are held too, whatever the drift is.")
    extra_tokens: float = Field(
        0.15, gt=0, description="Most tokens of these, in units of the tokens of the rows; one answer a look at least."
    )
    asked_rows: int = Field(
        1024, ge=0, description="How many rows' prompts the model is asked before training, to see which it refuses."
    )
    asked_tokens: int = Field(12, ge=1, description="Tokens of these answers: enough to tell a refusal.")
    hold_refused: bool = Field(
        True,
        description="Hold those among them that it refuses and rows answer, where not all rows are asked and left out.",
    )
    leave_out: bool = Field(True, description="Do not train on rows that answer a prompt which the model refuses.")
    measure_every: int = Field(
        10, ge=1, description="Least steps between measurements on prompts that no step looks at; about 10 in all."
    )


def train(inputs: TrainInputs) -> TrainResult:
    """Trains within the limit.

    Raises:
        DataError: The model answers none of the prompts.
        SotuneError: Training diverged.
    """
    own, training = inputs.own(KlConstrainedSettings), inputs.tools.training
    base = base_model_of(inputs.tools)
    asked = drawn_rows(inputs.records, own.asked_rows, seed=training.seed)
    found = find_own_refusals(base, inputs, asked, answer_tokens=own.asked_tokens)
    # Where all rows are asked, leaving out has done it, and one false refusal that is held may cost the task.
    holds = own.hold_refused and not (own.leave_out and len(inputs.records) <= own.asked_rows)
    refused = found.to_hold(inputs.records) if holds else []
    inputs = found.left_out(inputs) if own.leave_out else inputs
    held = min(own.risky_prompts, max(_LEAST_HELD, most_looked_at(inputs, own)))
    more = refused[: 3 * held // 4]
    sets = ask_first(inputs, inputs.safe_reference, own.replace(risky_prompts=held), more_risky=more, model=base)
    del base
    change = KeepWithin(
        sets,
        limit=inputs.hold_drift,
        own=own,
        n_each=answers_a_look(sets, inputs, own),
        measure_every=max(own.measure_every, count_steps(len(inputs.records), training) // _MEASUREMENTS),
        seed=training.seed,
    )
    return found.told(train_weighted(inputs, change=change), inputs)


def most_looked_at(inputs: TrainInputs, own: KlConstrainedSettings) -> int:
    """Returns how many answers all looks together take in at most: to ask for more of a short run would be wasted."""
    steps = count_steps(len(inputs.records), inputs.tools.training)
    return math.ceil(steps / own.look_every) * own.prompts_per_step


def answers_a_look(sets: HeldSets, inputs: TrainInputs, own: KlConstrainedSettings) -> int:
    """Returns how many answers of each kind a look takes in, so that they cost no more tokens than they may.

    Safety comes first where rows are very short: it is one at least.
    """
    training = inputs.tools.training
    rows = build_equal_rows(inputs.records[:_SAMPLED], inputs.tools.renderer).rows
    of_step = rows_per_step(training) * sum(len(row.input_ids) for row in rows) / len(rows)
    of_answer = sets.risky.mean_length + (sets.harmless.mean_length if sets.harmless else 0.0)
    return min(max(1, int(own.extra_tokens * own.look_every * of_step / of_answer)), own.prompts_per_step)


class Multiplier:
    """A multiplier of a constraint ``drift ≤ limit``, by dual ascent in units of the limit.

    Args:
        limit: δ > 0.
        start: λ before the first step.
        damping: ρ.
        rate: η.
    """

    def __init__(self, *, limit: float, start: float, damping: float, rate: float) -> None:
        self._limit, self.value, self._damping, self._rate = limit, start, damping, rate

    def strength(self, drift: float) -> float:
        """Returns what the drift of a step counts in its loss, and moves the multiplier."""
        excess = drift / self._limit - 1
        counts = _clip(self.value + self._damping * excess)
        self.value = _clip(self.value + self._rate * excess)
        return counts


def _clip(value: float) -> float:
    return min(max(value, 0.0), _MOST)


class KeepWithin(StayClose):
    """Adds ``μ·drift`` to the loss of each step, and scales the adapter down where drift exceeds its limit at the end.

    Args:
        sets: Prompts with the answers of the model before fine-tuning.
        limit: δ, in nats a token.
        own: The method's constants.
        n_each: Answers of a look, of each kind.
        measure_every: Steps between measurements on prompts that no step looks at.
        seed: Draws the answers of each step.
    """

    def __init__(
        self,
        sets: HeldSets,
        *,
        limit: float,
        own: KlConstrainedSettings,
        n_each: int,
        measure_every: int,
        seed: int,
    ) -> None:
        super().__init__(sets, coefficient=own.multiplier, n_each=n_each, seed=seed, anchor=own.anchor)
        self._limit, self._every, self._measure_every = limit, own.look_every, measure_every
        self._how = f"rho={own.damping} eta={own.dual_rate} every={own.look_every} measure={measure_every}"
        self._unseen = 0.0
        self._magnitudes: dict[str, Tensor] = {}
        self._multipliers = {
            name: Multiplier(
                limit=limit, start=own.multiplier, damping=own.damping, rate=own.dual_rate * own.look_every
            )
            for name in self._held
        }

    @property
    def name(self) -> str:
        """Names the change and its settings."""
        return f"{super().name} limit={self._limit} {self._how}"

    def start(self, model: Any) -> None:
        """Keeps what the model would say before the first step, and what DoRA's magnitudes are then."""
        super().start(model)
        trained = {name: parameter for name, parameter in model.named_parameters() if _MAGNITUDE in name}
        self._magnitudes = {name: parameter.detach().clone() for name, parameter in trained.items()}

    def penalty(self, model: Any, step: int) -> Tensor | float:
        """Returns the sum of ``μ·drift`` over the kinds of prompts for all steps up to the next look; 0 in between."""
        self._notes.clear()
        if self._sets.unseen is not None and step and step % self._measure_every == 0:
            self._notes["unseen_drift"] = self._unseen = self._sets.unseen.measure(model)
        return self._every * super().penalty(model, step // self._every) if step % self._every == 0 else 0.0

    def strength(self, name: str, drift: float) -> float:
        """Returns the multiplier of a kind of prompts for this step."""
        seen = max(drift, self._unseen) if name == "risky" else drift
        self._notes[f"{name}_multiplier"] = counts = self._multipliers[name].strength(seen)
        return counts

    def state(self) -> Mapping[str, float]:
        """Returns the multipliers, and the drift that was measured last."""
        return {"unseen": self._unseen} | {name: one.value for name, one in self._multipliers.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes them up again."""
        self._unseen = state["unseen"]
        for name, multiplier in self._multipliers.items():
            multiplier.value = state[name]

    def finish(self, model: Any) -> Mapping[str, float]:
        """Scales the adapter down until the largest drift is within the limit; only what exceeds it decides how far."""
        scale, drifts = 1.0, self.measure(model)
        while scale and (exceeds := [name for name, drift in drifts.items() if not drift <= self._limit]):  # or is nan
            factor, _ = largest_scale(
                model,
                functools.partial(self.measure, model, exceeds),
                lambda found: max(found.values()) <= self._limit,
                magnitudes=self._magnitudes,
            )
            scale, drifts = scale * factor, self.measure(model)
        return {"limit": self._limit, "scale": scale, **drifts, **self.refusals(model)}


def largest_scale(
    model: Any,
    measure: Callable[[], Measured],
    allows: Callable[[Measured], bool],
    *,
    magnitudes: Mapping[str, Tensor] = MappingProxyType({}),
) -> tuple[float, Measured]:
    """Scales an adapter by the largest factor up to 1, to 1 part in 64, that a measurement allows.

    What is allowed at one scale is taken to be allowed at all smaller ones.

    Args:
        model: The model with its adapter.
        measure: Measures it.
        allows: Tells whether that is allowed.
        magnitudes: DoRA's magnitudes before training by the names of their parameters, to which these are scaled.

    Returns:
        The factor, and what is measured there.
    """
    names = ("lora_B", "lora_embedding_B")
    named = dict(model.named_parameters())
    scaled = [(one, torch.zeros_like(one)) for name, one in named.items() if any(part in name for part in names)]
    scaled += [(named[name], begin) for name, begin in magnitudes.items()]
    full = [parameter.detach().clone() for parameter, _ in scaled]

    def at(scale: float) -> Measured:
        with torch.no_grad():
            for (parameter, begin), whole in zip(scaled, full, strict=True):
                parameter.copy_(begin + scale * (whole - begin))
        return measure()

    low, high, found = 0.0, 1.0, measure()
    if allows(found):
        return 1.0, found
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if allows(at(middle)) else (low, middle)
    return low, at(low)


METHODS = (
    Method(
        "kl_constrained",
        "KL within a limit",
        kind="ours",
        trainer=train,
        own_settings=(KlConstrainedSettings,),
        limits_drift=True,
    ),
)
