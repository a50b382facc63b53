"""Standard fine-tuning: every row, all alike. No seam is changed."""

from __future__ import annotations

from sotune.methods.base import Method

SFT = Method(keeps_all=True)
