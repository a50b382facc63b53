"""Rendering each row once before the long work, so that no row stops it later."""

from __future__ import annotations

from typing import Any

from sotune.errors import DataError
from sotune.records import Record
from sotune.rendering.renderer import Renderer


class Trial:
    """Renders records and counts what a template does to them.

    Args:
        renderer: How records become tokens.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._n_lossy = self._n_omitting = self._n_uncued = 0

    def __call__(self, record: Record) -> None:
        """Renders a record.

        Raises:
            DataError: It cannot be rendered.
        """
        try:
            tokens = self._renderer.tokens(record)
        except DataError as error:
            raise DataError(f"cannot be rendered: {error}") from error
        self._n_lossy += tokens.lossy
        self._n_omitting += tokens.omits
        self._n_uncued += not tokens.cued

    def warnings(self) -> list[str]:
        """Returns what the user should know of the rows so far."""
        found = []
        if self._n_lossy:
            found.append(
                f"in {self._n_lossy:,} rows the template drops a part of the completion, such as its thoughts or tool "
                f"calls; that part is neither weighed nor trained on (see `sotune inspect`)"
            )
        if self._n_omitting:
            found.append(
                f"in {self._n_omitting:,} rows the template leaves out a turn before the completion, or the tools; the "
                f"model is not shown them (see `sotune inspect`)"
            )
        if self._n_uncued:
            found.append(
                f"in {self._n_uncued:,} rows the text before the completion is not what generation begins with; set "
                f"chat_template_kwargs as the model will be served, such as enable_thinking=false"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Returns the rendering and the counts, as JSON."""
        counts = {"n_lossy": self._n_lossy, "n_omitting": self._n_omitting, "n_uncued": self._n_uncued}
        return {**self._renderer.description, **counts}
