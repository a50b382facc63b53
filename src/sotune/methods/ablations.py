"""Push-pull transport with one part taken away: the rows of Table 3 of Safety Optimal Transport."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sotune.methods.base import weighing
from sotune.methods.sot import SETTINGS, SOT, weigh

PULL_ONLY = weighing(partial(weigh, settings=SETTINGS.replace(push_strength=0.0)), "proportional")
PUSH_ONLY = weighing(partial(weigh, settings=SETTINGS.replace(push_strength=1.0)), "proportional")
SOT_UNIFORM = replace(SOT, loss_weight_rule="uniform")
"""Top-K without reweighting."""
SOT_ALL = replace(SOT, keeps_all=True)
"""Reweighting without Top-K."""
