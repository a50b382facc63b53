"""Push-pull transport under a learned ground cost: sotune's default."""

from __future__ import annotations

from functools import partial

from sotune.methods.base import Method
from sotune.methods.sot import weigh
from sotune.settings import WeightSettings

ADAPTIVE = Method(partial(weigh, settings=WeightSettings()), loss_weight_rule="proportional")
