"""Push-pull transport under a ground cost that is learned from the data: sotune's default."""

from __future__ import annotations

from dataclasses import replace

from sotune.methods.method import Method
from sotune.methods.push_pull import PAPER, weigh

ADAPTIVE = Method("adaptive", "sotune", "ours", PAPER, weigher=weigh, loss_weight_rule="proportional")
METHODS = (
    ADAPTIVE,
    # Keeps what its sentinels allow: no share is given.
    replace(ADAPTIVE, name="adaptive_auto", title="sotune, automatic K", changes={"keep": "auto"}),
)
