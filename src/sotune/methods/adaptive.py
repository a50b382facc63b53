"""Push-pull transport under a ground cost that is learned from the data: sotune's default."""

from __future__ import annotations

from sotune.methods.method import Method
from sotune.methods.push_pull import PAPER, weigh

METHODS = (Method("adaptive", "sotune", "ours", PAPER, weigher=weigh, loss_weight_rule="proportional"),)
