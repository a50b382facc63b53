"""Standard fine-tuning: every row, all alike. No seam is changed."""

from __future__ import annotations

from sotune.methods.method import Method

METHODS = (Method("sft", "plain fine-tuning", "control"),)
