"""Rendering each row once before the long work, so that no row stops it later."""

from __future__ import annotations

from typing import Any

from sotune.errors import DataError
from sotune.records import Record
from sotune.rendering.renderer import RenderedTokens, Renderer
from sotune.wording import counted

_WARNINGS = {
    "n_lossy": "the template drops a part of the completion, such as its thoughts or tool calls; that part is neither "
    "weighed nor trained on (see `sotune inspect`)",
    "n_omitting": "the template leaves out a turn before the completion, or the tools; the model is not shown them "
    "(see `sotune inspect`)",
    "n_uncued": "the text before the completion is not what generation begins with, such as an opened thought; if the "
    "template has an option for it (enable_thinking in chat_template_kwargs), set it as the model will be served",
    "n_special": "the text itself has special tokens of the model, which are read as text; if the rows were rendered "
    "by a chat template already, take them apart first (see `sotune inspect`)",
}


class Trial:
    """Renders records and counts what a template does to them.

    Args:
        renderer: How records become tokens.

    Attributes:
        counts: How many rows lose a part of the completion (``n_lossy``) or of what stands before it (``n_omitting``),
            begin the completion otherwise than generation does (``n_uncued``), or write special tokens (``n_special``).
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self.counts = dict.fromkeys(_WARNINGS, 0)

    def __call__(self, record: Record) -> RenderedTokens:
        """Renders a record.

        Raises:
            DataError: It cannot be rendered.
        """
        try:
            tokens = self._renderer.tokens(record)
        except DataError as error:
            raise DataError(f"cannot be rendered: {error}") from error
        self.counts["n_lossy"] += tokens.lossy
        self.counts["n_omitting"] += tokens.omits
        self.counts["n_uncued"] += not tokens.cued
        self.counts["n_special"] += tokens.n_literal > 0
        return tokens

    def warnings(self) -> list[str]:
        """Returns what the user should know of the rows so far."""
        return [
            f"in {counted(self.counts[name], 'row')} {what}" for name, what in _WARNINGS.items() if self.counts[name]
        ]

    def as_dict(self) -> dict[str, Any]:
        """Returns the rendering and the counts, as JSON."""
        return {**self._renderer.description, **self.counts}
